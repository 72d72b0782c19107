"""The signatures of an export: the inputs that requests carry, and the outputs that answer them."""

from export_tools.signatures.build import LEVEL_TOPN_LENGTH, signatures
from export_tools.signatures.request import BY_ATTRIBUTES, Defaults

__all__ = ["BY_ATTRIBUTES", "LEVEL_TOPN_LENGTH", "Defaults", "signatures"]
