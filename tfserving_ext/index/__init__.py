"""The index: an HNSW graph over the item embeddings, built by Faiss, kept as mapped arrays (docs/format.md)."""

from tfserving_ext.index.build import Hnsw, build_index
from tfserving_ext.index.format import Index, ItemStorage, write_index
from tfserving_ext.index.graph import Graph, Layer
from tfserving_ext.index.item_keys import KeyedIds
from tfserving_ext.index.original import import_original, read_original

__all__ = [
    "Graph",
    "Hnsw",
    "Index",
    "ItemStorage",
    "KeyedIds",
    "Layer",
    "build_index",
    "import_original",
    "read_original",
    "write_index",
]
