"""Writes the files of the original's `convert_UB_to_tfrecord.py` (github.com/alibaba/nann) from sequences.

ub_train.tfrecords      a record per training window, shuffled; targets: behaviours 10 to n - 2 of each user's n
ub_validate.tfrecords   a record per user; target: the behaviour in the middle of its history
ub_test.tfrecords       likewise
ub_items.tfrecords      a record per item, without a history
ub_items.npz            item_id, cate_id, weight_tag of every item
ub_meta.json            counts and lengths

A record's features are item_ids and cate_ids, int64 [50], the behaviours before the target, the most recent last,
padded with zeros at the end; gt_item_id and gt_cate_id, int64 [1], the target; weight_tag, float [1], the target's
share of all rows. Ids are places in the item and category tables, from 1.
"""

import os
from pathlib import Path

import numpy as np

from tfserving_ext.artifacts import atomic_folder, write_json
from tfserving_ext.data.examples import example, float_feature, int64_features
from tfserving_ext.data.sequence_format import SPLITS
from tfserving_ext.data.sequences import Sequences
from tfserving_ext.data.tfrecord import frame
from tfserving_ext.errors import NannError
from tfserving_ext.outputs import WINDOWS, check_replaceable
from tfserving_ext.progress import progress

META_NAME, ITEMS_NAME = "ub_meta.json", "ub_items.npz"
FILES = {"train": "ub_train.tfrecords", "validation": "ub_validate.tfrecords", "test": "ub_test.tfrecords"}
ITEM_RECORDS_NAME = "ub_items.tfrecords"
MAX_LENGTH = 50  # Behaviours in a window.
TRAIN_MIN_LENGTH, TEST_MIN_LENGTH = 10, 7  # The fewest behaviours before a training target, and a held-out one.
_AT_ONCE = 4096


def write_original(
    data: str | os.PathLike[str], target: str | os.PathLike[str], seed: int = 0, force: bool = False
) -> Path:
    """Writes sequences in the original's layout, in which a training behaviour stands in up to fifty windows.

    Args:
      data: a folder that `nann convert` wrote.
      target: the folder; it appears whole or not at all.
      seed: for the order of the training windows.
      force: replace whatever `target` holds.

    Returns:
      `target`.

    Raises:
      NannError: the data are bad or split by time, no training user has enough behaviours, or `target` is not writable.
    """
    check_replaceable(target, WINDOWS, force, [data])
    target = Path(target).resolve()
    sequences = _by_user(data)
    places = {split: _targets(sequences, split) for split in SPLITS}
    if not places["train"][0].size:
        raise NannError(f"{data}: no training user has the {TRAIN_MIN_LENGTH + 2} behaviours that a window needs")
    order = np.random.default_rng(seed).permutation(places["train"][0].size)
    places["train"] = (places["train"][0][order], places["train"][1][order])
    weights = sequences.item_counts / max(1, int(sequences.item_counts.sum()))
    with atomic_folder(target, WINDOWS, force) as folder:
        for split, name in FILES.items():
            starts, targets = places[split]
            with (folder / name).open("wb") as file, progress(f"{name} (windows)", targets.size) as advance:
                for begin in range(0, targets.size, _AT_ONCE):
                    some = slice(begin, begin + _AT_ONCE)
                    file.write(_windows(sequences, starts[some], targets[some], weights))
                    advance(targets[some].size)
        items = np.arange(1, sequences.num_items + 1)
        with (folder / ITEM_RECORDS_NAME).open("wb") as file:
            for begin in range(0, items.size, _AT_ONCE):
                some_items = items[begin : begin + _AT_ONCE]
                empty = np.zeros([some_items.size, MAX_LENGTH], np.int64)
                file.write(_records(sequences, empty, some_items, weights))
        np.savez(
            folder / ITEMS_NAME,
            item_id=items,
            cate_id=sequences.category_rows_of(items).astype(np.int64),
            weight_tag=weights.astype(np.float32),
        )
        meta = {
            "num_item": sequences.num_items,
            "num_cate": sequences.num_categories,
            "num_train_samples": int(places["train"][0].size),
            **{
                f"num_{name}_user": int(np.unique(places[split][0]).size)
                for split, name in (("train", "train"), ("validation", "validate"), ("test", "test"))
            },
            "max_length": MAX_LENGTH,
            "train_min_length": TRAIN_MIN_LENGTH,
            "test_min_length": TEST_MIN_LENGTH,
        }
        write_json(folder / META_NAME, meta)
    return target


def _by_user(data: str | os.PathLike[str]) -> Sequences:
    """Opens data that are split by user."""
    sequences = Sequences.open(data)
    if "time_split" in sequences.manifest:
        raise NannError(f"{data} is split by time, which alibaba/nann's TFRecords cannot say; convert it by user")
    return sequences


def _targets(sequences: Sequences, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns for each window where its user's history begins and where its target is: int64 [windows] each."""
    users = np.flatnonzero(sequences.user_splits == SPLITS.index(split))
    starts = sequences.row_splits[users]
    lengths = sequences.row_splits[users + 1] - starts
    long = lengths > TEST_MIN_LENGTH
    starts, lengths = starts[long], lengths[long]
    if split != "train":
        return starts, starts + TEST_MIN_LENGTH + (lengths - TEST_MIN_LENGTH) // 2
    windows = np.maximum(lengths - 1 - TRAIN_MIN_LENGTH, 0)
    begins = np.repeat(starts, windows)
    nth = np.arange(begins.size) - np.repeat(np.cumsum(windows) - windows, windows)
    return begins, begins + TRAIN_MIN_LENGTH + nth


def _windows(sequences: Sequences, starts: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> bytes:
    """Returns the framed records of windows."""
    places = np.maximum(starts, targets - MAX_LENGTH)[:, None] + np.arange(MAX_LENGTH)
    present = places < targets[:, None]
    items = np.where(present, np.take(sequences.sequence_items, places, mode="clip"), 0).astype(np.int64)
    return _records(sequences, items, sequences.sequence_items[targets], weights)


def _records(sequences: Sequences, items: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> bytes:
    """Returns the framed records of windows with `items` [n, MAX_LENGTH] and `targets` [n], both item rows."""
    one = np.arange(1, len(targets) + 1)
    many = one * MAX_LENGTH
    columns: dict[str, list[bytes]] = {
        "cate_ids": int64_features(sequences.category_rows_of(items).astype(np.int64).ravel(), many),
        "gt_cate_id": int64_features(sequences.category_rows_of(targets).astype(np.int64), one),
        "gt_item_id": int64_features(targets.astype(np.int64), one),
        "item_ids": int64_features(items.ravel(), many),
        "weight_tag": [float_feature(weight) for weight in weights[targets - 1]],
    }
    rows = zip(*columns.values(), strict=True)
    return b"".join(frame(example(dict(zip(columns, features, strict=True)))) for features in rows)
