import contextlib
import gzip
import importlib
import json
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfserving_ext.artifacts import sha256
from tfserving_ext.data import sequence_format
from tfserving_ext.data.behavior_csv import BEHAVIORS
from tfserving_ext.data.conversion import convert
from tfserving_ext.data.rows import Places, Rules
from tfserving_ext.data.sequence_format import load
from tfserving_ext.data.sources import read_blocks
from tfserving_ext.data.splits import split_keys
from tfserving_ext.errors import NannError

convert_module = importlib.import_module("tfserving_ext.data.convert")

ROW = st.tuples(
    st.sampled_from([0, 3, 4, 9, 2**62]),
    st.sampled_from([0, 1, 2, 5, 8, 2**62 + 1]),
    st.integers(0, 3),
    st.sampled_from(BEHAVIORS),
    st.sampled_from([-(2**63), -1, 0, 1, 2, 3, 2**63 - 1]) | st.integers(0, 5),
)


def reference(rows, min_item_count, min_user_count, behaviors, time_range):
    """Converts as the documentation describes it, a row at a time."""
    dropped = Counter(behavior=0, time_range=0, rare_item=0, short_user=0)
    left = []
    for row in rows:
        if row[3] not in behaviors:
            dropped["behavior"] += 1
        elif time_range and not time_range[0] <= row[4] <= time_range[1]:
            dropped["time_range"] += 1
        else:
            left.append(row)
    item_counts = Counter(row[1] for row in left)
    of_categories = defaultdict(Counter)
    for _, item, category, _, _ in left:
        of_categories[item][category] += 1
    categories = {
        item: min(of_categories[item], key=lambda category: (-of_categories[item][category], category))
        for item in sorted(item_counts)
        if item_counts[item] >= min_item_count
    }
    histories = defaultdict(list)
    for user, item, _, _, time in left:
        if item in categories:
            histories[user].append((time, item))
        else:
            dropped["rare_item"] += 1
    for user in list(histories):
        if len(histories[user]) < min_user_count:
            dropped["short_user"] += len(histories.pop(user))
    ambiguous = sum(len(of_categories[item]) > 1 for item in categories)
    ordered = {user: sorted(histories[user], key=lambda row: row[0]) for user in sorted(histories)}
    return categories, ordered, dict(dropped), ambiguous


@contextlib.contextmanager
def small_blocks(block_bytes):
    """Makes conversions read this many bytes at a time."""
    with mock.patch.object(
        convert_module, "read_blocks", lambda parts, _, first: read_blocks(parts, block_bytes, first)
    ):
        yield


@contextlib.contextmanager
def small_memory(rows):
    """Makes conversions sort at most as many rows at a time as the longest history has, and merge after every block."""
    free = convert_module.MEMORY_BYTES - convert_module.MIN_MEMORY_BYTES // 2
    longest = max(Counter(row[0] for row in rows).values())
    with (
        mock.patch.object(convert_module, "_BYTES_PER_ROW", free // (convert_module.cores() * longest)),
        mock.patch.object(convert_module, "_BYTES_PER_COUNT", free // len(rows)),
        mock.patch.object(sequence_format, "_SHARD_ROWS", 10),
    ):
        yield


@pytest.mark.slow
@settings(max_examples=120, deadline=None)
@given(
    rows=st.lists(ROW, min_size=1, max_size=60),
    min_item_count=st.integers(1, 3),
    min_user_count=st.integers(1, 3),
    behaviors=st.sampled_from([BEHAVIORS, ("buy", "pv"), ("fav",)]),
    time_range=st.sampled_from([None, (0, 3), (1, 1)]),
    block_bytes=st.sampled_from([1, 40, 1 << 20]),
)
def test_equals_a_row_by_row_reference(rows, min_item_count, min_user_count, behaviors, time_range, block_bytes):
    categories, histories, dropped, ambiguous = reference(rows, min_item_count, min_user_count, behaviors, time_range)
    rules = {
        "min_item_count": min_item_count,
        "min_user_count": min_user_count,
        "behaviors": behaviors,
        "time_range": time_range,
        "validation": 0.24,
        "test": 0.24,
        "seed": 3,
    }
    with tempfile.TemporaryDirectory() as folder, small_blocks(block_bytes), small_memory(rows):
        csv, target = Path(folder, "a.csv"), Path(folder, "out")
        csv.write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
        if not histories:
            with pytest.raises(NannError, match=r"none of .* rows is left"):
                convert(csv, target, Rules(**rules))
            assert not target.exists()
            return
        convert(csv, target, Rules(**rules))
        manifest, arrays = load(target)
        assert manifest["sha256"] == {
            path.name: sha256(path) for path in target.iterdir() if path.name != "manifest.json"
        }

    assert arrays["item_ids"].tolist() == list(categories)
    assert arrays["category_ids"].tolist() == sorted(set(categories.values()))
    assert arrays["category_ids"][arrays["item_categories"] - 1].tolist() == list(categories.values())
    assert sorted(arrays["user_ids"].tolist()) == list(histories)
    splits = np.split(np.arange(len(arrays["sequence_items"])), arrays["row_splits"][1:-1])
    for user, places in zip(arrays["user_ids"].tolist(), splits, strict=True):
        history = histories[user]
        assert arrays["sequence_times"][places].tolist() == [time for time, _ in history]
        assert arrays["item_ids"][arrays["sequence_items"][places] - 1].tolist() == [item for _, item in history]
    trained = Counter(
        item
        for split, user in zip(arrays["user_splits"], arrays["user_ids"].tolist(), strict=True)
        if split == 0
        for _, item in histories[user]
    )
    assert arrays["item_counts"].tolist() == [trained[item] for item in categories]
    held_out = round(0.24 * len(histories))
    assert Counter(arrays["user_splits"].tolist()) == +Counter(
        {0: len(histories) - 2 * held_out, 1: held_out, 2: held_out}
    )
    assert {name: array.dtype.name for name, array in arrays.items()} == {
        "item_ids": "int64",
        "item_categories": "int32",
        "item_counts": "int64",
        "category_ids": "int64",
        "user_ids": "int64",
        "user_splits": "uint8",
        "row_splits": "int64",
        "sequence_items": "int32",
        "sequence_times": "int64",
    }
    counts = manifest["counts"]
    assert counts["rows_read"] == len(rows)
    assert counts["rows_read_by_behavior"] == dict(Counter(row[3] for row in rows))
    assert counts["rows_dropped"] == dropped
    assert counts["behaviors"] == len(rows) - sum(dropped.values())
    assert counts["items_of_several_categories"] == ambiguous
    assert sum(split["behaviors"] for split in manifest["splits"].values()) == counts["behaviors"]


def test_ties_in_time_keep_the_order_of_a_long_file(tmp_path):
    csv = tmp_path / "a.csv"
    rows = [(place % 7, place, place * 31 % 3) for place in range(20_000)]
    csv.write_text("".join(f"{user},{item},1,pv,{time}\n" for user, item, time in rows))
    convert(csv, tmp_path / "out", Rules(min_item_count=1, validation=1, test=1))
    _, arrays = load(tmp_path / "out")
    seen = dict(
        zip(
            arrays["user_ids"].tolist(), np.split(arrays["sequence_items"] - 1, arrays["row_splits"][1:-1]), strict=True
        )
    )
    for user in range(7):
        assert seen[user].tolist() == [item for who, item, _ in sorted(rows, key=lambda row: row[2]) if who == user]


def test_the_manifest_names_source_rules_and_seed(csv, tmp_path):
    convert(csv, tmp_path / "out", Rules(validation=5, test=0.2, time_range=(0, 3), seed=7))
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["format"], manifest["format_version"]) == ("nann-sequences", 2)
    assert manifest["sources"] == [{"file": "a.csv", "bytes": csv.stat().st_size, "sha256": sha256(csv)}]
    assert manifest["rules"] == {
        "min_item_count": 5,
        "min_user_count": 2,
        "validation": 5,
        "test": 0.2,
        "behaviors": ["pv", "buy", "cart", "fav"],
        "time_range": [0, 3],
        "seed": 7,
        "split": "user",
        "test_from": None,
    }
    assert {name: split["users"] for name, split in manifest["splits"].items()} == {
        "train": 35,
        "validation": 5,
        "test": 10,
    }


def test_gzip_gives_the_same_files_and_the_seed_moves_users(csv, tmp_path):
    zipped = tmp_path / "a.csv.gz"
    zipped.write_bytes(gzip.compress(csv.read_bytes()))
    plain = convert(csv, tmp_path / "plain", Rules(validation=5, test=5))
    same = convert(zipped, tmp_path / "zipped", Rules(validation=5, test=5))
    for path in plain.iterdir():
        assert path.name == "manifest.json" or path.read_bytes() == (same / path.name).read_bytes()
    other = convert(csv, tmp_path / "other", Rules(validation=5, test=5, seed=1))
    assert load(other)[1]["user_ids"].tolist() != load(plain)[1]["user_ids"].tolist()


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"validation": 10_000}, ["validation 10,000 and test 5 users of 50", "validation=0.1"]),
        ({"validation": 25, "test": 0.5}, ["validation 25 and test 25 users of 50"]),
        ({"validation": -1}, ["validation is -1"]),
        ({"test": 1.5}, ["test is 1.5"]),
        ({"test": float("nan")}, ["test is nan"]),
        ({"min_item_count": 0}, ["min_item_count is 0", "1 or more"]),
        ({"min_user_count": 0}, ["min_user_count is 0"]),
        ({"seed": -1}, ["seed is -1"]),
        ({"seed": 2**64 - 1}, ["seed is 18446744073709551615", "below 2^63"]),
        ({"time_range": (0, 2**63)}, ["time_range is 0 to 9223372036854775808"]),
        ({"behaviors": ("buy", "click")}, ["'click'", "pv, buy, cart, fav"]),
        ({"behaviors": ()}, ["behaviors: got empty"]),
        ({"time_range": (2, 1)}, ["time_range is 2 to 1"]),
        ({"behaviors": ("buy",)}, ["none of 250 rows is left", "250 by behavior"]),
        ({"min_item_count": 51}, ["none of 250 rows is left", "250 by rare_item"]),
        ({"min_user_count": 6}, ["none of 250 rows is left", "250 by short_user"]),
        ({"time_range": (100, 200)}, ["none of 250 rows is left", "250 by time_range"]),
    ],
)
def test_refuses_rules_that_cannot_be_met(csv, tmp_path, rules, words):
    with pytest.raises(NannError) as error:
        convert(csv, tmp_path / "out", Rules(**rules))
    for word in words:
        assert word in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_refuses_to_replace_the_folder_of_its_own_source(csv, tmp_path):
    with pytest.raises(NannError, match="choose another folder"):
        convert(csv, tmp_path, Rules(validation=5, test=5))
    assert csv.exists()


def test_a_bad_row_writes_nothing(csv, tmp_path):
    with csv.open("a") as file:
        file.write("1,2,3,pv\n")
    with pytest.raises(NannError, match="line 251"):
        convert(csv, tmp_path / "out", Rules(validation=5, test=5))
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_only_one_process_converts_to_a_target(csv, tmp_path):
    spill = convert_module.Spill(tmp_path / "out", {})
    with pytest.raises(NannError, match="another process is converting"):
        convert(csv, tmp_path / "out", Rules(validation=5, test=5))
    spill.close()


@pytest.mark.parametrize(
    ("bytes_per", "words"),
    [
        (
            "_BYTES_PER_COUNT",
            "5 .item, category. pairs, and perhaps more, are more than fit in the memory allowed; allow at least",
        ),
        ("_BYTES_PER_ROW", "user 0 has 5 rows, more than fit in the memory allowed; allow about"),
    ],
)
def test_says_how_much_memory_is_needed(csv, tmp_path, bytes_per, words):
    with mock.patch.object(convert_module, bytes_per, 1 << 30), pytest.raises(NannError, match=words):
        convert(csv, tmp_path / "out", Rules(validation=5, test=5))
    with pytest.raises(NannError, match=r"memory is 0\.50 GB, allowed are 1 GB and more"):
        convert(csv, tmp_path / "out", memory_bytes=1 << 29)
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_the_split_is_the_lowest_hashes(csv, tmp_path):
    """Compares with SplitMix64 in Python's integers."""

    def mix(value):
        mask = 2**64 - 1
        value = (value + 0x9E3779B97F4A7C15) & mask
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
        return value ^ (value >> 31)

    assert mix(0) == 0xE220A8397B1DCDAF  # SplitMix64's first number from state 0, as its authors publish it.
    users = [0, 1, 49, 2**62, 2**63 - 1]
    assert split_keys(np.array(users), 3).tolist() == [mix(user ^ mix(4)) for user in users]
    convert(csv, tmp_path / "out", Rules(validation=5, test=7, seed=3))
    order = sorted(range(50), key=lambda user: mix(user ^ mix(4)))
    _, arrays = load(tmp_path / "out")
    assert sorted(arrays["user_ids"][arrays["user_splits"] == 1].tolist()) == sorted(order[:5])
    assert sorted(arrays["user_ids"][arrays["user_splits"] == 2].tolist()) == sorted(order[5:12])


@given(
    table=st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-9, 20), max_size=30).map(
        lambda ids: sorted(set(ids))
    ),
    ids=st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-12, 25), max_size=30),
)
def test_places_are_those_of_a_list(table, ids):
    wanted = [table.index(one) + 1 if one in table else 0 for one in ids]
    assert Places(np.array(table, np.int64))(np.array(ids, np.int64)).tolist() == wanted
