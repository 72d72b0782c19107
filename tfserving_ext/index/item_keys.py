"""The file of an index with the texts that stand for its items' ids in requests and answers (docs/format.md).

Inside, items have numbers, as the searches and our own models take them. The ops `Nann>IndexKeys` and
`Nann>IndexNumbers` turn one into the other at the boundary, by this file, which is mapped. A hash table in it finds a
key: keys in the order of their hashes, and where each bucket of hashes begins.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfserving_ext.errors import NannError
from tfserving_ext.index.checks import NO_ITEM, check_ids

KEYS_FILE = "item_keys.bin"
# The limits and the layout of the op (custom_ops/core/item_keys.cc).
MAX_KEY_BYTES = 65_535
MAX_KEYS = 2**31 - 1
_MAGIC = b"NANNKEYS"
_HEAD_WORDS = 6
_ALIGNMENT = 64
_BLOCK = 1 << 16
_MAX_BUCKET = 64
_SEEDS = 16
_AT_ONCE = 1 << 18
# A key of nothing is the padding of histories and answers.
NO_KEY = ""


@dataclasses.dataclass(frozen=True)
class KeyedIds:
    """Ids of items that requests and answers have as text, and searches and the model as numbers.

    Attributes:
      numbers: int64 [m]; the first `items` of them are the items', all different.
      keys: [m], the text that stands for each number, all different: strings, or UTF-8 in bytes.
      items: how many of them are items of the index, in the order of its rows. The others are known to the model alone:
        a history may hold them.
      of_rows: whether the numbers are those of the rows, which nobody but the index knows.
    """

    numbers: np.ndarray
    keys: Sequence[Any] | np.ndarray
    items: int
    of_rows: bool = False

    @classmethod
    def of_table(cls, item_ids: np.ndarray, numbers: np.ndarray, keys: np.ndarray) -> "KeyedIds":
        """Gives the ids of an index their keys by a table, such as `nann convert` writes for ids that are text.

        Args:
          item_ids: int64 [n], the ids of the items, all different.
          numbers: int64 [m], the ids that the table has, all different.
          keys: str [m], what each of them stands for.

        Raises:
          NannError: an id of the index is not in the table, or one appears twice.
        """
        check_ids(Path("the ids of the table of keys"), numbers)
        order = np.argsort(numbers)
        places = np.minimum(np.searchsorted(numbers, item_ids, sorter=order), max(len(numbers) - 1, 0))
        found = order[places] if len(numbers) else np.zeros(len(item_ids), np.int64)
        missing = np.flatnonzero(numbers[found] != item_ids) if len(numbers) else np.arange(len(item_ids))
        if len(missing):
            raise NannError(
                f"the table of keys has no key for item {item_ids[missing[0]]}, and for {len(missing) - 1} others of "
                f"{len(item_ids)} items; it belongs to other data"
            )
        others = np.setdiff1d(np.arange(len(numbers)), found)
        rows = np.concatenate([found, others])
        return cls(numbers[rows], np.asarray(keys)[rows], len(item_ids))


@dataclasses.dataclass(frozen=True)
class StoredKeys:
    """The keys of an index, as they are stored.

    Attributes:
      content: the content of the file, uint8 [bytes].
      facts: the manifest's entry: `keys`, how many there are; `others`, how many of them stand for no item.
    """

    content: np.ndarray
    facts: dict[str, int]


def is_text(item_ids: Any) -> bool:
    """Returns whether an array of ids holds strings: NumPy's, or objects."""
    return np.asarray(item_ids).dtype.kind in "USOT"


def numbered(item_ids: "np.ndarray | KeyedIds") -> tuple[np.ndarray, KeyedIds | None]:
    """Returns the numbers of items [n], and their keys if they have any: strings get the numbers of their rows."""
    if isinstance(item_ids, KeyedIds):
        return np.asarray(item_ids.numbers)[: item_ids.items], item_ids
    if item_ids.ndim != 1 or not is_text(item_ids):
        return item_ids, None
    keyed = KeyedIds(np.arange(len(item_ids)), item_ids, len(item_ids), of_rows=True)
    return keyed.numbers, keyed


def store_keys(keyed: KeyedIds) -> StoredKeys:
    """Makes the content of an index's file of keys.

    Raises:
      NannError: a key is empty, too long, no UTF-8 or no text, or it appears twice; or there are too many keys.
    """
    numbers, count = np.asarray(keyed.numbers), len(keyed.keys)
    if not keyed.items <= count <= MAX_KEYS or len(numbers) != count:
        raise NannError(f"there are {count} keys for {len(numbers)} numbers, allowed are as many, up to {MAX_KEYS}")
    text, ends = _joined(keyed.keys)
    seed, hashes, order = _spread(text, ends)
    bits = _bits(count)
    sizes = np.bincount(_buckets(hashes, bits), minlength=1 << bits)
    blocks = np.concatenate([np.zeros(1, np.int64), ends])[:count:_BLOCK]
    parts = [
        numbers[keyed.items :].astype("<i8"),
        blocks.astype("<i8"),
        (ends - np.repeat(blocks, _BLOCK)[:count]).astype("<u4"),
        np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]).astype("<u4"),
        order.astype("<u4"),
        hashes[order].astype(np.uint8),
        text,
    ]
    magic = int(np.frombuffer(_MAGIC, "<i8")[0])
    head = np.array([magic, keyed.items, count, len(text), seed, bits], "<i8")
    content = np.concatenate([_padded(part) for part in (head, *parts)])
    return StoredKeys(content, {"keys": count, "others": count - keyed.items})


class ItemKeys:
    """The keys of an open index, by their places; the first are those of its items, in their order."""

    def __init__(self, path: Path, content: np.ndarray, n: int) -> None:
        """Takes the content of the file. The op checks all of it when it opens the index.

        Args:
          path: the file.
          content: uint8 [bytes], mapped.
          n: the number of items of the index.

        Raises:
          NannError: it does not begin as the file of an index of `n` items does, or it has another size.
        """
        head = content[: 8 * _HEAD_WORDS].view("<i8") if len(content) >= 8 * _HEAD_WORDS else np.zeros(6, "<i8")
        items, count, text, bits = (int(head[place]) for place in (1, 2, 3, 5))
        if head[0].tobytes() != _MAGIC or items != n or not n <= count <= MAX_KEYS or not 0 <= bits <= 31 or text < 0:
            raise NannError(
                f"{path} does not begin as a file of keys of {n} items does; the file is damaged or belongs to another "
                "index"
            )
        shapes = [("<i8", count - n), ("<i8", -(-count // _BLOCK)), ("<u4", count), ("<u4", (1 << bits) + 1)]
        shapes += [("<u4", count), ("|u1", count), ("|u1", text)]
        parts, end = [], 8 * _HEAD_WORDS
        for dtype, length in shapes:
            begin = end + -end % _ALIGNMENT
            end = begin + np.dtype(dtype).itemsize * length
            parts.append((begin, end, dtype))
        if end + -end % _ALIGNMENT != len(content):
            raise NannError(
                f"{path} has {len(content)} bytes, its beginning says {end + -end % _ALIGNMENT}; the file is truncated "
                "or belongs to another index"
            )
        held = [content[begin:end].view(dtype) for begin, end, dtype in parts]
        self._path, self._blocks, self._ends, self._text = path, held[1], held[2], held[6]
        self.others: np.ndarray = held[0]

    def __len__(self) -> int:
        return len(self._ends)

    def texts(self, places: Any) -> np.ndarray:
        """Returns the keys at places, int [...], as an array of str of the same shape; at -1 it is empty.

        Raises:
          NannError: the file is damaged.
        """
        places = np.asarray(places)
        ends = self._blocks[places // _BLOCK] + self._ends[places]
        begins = np.where(places % _BLOCK == 0, 0, self._ends[places - 1]) + self._blocks[places // _BLOCK]
        texts = np.empty(places.shape, object)
        try:
            for at in np.ndindex(places.shape):
                known = places[at] != NO_ITEM
                texts[at] = self._text[begins[at] : ends[at]].tobytes().decode() if known else NO_KEY
        except UnicodeDecodeError as error:
            raise NannError(f"{self._path}: key {places[at]} is not UTF-8; the file is damaged") from error
        return texts


def _joined(keys: Sequence[Any] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the bytes of all keys, uint8, and where each ends, int64 [m]."""
    texts, lengths = [np.zeros(0, np.uint8)], [np.zeros(0, np.int64)]
    for start in range(0, len(keys), _AT_ONCE):
        some = keys[start : start + _AT_ONCE]
        encoded = [encoded_key(key, start + place) for place, key in enumerate(np.asarray(some, object).tolist())]
        texts.append(np.frombuffer(b"".join(encoded), np.uint8))
        lengths.append(np.fromiter(map(len, encoded), np.int64, len(encoded)))
    return np.concatenate(texts), np.cumsum(np.concatenate(lengths))


def encoded_key(key: Any, place: int) -> bytes:
    """Returns the UTF-8 of the id at a place.

    Raises:
      NannError: it is no text, no UTF-8, empty or too long.
    """
    if not isinstance(key, (str, bytes)):
        raise NannError(f"item id {place} is {key!r}, a {type(key).__name__}; ids are all strings, or all integers")
    try:
        encoded = key.encode() if isinstance(key, str) else key
        encoded.decode()
    except UnicodeError as error:
        raise NannError(f"item id {place} is {key!r}, which is not UTF-8: {error}") from error
    if not 1 <= len(encoded) <= MAX_KEY_BYTES:
        raise NannError(
            f"item id {place} has {len(encoded)} bytes, allowed are 1 to {MAX_KEY_BYTES}; an empty one stands for no "
            "item, such as padding"
        )
    return encoded


def _bits(count: int) -> int:
    """Returns how many bits of a hash choose its bucket: for two to four keys in each."""
    return max(count.bit_length() - 2, 0)


def _buckets(hashes: np.ndarray, bits: int) -> np.ndarray:
    return (hashes >> np.uint64(64 - bits)).astype(np.int64) if bits else np.zeros(len(hashes), np.int64)


def _spread(text: np.ndarray, ends: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
    """Returns a seed by which no bucket is too full, the hashes, and the places of the keys in their order."""
    bits = _bits(len(ends))
    for seed in range(_SEEDS):
        hashes = hashes_of(text, ends, seed)
        if np.bincount(_buckets(hashes, bits), minlength=1).max() <= _MAX_BUCKET:
            break
    order = np.argsort(hashes, kind="stable")
    _check_different(text, ends, hashes, order)
    if np.bincount(_buckets(hashes, bits), minlength=1).max() > _MAX_BUCKET:
        raise NannError(f"more than {_MAX_BUCKET} of {len(ends)} item ids have almost the same hash by each seed")
    return seed, hashes, order


def hashes_of(text: np.ndarray, ends: np.ndarray, seed: int) -> np.ndarray:
    """Returns the hash of each key, uint64 [m]; `ItemKeys::Hash` of the op is the same function.

    Args:
      text: the bytes of all keys, uint8.
      ends: where each key ends, int64 [m].
      seed: another one gives other hashes.
    """
    begins = np.concatenate([np.zeros(1, np.int64), ends])[:-1]
    lengths = ends - begins
    padded = np.concatenate([text, np.zeros(8, np.uint8)])
    # The eight bytes that begin at each byte.
    words = np.ndarray(len(text) + 1, "<u8", padded, strides=(1,))
    hashes = np.uint64(seed) ^ (lengths.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    rows, at = np.flatnonzero(lengths > 0), 0
    while len(rows):
        left = np.minimum(lengths[rows] - at, 8).astype(np.uint64)
        # The bytes behind the end of a key count as zeros.
        word = words[begins[rows] + at] & (np.uint64(2**64 - 1) >> (np.uint64(8) * (np.uint64(8) - left)))
        mixed = (hashes[rows] ^ word) * np.uint64(0xFF51AFD7ED558CCD)
        hashes[rows] = mixed ^ (mixed >> np.uint64(32))
        at += 8
        rows = rows[lengths[rows] > at]
    hashes *= np.uint64(0xC4CEB9FE1A85EC53)
    hashes ^= hashes >> np.uint64(29)
    hashes *= np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(32))


def _check_different(text: np.ndarray, ends: np.ndarray, hashes: np.ndarray, order: np.ndarray) -> None:
    """Raises NannError if a key appears twice. Equal keys have equal hashes, and so are neighbours in `order`."""

    def key(place: int) -> bytes:
        return text[ends[place - 1] if place else 0 : ends[place]].tobytes()

    for at in np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]]):
        first, second = int(order[at]), int(order[at + 1])
        if key(first) == key(second):
            raise NannError(
                f"item id {key(first).decode()!r} appears twice, as id {first} and as id {second}; ids must be all "
                "different: drop all but one of the rows, from the embeddings too"
            )


def _padded(part: np.ndarray) -> np.ndarray:
    content = np.ascontiguousarray(part).view(np.uint8)
    return np.pad(content, [0, -len(content) % _ALIGNMENT])
