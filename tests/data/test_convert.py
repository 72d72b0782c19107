import gzip
import importlib
import json
import tempfile
from collections import Counter, defaultdict
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfserving_ext.artifacts import sha256
from tfserving_ext.data.behavior_csv import BEHAVIORS, read_blocks
from tfserving_ext.data.convert import convert
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
    """The conversion as its documentation says it, a row at a time."""
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


@settings(max_examples=300, deadline=None)
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
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(convert_module, "read_blocks", partial(read_blocks, block_bytes=block_bytes)),
        mock.patch.object(convert_module, "_PAIRS_IN_MEMORY", 0),
    ):
        csv, target = Path(folder, "a.csv"), Path(folder, "out")
        csv.write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
        if not histories:
            with pytest.raises(NannError, match=r"none of .* rows is left"):
                convert(csv, target, **rules)
            assert not target.exists()
            return
        convert(csv, target, **rules)
        arrays = {path.stem: np.load(path) for path in target.glob("*.npy")}
        manifest = json.loads((target / "manifest.json").read_text())

    assert arrays["item_ids"].tolist() == list(categories)
    assert arrays["category_ids"].tolist() == sorted(set(categories.values()))
    assert arrays["category_ids"][arrays["item_categories"] - 1].tolist() == list(categories.values())
    assert arrays["user_ids"].tolist() == list(histories)
    splits = np.split(np.arange(len(arrays["sequence_items"])), arrays["row_splits"][1:-1])
    for history, places in zip(histories.values(), splits, strict=True):
        assert arrays["sequence_times"][places].tolist() == [time for time, _ in history]
        assert arrays["item_ids"][arrays["sequence_items"][places] - 1].tolist() == [item for _, item in history]
    trained = Counter(
        item
        for split, history in zip(arrays["user_splits"], histories.values(), strict=True)
        if split == 0
        for _, item in history
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
    convert(csv, tmp_path / "out", min_item_count=1, validation=1, test=1)
    items = np.load(tmp_path / "out" / "sequence_items.npy") - 1
    assert items.tolist() == [item for _, item, _ in sorted(rows, key=lambda row: (row[0], row[2]))]


@pytest.fixture
def csv(tmp_path) -> Path:
    path = tmp_path / "a.csv"
    path.write_text("".join(f"{user},{item},1,pv,{item}\n" for user in range(50) for item in range(5)))
    return path


def test_the_manifest_names_source_rules_and_seed(csv, tmp_path):
    convert(csv, tmp_path / "out", validation=5, test=0.2, time_range=(0, 3), seed=7)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["format"], manifest["format_version"], manifest["seed"]) == ("nann-sequences", 1, 7)
    assert manifest["source"] == {"file": "a.csv", "sha256": sha256(csv)}
    assert manifest["rules"] == {
        "min_item_count": 5,
        "min_user_count": 2,
        "validation": 5,
        "test": 0.2,
        "behaviors": ["pv", "buy", "cart", "fav"],
        "time_range": [0, 3],
    }
    assert {name: split["users"] for name, split in manifest["splits"].items()} == {
        "train": 35,
        "validation": 5,
        "test": 10,
    }


def test_gzip_gives_the_same_arrays_and_the_seed_moves_users(csv, tmp_path):
    zipped = tmp_path / "a.csv.gz"
    zipped.write_bytes(gzip.compress(csv.read_bytes()))
    plain = convert(csv, tmp_path / "plain", validation=5, test=5)
    same = convert(zipped, tmp_path / "zipped", validation=5, test=5)
    for path in plain.glob("*.npy"):
        assert path.read_bytes() == (same / path.name).read_bytes()
    other = convert(csv, tmp_path / "other", validation=5, test=5, seed=1)
    assert (other / "user_splits.npy").read_bytes() != (plain / "user_splits.npy").read_bytes()


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({}, ["validation 10,000 and test 10,000 users of 50", "validation=0.1"]),
        ({"validation": 25, "test": 0.5}, ["validation 25 and test 25 users of 50"]),
        ({"validation": -1}, ["validation is -1"]),
        ({"test": 1.5}, ["test is 1.5"]),
        ({"test": float("nan")}, ["test is nan"]),
        ({"min_item_count": 0}, ["min_item_count is 0", "1 or more"]),
        ({"min_user_count": 0}, ["min_user_count is 0"]),
        ({"seed": -1}, ["seed is -1"]),
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
        convert(csv, tmp_path / "out", **rules)
    for word in words:
        assert word in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_refuses_to_replace_the_folder_of_its_own_source(csv, tmp_path):
    with pytest.raises(NannError, match="choose another folder"):
        convert(csv, tmp_path, validation=5, test=5)
    assert csv.exists()


def test_a_bad_row_writes_nothing(csv, tmp_path):
    with csv.open("a") as file:
        file.write("1,2,3,pv\n")
    with pytest.raises(NannError, match="line 251"):
        convert(csv, tmp_path / "out", validation=5, test=5)
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interruption_leaves_the_target_as_it_was(csv, tmp_path, there, error):
    target = tmp_path / "out"
    if there:
        convert(csv, target, validation=5, test=5)
    before = {path.name: path.read_bytes() for path in target.glob("*")}
    with mock.patch.object(convert_module, "write_json", side_effect=error), pytest.raises(error):
        convert(csv, target, validation=9, test=9)
    assert {path.name: path.read_bytes() for path in target.glob("*")} == before
    assert len(list(tmp_path.iterdir())) == 1 + there
