"""A straightforward conversion in Python, for comparison: row by row, with one record per training window.

It does what `convert_UB_to_tfrecord.py` of alibaba/nann does: every behaviour of a user, except the first ten and the
last, is the ground truth of a record that also holds the fifty behaviours before it.
"""

import csv
from collections import Counter, defaultdict
from pathlib import Path

HISTORY_LENGTH = 50
FIRST_TARGET = 10


def convert_rowwise(source: Path, target: Path) -> tuple[int, int]:
    """Writes a TFRecord of training windows; returns the numbers of rows read and of records written."""
    import tensorflow as tf

    users: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    counts: Counter[int] = Counter()
    rows = 0
    with source.open(newline="") as file:
        for user, item, category, _, timestamp in csv.reader(file):
            users[user].append((int(timestamp), int(item), int(category)))
            counts[int(item)] += 1
            rows += 1
    records = 0
    with tf.io.TFRecordWriter(str(target)) as writer:
        for behaviors in users.values():
            behaviors.sort(key=lambda behavior: behavior[0])
            items = [item for _, item, _ in behaviors]
            categories = [category for _, _, category in behaviors]
            for place in range(FIRST_TARGET, len(behaviors) - 1):
                writer.write(_window(tf, items, categories, place, counts[items[place]] / rows))
                records += 1
    return rows, records


def _window(tf, items: list[int], categories: list[int], place: int, weight: float) -> bytes:  # type: ignore[no-untyped-def]
    """Returns the record whose ground truth is the behaviour at `place`."""
    begin = max(0, place - HISTORY_LENGTH)
    padding = [0] * (HISTORY_LENGTH - (place - begin))

    def integers(values: list[int]) -> "tf.train.Feature":
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    feature = {
        "item_ids": integers(items[begin:place] + padding),
        "cate_ids": integers(categories[begin:place] + padding),
        "gt_item_id": integers([items[place]]),
        "gt_cate_id": integers([categories[place]]),
        "weight_tag": tf.train.Feature(float_list=tf.train.FloatList(value=[weight])),
    }
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()
