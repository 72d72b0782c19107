"""One numbered update of an index, as a file: a segment (docs/format.md). The op reads it too."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfserving_ext.errors import NannError
from tfserving_ext.index.checks import NO_ITEM
from tfserving_ext.index.format import Index
from tfserving_ext.index.table import DTYPES

SUFFIX = ".seg"
# The limit of the op.
MAX_ITEMS = 1 << 20
_MAGIC = int.from_bytes(b"NANNDLTA", "little")
_VERSION = 1
_ALIGNMENT, _HEAD_WORDS = 64, 16
_TYPES = ("float32", "float16", "int8")
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_WORDS_AT_ONCE = 1 << 16  # What is computed of them fits into the cache.


def checksum(content: np.ndarray) -> int:
    """Returns the checksum of bytes, uint8 [n], that the op computes (custom_ops/core/checksum.h)."""
    total = np.uint64(0)
    whole = len(content) // 8 * 8
    words = content[:whole].view("<u8")
    last = np.zeros(8, np.uint8)
    last[: len(content) - whole] = content[whole:]
    parts = [words[at : at + _WORDS_AT_ONCE] for at in range(0, len(words), _WORDS_AT_ONCE)]
    parts += [last.view("<u8")] if len(content) > whole else []
    place = 0
    with np.errstate(over="ignore"):
        for part in parts:
            places = np.arange(place + 1, place + len(part) + 1, dtype=np.uint64)
            total += _mix(part + places * _GOLDEN).sum(dtype=np.uint64)
            place += len(part)
        return int(_mix(np.array([total ^ np.uint64(len(content))]))[0])


def _mix(x: np.ndarray) -> np.ndarray:
    """Returns uint64 values after the last steps of SplitMix64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def index_key(index: Index) -> int:
    """Returns the key of an index, to which its segments belong: a checksum of all its files. Reads all of them."""
    words = []
    for path in index.files:
        size = path.stat().st_size
        content = np.memmap(path, np.uint8, mode="r") if size else np.zeros(0, np.uint8)
        words += [size, checksum(content)]
    return checksum(np.array(words, "<u8").view(np.uint8))


@dataclasses.dataclass(frozen=True)
class Rows:
    """Items that are new or replaced.

    Attributes:
      item_ids: int64 [u], ascending.
      values: [u, dim], the rows in the index's type.
      scales: float32 [u] for int8, otherwise None.
      attributes: the content of a file of their attributes, uint8 [bytes] (`index.attribute_file`); empty for an index
        without attributes.
      embeddings: float32 [u, width], what rows were folded from; NaN where that is the embedding in the index. None for
        an index that holds embeddings.
      keys: the UTF-8 of each id's text, empty where the index has a text for it; None for an index without keys.
    """

    item_ids: np.ndarray
    values: np.ndarray
    scales: np.ndarray | None
    attributes: np.ndarray
    embeddings: np.ndarray | None = None
    keys: Sequence[bytes] | None = None


@dataclasses.dataclass(frozen=True)
class Segment:
    """One update.

    Attributes:
      sequence: its number, from 1.
      rows: items that are new or replaced.
      deleted: int64 [d], ids of items that are gone, ascending.
    """

    sequence: int
    rows: Rows
    deleted: np.ndarray


def encode_segment(segment: Segment, key: int) -> bytes:
    """Returns the content of a segment's file.

    Raises:
      NannError: ids do not ascend or are in both lists, or there are too many items.
    """
    rows = segment.rows
    _check_ids(rows.item_ids, segment.deleted)
    embeddings = np.zeros([len(rows.item_ids), 0]) if rows.embeddings is None else rows.embeddings
    text = b"".join(rows.keys or [])
    key_ends = np.cumsum([len(key) for key in rows.keys or []], dtype="<u4")
    head = np.zeros(_HEAD_WORDS, "<u8")
    head[:11] = [
        _MAGIC,
        _VERSION,
        key,
        segment.sequence,
        len(rows.item_ids),
        len(segment.deleted),
        rows.values.shape[1],
        next(place for place, name in enumerate(_TYPES) if DTYPES[name] == rows.values.dtype.str),
        len(rows.attributes),
        embeddings.shape[1],
        len(text),
    ]
    parts = [
        head,
        rows.item_ids.astype("<i8"),
        segment.deleted.astype("<i8"),
        rows.values,
        np.zeros(0) if rows.scales is None else rows.scales.astype("<f4"),
        rows.attributes,
        embeddings.astype("<f4"),
        key_ends,
        np.frombuffer(text, np.uint8),
    ]
    contents = [part.tobytes() for part in parts]
    content = b"".join(part + bytes(-len(part) % _ALIGNMENT) for part in contents)
    return content + np.array([checksum(np.frombuffer(content, np.uint8))], "<u8").tobytes()


def _check_ids(upserted: np.ndarray, deleted: np.ndarray) -> None:
    if len(upserted) > MAX_ITEMS:
        raise NannError(f"an update has {len(upserted)} items, allowed are {MAX_ITEMS}; write it in parts")
    for ids in (upserted, deleted):
        if len(ids) and (ids == NO_ITEM).any():
            raise NannError(f"an id is {NO_ITEM}, the mark for 'no item'; allowed are all other int64")
        assert (np.diff(ids) > 0).all()
    assert not len(np.intersect1d(upserted, deleted))


def read_segment(path: Path, key: int, index: Index) -> Segment:
    """Reads a segment of an index.

    Args:
      path: the file, whose name is the number.
      key: `index_key` of the index.
      index: the index.

    Raises:
      NannError: the file cannot be read, is damaged, or is for another index.
    """
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise NannError(f"cannot read {path}: {error.strerror or error}") from error
    if len(content) < 8 * (_HEAD_WORDS + 1) or content[:8].view("<u8")[0] != _MAGIC:
        raise NannError(f"{path} is no segment")
    head = [int(word) for word in content[: 8 * _HEAD_WORDS].view("<u8")]
    if head[1] != _VERSION:
        raise NannError(f"{path} has format version {head[1]}, this release reads {_VERSION}")
    if len(content) % 8 or checksum(content[:-8]) != content[-8:].view("<u8")[0]:
        raise NannError(f"{path} is damaged: its checksum is wrong")
    if head[2] != key:
        raise NannError(f"{path} is for the index {head[2]:016x}, not for {key:016x}")
    dim, kind = index.item_embeddings.shape[1], _TYPES.index(index.dtype)
    if head[3] != int(path.name.removesuffix(SUFFIX)) or head[6] != dim or head[7] != kind:
        raise NannError(f"{path} is number {head[3]}, of width {head[6]} and type {head[7]}: it is misplaced")
    upserts, deletions, attributes, width, text = head[4], head[5], *head[8:11]
    at = 8 * _HEAD_WORDS

    def part(dtype: Any, *shape: int) -> np.ndarray:
        nonlocal at
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        found = content[at : at + size].view(dtype).reshape(shape)
        at += size + -size % _ALIGNMENT
        return found

    ids, deleted = part("<i8", upserts), part("<i8", deletions)
    values = part(DTYPES[index.dtype], upserts, dim)
    scales = part("<f4", upserts) if index.dtype == "int8" else None
    stored = part(np.uint8, attributes)
    embeddings = part("<f4", upserts, width) if width else None
    keys = None
    if index.item_keys is not None:
        ends = part("<u4", upserts).tolist()
        texts = part(np.uint8, text).tobytes()
        keys = [texts[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
    return Segment(head[3], Rows(ids, values, scales, stored, embeddings, keys), deleted)
