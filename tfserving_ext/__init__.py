"""Top-k of millions of items under your own ranking model, served by TensorFlow Serving."""

__version__ = "0.1.0"
