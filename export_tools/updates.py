"""Updates of an exported model's items while it is served: new rows and attributes, and deletions (docs/live.md)."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import tensorflow as tf

from export_tools.corpus import Corpus, Items
from export_tools.cut import ItemTower
from export_tools.item_numbers import ItemNumbers
from export_tools.manifest import exported_index, read_manifest
from export_tools.versions import newest_version
from tfserving_ext.errors import NannError
from tfserving_ext.index.attribute_table import in_types
from tfserving_ext.index.attributes import ITEM_ID, read_attributes, store_attributes
from tfserving_ext.index.deltas import Deltas
from tfserving_ext.index.item_keys import KeyedIds
from tfserving_ext.index.segments import MAX_ITEMS, Rows
from tfserving_ext.index.table import encode

EMBEDDING = "embedding"
_KEY = " key"  # A column of our own beside those of a table: the text that an update must bring, in UTF-8.
_NONE = np.zeros(0, np.int64)


class Updated(NamedTuple):
    """An update that is on the disk.

    Attributes:
      model: the version that was updated.
      sequence: the update's number, which answers tell as `index_sequence`.
      items: how many items it names.
      unindexed: how many items are new or have another embedding, in all updates: every search scores each of them.
    """

    model: Path
    sequence: int
    items: int
    unindexed: int


def upsert(
    exported: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    items: pl.DataFrame | str | os.PathLike[str],
    item_id: str = ITEM_ID,
    embedding: str = EMBEDDING,
    ranker: str | os.PathLike[str] | None = None,
) -> Updated:
    """Adds items to a served model, or changes their embeddings and attributes; see `Updates.upsert`.

    Example:
      >>> import polars as pl
      >>> ids, rows = (np.load(f"embeddings/{name}.npy")[:3] for name in ("item_ids", "item_embs"))
      >>> table = pl.DataFrame({"item_id": ids, "embedding": rows[::-1].tolist()})
      >>> nann.upsert("models/nann", "deltas", table).sequence
      1

    Args:
      exported: a model that `nann export` wrote: the folder of its versions, or one version.
      folder: the folder of deltas that the servers follow.
      items: a table, or a .parquet or .csv file.
      item_id: the column with the items' ids.
      embedding: the column with their embeddings, which may be missing.
      ranker: the .keras archive or SavedModel that the model was exported from with a table of its items: it computes
        the embeddings of all items of the table from their features, in the columns that the export took.

    Raises:
      NannError: the table does not fit the model, another process is writing, or the update cannot be written.
    """
    table = _table(items, item_id)
    if embedding != EMBEDDING:
        if embedding not in table.columns:
            raise NannError(f"the items have no column {embedding!r}; they have {', '.join(table.columns)}")
        table = table.rename({embedding: EMBEDDING})
    with Updates(exported, folder) as updates:
        if ranker is not None:
            table = updates.embedded(table, ItemTower(updates.manifest, updates.model, ranker), item_id)
        return Updated(updates.model, updates.upsert(table), len(table), updates.unindexed)


def delete(
    exported: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    item_ids: Iterable[int | str] | pl.DataFrame | str | os.PathLike[str],
    item_id: str = ITEM_ID,
) -> Updated:
    """Deletes items of a served model.

    Example:
      >>> nann.delete("models/nann", "deltas", np.load("embeddings/item_ids.npy")[:2].tolist()).items
      2

    Args:
      exported: a model that `nann export` wrote: the folder of its versions, or one version.
      folder: the folder of deltas that the servers follow.
      item_ids: the items' ids, or a table of them, or a .parquet or .csv file. Ids that no item has are allowed;
        integers may be written as text.
      item_id: the column of a table with the ids.

    Raises:
      NannError: an id is not of the model's kind, another process is writing, or the update cannot be written.
    """
    if isinstance(item_ids, (str, os.PathLike, pl.DataFrame)):
        ids = _table(item_ids, item_id)[ITEM_ID].to_list()
    else:
        ids = list(item_ids)
    with Updates(exported, folder) as updates:
        return Updated(updates.model, updates.delete(ids), len(ids), updates.unindexed)


def _table(items: pl.DataFrame | str | os.PathLike[str], item_id: str) -> pl.DataFrame:
    if not isinstance(items, pl.DataFrame):
        return read_attributes(items, item_id)
    if item_id not in items.columns:
        raise NannError(f"the table has no column {item_id!r} of item ids; it has {', '.join(items.columns)}")
    return items.rename({item_id: ITEM_ID})


class Updates:
    """Writes updates of an exported model's items, which servers that follow the same folder answer with.

    Example:
      >>> with nann.Updates("models/nann", "deltas") as updates:
      ...     number = updates.delete([1001, 1002])

    Attributes:
      model: the version that is updated, the newest one.
      manifest: its manifest.
      deltas: the updates so far.
    """

    def __init__(self, exported: str | os.PathLike[str], folder: str | os.PathLike[str]) -> None:
        """Opens a model and its updates. Reads the whole index once.

        Args:
          exported: a model that `nann export` wrote: the folder of its versions, or one version.
          folder: the folder of deltas that the servers follow; the first update makes it.

        Raises:
          NannError: the model is damaged, or an update is missing or damaged.
        """
        self._exported, self._folder = exported, folder
        self._held = contextlib.ExitStack()
        self._open()

    def _open(self) -> None:
        self.model = newest_version(self._exported)
        self.manifest = read_manifest(self.model)
        self._held = contextlib.ExitStack()
        try:
            self._index = self._held.enter_context(exported_index(self.model, self.manifest))
            self.deltas = Deltas(self._folder, self._index)
            self._corpus = Corpus(self._index, self.deltas)
            self._numbers = ItemNumbers(self._index, self.deltas)
        except BaseException:
            self._held.close()
            raise
        self._fold: Any = None

    def __enter__(self) -> "Updates":
        """Returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes it."""
        self.close()

    def close(self) -> None:
        """Lets go of the model's files."""
        self._held.close()

    @property
    def width(self) -> int:
        """The width of an embedding, as `upsert` takes it."""
        return self._folded_dim or self._index.dim

    def items(self) -> Items:
        """Returns all items as they are now; see `Items`."""
        return self._corpus.items(self._folded_dim)

    def ids_of(self, items: Items) -> np.ndarray | KeyedIds:
        """Returns the ids of items for a new index, with the texts that stand for them if the index has such."""
        return self._numbers.keyed(items.item_ids)

    @property
    def unindexed(self) -> int:
        """How many items are new or have another row than in the index: every search scores each of them."""
        return self._corpus.unindexed()

    def upsert(self, items: pl.DataFrame) -> int:
        """Adds items, or changes those that are there; returns the update's number once it is on the disk.

        Args:
          items: a row per item: `item_id`, an integer or text as in requests; `embedding`, a list of floats, the
            model's e_v; and attributes of the index by their names. A column that is left out keeps its values, as does
            a null in `embedding`; a new item must have an embedding, and its other attributes are null.

        Raises:
          NannError: a column does not fit, a new item has no embedding, another process is writing, or the update
            cannot be written.
        """
        with self._writing():
            numbers = self._numbers.of_table(items)
            keys = self._numbers.keys_of(numbers, items)
            if keys is not None:
                items = items.with_columns(pl.Series(_KEY, keys, pl.Binary))
            items = items.with_columns(pl.Series(ITEM_ID, numbers)).sort(ITEM_ID)
            table = in_types(items.drop(EMBEDDING, _KEY, strict=False), self._index.attributes)
            number = self.deltas.sequence
            for start in range(0, len(items), MAX_ITEMS):
                part = slice(start, start + MAX_ITEMS)
                number = self.deltas.append(self._rows(items[part], table[part]), _NONE)
            return number

    def embedded(self, items: pl.DataFrame, tower: ItemTower, item_id: str = ITEM_ID) -> pl.DataFrame:
        """Returns a table for `upsert` of items that are described by the features of a ranker.

        Args:
          items: a row per item: `item_id`, the columns that the export took, and attributes of the index.
          tower: what computes the embeddings.
          item_id: how the ranker's table calls the column of ids.

        Raises:
          NannError: a column is missing or does not fit, or the ranker fails for an item.
        """
        if EMBEDDING in items.columns:
            raise NannError(f"the items have a column {EMBEDDING!r}, which the ranker computes: leave out one of them")
        rows = tower.rows(items.rename({ITEM_ID: item_id}), item_id)
        kept = items.select(ITEM_ID, *(name for name in self._index.attributes if name in items.columns))
        return kept.with_columns(pl.Series(EMBEDDING, rows.tolist(), dtype=pl.List(pl.Float32)))

    def delete(self, item_ids: Iterable[int | str]) -> int:
        """Deletes items; returns the update's number once it is on the disk. Ids that no item has are allowed.

        Raises:
          NannError: an id is not of the model's kind, another process is writing, or the update cannot be written.
        """
        with self._writing():
            return self.deltas.append(self._empty(), self._numbers.of_ids(item_ids))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        if newest_version(self._exported) != self.model:  # `nann compact` has made another.
            self.close()
            self._open()
        with self.deltas.writing():
            yield

    def _empty(self) -> Rows:
        values, scales = encode(np.zeros([0, self._index.dim], np.float32), self._index.dtype)
        return Rows(_NONE, values, scales, np.zeros(0, np.uint8), keys=[] if self._numbers.are_text else None)

    def _rows(self, items: pl.DataFrame, table: pl.DataFrame) -> Rows:
        """Returns the rows of a segment for items that ascend by id."""
        index, ids = self._index, items[ITEM_ID].to_numpy()
        keys = items[_KEY].to_list() if _KEY in items.columns else None
        given, embeddings = self._embeddings(items)
        rows = embeddings
        if self._folded_dim is not None:
            rows = self._folded(embeddings)
        values = np.zeros([len(ids), index.dim], index.item_embeddings.dtype)
        scales = np.ones(len(ids), np.float32) if index.item_scales is not None else None
        values[given], new_scales = encode(rows, index.dtype)
        if scales is not None:
            scales[given] = new_scales
        unfolded = None
        if self._folded_dim is not None:
            unfolded = np.full([len(ids), self._folded_dim], np.nan, np.float32)
            unfolded[given] = embeddings
        for row in np.flatnonzero(~given):
            place = self._corpus.find(int(ids[row]))
            if place is None:
                name = self._numbers.name(int(ids[row]), keys[row] if keys else b"")
                raise NannError(f"item {name} is new: it needs an embedding, in the column {EMBEDDING!r}")
            values[row] = place.rows.values[place.row]
            if scales is not None:
                scales[row] = place.rows.scales[place.row]  # type: ignore[index]
            if unfolded is not None and place.rows.embeddings is not None:
                unfolded[row] = place.rows.embeddings[place.row]
        return Rows(ids, values, scales, self._attributes(ids, table), unfolded, keys)

    @property
    def _folded_dim(self) -> int | None:
        """The width of the embeddings from which the index's rows were folded; None if it holds embeddings."""
        if not (self.manifest.get("scorer") or {}).get("folded"):
            return None
        if self._fold is None:
            self._loaded = tf.saved_model.load(str(self.model))  # Its functions do not keep its variables alive.
            self._fold = self._loaded.fold
        return self._fold.concrete_functions[0].structured_input_signature[0][0].shape[-1]

    def _folded(self, embeddings: np.ndarray) -> np.ndarray:
        return np.asarray(self._fold(tf.constant(embeddings[None])))[0]

    def _embeddings(self, items: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Returns which items have an embedding, bool [m], and these embeddings, float32."""
        width = self.width
        if EMBEDDING not in items.columns:
            return np.zeros(len(items), bool), np.zeros([0, width], np.float32)
        column = items[EMBEDDING]
        try:
            present = column.is_not_null().to_numpy()
            lists = column.drop_nulls().cast(pl.List(pl.Float32))
        except pl.exceptions.PolarsError as error:
            raise NannError(f"the column {EMBEDDING!r} holds {column.dtype}, it must hold lists of floats") from error
        wrong = lists.filter((lists.list.len() != width) | lists.list.eval(pl.element().is_null()).list.any())
        if len(wrong):
            raise NannError(f"an embedding has {len(wrong[0])} entries or a null, it must have {width} numbers")
        values = lists.explode().to_numpy().astype(np.float32).reshape(-1, width) if len(lists) else []
        found = np.asarray(values, np.float32).reshape(-1, width)
        if not np.isfinite(found).all():
            raise NannError("an embedding is not finite")
        return present, found

    def _attributes(self, ids: np.ndarray, table: pl.DataFrame) -> np.ndarray:
        """Returns the content of a file of the items' attributes; `table` has the columns that change."""
        types = self._index.attributes
        if not types:
            return np.zeros(0, np.uint8)
        missing = [name for name in types if name not in table.columns]
        if missing:
            known = self._corpus.attributes_of(ids.tolist())
            table = table.join(known.select(ITEM_ID, *missing), on=ITEM_ID, how="left", maintain_order="left")
        return store_attributes(table.select(ITEM_ID, *types), ids).content
