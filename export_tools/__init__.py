"""Turns a trained model of any kind and its index into one SavedModel that TensorFlow Serving can serve."""

from export_tools.cut import Items
from export_tools.explain import explain
from export_tools.export import ExportOptions, SourceOptions, export
from export_tools.inspect import inspect
from export_tools.reuse import reuse
from export_tools.served_model import ServedModel
from export_tools.signatures import Defaults
from export_tools.sources import Source, open_source
from export_tools.verify import verify

__all__ = [
    "Defaults",
    "ExportOptions",
    "Items",
    "ServedModel",
    "Source",
    "SourceOptions",
    "explain",
    "export",
    "inspect",
    "open_source",
    "reuse",
    "verify",
]
