"""The `nann-sequences` folder: users' behaviours in time order. Conversion writes it; training and evaluation read it.

manifest.json                     format, counts, rules, sources, and the SHA-256 of every other file
items.parquet                     item_id int64, ascending; category_id int64; count int64, rows of training users
train-00000-of-00008.tfrecord     histories, one tf.train.Example a user, ascending by user id within a split:
validation-00000-of-00001...        user_id  int64 [1]
test-00000-of-00001...              item_ids int64 [n], in time order
                                    times    int64 [n], unix seconds, ascending
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from tfserving_ext.artifacts import read_json, sha256, write_json
from tfserving_ext.data.examples import encode_histories
from tfserving_ext.data.rows import Places
from tfserving_ext.data.tfrecord import damage, frame
from tfserving_ext.errors import NannError

if TYPE_CHECKING:
    import tensorflow as tf

FORMAT = "nann-sequences"
FORMAT_VERSION = 2
SPLITS = ("train", "validation", "test")  # A user's split is stored as its position here.
ITEMS_NAME = "items.parquet"

_ITEM_COLUMNS = ("item_id", "category_id", "count")
_PARSED_AT_ONCE = 1024
_SHARD_ROWS = 10_000_000


def shard_name(split: str, shard: int, shards: int) -> str:
    """Returns a shard's file name, in the convention of TensorFlow's tools."""
    return f"{split}-{shard:05d}-of-{shards:05d}.tfrecord"


def shard_cuts(lengths: np.ndarray) -> np.ndarray:
    """Returns where a split's users are cut into shards of about `_SHARD_ROWS` rows: int64 [shards - 1].

    Args:
      lengths: int64 [U], behaviours of each user of the split, ascending by user.
    """
    ends = np.cumsum(lengths)
    rows = int(ends[-1]) if lengths.size else 0
    shards = max(1, -(-rows // _SHARD_ROWS))
    return np.searchsorted(ends, rows * np.arange(1, shards) / shards)


def encode(user_ids: np.ndarray, lengths: np.ndarray, item_ids: np.ndarray, times: np.ndarray) -> bytes:
    """Returns users' histories as a shard contains them; the arguments are those of `examples.encode_histories`."""
    return b"".join(map(frame, encode_histories(user_ids, lengths, item_ids, times)))


def write_items(folder: Path, ids: np.ndarray, categories: np.ndarray, counts: np.ndarray) -> None:
    """Writes the item table.

    Args:
      folder: where to write it.
      ids: int64 [V], the data's own item ids, ascending.
      categories: int64 [V], their category ids.
      counts: int64 [V], rows of training users.
    """
    pl.DataFrame(dict(zip(_ITEM_COLUMNS, (ids, categories, counts), strict=True))).write_parquet(folder / ITEMS_NAME)


def write_manifest(folder: Path, **parts: Any) -> None:
    """Writes the manifest of a folder that is otherwise finished.

    Args:
      folder: contains the shards and the item table already.
      **parts: `counts`, `splits` (by name: users, behaviors, shards), `rules`, `sources`, and anything else to record.
    """
    digests = {path.name: sha256(path) for path in sorted(folder.iterdir())}
    write_json(
        folder / "manifest.json", {"format": FORMAT, "format_version": FORMAT_VERSION, **parts, "sha256": digests}
    )


def describe_sources(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Returns the manifest's `sources`: the files that were read, each once."""
    return [{"file": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)} for path in dict.fromkeys(paths)]


def read_manifest(folder: Path) -> dict[str, Any]:
    """Reads the folder's manifest.

    Raises:
      NannError: the folder is missing, or its format or version is another.
    """
    if not (folder / "manifest.json").exists():
        raise NannError(f"{folder} is not converted data: it has no manifest.json; make some with `nann convert`")
    manifest = read_json(folder / "manifest.json")
    got = (manifest.get("format"), manifest.get("format_version")) if isinstance(manifest, dict) else (None, None)
    if got != (FORMAT, FORMAT_VERSION):
        raise NannError(
            f"{folder / 'manifest.json'}: format {got[0]!r} version {got[1]!r}; "
            f"expected {FORMAT!r} version {FORMAT_VERSION}; convert the data again"
        )
    return manifest


def load(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Reads and checks a folder.

    Returns:
      The manifest, and these arrays by name:
        item_ids int64 [V], ascending; item_categories int32 [V], 1-based rows of category_ids; item_counts int64 [V];
        category_ids int64 [C], ascending; user_ids int64 [U], by split, then ascending; user_splits uint8 [U];
        row_splits int64 [U + 1], where each user's rows begin in the next two;
        sequence_items int32 [R], 1-based rows of item_ids, in time order; sequence_times int64 [R].

    Raises:
      NannError: the folder is missing or damaged, its format or version is another, or its files do not fit together.
    """
    manifest = read_manifest(folder)
    arrays = _load_items(folder / ITEMS_NAME)
    places = Places(arrays["item_ids"])
    users: list[np.ndarray] = []
    lengths: list[np.ndarray] = []
    items: list[np.ndarray] = []
    times: list[np.ndarray] = []
    splits: list[np.ndarray] = []
    for code, split in enumerate(SPLITS):
        before = -1
        for path in _shards(folder, split, manifest):
            for part in _parse(path):
                rows = places(part["item_ids"])
                if not rows.all():
                    raise NannError(f"{path}: item {part['item_ids'][rows == 0][0]} is not in {ITEMS_NAME}")
                ascending = np.concatenate([[before], part["user_ids"]])
                if np.any(ascending[1:] <= ascending[:-1]):
                    raise NannError(f"{path}: the user ids are not ascending")
                before = int(part["user_ids"][-1])
                starts = np.cumsum(part["lengths"])[:-1]
                backwards = part["times"][1:] < part["times"][:-1]  # `diff` may overflow: times may be any int64.
                backwards[starts[(starts > 0) & (starts < part["times"].size)] - 1] = False
                if np.any(backwards):
                    raise NannError(f"{path}: the times of a history are not ascending")
                users.append(part["user_ids"])
                lengths.append(part["lengths"])
                items.append(rows)
                times.append(part["times"])
                splits.append(np.full(part["user_ids"].size, code, np.uint8))
        got_users = int(sum(np.count_nonzero(part == code) for part in splits))
        if got_users != (wanted := _count(folder, manifest, "splits", split, "users")):
            raise NannError(f"{folder}: {got_users:,} {split} users; its manifest says {wanted:,}; convert it again")
    arrays["user_ids"] = np.concatenate([np.zeros(0, np.int64), *users])
    arrays["user_splits"] = np.concatenate([np.zeros(0, np.uint8), *splits])
    arrays["row_splits"] = np.concatenate([[0], np.cumsum(np.concatenate([np.zeros(0, np.int64), *lengths]))])
    arrays["sequence_items"] = np.concatenate([np.zeros(0, np.int32), *items])
    arrays["sequence_times"] = np.concatenate([np.zeros(0, np.int64), *times])
    return manifest, arrays


def _load_items(path: Path) -> dict[str, np.ndarray]:
    try:
        table = pl.read_parquet(path)
    except FileNotFoundError as error:
        raise NannError(f"{path} does not exist; convert the data again") from error
    except (OSError, pl.exceptions.PolarsError) as error:
        raise NannError(f"{path} cannot be read ({str(error).splitlines()[0]}); convert the data again") from error
    if table.schema != {column: pl.Int64() for column in _ITEM_COLUMNS} or any(table.null_count().row(0)):
        raise NannError(f"{path}: {dict(table.schema)}; expected int64 {', '.join(_ITEM_COLUMNS)}, none missing")
    ids, categories, counts = (table[column].to_numpy() for column in _ITEM_COLUMNS)
    if np.any(ids[1:] <= ids[:-1]):
        raise NannError(f"{path}: item_id is not ascending")
    if counts.size and counts.min() < 0:
        raise NannError(f"{path}: a count of {counts.min()}; it must be 0 or more")
    category_ids, rows = np.unique(categories, return_inverse=True)
    return {
        "item_ids": ids,
        "item_categories": (rows + 1).astype(np.int32),
        "item_counts": counts,
        "category_ids": category_ids,
    }


def _count(folder: Path, manifest: dict[str, Any], *keys: str) -> int:
    value: Any = manifest
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, int):
        raise NannError(f"{folder / 'manifest.json'}: no {'.'.join(keys)}; convert the data again")
    return value


def _shards(folder: Path, split: str, manifest: dict[str, Any]) -> list[Path]:
    shards = _count(folder, manifest, "splits", split, "shards")
    paths = []
    for shard in range(shards):  # The manifest may claim any number; the loop ends at the first missing shard.
        paths.append(folder / shard_name(split, shard, shards))
        if not paths[-1].exists():
            raise NannError(f"{paths[-1]} does not exist; convert the data again")
    return paths


def _parse(path: Path) -> Iterator[dict[str, np.ndarray]]:
    """Yields the histories of a file, many at a time.

    Each element has user_ids [u], lengths [u], and the item_ids and times of all u users, one after the other; int64.
    """
    import tensorflow as tf

    def parse(serialized: "tf.Tensor") -> tuple["tf.Tensor", ...]:
        ragged = tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64)
        parsed = tf.io.parse_example(
            serialized, {"user_id": tf.io.FixedLenFeature([], tf.int64), "item_ids": ragged, "times": ragged}
        )
        items, times = parsed["item_ids"], parsed["times"]
        return parsed["user_id"], items.row_lengths(), items.values, times.row_lengths(), times.values

    records = tf.data.TFRecordDataset(str(path), buffer_size=8 << 20).batch(_PARSED_AT_ONCE)
    try:
        for user_ids, lengths, item_ids, time_lengths, times in records.map(parse, tf.data.AUTOTUNE).prefetch(2):
            if not np.array_equal(lengths, time_lengths):
                raise NannError(f"{path}: the item_ids and times of a history differ in length")
            yield {
                "user_ids": user_ids.numpy(),
                "lengths": lengths.numpy(),
                "item_ids": item_ids.numpy(),
                "times": times.numpy(),
            }
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError, UnicodeDecodeError) as error:
        raise NannError(f"{path} is damaged: {damage(error)}; convert the data again") from error
