"""An index as a TensorFlow resource, whose files become assets of a SavedModel."""

import itertools
from typing import Any

import numpy as np
import tensorflow as tf

from tfserving_ext import ops
from tfserving_ext.index.format import Index

_NUMBERS = itertools.count()
_AT_ONCE = 1 << 20  # Keys that are in memory at once.


class MappedIndex(tf.saved_model.experimental.TrackableResource):
    """Maps an index into TensorFlow; its files are assets of every SavedModel that tracks this object.

    Nothing is copied into memory or into the graph: a loaded model maps the files.

    Attributes:
      dim: width of an item embedding.
      has_features: whether the surrogate search can search it.
      has_attributes: whether searches can filter it.
      has_keys: whether its ids are strings in requests and answers.
    """

    def __init__(self, index: Index) -> None:
        """Maps `index`.

        Raises:
          tf.errors.InvalidArgumentError: a file changed since `index` was opened, or that of the attributes or of the
            keys is damaged.
        """
        super().__init__()
        self.dim = index.dim
        self.has_features = index.has_features
        self.has_attributes = bool(index.attributes)
        self.has_keys = index.item_keys is not None
        self._dtype = index.dtype
        # Unique in the process, but the same in every process, so that exports have the same bytes. TensorFlow adds a
        # suffix of its own to the names in a loaded SavedModel.
        self._shared_name = f"nann_index_{next(_NUMBERS)}"
        self._assets = []
        for path in index.files:
            asset = tf.saved_model.Asset(str(path))
            # Tracked under a name; as a plain attribute it would keep the original path in the export.
            self._track_trackable(asset, path.stem)
            self._assets.append(asset)
        self._initialize()

    def _create_resource(self) -> tf.Tensor:
        return ops.index_handle(shared_name=self._shared_name)

    def _initialize(self) -> Any:
        paths = [asset.asset_path for asset in self._assets]
        parts = {"features": self.has_features, "attributes": self.has_attributes, "keys": self.has_keys}
        ops.index_open(self.resource_handle, paths, dim=self.dim, dtype=self._dtype, **parts)

    def _destroy_resource(self) -> None:
        tf.raw_ops.DestroyResourceOp(resource=self.resource_handle, ignore_lookup_error=True)

    def item_ids(self) -> tf.Tensor:
        """Returns the data's own ids, int64 [n], as a view of the file."""
        return ops.index_items(self.resource_handle)

    def rows(self, item_ids: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns rows of items by their ids, [m]: float32 [m, dim], and which are known, bool [m]."""
        return ops.index_rows(self.resource_handle, self.as_numbers(item_ids), self.dim)

    @property
    def id_dtype(self) -> tf.DType:
        """The type of ids in requests and answers: string if the index has keys, otherwise int64."""
        return tf.string if self.has_keys else tf.int64

    def keys(self, item_ids: Any) -> tf.Tensor:
        """Returns the strings that stand for ids, int64 of any shape; empty where none stands for it.

        Raises:
          tf.errors.InvalidArgumentError: the index has no keys.
        """
        return ops.index_keys(self.resource_handle, item_ids)

    def numbers(self, keys: Any) -> tf.Tensor:
        """Returns the ids, int64, that strings of any shape stand for; -1 where the index does not know the string.

        Raises:
          tf.errors.InvalidArgumentError: the index has no keys.
        """
        return ops.index_numbers(self.resource_handle, keys)

    def as_numbers(self, item_ids: Any) -> Any:
        """Returns `item_ids`, of any shape, as the searches take them: strings become the numbers that they stand for.

        Raises:
          tf.errors.InvalidArgumentError: they are strings, and the index has no keys.
        """
        if item_ids is None:
            return None
        given = tf.convert_to_tensor(item_ids)
        return self.numbers(given) if given.dtype == tf.string else item_ids

    def passing(self, filter: Any) -> tf.Tensor:
        """Returns the dense indices, int32 [m], of the items that pass `filter`, string [] (docs/filters.md)."""
        return ops.index_filter(self.resource_handle, filter)

    def column(self, name: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns a column of the attributes, int64 [n] and bool [n] (`ops.index_column`)."""
        return ops.index_column(self.resource_handle, name)

    def embeddings(self, items: Any) -> tf.Tensor:
        """Returns the embeddings, float32 [m, dim], of the dense indices `items`, int32 [m]."""
        return ops.index_gather(self.resource_handle, items, self.dim)


def rows_of(index: Index, item_ids: np.ndarray) -> np.ndarray:
    """Returns the rows of items in an index, int64 [m]; -1 where it has no such item.

    Args:
      index: an open index.
      item_ids: their ids as requests have them, [m]: int64, or strings if the index has keys.
    """
    if index.item_keys is not None:
        item_ids = MappedIndex(index).numbers(tf.constant(item_ids, tf.string)).numpy()
    return _rows_of_numbers(index, item_ids)


def shared_rows(one: Index, other: Index) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows of the items that two indexes have in common, in either of them, each int64 [m]."""
    numbers = np.asarray(one.item_ids)
    if one.item_keys is not None:
        first, second = MappedIndex(one), MappedIndex(other)
        numbers = np.concatenate(
            [second.numbers(first.keys(numbers[at : at + _AT_ONCE])).numpy() for at in range(0, len(numbers), _AT_ONCE)]
        )
    rows = _rows_of_numbers(other, numbers)
    return np.flatnonzero(rows >= 0), rows[rows >= 0]


def _rows_of_numbers(index: Index, numbers: np.ndarray) -> np.ndarray:
    order = np.argsort(index.item_ids, kind="stable")
    places = order[np.minimum(np.searchsorted(index.item_ids, numbers, sorter=order), len(order) - 1)]
    return np.where(np.asarray(index.item_ids)[places] == numbers, places, -1)
