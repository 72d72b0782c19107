"""An index as a TensorFlow resource, whose files become assets of a SavedModel."""

import itertools
from typing import Any

import tensorflow as tf

from tfserving_ext import ops
from tfserving_ext.index.format import Index

_NUMBERS = itertools.count()


class MappedIndex(tf.saved_model.experimental.TrackableResource):
    """Maps an index into TensorFlow; its files are assets of every SavedModel that tracks this object.

    Nothing is copied into memory or into the graph: a loaded model maps the files.

    Attributes:
      dim: width of an item embedding.
      has_features: whether the surrogate search can search it.
      has_attributes: whether searches can filter it.
    """

    def __init__(self, index: Index) -> None:
        """Maps `index`.

        Raises:
          tf.errors.InvalidArgumentError: a file changed since `index` was opened, or that of the attributes is damaged.
        """
        super().__init__()
        self.dim = index.dim
        self.has_features = index.has_features
        self.has_attributes = bool(index.attributes)
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
        parts = {"features": self.has_features, "attributes": self.has_attributes}
        ops.index_open(self.resource_handle, paths, dim=self.dim, dtype=self._dtype, **parts)

    def _destroy_resource(self) -> None:
        tf.raw_ops.DestroyResourceOp(resource=self.resource_handle, ignore_lookup_error=True)

    def item_ids(self) -> tf.Tensor:
        """Returns the data's own ids, int64 [n], as a view of the file."""
        return ops.index_items(self.resource_handle)

    def rows(self, item_ids: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns rows of items by their ids, int64 [m]: float32 [m, dim], and which are known, bool [m]."""
        return ops.index_rows(self.resource_handle, item_ids, self.dim)

    def passing(self, filter: Any) -> tf.Tensor:
        """Returns the dense indices, int32 [m], of the items that pass `filter`, string [] (docs/filters.md)."""
        return ops.index_filter(self.resource_handle, filter)

    def column(self, name: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns a column of the attributes, int64 [n] and bool [n] (`ops.index_column`)."""
        return ops.index_column(self.resource_handle, name)

    def embeddings(self, items: Any) -> tf.Tensor:
        """Returns the embeddings, float32 [m, dim], of the dense indices `items`, int32 [m]."""
        return ops.index_gather(self.resource_handle, items, self.dim)
