"""The signatures of an export: what requests carry, and what they are answered."""

from export_tools.signatures.build import LEVEL_TOPN_LENGTH, signatures
from export_tools.signatures.request import Defaults

__all__ = ["LEVEL_TOPN_LENGTH", "Defaults", "signatures"]
