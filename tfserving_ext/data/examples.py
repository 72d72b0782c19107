"""Serializes histories as tf.train.Example, many at a time.

The bytes equal protobuf's deterministic serialization of `{user_id, item_ids, times}`, but are made ten times as fast:
a few passes of NumPy turn the numbers of many users into varints, and only the framing is done user by user.
https://protobuf.dev/programming-guides/encoding
"""

import struct
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np


def encode_histories(
    user_ids: np.ndarray, lengths: np.ndarray, item_ids: np.ndarray, times: np.ndarray
) -> Iterator[bytes]:
    """Serializes the histories of users.

    Args:
      user_ids: int64 [u].
      lengths: int64 [u], behaviours of each user.
      item_ids: int64 [r], all users' items, user after user.
      times: int64 [r], likewise.

    Yields:
      One serialized tf.train.Example per user.
    """
    ends = np.cumsum(lengths)
    users = int64_features(user_ids, np.arange(1, user_ids.size + 1))
    for user, items, seconds in zip(users, int64_features(item_ids, ends), int64_features(times, ends), strict=True):
        yield example({"item_ids": items, "times": seconds, "user_id": user})


def example(features: dict[str, bytes]) -> bytes:
    """Returns a serialized tf.train.Example.

    Args:
      features: serialized tf.train.Feature by name; the order of the names is kept.
    """
    entries = b""
    for name, feature in features.items():
        entries += _field(b"\x0a", _field(b"\x0a", name.encode()) + _field(b"\x12", feature))  # A map's key and value.
    return _field(b"\x0a", entries)  # Example.features


def int64_features(values: np.ndarray, ends: np.ndarray) -> list[bytes]:
    """Returns a serialized tf.train.Feature for each piece of `values` int64 [r]; piece i ends before `ends[i]`."""
    # Feature.int64_list, Int64List.value
    return [_field(b"\x1a", _field(b"\x0a", packed) if packed else b"") for packed in _packed(values, ends)]


def float_feature(value: float) -> bytes:
    """Returns a serialized tf.train.Feature of one float."""
    return _field(b"\x12", _field(b"\x0a", struct.pack("<f", value)))  # Feature.float_list, FloatList.value


def _packed(values: np.ndarray, ends: np.ndarray) -> Sequence[bytes]:
    """Returns the varints of each piece of `values` int64 [r]; piece i ends before `ends[i]`."""
    left = values.view(np.uint64)
    width = max(1, -(-int(left.max(initial=0)).bit_length() // 7))
    groups = np.empty([values.size, width], np.uint8)
    sizes = np.ones(values.size, np.uint8)
    for place in range(width):
        # A varint has seven bits a byte, the lowest first; the eighth bit says that another byte follows.
        rest = left >> np.uint64(7)
        more = rest > 0
        groups[:, place] = left.astype(np.uint8) & 0x7F | more.view(np.uint8) << 7
        sizes += more
        left = rest
    text = groups[np.arange(width, dtype=np.uint8) < sizes[:, None]].tobytes()
    stops = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])[ends].tolist()
    return [text[start:stop] for start, stop in pairwise([0, *stops])]


def _field(tag: bytes, content: bytes) -> bytes:
    """Returns a length-delimited field."""
    size, prefix = len(content), b""
    while size > 0x7F:
        prefix += _BYTES[size & 0x7F | 0x80]
        size >>= 7
    return tag + prefix + _BYTES[size] + content


_BYTES = [bytes([value]) for value in range(256)]
