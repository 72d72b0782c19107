"""The index: an HNSW graph over the item embeddings, built by Faiss, kept as mapped arrays (docs/format.md)."""

from tfserving_ext.index.build import build_index
from tfserving_ext.index.format import Index, Layer, write_index
from tfserving_ext.index.original import read_original

__all__ = ["Index", "Layer", "build_index", "read_original", "write_index"]
