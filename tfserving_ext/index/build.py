"""Builds an HNSW graph over the item embeddings with Faiss, by L2 distance (arXiv 2202.10226, section 3.2).

The model's score plays no part in it: the graph only says which items are similar. Faiss builds it with one of the
items that share an embedding (`copies`); items that no walk would reach are linked afterwards (`reach`).
"""

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np

from tfserving_ext.errors import NannError
from tfserving_ext.index.checks import check_items
from tfserving_ext.index.copies import FAN_OUT, add_copies, find_copies
from tfserving_ext.index.distinct import CHUNK, Distinct
from tfserving_ext.index.format import Index, ItemStorage, write_index
from tfserving_ext.index.graph import Graph, Layer
from tfserving_ext.index.item_keys import KeyedIds, numbered, store_keys
from tfserving_ext.index.knn import knn_layer
from tfserving_ext.index.reach import link_unreachable, unreachable
from tfserving_ext.index.table import check_dtype
from tfserving_ext.outputs import INDEX, check_replaceable
from tfserving_ext.progress import progress

if TYPE_CHECKING:
    import polars as pl

START_LAYER = 2
# If a corpus is too small for upper layers, its first items, up to this many, are the entry points.
MAX_FLAT_ENTRY_POINTS = 1024
MAX_THREADS = 1024
GRAPHS = ("hnsw", "knn")
NEIGHBORS = 32


@dataclasses.dataclass(frozen=True)
class Hnsw:
    """The parameters of building a graph.

    Attributes:
      m: neighbours per item in the upper layers; the ground layer has twice as many (M in the paper, which uses 32).
      ef_construction: beam width of the search for neighbours while building (the paper uses 40).
      threads: threads to build with; None for all cores. With one thread the graph is the same every time.
      seed: for drawing the layers of items; the default is Faiss' own.
      gpu: build the ground layer on a GPU by CAGRA. Faiss builds the upper layers, with a thirtieth of the items, on
        the CPU. The graph differs from the CPU's, and from run to run. Only for the graph "hnsw".
      graph: the ground layer: "hnsw", or "knn" for a symmetric graph of nearest neighbours (`index.knn`). The upper
        layers and the entry points are HNSW's in both.
      neighbors: nearest neighbours per item in a ground layer "knn"; None for 32.
    """

    m: int = 32
    ef_construction: int = 40
    threads: int | None = None
    seed: int = 12345
    gpu: bool = False
    graph: str = "hnsw"
    neighbors: int | None = None

    def __post_init__(self) -> None:
        """Raises NannError if a value is out of its range, or two do not go together."""
        threads = 1 if self.threads is None else self.threads
        if self.graph not in GRAPHS:
            raise NannError(f"graph is {self.graph!r}, allowed are {' and '.join(map(repr, GRAPHS))}")
        for name, value, low, high in (
            ("m", self.m, 2, 512),
            ("ef_construction", self.ef_construction, 1, 100_000),
            ("seed", self.seed, 0, 2**31 - 1),
            ("threads", threads, 1, MAX_THREADS),
            ("neighbors", self.k, 2, 512),
        ):
            if not low <= value <= high:
                raise NannError(f"{name} is {value}, allowed are {low} to {high}")
        if self.neighbors is not None and self.graph != "knn":
            raise NannError(
                f"neighbors is {self.neighbors}, but graph is {self.graph!r}, whose ground layer has 2 m links per "
                "item; set graph to 'knn', or m"
            )
        if self.gpu and self.graph != "hnsw":
            raise NannError(f"graph is {self.graph!r}, but a GPU builds only 'hnsw'; leave out one of graph and gpu")

    @property
    def k(self) -> int:
        """Nearest neighbours per item in a ground layer "knn"."""
        return NEIGHBORS if self.neighbors is None else self.neighbors


HNSW = Hnsw()


def build_index(
    item_ids: np.ndarray | KeyedIds,
    item_embeddings: np.ndarray,
    target: str | os.PathLike[str],
    hnsw: Hnsw = HNSW,
    dtype: str = "float32",
    force: bool = False,
    attributes: "pl.DataFrame | None" = None,
) -> Index:
    """Builds an index and writes it to the folder `target`, whole or not at all.

    Embeddings may be mapped from a file. Faiss' graph holds a copy of them in memory, and all links, of which a second
    copy is made layer by layer. A walk from the entry points reaches every item. The manifest records how many items
    have the same embedding as an earlier one (`copies`), and, for each layer, ground layer first, how many items no
    walk reached before they were linked from their nearest neighbour, and how many afterwards (`unreachable`).

    Example:
      >>> ids, embeddings = np.load("embeddings/item_ids.npy"), np.load("embeddings/item_embs.npy")
      >>> index = nann.build_index(ids, embeddings, "index")
      >>> len(index.item_ids) == len(ids)
      True

    Args:
      item_ids: int [n] or strings [n], the data's own ids, all different. Requests and answers have them so. `KeyedIds`
        are for a model that knows the items by other numbers than those of their rows.
      item_embeddings: float [n, dim], the model's e_v.
      target: the folder to write; it replaces an earlier index.
      hnsw: how to build the graph.
      dtype: the type of the embeddings in the index: "float32", "float16" or "int8". The graph is built from float32.
      force: replace whatever `target` holds.
      attributes: attributes of the items, by which searches can filter (docs/filters.md): a row per item, with the
        column `item_id`.

    Returns:
      The index, opened.

    Raises:
      NannError: the items (see `write_index`), their keys (see `store_keys`), the attributes (see
        `store_attributes`) or the dtype are bad, `target`
        cannot be written, or `hnsw.gpu` is set and Faiss has no GPU.
    """
    check_dtype(dtype, "the index")
    check_replaceable(target, INDEX, force)  # Checked now, not after the minutes or hours that a graph takes.
    if hnsw.gpu:
        _check_gpu()
    numbers, keyed = numbered(item_ids)
    numbers, item_embeddings = check_items(numbers, item_embeddings)
    storage = storage_of(dtype, attributes, numbers, keyed)
    with _threads(hnsw.threads or len(os.sched_getaffinity(0))):
        graph, about = _whole_graph(item_embeddings, hnsw)
    parameters = {"metric": "L2", "M": hnsw.m, "efConstruction": hnsw.ef_construction, "seed": hnsw.seed}
    parameters |= {"graph": hnsw.graph, "faiss": faiss.__version__, **about}
    return write_index(target, numbers, item_embeddings, graph, parameters, storage, force)


def storage_of(
    dtype: str, attributes: "pl.DataFrame | None", item_ids: np.ndarray, keyed: KeyedIds | None = None
) -> ItemStorage:
    """Returns how items are stored. Only indexes with attributes need Polars."""
    stored = None
    if attributes is not None:
        from tfserving_ext.index.attributes import store_attributes

        stored = store_attributes(attributes, item_ids, keyed)
    return ItemStorage(dtype, stored, None if keyed is None else store_keys(keyed))


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(number)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _whole_graph(embeddings: np.ndarray, hnsw: Hnsw) -> tuple[Graph, dict[str, Any]]:
    """Builds a graph in which a walk reaches every item; returns it with its facts for the manifest."""
    copies = find_copies(embeddings)
    distinct = Distinct(embeddings, copies)
    entry_points, layers, facts = _graph_by_gpu(distinct, hnsw) if hnsw.gpu else _graph(distinct, hnsw)
    entry_points, layers = add_copies(entry_points, layers, copies)
    # Allows twice as many links as there are at first; items in a tree of copies have a few more from the start.
    most = 4 * hnsw.k + 2 * hnsw.m if hnsw.graph == "knn" else 4 * hnsw.m
    layers, lost = link_unreachable(entry_points, layers, distinct.items, [most + FAN_OUT, 2 * hnsw.m])
    left = [len(items) for items in unreachable(entry_points, layers)]
    facts |= {"copies": copies.number, "unreachable": {"before": lost, "after": left}}
    return Graph(entry_points, layers), facts


def _graph(embeddings: Distinct, hnsw: Hnsw) -> tuple[np.ndarray, list[Layer], dict[str, Any]]:
    """Builds the graph on the CPU. Faiss' own graph, with its copy of the embeddings, is freed on return."""
    index = faiss.IndexHNSWFlat(embeddings.dim, hnsw.m)
    index.hnsw.efConstruction = hnsw.ef_construction
    index.hnsw.rng = faiss.RandomGenerator(hnsw.seed)  # type: ignore[attr-defined]
    with progress("index: adding items", len(embeddings)) as advance:
        for start in range(0, len(embeddings), CHUNK):
            chunk = embeddings.between(start, start + CHUNK)
            index.add(chunk)
            advance(len(chunk))
    entry_points, layers = extract_graph(index.hnsw)
    if hnsw.graph == "hnsw":
        return entry_points, layers, {}
    layers[0], facts = knn_layer(embeddings, index, layers[0], hnsw.k)
    return entry_points, layers, {"knn": facts}


def _check_gpu() -> None:
    """Raises NannError if Faiss cannot build on a GPU."""
    if not hasattr(faiss, "GpuIndexCagra"):
        raise NannError(
            f"this Faiss ({faiss.__version__}) cannot build on a GPU, as it has no CAGRA; install faiss-gpu-cuvs in "
            "place of faiss-cpu or faiss-gpu (pip install faiss-gpu-cuvs, in an environment of its own), or build "
            "without --gpu"
        )
    if not faiss.get_num_gpus():
        raise NannError("Faiss finds no GPU on this machine; build without --gpu")


def _graph_by_gpu(embeddings: Distinct, hnsw: Hnsw) -> tuple[np.ndarray, list[Layer], dict[str, Any]]:
    """Builds the ground layer by CAGRA with as many links as HNSW; copying it to the CPU builds the upper layers."""
    config = faiss.GpuIndexCagraConfig()  # type: ignore[attr-defined]
    config.graph_degree = 2 * hnsw.m
    config.intermediate_graph_degree = 4 * hnsw.m  # The ratio of CAGRA's defaults, 128 pruned to 64.
    resources = faiss.StandardGpuResources()
    cagra = faiss.GpuIndexCagra(resources, embeddings.dim, faiss.METRIC_L2, config)  # type: ignore[attr-defined]
    with progress("index: building on the GPU", 2) as advance:
        cagra.train(embeddings.between(0, len(embeddings)))
        advance()
        index = faiss.IndexHNSWCagra()  # type: ignore[attr-defined]
        index.hnsw.efConstruction = hnsw.ef_construction
        index.hnsw.rng = faiss.RandomGenerator(hnsw.seed)  # type: ignore[attr-defined]
        cagra.copyTo(index)
        advance()
    return *extract_graph(index.hnsw), {"built_by": "CAGRA"}


def extract_graph(hnsw: Any, start_layer: int = START_LAYER) -> tuple[np.ndarray, list[Layer]]:
    """Reads the entry points and the layers below `start_layer` out of a Faiss HNSW graph.

    Args:
      hnsw: a Faiss HNSW graph of n items.
      start_layer: the layer whose items are all entry points; Faiss draws about n / M^start_layer of them.

    Returns:
      The entry points, int32 [e], and the layers, ground layer first.
    """
    levels = faiss.vector_to_array(hnsw.levels)  # The number of layers that an item is in.
    offsets = faiss.vector_to_array(hnsw.offsets)
    slots = faiss.rev_swig_ptr(hnsw.neighbors.data(), hnsw.neighbors.size())  # A view, since it is the largest array.
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
        neighbors.resize(filled, refcheck=False)  # Shrinks the array in place and frees the unused end.
        layers.append(Layer(np.cumsum(row_splits, out=row_splits), neighbors))
    return _entry_points(levels, start_layer), layers


def _entry_points(levels: np.ndarray, start_layer: int) -> np.ndarray:
    """Returns the items of the highest non-empty layer up to `start_layer`; without upper layers, the first items."""
    for layer in range(start_layer, 0, -1):
        members = np.flatnonzero(levels > layer)
        if len(members):
            return members.astype(np.int32)
    return np.arange(min(len(levels), MAX_FLAT_ENTRY_POINTS), dtype=np.int32)
