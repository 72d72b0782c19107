"""Only the very same conversion resumes an interrupted one. First contact, line 27."""

import dataclasses
import os
from unittest import mock

import numpy as np
import pytest

from tfserving_ext.data import convert as convert_module
from tfserving_ext.data.conversion import convert
from tfserving_ext.data.convert import MEMORY_BYTES
from tfserving_ext.data.rows import Rules

RULES = Rules(min_item_count=2, min_user_count=2, validation=5, test=5)
OTHER_RULES = {
    "min_item_count": 3,
    "min_user_count": 9,
    "behaviors": ("buy",),
    "time_range": (110, 160),
    "validation": 6,
    "test": 7,
    "seed": 1,
    "split": "time",
    "test_from": 150,
}
BESIDE = {
    "split": {"test": 0.1},
    "test_from": {"split": "time", "test": None},
}  # Options that must change along with an option.


@pytest.fixture
def csv(tmp_path):
    rng = np.random.default_rng(3)
    lines = [
        f"{rng.integers(60)},{1000 + rng.integers(40)},{rng.integers(4)},{rng.choice(['pv', 'buy'])},{100 + n % 97}"
        for n in range(3000)
    ]
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(lines) + "\n")
    os.utime(path, ns=(10**18, 10**18))
    return path


def same_folder(one, other):
    assert {path.name for path in one.iterdir()} == {path.name for path in other.iterdir()}
    return all(path.read_bytes() == (other / path.name).read_bytes() for path in one.iterdir())


@pytest.fixture
def interrupted(csv, tmp_path):
    """Interrupts a conversion at its last step; `again(...)` then returns where another one begins to read."""
    target = tmp_path / "out"
    with (
        mock.patch.object(convert_module, "write_manifest", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        convert(csv, target, RULES)

    def again(source=csv, rules=RULES, **more):
        begun = []
        read = convert_module.read_blocks

        def noted(parts, block_bytes, first):
            begun.append(first)
            return read(parts, block_bytes, first)

        with mock.patch.object(convert_module, "read_blocks", noted):
            convert(source, target, rules, **more)
        whole = convert(source, tmp_path / "whole", rules, **more)
        assert same_folder(whole, target)
        return begun == [(0, 0)]

    return again


def test_the_same_conversion_resumes(interrupted):
    assert not interrupted()


@pytest.mark.medium
@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Rules)])
def test_other_rules_begin_anew(interrupted, name):
    assert interrupted(rules=dataclasses.replace(RULES, **{name: OTHER_RULES[name], **BESIDE.get(name, {})}))


def test_a_source_that_was_edited_to_the_same_size_begins_anew(interrupted, csv):
    before = csv.stat().st_size
    csv.write_text(csv.read_text().replace(",1001,", ",1002,"))
    assert csv.stat().st_size == before
    assert interrupted()


def test_another_source_begins_anew(interrupted, csv, tmp_path):
    other = tmp_path / "other.csv"
    other.write_text(csv.read_text())
    os.utime(other, ns=(10**18, 10**18))
    assert interrupted(other)


def test_other_memory_begins_anew(interrupted):
    """With other memory, blocks have another size and end elsewhere."""
    assert interrupted(memory_bytes=MEMORY_BYTES // 2)


def test_another_release_begins_anew(interrupted, monkeypatch):
    monkeypatch.setattr(convert_module, "FORMAT_VERSION", convert_module.FORMAT_VERSION + 1)
    assert interrupted()
