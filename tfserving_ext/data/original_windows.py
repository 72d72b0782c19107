"""Converts files in the original's layout (original_format.py) back to sequences: joins windows to histories.

The next window of a user holds the behaviours of this one, moved on by one, with this one's target at the end. Windows
are joined by a 64-bit hash of their content, so that shuffled files need no sorting, and every window becomes part of
exactly one history. Windows of equal content cannot be told apart; any of them may follow.
"""

import os
import zipfile
import zlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from tfserving_ext.artifacts import atomic_folder, read_json
from tfserving_ext.data.original_format import FILES, ITEMS_NAME, META_NAME
from tfserving_ext.data.sequence_format import (
    describe_sources,
    encode,
    shard_name,
    write_items,
    write_manifest,
)
from tfserving_ext.data.splits import mix
from tfserving_ext.data.tfrecord import damage
from tfserving_ext.errors import NannError
from tfserving_ext.outputs import SEQUENCES, check_replaceable
from tfserving_ext.progress import progress

_AT_ONCE = 4096
_FRAMING_BYTES = 16  # The overhead of a record in a TFRecord file.
_MAX_LENGTHS = 10_000  # A longer window is taken for an error.


def is_original(folder: Path) -> bool:
    """Returns whether a folder holds files in the original's layout."""
    return (folder / META_NAME).exists()


def convert_original(source: str | os.PathLike[str], target: str | os.PathLike[str], force: bool = False) -> Path:
    """Converts the original's files to a `nann-sequences` folder.

    Item and category ids are the places that the original's files use. These have neither user ids nor times: users are
    numbered, and a time is a place in the history. The ground truth of a held-out user is its last behaviour, since
    the original's files end a held-out history with the behaviour that they chose as target.

    Args:
      source: the folder with the original's files.
      target: the folder to write; it appears whole or not at all.
      force: replace whatever `target` holds.

    Returns:
      `target`.

    Raises:
      NannError: a file is missing or damaged, or an id is not in the item table.
    """
    check_replaceable(target, SEQUENCES, force, [source])
    source, target = Path(source), Path(target).resolve()
    length = _max_length(source)
    item_ids, categories = _items(source / ITEMS_NAME)
    splits: dict[str, dict[str, int]] = {}
    item_counts = np.zeros(item_ids.size, np.int64)
    behaviors, users, joined = 0, 0, 0
    with atomic_folder(target, SEQUENCES, force) as folder:
        for split, name in FILES.items():
            lengths, items = _histories(source / name, length, join=split == "train")
            places = np.searchsorted(item_ids, items)
            bad = item_ids.take(places, mode="clip") != items
            if np.any(bad):
                raise NannError(f"{source / name}: item {items[bad][0]} is not in {ITEMS_NAME}")
            if split == "train":
                item_counts += np.bincount(places, minlength=item_ids.size)
                joined = lengths.size
            begins = np.cumsum(lengths) - lengths
            times = np.arange(items.size) - np.repeat(begins, lengths)
            ids = np.arange(users, users + lengths.size)
            (folder / shard_name(split, 0, 1)).write_bytes(encode(ids, lengths, items, times))
            splits[split] = {"users": lengths.size, "behaviors": items.size, "shards": 1}
            behaviors, users = behaviors + items.size, users + lengths.size
        write_items(folder, item_ids, categories, item_counts)
        write_manifest(
            folder,
            counts={
                "users": users,
                "items": item_ids.size,
                "categories": np.unique(categories).size,
                "behaviors": behaviors,
                "training_histories": joined,
            },
            splits=splits,
            rules={"ground_truth": "last"},
            sources=describe_sources(source / name for name in (META_NAME, ITEMS_NAME, *FILES.values())),
        )
    return target


def _max_length(source: Path) -> int:
    for name in (META_NAME, ITEMS_NAME, *FILES.values()):
        if not (source / name).exists():
            raise NannError(
                f"{source / name} does not exist; the original's layout is {META_NAME}, {ITEMS_NAME}, "
                f"{', '.join(FILES.values())}"
            )
    meta = read_json(source / META_NAME)
    length = meta.get("max_length") if isinstance(meta, dict) else None
    if not isinstance(length, int) or not 1 <= length <= _MAX_LENGTHS:
        raise NannError(f"{source / META_NAME}: max_length is {length!r}; allowed are 1 to {_MAX_LENGTHS}")
    return length


def _items(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads the item table: item ids, ascending, and category ids, int64 [V] each."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            ids, categories = (np.asarray(arrays[name]).ravel() for name in ("item_id", "cate_id"))
    # A plain .npy file loads as an array, which is no context manager, and a header may claim any size.
    except (OSError, ValueError, KeyError, EOFError, TypeError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise NannError(f"{path} cannot be read: {error}; it must hold item_id and cate_id") from error
    if ids.dtype.kind not in "iu" or categories.dtype.kind not in "iu" or ids.shape != categories.shape:
        raise NannError(
            f"{path}: item_id {ids.dtype} {ids.shape} and cate_id {categories.dtype} {categories.shape}; "
            "integers of one length are expected"
        )
    if ids.dtype == np.uint64 and ids.size and ids.max() > np.iinfo(np.int64).max:
        raise NannError(f"{path}: item_id[{int(ids.argmax())}] is {ids.max()}; ids are 1 to {np.iinfo(np.int64).max}")
    ids, first = np.unique(ids.astype(np.int64), return_index=True)
    if not ids.size:
        raise NannError(f"{path} holds no item")
    if ids[0] < 1:
        raise NannError(f"{path}: item_id {ids[0]}; ids are 1 and more, 0 is padding")
    return ids, categories.astype(np.int64)[first]


def _histories(path: Path, length: int, join: bool) -> tuple[np.ndarray, np.ndarray]:
    """Reads histories: their lengths, int64 [u], and the item ids of all of them, one after the other, int64 [r]."""
    held, then, targets = [], [], []
    for items, target in _windows(path, length, f"{path.name} (bytes)"):
        held.append(_hash(items))
        then.append(_hash(_moved_on(items, target)))
        targets.append(target)
    of_targets = _joined(targets)
    follower = _followers(_joined(held), _joined(then)) if join else np.full(of_targets.size, -1)
    order, firsts = _chains(follower)
    # A history is the content of its first window, followed by the targets of all its windows.
    wanted = np.zeros(of_targets.size, bool)
    wanted[order[firsts]] = True
    begins: dict[int, np.ndarray] = {}
    seen = 0
    for items, target in _windows(path, length, f"{path.name}, first windows (bytes)"):
        for nth in np.flatnonzero(wanted[seen : seen + target.size]):
            begins[seen + int(nth)] = items[nth][items[nth] > 0]
        seen += target.size
    parts, lengths = [], []
    for begin, end in pairwise([*firsts.tolist(), order.size]):
        parts += [begins[int(order[begin])], of_targets[order[begin:end]]]
        lengths.append(parts[-2].size + parts[-1].size)
    return np.array(lengths, np.int64), _joined(parts)


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _windows(path: Path, length: int, title: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields windows' item ids, int64 [n, length], zeros at the end, and targets, int64 [n], some at a time."""
    import tensorflow as tf

    features: dict[str, Any] = {
        "item_ids": tf.io.FixedLenFeature([length], tf.int64),
        "gt_item_id": tf.io.FixedLenFeature([1], tf.int64),
    }

    def parse(text: "tf.Tensor") -> tuple[dict[str, "tf.Tensor"], "tf.Tensor"]:
        return tf.io.parse_example(text, features), tf.reduce_sum(tf.strings.length(text) + _FRAMING_BYTES)

    parsed = tf.data.TFRecordDataset(str(path)).batch(_AT_ONCE).map(parse, tf.data.AUTOTUNE).prefetch(2)
    try:
        with progress(title, path.stat().st_size) as advance:
            for batch, size in parsed:
                items, target = batch["item_ids"].numpy(), batch["gt_item_id"].numpy()[:, 0]
                present = items > 0
                if np.any(present[:, 1:] & ~present[:, :-1]) or np.any(items < 0) or np.any(target < 1):
                    raise NannError(
                        f"{path}: a window has an id below 1 before its last behaviour or as its target; "
                        "only the zeros that pad it at the end may be below 1"
                    )
                yield items, target
                advance(int(size))
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError, UnicodeDecodeError) as error:
        raise NannError(f"{path} is damaged: {damage(error)}") from error


def _moved_on(items: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Returns the item ids of the windows that follow the given ones."""
    counts = np.count_nonzero(items, axis=1)
    full = counts == items.shape[1]
    moved = items.copy()
    moved[full, :-1] = items[full, 1:]
    moved[np.arange(len(items)), np.where(full, items.shape[1] - 1, counts)] = target
    return moved


def _hash(items: np.ndarray) -> np.ndarray:
    """Hashes each row of int64 [n, length] to 64 bits: uint64 [n]."""
    places = mix(np.arange(items.shape[1], dtype=np.uint64))
    return mix(items.view(np.uint64) + places).sum(axis=1, dtype=np.uint64)


def _followers(held: np.ndarray, then: np.ndarray) -> np.ndarray:
    """Pairs each window with one that follows it, each at most once.

    Args:
      held: uint64 [n], the hash of each window's content.
      then: uint64 [n], the hash of the content that follows each window.

    Returns:
      int64 [n], the follower of each window, or -1 if none is left.
    """
    of_held, of_then = np.argsort(held, kind="stable"), np.argsort(then, kind="stable")
    sorted_held, sorted_then = held[of_held], then[of_then]
    # Of the windows with one content, the nth follows the nth window that leads to this content.
    nth = np.arange(then.size) - np.searchsorted(sorted_then, sorted_then)
    places = np.searchsorted(sorted_held, sorted_then) + nth
    inside = sorted_held.take(places, mode="clip") == sorted_then
    inside &= places < held.size
    follower = np.full(then.size, -1)
    follower[of_then[inside]] = of_held[places[inside]]
    return follower


def _chains(follower: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns all windows, ordered chain after chain of followers, and where each chain begins."""
    chain, depth = np.full(follower.size, -1), np.zeros(follower.size, np.int64)
    preceded = np.zeros(follower.size, bool)
    preceded[follower[follower >= 0]] = True
    frontier = np.flatnonzero(~preceded)
    chains, ids, step = frontier.size, np.arange(frontier.size), 0
    while frontier.size:  # Walks all chains at once, by one window in each step.
        chain[frontier], depth[frontier] = ids, step
        frontier = follower[frontier]
        ids, frontier, step = ids[frontier >= 0], frontier[frontier >= 0], step + 1
    # Windows that follow each other in a circle, as those of a user with a single item do, have no first window.
    for window in np.flatnonzero(chain < 0).tolist():
        step = 0
        while chain[window] < 0:
            chain[window], depth[window] = chains, step
            window, step = int(follower[window]), step + 1
        chains += step > 0
    lengths = np.bincount(chain, minlength=chains)
    firsts = np.cumsum(lengths) - lengths
    order = np.empty(follower.size, np.int64)
    order[firsts[chain] + depth] = np.arange(follower.size)
    return order, firsts
