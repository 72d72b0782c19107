"""Builds the HNSW graph by L2 over the item embeddings with Faiss (arXiv 2202.10226, section 3.2).

The model's score plays no part in building: the graph only says which items are similar to which.
"""

import os
from typing import Any

import faiss
import numpy as np

from tfserving_ext.errors import NannError
from tfserving_ext.index.format import Index, Layer, check_items, write_index
from tfserving_ext.index.table import check_dtype
from tfserving_ext.progress import progress

START_LAYER = 2
CHUNK = 1 << 13
# A corpus without upper layers is entered at all of its items up to this many.
MAX_FLAT_ENTRY_POINTS = 1024


def build_index(
    item_ids: np.ndarray,
    item_embeddings: np.ndarray,
    target: str | os.PathLike[str],
    m: int = 32,
    ef_construction: int = 40,
    threads: int | None = None,
    seed: int = 12345,
    dtype: str = "float32",
) -> Index:
    """Builds an index and writes it to the folder `target`, whole or not at all.

    Args:
      item_ids: int [n], the data's own ids.
      item_embeddings: float [n, dim], the model's e_v.
      target: the folder to write; replaced where it exists.
      m: neighbours per item in the upper layers, twice as many at the ground (the paper's M, 32).
      ef_construction: breadth of the search for neighbours while building (the paper's 40).
      threads: threads to build with; None for all cores. One thread gives the same graph every time.
      seed: of the layers that items are drawn into; the default is Faiss' own.
      dtype: how the index holds the embeddings: "float32", "float16" or "int8". The graph is built from float32.

    Raises:
      NannError: bad items (see `write_index`) or parameters.
    """
    allowed = {"m": (m, 2, 512), "ef_construction": (ef_construction, 1, 100_000), "seed": (seed, 0, 2**31 - 1)}
    for name, (value, low, high) in allowed.items():
        if not low <= value <= high:
            raise NannError(f"{name} is {value}, allowed are {low} to {high}")
    check_dtype(dtype, "the index")
    item_ids, item_embeddings = check_items(item_ids, item_embeddings)
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads or os.cpu_count() or 1)
    try:
        index = faiss.IndexHNSWFlat(item_embeddings.shape[1], m)
        index.hnsw.efConstruction = ef_construction
        index.hnsw.rng = faiss.RandomGenerator(seed)  # type: ignore[attr-defined]
        with progress("index: adding items", len(item_ids)) as advance:
            for start in range(0, len(item_ids), CHUNK):
                chunk = np.ascontiguousarray(item_embeddings[start : start + CHUNK])
                index.add(chunk)
                advance(len(chunk))
    finally:
        faiss.omp_set_num_threads(before)
    entry_points, layers = extract_graph(index.hnsw)
    parameters = {"metric": "L2", "M": m, "efConstruction": ef_construction, "seed": seed, "faiss": faiss.__version__}
    return write_index(target, item_ids, item_embeddings, entry_points, layers, parameters, dtype)


def extract_graph(hnsw: Any, start_layer: int = START_LAYER) -> tuple[np.ndarray, list[Layer]]:
    """Reads the entry points and the layers below `start_layer` out of a Faiss HNSW graph.

    Args:
      hnsw: the graph of n items.
      start_layer: the layer whose items are all entry points; Faiss draws about n / M^start_layer of them.

    Returns:
      int32 [e] entry points, and the layers, ground layer first.
    """
    levels = faiss.vector_to_array(hnsw.levels)  # Number of layers that an item is in.
    offsets = faiss.vector_to_array(hnsw.offsets)
    slots = faiss.vector_to_array(hnsw.neighbors)
    width = faiss.vector_to_array(hnsw.cum_nneighbor_per_level)
    layers = []
    for layer in range(start_layer):
        members = np.flatnonzero(levels > layer)
        counts = np.zeros(len(levels), np.int64)
        parts = [np.zeros(0, np.int32)]
        for start in range(0, len(members), CHUNK):
            rows = members[start : start + CHUNK]
            places = np.asarray(offsets[rows], np.int64)[:, None] + np.arange(width[layer], width[layer + 1])
            neighbors = slots[places]
            counts[rows] = (neighbors >= 0).sum(axis=1)
            parts.append(neighbors[neighbors >= 0].astype(np.int32))
        layers.append(Layer(np.concatenate([[0], np.cumsum(counts)]), np.concatenate(parts)))
    return _entry_points(levels, start_layer), layers


def _entry_points(levels: np.ndarray, start_layer: int) -> np.ndarray:
    """The items of the highest layer, not above `start_layer`, that has any; a flat corpus is entered everywhere."""
    for layer in range(start_layer, 0, -1):
        members = np.flatnonzero(levels > layer)
        if len(members):
            return members.astype(np.int32)
    return np.arange(min(len(levels), MAX_FLAT_ENTRY_POINTS), dtype=np.int32)
