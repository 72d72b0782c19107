"""Apache Beam's conversion on its local runner writes the same files as `convert`."""

import gzip
import tempfile
from pathlib import Path
from unittest import mock

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfserving_ext.artifacts import read_json
from tfserving_ext.data import sequence_format
from tfserving_ext.data.beam import convert_by_beam
from tfserving_ext.data.behavior_csv import BEHAVIORS, COLUMNS
from tfserving_ext.data.conversion import convert
from tfserving_ext.data.rows import Rules
from tfserving_ext.data.synth import SynthConfig, synth
from tfserving_ext.errors import NannError


def same(one: Path, other: Path) -> None:
    names = sorted(path.name for path in one.iterdir())
    assert sorted(path.name for path in other.iterdir()) == names
    for name in names:
        if name == "manifest.json":
            assert read_json(one / name) == read_json(other / name)
        elif name == sequence_format.ITEMS_NAME:
            assert pl.read_parquet(one / name).equals(pl.read_parquet(other / name))
        else:
            assert (one / name).read_bytes() == (other / name).read_bytes()


@pytest.mark.medium
def test_a_corpus_in_parts_of_every_kind(tmp_path):
    """The parts are split in the middle of users, so that a user's rows come from several parts."""
    synth(tmp_path / "all.csv", SynthConfig(rows=12_000, items=300, seed=2))
    lines = (tmp_path / "all.csv").read_bytes().splitlines(keepends=True)
    parts = tmp_path / "parts"
    parts.mkdir()
    (parts / "a.csv").write_bytes(b"".join(lines[5000:9000]))
    (parts / "b.csv.gz").write_bytes(gzip.compress(b"".join(lines[:5000])))
    frame = pl.read_csv(b"".join(lines[9000:]), has_header=False, new_columns=COLUMNS)
    frame.write_parquet(parts / "c.parquet")
    rules = Rules(validation=0.2, test=0.1, time_range=(1_511_539_200, 1_512_316_799), behaviors=("pv", "buy"), seed=5)
    with mock.patch.object(sequence_format, "_SHARD_ROWS", 2000):
        one = convert(parts, tmp_path / "one", rules)
        other = convert_by_beam([parts], tmp_path / "other", rules, block_bytes=20_000)
    assert read_json(one / "manifest.json")["splits"]["train"]["shards"] > 2
    same(one, other)


ROW = st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 2), st.sampled_from(BEHAVIORS), st.integers(0, 3))


@pytest.mark.slow
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows=st.lists(ROW, min_size=1, max_size=40), least=st.integers(1, 3))
def test_any_rows(rows, least):
    rules = Rules(min_item_count=least, min_user_count=least, validation=0.24, test=0.24)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "a.csv").write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
        try:
            one = convert(folder / "a.csv", folder / "one", rules)
        except NannError as error:
            with pytest.raises(NannError) as same_error:
                convert_by_beam([folder / "a.csv"], folder / "other", rules, block_bytes=40)
            assert str(same_error.value) == str(error)
        else:
            same(one, convert_by_beam([folder / "a.csv"], folder / "other", rules, block_bytes=40))


@pytest.mark.medium
@pytest.mark.parametrize(
    ("text", "rules", "words"),
    [
        ("1,2,3,pv,4\n" * 9 + "1,2,3,click,4\n", Rules(), r"a\.csv, line 10: behavior_type is 'click'"),
        ("1,2,3,pv,4\n" * 9, Rules(validation=1), "validation 1 and test 0 users of 1"),
        ("1,2,3,pv,4\n" * 3, Rules(), "none of 3 rows is left"),
        ("", Rules(), r"a\.csv is empty"),
    ],
)
def test_bad_input_is_named_and_leaves_nothing(tmp_path, text, rules, words):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(NannError, match=words) as error:
        convert_by_beam([tmp_path / "a.csv"], tmp_path / "out", rules)
    assert "while running" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
