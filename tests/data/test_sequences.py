import json
import os
import shutil

import numpy as np
import polars as pl
import pytest
import tensorflow as tf

from tfserving_ext.data.sequences import Sequences
from tfserving_ext.errors import NannError


def history_before(sequences: Sequences, user: int, place: int, length: int) -> list[int]:
    """Computes the history as a list, slowly: `length` rows before `place` of the user'th user, 0 at the front."""
    start, end = sequences.row_splits[user : user + 2]
    before = sequences.sequence_items[start:end][:place].tolist()[-length:]
    return [0] * (length - len(before)) + before


def places_of(sequences: Sequences, user_ids) -> list[int]:
    return [sequences.user_ids.tolist().index(user) for user in user_ids]


def test_training_batches_start_anywhere(small):
    def take(first_step: int, steps: int) -> list[dict]:
        return list(small.training_batches(7, 5, seed=2, first_step=first_step).take(steps).as_numpy_iterator())

    whole, rest = take(0, 12), take(8, 4)
    for one, other in zip(whole[8:], rest, strict=True):
        np.testing.assert_array_equal(one["histories"], other["histories"])
        np.testing.assert_array_equal(one["targets"], other["targets"])
    assert whole[0]["histories"].dtype == whole[0]["targets"].dtype == np.int32
    assert not np.array_equal(whole[0]["targets"], whole[1]["targets"])
    spec = small.training_batches(7, 5).element_spec
    assert spec["histories"].shape == (7, 5)
    assert spec["targets"].shape == (7, 1)


def test_several_targets_are_the_behaviours_that_follow(small):
    """Uses the longest possible history: the user's whole past identifies the user and the place."""
    length = int(np.diff(small.row_splits).max())
    batch = small.training_batch(3, 500, length, targets=6)
    wholes = []
    for user in np.flatnonzero(small.user_splits == 0):
        start, end = small.row_splits[user : user + 2]
        wholes.append(small.sequence_items[start:end].tolist())
    ends = 0
    for history, targets in zip(batch["histories"].tolist(), batch["targets"].tolist(), strict=True):
        past = [row for row in history if row]
        follows = [whole[len(past) : len(past) + 6] for whole in wholes if whole[: len(past)] == past]
        assert [row for row in targets if row] in follows
        assert targets[0] > 0
        ends += targets[-1] == 0
    assert 0 < ends < 500


def test_every_training_behaviour_with_a_predecessor_is_equally_likely(small):
    length = 6
    possible = {}
    for user in np.flatnonzero(small.user_splits == 0):
        start, end = small.row_splits[user : user + 2]
        for place in range(1, end - start):
            sample = (*history_before(small, user, place, length), int(small.sequence_items[start + place]))
            possible[sample] = possible.get(sample, 0) + 1
    total = sum(possible.values())
    batch = small.training_batch(0, 100 * total, length)
    samples, drawn = np.unique(np.column_stack([batch["histories"], batch["targets"]]), axis=0, return_counts=True)
    assert {tuple(sample) for sample in samples.tolist()} == set(possible)
    expected = 100 * np.array([possible[tuple(sample)] for sample in samples.tolist()])
    chi_squared = np.sum((drawn - expected) ** 2 / expected)
    assert abs(chi_squared - len(expected)) < 6 * np.sqrt(2 * len(expected))


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize("positions", [1, 2, 9])
def test_cases_are_the_histories_before_their_targets(small, split, positions):
    cases = small.cases(split, positions, history_length=8)
    users = places_of(small, cases.user_ids)
    assert set(small.user_splits[users]) == {{"validation": 1, "test": 2}[split]}
    assert (cases.user_ids.dtype, cases.histories.dtype, cases.targets.dtype, cases.positions.dtype) == (
        np.int64,
        np.int32,
        np.int32,
        np.int64,
    )
    seen: dict[int, list[int]] = {}
    for user, history, target, place in zip(users, cases.histories, cases.targets, cases.positions, strict=True):
        assert history.tolist() == history_before(small, user, place, 8)
        assert target == small.sequence_items[small.row_splits[user] + place]
        seen.setdefault(int(user), []).append(int(place))
    lengths = np.diff(small.row_splits)
    for user, places in seen.items():
        n = int(lengths[user])
        wanted = sorted({max(1, n * k // (positions + 1)) for k in range(1, positions + 1)})
        assert places == wanted
    held_out = np.flatnonzero((small.user_splits == {"validation": 1, "test": 2}[split]) & (lengths > 1))
    assert sorted(seen) == held_out.tolist()
    assert len(cases) == sum(map(len, seen.values()))


def test_one_position_is_the_middle(small):
    cases = small.cases("test")
    lengths = np.diff(small.row_splits)[places_of(small, cases.user_ids)]
    assert cases.positions.tolist() == [length // 2 for length in lengths]


def test_rows_and_ids_are_inverse(small):
    rows = np.arange(small.num_items + 1)
    assert small.ids_of(rows)[0] == -1
    assert small.rows_of(small.ids_of(rows)).tolist() == rows.tolist()
    unknown = np.array([[-1, 1, 2**62], [7, 0, 8]])
    assert small.rows_of(unknown).tolist() == [[0, 0, 0], [2, 1, 0]]
    assert small.rows_of(unknown).dtype == np.int32
    assert small.category_rows_of(rows).tolist() == [0, *small.item_categories.tolist()]
    for bad in (-1, small.num_items + 1):
        with pytest.raises(IndexError):
            small.ids_of(np.array([bad]))
        with pytest.raises(IndexError):
            small.category_rows_of(np.array([bad]))


def test_popularity_counts_training_behaviours_by_row(small):
    trained = np.repeat(small.user_splits == 0, np.diff(small.row_splits))
    counts = np.bincount(small.sequence_items[trained], minlength=small.num_items + 1)
    assert small.popularity.tolist() == counts.tolist()
    assert small.popularity[0] == 0
    assert small.counts["users"] == len(small.user_ids)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda data: data.cases("train"), "split is 'train'; allowed are 'validation', 'test'"),
        (lambda data: data.cases("test", 0), "positions_per_user is 0"),
        (lambda data: data.cases("test", 1, 0), "history_length is 0"),
        (lambda data: data.training_batches(0), "batch_size is 0"),
        (lambda data: data.training_batches(1, 0), "history_length is 0"),
        (lambda data: data.training_batches(1, seed=-1), "seed is -1"),
        (lambda data: data.training_batches(1, first_step=-1), "first_step is -1"),
        (lambda data: data.training_batches(1, targets=0), "targets is 0"),
    ],
)
def test_refuses_bad_arguments(small, call, words):
    with pytest.raises(NannError, match=words):
        call(small)


def edit_manifest(**changes):
    def apply(folder):
        path = folder / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return apply


def edit_items(change):
    def apply(folder):
        change(pl.read_parquet(folder / "items.parquet")).write_parquet(folder / "items.parquet")

    return apply


def edit_histories(change):
    """Replaces the test histories, a list of tf.train.Example, by what `change` returns for them."""

    def apply(folder):
        path = folder / "test-00000-of-00001.tfrecord"
        records = [record.numpy() for record in tf.data.TFRecordDataset(str(path))]
        with tf.io.TFRecordWriter(str(path)) as writer:
            for example in change([tf.train.Example.FromString(record) for record in records]):
                writer.write(example.SerializeToString())

    return apply


def with_first(name, change):
    def apply(examples):
        values = examples[0].features.feature[name].int64_list.value
        values[:] = change(list(values))
        return examples

    return apply


def without(name):
    def apply(examples):
        del examples[0].features.feature[name]
        return examples

    return apply


def flip_a_byte(folder):
    path = folder / "train-00000-of-00001.tfrecord"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (edit_manifest(format="other"), "format 'other'"),
        (edit_manifest(format_version=1), "version 1; expected 'nann-sequences' version 2"),
        (edit_manifest(splits={}), "no splits.train.shards"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "format None"),
        (lambda folder: (folder / "manifest.json").unlink(), "has no manifest.json"),
        (lambda folder: (folder / "items.parquet").unlink(), "items.parquet does not exist"),
        (lambda folder: (folder / "items.parquet").write_bytes(b"PAR1"), "items.parquet cannot be read"),
        (edit_items(lambda table: table.drop("count")), "items.parquet: {'item_id': Int64, 'category_id': Int64}"),
        (edit_items(lambda table: table.cast(pl.Int32)), "items.parquet: {'item_id': Int32"),
        (edit_items(lambda table: table.reverse()), "items.parquet: item_id is not ascending"),
        (edit_items(lambda table: table.with_columns(-pl.col("count"))), "it must be 0 or more"),
        (edit_items(lambda table: table.with_columns(pl.lit(None).cast(pl.Int64).alias("count"))), "none missing"),
        (edit_items(lambda table: table[1:]), "is not in items.parquet"),
        (lambda folder: (folder / "test-00000-of-00001.tfrecord").unlink(), "00001.tfrecord does not exist"),
        (flip_a_byte, "train-00000-of-00001.tfrecord is damaged"),
        (lambda folder: os.truncate(folder / "test-00000-of-00001.tfrecord", 100), "tfrecord is damaged"),
        (edit_histories(lambda examples: examples[::-1]), "the user ids are not ascending"),
        (edit_histories(lambda examples: examples[1:]), "29 test users; its manifest says 30"),
        (edit_histories(without("user_id")), "tfrecord is damaged"),
        (edit_histories(without("times")), "differ in length"),
        (edit_histories(with_first("times", lambda times: times[1:])), "differ in length"),
        (edit_histories(with_first("times", lambda times: [*times[:-1], -1])), "times of a history are not ascending"),
        (edit_histories(with_first("item_ids", lambda ids: [*ids[1:], 1])), "item 1 is not in items.parquet"),
    ],
)
def test_refuses_a_folder_that_does_not_fit_together(small_folder, tmp_path, break_it, words):
    folder = shutil.copytree(small_folder, tmp_path / "copy")
    break_it(folder)
    with pytest.raises(NannError) as error:
        Sequences.open(folder)
    assert words in str(error.value)
    assert str(folder) in str(error.value)


def test_stock_tensorflow_reads_the_histories(small_folder, small):
    """Reads with stock TensorFlow alone, without code of this project."""
    features = {
        "user_id": tf.io.FixedLenFeature([], tf.int64),
        "item_ids": tf.io.VarLenFeature(tf.int64),
        "times": tf.io.VarLenFeature(tf.int64),
    }
    seen = []
    for split in ("train", "validation", "test"):
        for record in tf.data.TFRecordDataset(str(small_folder / f"{split}-00000-of-00001.tfrecord")):
            parsed = tf.io.parse_single_example(record, features)
            seen.append(
                (
                    int(parsed["user_id"]),
                    *(parsed[name].values.numpy().tolist() for name in features if name != "user_id"),
                )
            )
    wanted = [
        (int(user), small.ids_of(small.sequence_items[start:end]).tolist(), small.sequence_times[start:end].tolist())
        for user, start, end in zip(small.user_ids, small.row_splits, small.row_splits[1:], strict=False)
    ]
    assert seen == wanted
