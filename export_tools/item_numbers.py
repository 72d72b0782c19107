"""How updates name items: by the ids of requests, which may be text, and inside by the numbers of the index."""

from collections.abc import Iterable

import numpy as np
import polars as pl
import tensorflow as tf

from tfserving_ext.errors import NannError
from tfserving_ext.index.attributes import ids_column, item_ids_of
from tfserving_ext.index.checks import NO_ITEM
from tfserving_ext.index.deltas import Deltas
from tfserving_ext.index.format import Index
from tfserving_ext.index.item_keys import KeyedIds, encoded_key
from tfserving_ext.index.resource import MappedIndex


class ItemNumbers:
    """Turns the ids of an index and its updates into numbers, and numbers into the texts that updates bring."""

    def __init__(self, index: Index, deltas: Deltas) -> None:
        """Takes an open index and its updates, of which later ones count at once."""
        self._index, self._deltas = index, deltas
        self._mapped = None if index.item_keys is None else MappedIndex(index)
        others = [] if index.item_keys is None else [index.item_keys.others]
        numbers = np.concatenate([np.asarray(index.item_ids), *others])
        self._highest = int(numbers.max(initial=NO_ITEM))

    @property
    def are_text(self) -> bool:
        """Whether requests and answers have the items' ids as text."""
        return self._mapped is not None

    def of_table(self, items: pl.DataFrame) -> np.ndarray:
        """Returns the numbers of a table's items, int64 [m]; texts that are new get numbers that no item has had.

        Raises:
          NannError: the table has no column `item_id`, or ids are not of the index's kind, are null, or repeat.
        """
        if not self.are_text:
            return item_ids_of(items)
        texts = ids_column(items, "strings").to_list()
        numbers = self._known(texts)
        new = numbers == NO_ITEM
        for place in np.flatnonzero(new):
            encoded_key(texts[place], int(place))  # An error if it can be no id.
        highest = max([self._highest, *self._deltas.changed])
        numbers[new] = highest + 1 + np.arange(new.sum())
        return numbers

    def of_ids(self, item_ids: Iterable[int | str]) -> np.ndarray:
        """Returns the numbers of ids, int64 [m], ascending, without repetition and without texts that no item has.

        Raises:
          NannError: an id is not of the index's kind.
        """
        given = list(item_ids)
        if not self.are_text:
            try:
                numbers = [int(one) if isinstance(one, str) else one for one in given]
                return np.unique(np.array(numbers).astype(np.int64, casting="safe"))
            except (OverflowError, TypeError, ValueError) as error:
                raise NannError(f"item_ids must be integers of 64 bits: {error}") from error
        texts = [one for one in given if isinstance(one, str)]
        if wrong := [one for one in given if not isinstance(one, str)]:
            raise NannError(f"item_ids has {wrong[0]!r}, but the item ids of the model are strings")
        known = np.unique(self._known(texts))
        return known[known != NO_ITEM]

    def name(self, number: int, key: bytes) -> str:
        """Returns an id as requests have it, for messages; `key` is the text that an update must bring for it."""
        if self._mapped is None:
            return str(number)
        return repr((key or self._mapped.keys(tf.constant([number], tf.int64)).numpy()[0]).decode())

    def keys_of(self, numbers: np.ndarray, items: pl.DataFrame) -> list[bytes] | None:
        """Returns the texts that an update must bring: for each number that of the table's id, or an empty one.

        Args:
          numbers: int64 [m], as `of_table` returned them for `items`.
          items: the table.

        Returns:
          UTF-8 [m], empty where the index has a text for the number; None if the index has numbers alone.
        """
        if self._mapped is None:
            return None
        known = self._mapped.keys(numbers).numpy().tolist() if len(numbers) else []
        texts = items["item_id"].to_list() if len(numbers) else []
        added = self._deltas.added
        # The op may know texts of updates as well; what counts is the index.
        return [b"" if held and held not in added else text.encode() for held, text in zip(known, texts, strict=True)]

    def keyed(self, numbers: np.ndarray) -> np.ndarray | KeyedIds:
        """Returns the ids for an index of items with `numbers`, int64 [m], which keeps the texts that a model knows."""
        held = self._index.item_keys
        if held is None:
            return numbers
        known = np.concatenate([np.asarray(self._index.item_ids), held.others])
        texts = dict(zip(known.tolist(), held.texts(np.arange(len(held))), strict=True))
        texts |= {number: text.decode() for text, number in self._deltas.added.items()}
        others = np.setdiff1d(known, numbers)
        ordered = np.concatenate([numbers, others])
        return KeyedIds(ordered, [texts[number] for number in ordered.tolist()], len(numbers))

    def _known(self, texts: list[str]) -> np.ndarray:
        assert self._mapped is not None
        if not texts:
            return np.zeros(0, np.int64)
        numbers = self._mapped.numbers(tf.constant(texts, tf.string)).numpy().astype(np.int64)
        for place in np.flatnonzero(numbers == NO_ITEM):
            numbers[place] = self._deltas.added.get(texts[place].encode(), NO_ITEM)
        return numbers
