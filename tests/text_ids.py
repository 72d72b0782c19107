"""The world's index with ids that are texts, for tests that compare its answers with those by number."""

from pathlib import Path

import numpy as np

from tfserving_ext.index import Graph, Index, ItemStorage, KeyedIds, write_index
from tfserving_ext.index.item_keys import store_keys

UNKNOWN = 7  # A number that is no item of the world.


def spell(item_ids: np.ndarray) -> np.ndarray:
    """The texts of ids, bytes in an object array: `sku-` and the number in hexadecimal; nothing for -1."""
    return np.vectorize(lambda one: b"" if one == -1 else f"sku-{one:x}é".encode(), otypes=[object])(item_ids)


def twin(index: Index, folder: Path, others: np.ndarray | None = None) -> Index:
    """The same items and graph, so that searches walk the same way, with a text for each id and for `others`."""
    numbers = np.concatenate([index.item_ids, np.zeros(0, np.int64) if others is None else others])
    keys = store_keys(KeyedIds(numbers, spell(numbers), len(index.item_ids)))
    graph = Graph(index.entry_points, list(index.layers))
    return write_index(folder, index.item_ids, index.embeddings(), graph, {}, ItemStorage(keys=keys))
