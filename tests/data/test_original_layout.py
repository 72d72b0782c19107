"""The original's TFRecords, written and read back, compared with a plain loop that cuts every history."""

import json
import tempfile
from collections import Counter
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfserving_ext.data import original_format, original_windows
from tfserving_ext.data.conversion import convert
from tfserving_ext.data.original_format import FILES, META_NAME, write_original
from tfserving_ext.data.original_windows import convert_original, is_original
from tfserving_ext.data.rows import Rules
from tfserving_ext.data.sequences import Sequences
from tfserving_ext.errors import NannError

FEATURES = {
    "item_ids": tf.io.FixedLenFeature([50], tf.int64),
    "cate_ids": tf.io.FixedLenFeature([50], tf.int64),
    "gt_item_id": tf.io.FixedLenFeature([1], tf.int64),
    "gt_cate_id": tf.io.FixedLenFeature([1], tf.int64),
    "weight_tag": tf.io.FixedLenFeature([1], tf.float32),
}


def records(path: Path, length: int = 50) -> list[dict[str, list]]:
    features = dict(FEATURES)
    for name in ("item_ids", "cate_ids"):
        features[name] = tf.io.FixedLenFeature([length], tf.int64)
    return [
        {name: value.numpy().tolist() for name, value in tf.io.parse_single_example(record, features).items()}
        for record in tf.data.TFRecordDataset(str(path))
    ]


def histories(sequences: Sequences, split: int) -> list[list[int]]:
    """Item rows of each user."""
    parts = np.split(sequences.sequence_items, sequences.row_splits[1:-1])
    return [part.tolist() for part, code in zip(parts, sequences.user_splits, strict=True) if code == split]


def behaviors(folder: Path, users: int = 60, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    lines = []
    for user in range(users):
        for time in range(int(rng.integers(1, 90))):
            item = int(rng.zipf(1.3)) % 40
            lines.append(f"{user},{1000 + item},{item % 7},pv,{time}\n")
    (folder / "a.csv").write_text("".join(lines))
    return convert(folder / "a.csv", folder / "data", Rules(min_item_count=1, validation=10, test=10))


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[Sequences, Path]:
    folder = tmp_path_factory.mktemp("original")
    data = behaviors(folder)
    return Sequences.open(data), write_original(data, folder / "original")


def test_training_windows_are_those_of_a_plain_loop(written):
    sequences, original = written
    categories = [0, *sequences.item_categories.tolist()]
    shares = sequences.item_counts / sequences.item_counts.sum()
    wanted = []
    for history in histories(sequences, 0):
        for place in range(10, len(history) - 1):
            window = history[max(0, place - 50) : place]
            window += [0] * (50 - len(window))
            target = history[place]
            wanted.append(
                {
                    "item_ids": window,
                    "cate_ids": [categories[item] for item in window],
                    "gt_item_id": [target],
                    "gt_cate_id": [categories[target]],
                    "weight_tag": [float(np.float32(shares[target - 1]))],
                }
            )
    got = records(original / "ub_train.tfrecords")
    assert got != wanted  # Shuffled.
    assert sorted(map(str, got)) == sorted(map(str, (dict(sorted(one.items())) for one in wanted)))


def test_held_out_users_have_one_window_in_the_middle(written):
    sequences, original = written
    for code, name in ((1, "ub_validate.tfrecords"), (2, "ub_test.tfrecords")):
        wanted = []
        for history in histories(sequences, code):
            if len(history) > 7:
                place = 7 + (len(history) - 7) // 2
                wanted.append((history[max(0, place - 50) : place], [history[place]]))
        got = [([i for i in one["item_ids"] if i], one["gt_item_id"]) for one in records(original / name)]
        assert got == wanted


def test_items_and_counts(written):
    sequences, original = written
    assert [one["gt_item_id"] for one in records(original / "ub_items.tfrecords")] == [
        [row] for row in range(1, sequences.num_items + 1)
    ]
    arrays = np.load(original / "ub_items.npz")
    assert arrays["cate_id"].tolist() == sequences.item_categories.tolist()
    assert arrays["weight_tag"].sum() == pytest.approx(1)
    meta = json.loads((original / "ub_meta.json").read_text())
    assert (meta["num_item"], meta["num_cate"]) == (sequences.num_items, sequences.num_categories)
    assert meta["num_train_samples"] == len(records(original / "ub_train.tfrecords"))
    assert meta["num_test_user"] == len(records(original / "ub_test.tfrecords"))
    assert (meta["max_length"], meta["train_min_length"], meta["test_min_length"]) == (50, 10, 7)
    assert is_original(original)
    assert not is_original(sequences.folder)


def test_reading_back_gives_the_histories(written, tmp_path):
    """Lost are only users with too few behaviours for a window, and last behaviours, which are no training targets."""
    sequences, original = written
    back = Sequences.open(convert_original(original, tmp_path / "back"))
    wanted = sorted(history[:-1] for history in histories(sequences, 0) if len(history) > 11)
    got = sorted(back.item_ids[np.array(rows) - 1].tolist() for rows in histories(back, 0))
    assert got == wanted
    assert back.item_categories.tolist() == sequences.item_categories.tolist()
    assert back.counts["training_histories"] == len(wanted)


def test_held_out_cases_are_the_originals(written, tmp_path):
    _, original = written
    back = Sequences.open(convert_original(original, tmp_path / "back"))
    for split, name in (("validation", "ub_validate.tfrecords"), ("test", "ub_test.tfrecords")):
        cases = back.cases(split, positions_per_user=3)
        got = [([row for row in rows if row], [target]) for rows, target in zip(*_lists(cases), strict=True)]
        assert got == [([i for i in one["item_ids"] if i], one["gt_item_id"]) for one in records(original / name)]


def _lists(cases):
    return cases.histories.tolist(), cases.targets.tolist()


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=12), min_size=3, max_size=6))
def test_every_window_is_in_one_history_even_of_users_who_repeat_themselves(users):
    """Uses short windows over three items: many are equal, and some follow themselves."""
    length, least = 3, 2
    with (
        tempfile.TemporaryDirectory() as name,
        mock.patch.object(original_format, "MAX_LENGTH", length),
        mock.patch.object(original_format, "TRAIN_MIN_LENGTH", least),
        mock.patch.object(original_format, "TEST_MIN_LENGTH", 0),
    ):
        folder = Path(name)
        lines = [f"{user},{item},1,pv,{time}\n" for user, row in enumerate(users) for time, item in enumerate(row)]
        (folder / "a.csv").write_text("".join(lines))
        rules = Rules(min_item_count=1, min_user_count=1, validation=1, test=1)
        data = convert(folder / "a.csv", folder / "data", rules)
        try:
            original = write_original(data, folder / "original")
        except NannError as error:
            assert "no training user has the 4 behaviours" in str(error)
            return
        windows = Counter(
            (tuple(i for i in one["item_ids"] if i), *one["gt_item_id"])
            for one in records(original / FILES["train"], length)
        )
        back = Sequences.open(convert_original(original, folder / "back"))
        rows = [back.item_ids[np.array(history) - 1].tolist() for history in histories(back, 0)]
    cut = Counter(
        (tuple(row[max(0, place - length) : place]), row[place]) for row in rows for place in range(1, len(row))
    )
    assert windows <= cut
    # No behaviour is added beyond those of the first windows.
    assert sum(map(len, rows)) <= windows.total() + length * len(rows)


def damage(path: Path, *, at: int | None = None, cut: int | None = None) -> None:
    data = bytearray(path.read_bytes())
    if at is not None:
        data[at] ^= 0xFF
    path.write_bytes(bytes(data[:cut]))


def window(items: list[int], target: int) -> bytes:
    example = tf.train.Example()
    example.features.feature["item_ids"].int64_list.value.extend(items)
    example.features.feature["gt_item_id"].int64_list.value.append(target)
    return example.SerializeToString()


def replaced(path: Path, record: bytes) -> None:
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(record)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "ub_test.tfrecords").unlink(), "ub_test.tfrecords does not exist"),
        (lambda f: (f / "ub_items.npz").write_bytes(b"no"), "ub_items.npz cannot be read"),
        (lambda f: np.savez(f / "ub_items.npz", item_id=[1]), "must hold item_id and cate_id"),
        (lambda f: np.savez(f / "ub_items.npz", item_id=[1, 2], cate_id=[1]), "integers of one length"),
        (lambda f: np.savez(f / "ub_items.npz", item_id=[0, 1], cate_id=[1, 1]), "item_id 0; ids are 1 and more"),
        (
            lambda f: np.savez(f / "ub_items.npz", item_id=np.array([1, 2**63], np.uint64), cate_id=[1, 1]),
            r"item_id\[1\] is 9223372036854775808; ids are 1 to 9223372036854775807",
        ),
        (lambda f: np.savez(f / "ub_items.npz", item_id=[1], cate_id=[1]), "is not in ub_items.npz"),
        (
            lambda f: np.savez(f / "ub_items.npz", item_id=np.array([{}], object), cate_id=[1]),
            "ub_items.npz cannot be read",
        ),
        (lambda f: (f / "ub_meta.json").write_text('{"max_length": -3}'), "max_length is -3; allowed are 1 to"),
        (lambda f: (f / "ub_meta.json").write_text('{"max_length": 49}'), "ub_train.tfrecords is damaged"),
        (lambda f: damage(f / "ub_train.tfrecords", at=40), "ub_train.tfrecords is damaged"),
        (lambda f: damage(f / "ub_train.tfrecords", cut=-3), "ub_train.tfrecords is damaged"),
        (lambda f: replaced(f / "ub_train.tfrecords", window([1, 0, 2] + [0] * 47, 1)), "an id below 1 before"),
        (lambda f: replaced(f / "ub_train.tfrecords", window([1] * 50, 0)), "as its target"),
        (lambda f: replaced(f / "ub_test.tfrecords", b"\x0a\xff"), "ub_test.tfrecords is damaged"),
    ],
)
def test_damaged_files_are_refused_and_nothing_is_written(written, tmp_path, spoil, words):
    source = tmp_path / "original"
    source.mkdir()
    for path in written[1].iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    spoil(source)
    with pytest.raises(NannError, match=words):
        convert_original(source, tmp_path / "back")
    assert [path.name for path in tmp_path.iterdir()] == ["original"]


@pytest.mark.parametrize(
    "content",
    [
        b"PK\x03\x04 and no more",
        b"no",
        b"\x93NUMPY\x01\x00v\x00{'descr': '<i8', 'fortran_order': False, 'shape': (3,), }",
    ],
)
def test_a_damaged_item_table_is_named(content, tmp_path):
    (tmp_path / "ub_items.npz").write_bytes(content)
    with pytest.raises(NannError, match=r"ub_items\.npz cannot be read"):
        original_windows._items(tmp_path / "ub_items.npz")


def test_an_empty_item_table_is_refused(tmp_path):
    np.savez(tmp_path / "ub_items.npz", item_id=np.zeros(0, np.int64), cate_id=np.zeros(0, np.int64))
    with pytest.raises(NannError, match="holds no item"):
        original_windows._items(tmp_path / "ub_items.npz")


def test_refuses_to_replace_its_own_source(world):
    for write in (write_original, original_windows.convert_original):
        with pytest.raises(NannError, match="is the source and would be replaced"):
            write(world.data, world.data)
    assert (world.data / "manifest.json").exists()


def test_one_function_converts_to_the_layout_and_back(written, tmp_path):
    _, folder = written
    made = convert(folder.parent / "data", tmp_path / "made", layout="original")
    for name in (META_NAME, *FILES.values()):
        assert (made / name).read_bytes() == (folder / name).read_bytes()
    back = convert([str(made)], tmp_path / "back")
    wanted = convert_original(made, tmp_path / "wanted")
    assert len(list(wanted.glob("*.tfrecord"))) == len(FILES)
    for path in wanted.glob("*.tfrecord"):
        assert (back / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"layout": "windows"}, "layout is 'windows', allowed are 'sequences' and 'original'"),
        ({"rules": Rules(min_item_count=2)}, "read and written whole: got 1 sources"),
        ({"sources": ["a", "b"]}, "read and written whole: got 2 sources"),
        ({"memory_bytes": 5 << 29}, "memory is 2.5 GB, but it applies only to"),
        ({"beam": ["--runner=A"]}, r"beam is \['--runner=A'\], but alibaba/nann's TFRecords"),
    ],
)
def test_what_does_not_apply_to_the_layout_is_refused(tmp_path, changed, words):
    with pytest.raises(NannError, match=words):
        convert(**{"sources": tmp_path / "data", "target": tmp_path / "out", "layout": "original"} | changed)
    assert not (tmp_path / "out").exists()


def test_memory_is_refused_with_beam(tmp_path):
    with pytest.raises(NannError, match="memory is 2 GB, but it applies only to"):
        convert(tmp_path, tmp_path / "out", memory_bytes=2 << 30, beam=[])
