"""The items of an exported index as they are after its updates, with their rows and attributes."""

from typing import NamedTuple

import numpy as np
import polars as pl

from tfserving_ext.index.attribute_file import ATTRIBUTES_FILE
from tfserving_ext.index.attribute_table import read_table
from tfserving_ext.index.attributes import ITEM_ID
from tfserving_ext.index.deltas import Deltas, Place
from tfserving_ext.index.format import Index
from tfserving_ext.index.segments import Rows
from tfserving_ext.index.table import decode


class Items(NamedTuple):
    """All items of a corpus.

    Attributes:
      item_ids: int64 [m], those of the index in its order, then new ones.
      embeddings: float32 [m, width]; NaN where the index has only what was folded from them.
      attributes: a row per item, with the column `item_id`; None if the index has none.
    """

    item_ids: np.ndarray
    embeddings: np.ndarray
    attributes: pl.DataFrame | None


class Corpus:
    """Finds items in an index and its updates."""

    def __init__(self, index: Index, deltas: Deltas) -> None:
        """Takes an open index and its updates, of which later ones count at once."""
        self._index, self._deltas = index, deltas
        attributes = np.zeros(0, np.uint8)
        if index.attributes:
            attributes = np.memmap(index.folder / ATTRIBUTES_FILE, np.uint8, mode="r")
        self._indexed = Rows(np.asarray(index.item_ids), index.item_embeddings, index.item_scales, attributes)
        self._order = np.argsort(index.item_ids, kind="stable")

    def find(self, item_id: int) -> Place | None:
        """Returns where the row of an item is; None if there is no such item."""
        if item_id in self._deltas.changed:
            return self._deltas.changed[item_id]
        row = self._row_in_index(item_id)
        return None if row is None else Place(self._indexed, row)

    def _row_in_index(self, item_id: int) -> int | None:
        ids = self._index.item_ids
        place = int(np.searchsorted(ids, item_id, sorter=self._order))
        if place == len(ids) or ids[self._order[place]] != item_id:
            return None
        return int(self._order[place])

    def unindexed(self) -> int:
        """Returns how many items are new or have another row than in the index: every search scores each of them."""
        return sum(
            place is not None and not self._has_row_of_index(item_id, place)
            for item_id, place in self._deltas.changed.items()
        )

    def _has_row_of_index(self, item_id: int, place: Place) -> bool:
        row = self._row_in_index(item_id)
        if row is None:
            return False
        (rows, at), held = place, self._indexed
        if rows.scales is not None and held.scales is not None and rows.scales[at] != held.scales[row]:
            return False
        return rows.values[at].tobytes() == held.values[row].tobytes()

    def attributes_of(self, item_ids: list[int]) -> pl.DataFrame:
        """Returns the attributes of those of some items that there are, with their ids."""
        held: dict[int, tuple[Rows, list[int], list[int]]] = {}
        for item_id in item_ids:
            place = self.find(item_id)
            if place is not None:
                _, ids, rows = held.setdefault(id(place.rows), (place.rows, [], []))
                ids.append(item_id)
                rows.append(place.row)
        found = [self._table(self._indexed, [], [])]
        return pl.concat(found + [self._table(*one) for one in held.values()])

    def _table(self, rows: Rows, item_ids: list[int], places: list[int]) -> pl.DataFrame:
        table = read_table(rows.attributes, self._index.attributes, np.array(places, np.int64))
        return table.with_columns(pl.Series(ITEM_ID, item_ids, dtype=pl.Int64))

    def items(self, width: int | None) -> Items:
        """Returns all items.

        Args:
          width: the width of embeddings if the index has rows that were folded from them; None if it has embeddings.
        """
        changed, known = self._deltas.changed, self._index.item_ids
        kept = np.array([changed.get(item_id, True) is not None for item_id in known.tolist()], bool)
        new = [id for id, place in changed.items() if place is not None and self._row_in_index(id) is None]
        item_ids = np.concatenate([known[kept], np.array(new, np.int64)])
        embeddings = np.full([len(item_ids), width or self._index.dim], np.nan, np.float32)
        if width is None:
            embeddings[: kept.sum()] = self._index.embeddings()[kept]
        row_of = {item_id: row for row, item_id in enumerate(item_ids.tolist())}
        for item_id, place in changed.items():
            if place is not None:
                embeddings[row_of[item_id]] = self._embedding(place, width)
        attributes = self.attributes_of(item_ids.tolist()) if self._index.attributes else None
        return Items(item_ids, embeddings, attributes)

    def _embedding(self, place: Place, width: int | None) -> np.ndarray:
        rows, one = place.rows, slice(place.row, place.row + 1)
        if width is not None:
            return np.full(width, np.nan, np.float32) if rows.embeddings is None else rows.embeddings[place.row]
        return decode(rows.values[one], None if rows.scales is None else rows.scales[one])[0]
