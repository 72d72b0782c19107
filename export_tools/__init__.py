"""From a trained checkpoint and its index to one SavedModel that TensorFlow Serving serves."""

from export_tools.export import export
from export_tools.served_model import Defaults, ServedModel
from export_tools.verify import verify

__all__ = ["Defaults", "ServedModel", "export", "verify"]
