"""Builds the HNSW graph by L2 over the item embeddings with Faiss (arXiv 2202.10226, section 3.2).

The model's score plays no part in building: the graph only says which items are similar to which.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from tfserving_ext.artifacts import check_replaceable
from tfserving_ext.errors import NannError
from tfserving_ext.index.format import Index, Layer, check_items, write_index
from tfserving_ext.index.table import check_dtype
from tfserving_ext.progress import progress

START_LAYER = 2
CHUNK = 1 << 13
# A corpus without upper layers is entered at all of its items up to this many.
MAX_FLAT_ENTRY_POINTS = 1024
MAX_THREADS = 1024


def build_index(
    item_ids: np.ndarray,
    item_embeddings: np.ndarray,
    target: str | os.PathLike[str],
    m: int = 32,
    ef_construction: int = 40,
    threads: int | None = None,
    seed: int = 12345,
    dtype: str = "float32",
    gpu: bool = False,
) -> Index:
    """Builds an index and writes it to the folder `target`, whole or not at all.

    Embeddings may be mapped from a file. In memory the graph holds them once, with their links; the links are held a
    second time, layer by layer, while they are read out of it.

    Args:
      item_ids: int [n], the data's own ids.
      item_embeddings: float [n, dim], the model's e_v.
      target: the folder to write; replaced where it exists.
      m: neighbours per item in the upper layers, twice as many at the ground (the paper's M, 32).
      ef_construction: breadth of the search for neighbours while building (the paper's 40).
      threads: threads to build with; None for all cores. One thread gives the same graph every time.
      seed: of the layers that items are drawn into; the default is Faiss' own.
      dtype: how the index holds the embeddings: "float32", "float16" or "int8". The graph is built from float32.
      gpu: build the ground layer on a GPU, by CAGRA; the upper layers, a thirtieth of the items, are built by Faiss
        as ever. Not the same graph as without, and not the same every time.

    Raises:
      NannError: bad items (see `write_index`) or parameters, or `gpu` where Faiss has none.
    """
    allowed = {"m": (m, 2, 512), "ef_construction": (ef_construction, 1, 100_000), "seed": (seed, 0, 2**31 - 1)}
    if threads is not None:
        allowed["threads"] = (threads, 1, MAX_THREADS)
    for name, (value, low, high) in allowed.items():
        if not low <= value <= high:
            raise NannError(f"{name} is {value}, allowed are {low} to {high}")
    check_dtype(dtype, "the index")
    check_replaceable(Path(target), ["manifest.json"])  # Before the minutes, or hours, that a graph takes.
    if gpu:
        _check_gpu()
    item_ids, item_embeddings = check_items(item_ids, item_embeddings)
    with _threads(threads or len(os.sched_getaffinity(0))):
        entry_points, layers = (_graph_by_gpu if gpu else _graph)(item_embeddings, m, ef_construction, seed)
    parameters = {"metric": "L2", "M": m, "efConstruction": ef_construction, "seed": seed, "faiss": faiss.__version__}
    if gpu:
        parameters["built_by"] = "CAGRA"
    return write_index(target, item_ids, item_embeddings, entry_points, layers, parameters, dtype)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(number)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _graph(embeddings: np.ndarray, m: int, ef_construction: int, seed: int) -> tuple[np.ndarray, list[Layer]]:
    """Builds the graph, and lets go of Faiss' copy of the embeddings when it has been read."""
    index = faiss.IndexHNSWFlat(embeddings.shape[1], m)
    index.hnsw.efConstruction = ef_construction
    index.hnsw.rng = faiss.RandomGenerator(seed)  # type: ignore[attr-defined]
    with progress("index: adding items", len(embeddings)) as advance:
        for start in range(0, len(embeddings), CHUNK):
            chunk = np.ascontiguousarray(embeddings[start : start + CHUNK])
            index.add(chunk)
            advance(len(chunk))
    return extract_graph(index.hnsw)


def _check_gpu() -> None:
    """Raises NannError where Faiss cannot build on a GPU."""
    if not hasattr(faiss, "GpuIndexCagra"):
        raise NannError(
            f"this Faiss ({faiss.__version__}) cannot build on a GPU; install faiss-gpu-cuvs in place of faiss-cpu (by "
            "conda, from the channels pytorch and rapidsai), or build without --gpu"
        )
    if not faiss.get_num_gpus():
        raise NannError("Faiss finds no GPU on this machine; build without --gpu")


def _graph_by_gpu(embeddings: np.ndarray, m: int, ef_construction: int, seed: int) -> tuple[np.ndarray, list[Layer]]:
    """The ground layer by CAGRA, with as many links as HNSW has there; the upper layers by Faiss while it is copied."""
    config = faiss.GpuIndexCagraConfig()  # type: ignore[attr-defined]
    config.graph_degree = 2 * m
    config.intermediate_graph_degree = 4 * m  # CAGRA's own proportion: 128 pruned to 64.
    resources = faiss.StandardGpuResources()
    cagra = faiss.GpuIndexCagra(resources, embeddings.shape[1], faiss.METRIC_L2, config)  # type: ignore[attr-defined]
    with progress("index: building on the GPU", 2) as advance:
        cagra.train(np.ascontiguousarray(embeddings))
        advance()
        index = faiss.IndexHNSWCagra()  # type: ignore[attr-defined]
        index.hnsw.efConstruction = ef_construction
        index.hnsw.rng = faiss.RandomGenerator(seed)  # type: ignore[attr-defined]
        cagra.copyTo(index)
        advance()
    return extract_graph(index.hnsw)


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
    slots = faiss.rev_swig_ptr(hnsw.neighbors.data(), hnsw.neighbors.size())  # A view: it is the largest of all.
    width = faiss.vector_to_array(hnsw.cum_nneighbor_per_level)
    layers = []
    for layer in range(start_layer):
        members = np.flatnonzero(levels > layer)
        row_splits = np.zeros(len(levels) + 1, np.int64)
        neighbors = np.empty(len(members) * int(width[layer + 1] - width[layer]), np.int32)
        filled = 0
        with progress(f"index: reading layer {layer}", len(members)) as advance:
            for start in range(0, len(members), CHUNK):
                rows = members[start : start + CHUNK]
                links = slots[offsets[rows].astype(np.int64)[:, None] + np.arange(width[layer], width[layer + 1])]
                taken = links >= 0
                row_splits[rows + 1] = taken.sum(axis=1)
                some = links[taken]
                neighbors[filled : filled + len(some)] = some
                filled += len(some)
                advance(len(rows))
        neighbors.resize(filled, refcheck=False)  # In place: free slots are given back.
        layers.append(Layer(np.cumsum(row_splits, out=row_splits), neighbors))
    return _entry_points(levels, start_layer), layers


def _entry_points(levels: np.ndarray, start_layer: int) -> np.ndarray:
    """The items of the highest layer, not above `start_layer`, that has any; a flat corpus is entered everywhere."""
    for layer in range(start_layer, 0, -1):
        members = np.flatnonzero(levels > layer)
        if len(members):
            return members.astype(np.int32)
    return np.arange(min(len(levels), MAX_FLAT_ENTRY_POINTS), dtype=np.int32)
