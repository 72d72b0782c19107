"""Data split by time: nothing from the moment on reaches training, and everything from then on tests."""

import itertools
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from unittest import mock

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.data.test_beam import same
from tests.data.test_convert import small_blocks, small_memory
from tfserving_ext.artifacts import read_json
from tfserving_ext.cli.main import app
from tfserving_ext.data.beam import convert_by_beam
from tfserving_ext.data.behavior_csv import BEHAVIORS
from tfserving_ext.data.conversion import convert
from tfserving_ext.data.original_format import write_original
from tfserving_ext.data.rows import Rules
from tfserving_ext.data.sequences import Sequences
from tfserving_ext.data.synth import SynthConfig, synth
from tfserving_ext.errors import NannError
from tfserving_ext.evaluation.baselines import own_history

ROW = st.tuples(
    st.sampled_from([0, 3, 4, 9, 2**62]),
    st.sampled_from([0, 1, 2, 5, 8, 2**62 + 1]),
    st.integers(0, 2),
    st.sampled_from(BEHAVIORS),
    st.integers(-2, 6) | st.sampled_from([-(2**63), 2**63 - 1]),
)


def write(path: Path, rows) -> Path:
    path.write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    return path


def moment_of(rows, rules):
    """The time of the first of the last rows, as the documentation says it."""
    if rules.test_from is not None:
        return rules.test_from
    times = sorted(row[4] for row in rows)
    tested = round((0.1 if rules.test is None else rules.test) * len(times))
    return times[len(times) - tested] if tested else times[-1] + 1


def by_hand(rows, early, items, rules):
    """Each test user's whole history (time, item), and how many rows of unknown items are dropped."""
    histories, unknown = defaultdict(list), 0
    for row in rows:
        if row[1] in items:
            histories[row[0]].append((row[4], row[1]))
        elif row not in early:
            unknown += 1
    moment = moment_of(rows, rules)
    whole = {user: sorted(some, key=lambda row: row[0]) for user, some in histories.items()}
    kept = {user: some for user, some in whole.items() if len(some) >= rules.min_user_count}
    return {user: some for user, some in sorted(kept.items()) if some[-1][0] >= moment}, unknown


def histories_of(sequences, split):
    """Each user's (time, item) in a split."""
    users = np.flatnonzero(sequences.user_splits == split)
    return {
        int(sequences.user_ids[user]): [
            (int(time), int(item))
            for time, item in zip(
                sequences.sequence_times[sequences.row_splits[user] : sequences.row_splits[user + 1]],
                sequences.ids_of(sequences.sequence_items[sequences.row_splits[user] : sequences.row_splits[user + 1]]),
                strict=True,
            )
        ]
        for user in users
    }


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(ROW, min_size=2, max_size=60),
    least=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    when=st.sampled_from([{"test_from": 2}, {"test_from": 0}, {"test": 0.3}, {"test": 0.6}, {}]),
    validation=st.sampled_from([0, 0.4]),
    block_bytes=st.sampled_from([40, 1 << 20]),
)
def test_training_data_are_those_of_a_file_that_ends_at_the_moment(rows, least, when, validation, block_bytes):
    """The file is cut at the moment and converted by user: whatever looks beyond the moment makes a difference."""
    kept = {"min_item_count": least[0], "min_user_count": least[1], "validation": validation, "seed": 3}
    rules = Rules(**kept, **when, split="time")
    moment = moment_of(rows, rules)
    early = [row for row in rows if row[4] < moment]
    with tempfile.TemporaryDirectory() as name, small_blocks(block_bytes), small_memory(rows):
        folder = Path(name)
        try:
            cut = convert(write(folder / "cut.csv", early), folder / "cut", Rules(**kept, test=0))
        except NannError:
            with pytest.raises(NannError):
                convert(write(folder / "all.csv", rows), folder / "out", rules)
            assert not (folder / "out").exists()
            return
        try:
            out = convert(write(folder / "all.csv", rows), folder / "out", rules)
        except NannError as error:
            items = set(pl.read_parquet(cut / "items.parquet")["item_id"])
            assert "to test" in str(error)
            assert not by_hand(rows, early, items, rules)[0]
            return
        names = {path.name for path in cut.glob("*") if path.name.startswith(("train", "validation"))}
        assert names == {path.name for path in out.glob("*") if path.name.startswith(("train", "validation"))}
        assert all((cut / name).read_bytes() == (out / name).read_bytes() for name in names)
        table = pl.read_parquet(out / "items.parquet")
        assert table.equals(pl.read_parquet(cut / "items.parquet"))
        sequences = Sequences.open(out)
    tested, unknown = by_hand(rows, early, set(table["item_id"]), rules)
    assert histories_of(sequences, 2) == tested
    split, counts = sequences.manifest["time_split"], sequences.counts
    assert split["test_from"] == moment
    assert (split["first_time"], split["last_time"]) == (min(row[4] for row in rows), max(row[4] for row in rows))
    assert split["new_items"] == len({row[1] for row in rows} - {row[1] for row in early})
    assert split["behaviors_tested"] == sum(time >= moment for some in tested.values() for time, _ in some)
    assert counts["rows_dropped"]["unknown_item"] == unknown
    assert counts["behaviors"] == len(rows) - sum(counts["rows_dropped"].values())


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    synth(folder / "all.csv", SynthConfig(rows=8_000, items=200, seed=2))
    return folder / "all.csv"


@pytest.fixture(scope="module")
def by_time(made) -> Sequences:
    return Sequences.open(convert(made, made.with_name("out"), Rules(split="time", test=0.3, validation=0.1)))


@pytest.mark.parametrize("positions", [1, 3, 9])
def test_targets_are_behaviours_from_the_moment_on(by_time, positions):
    """Their histories are all that the user did before, of which the last L count."""
    moment = by_time.manifest["time_split"]["test_from"]
    wanted = []
    for user, history in histories_of(by_time, 2).items():
        first = next(place for place, (time, _) in enumerate(history) if time >= moment)
        late = len(history) - first
        for place in sorted({first + late * k // (positions + 1) for k in range(1, positions + 1)} - {0}):
            before = [item for _, item in history[:place]]
            wanted.append((user, place, ([-1] * 8 + before)[-8:], history[place][1]))
    cases = by_time.cases("test", positions, history_length=8)
    histories, targets = by_time.ids_of(cases.histories).tolist(), by_time.ids_of(cases.targets).tolist()
    assert list(zip(cases.user_ids.tolist(), cases.positions.tolist(), histories, targets, strict=True)) == wanted
    assert len(wanted) > 20


def test_no_batch_and_no_validation_case_has_a_behaviour_from_the_moment_on(by_time):
    moment = by_time.manifest["time_split"]["test_from"]
    held = by_time.user_splits == 2
    early = np.repeat(~held, np.diff(by_time.row_splits))
    assert by_time.sequence_times[early].max() < moment
    assert by_time.sequence_times[~early].max() >= moment
    pairs = set()
    for history in histories_of(by_time, 0).values():
        items = [item for _, item in history]
        pairs |= set(itertools.pairwise(items))
    batch = by_time.training_batch(0, 500, 5)
    drawn = zip(by_time.ids_of(batch["histories"][:, -1]), by_time.ids_of(batch["targets"][:, 0]), strict=True)
    assert set(drawn) <= pairs


def test_baselines_read_the_history_before_a_target(by_time):
    """A user who trains too has two histories, of which the test's is the whole one."""
    cases = by_time.cases("test", 2)
    both = set(by_time.user_ids[by_time.user_splits == 0]) & set(cases.user_ids.tolist())
    assert both
    ranks = own_history(by_time, cases)
    histories = histories_of(by_time, 2)
    for user, position, target, rank in zip(
        cases.user_ids.tolist(), cases.positions.tolist(), by_time.ids_of(cases.targets).tolist(), ranks, strict=True
    ):
        own = [item for _, item in histories[user][:position]]
        last = {item: place for place, item in enumerate(own)}
        counts = Counter(own)
        ordered = sorted(counts, key=lambda item: (-counts[item], -last[item]))
        if target in counts:
            assert ordered.index(target) == rank
        else:
            assert rank >= len(ordered)


def test_rows_of_the_moment_itself_test(tmp_path):
    """Thirteen of forty rows have the time of the last tenth's first row; ten of them are of an item without others."""
    rows = [(user, item, 1, "pv", 5 if user == 9 or item == 3 else item) for user in range(10) for item in range(4)]
    out = convert(write(tmp_path / "a.csv", rows), tmp_path / "out", Rules(min_item_count=1, split="time"))
    assert read_json(out / "manifest.json")["time_split"] == {
        "test_from": 5,
        "first_time": 0,
        "last_time": 5,
        "behaviors_tested": 3,
        "new_items": 1,
    }
    assert read_json(out / "manifest.json")["counts"]["rows_dropped"]["unknown_item"] == 10
    assert Sequences.open(out).user_ids[Sequences.open(out).user_splits == 2].tolist() == [9]


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (
            {"test_from": 1_700_000_009},
            "nothing is left to train on: the test begins at 1700000009 (2023-11-14T22:13:29Z)",
        ),
        ({"test_from": 1_700_000_200}, "nothing is left to test: the test begins at 1700000200 (2023-11-14T22:16:40Z)"),
        ({"test": 0.999}, "nothing is left to train on: the test begins at 1700000010 (2023-11-14T22:13:30Z)"),
        ({"test": 0.001}, "nothing is left to test: the test begins at 1700000100 (2023-11-14T22:15:00Z)"),
        ({"test": 0.4, "min_item_count": 8}, "none of 100 rows is left"),
        ({"test": 0.5, "min_user_count": 9}, "no user has 9 behaviours or more to train on before 17000000"),
    ],
)
def test_a_split_that_leaves_nothing_is_refused_with_the_first_and_the_last_time(tmp_path, rules, words):
    rows = [(place % 10, place % 13, 1, "pv", 1_700_000_010 + min(place, 89)) for place in range(100)]
    csv = write(tmp_path / "a.csv", rows)
    rules = Rules(**{"min_item_count": 1, "split": "time", **rules})
    with pytest.raises(NannError) as error:
        convert(csv, tmp_path / "out", rules)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    if "none of" not in words:
        assert "run from 1700000010 (2023-11-14T22:13:30Z) to 1700000099 (2023-11-14T22:14:59Z)" in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"split": "item"}, "split is 'item'; allowed are user, time"),
        ({"test_from": 3}, "test_from is 3, but the split is by user"),
        ({"split": "time", "test": 10}, "test is 10, but the split is by time; allowed is a fraction"),
        ({"split": "time", "test": 0.0}, "test is 0.0, but the split is by time"),
        ({"split": "time", "test": 0.1, "test_from": 3}, "test_from is 3 and test 0.1"),
        ({"split": "time", "test_from": 2**63}, "test_from is 9223372036854775808"),
    ],
)
def test_rules_that_contradict_each_other_are_refused(rules, words):
    with pytest.raises(NannError, match=words):
        Rules(**rules)


@pytest.mark.medium
@pytest.mark.parametrize("when", [{"test": 0.2}, {"test_from": 1_512_000_000}])
def test_beam_writes_the_same_files(made, tmp_path, when):
    rules = Rules(split="time", validation=0.2, min_user_count=4, **when)
    with mock.patch("tfserving_ext.data.sequence_format._SHARD_ROWS", 2000):
        one = convert(made, tmp_path / "one", rules)
        other = convert_by_beam([made], tmp_path / "other", rules, block_bytes=20_000)
    assert read_json(one / "manifest.json")["splits"]["test"]["shards"] > 1
    same(one, other)


@pytest.mark.medium
def test_beam_refuses_a_split_that_leaves_nothing(made, tmp_path):
    with pytest.raises(NannError, match=r"^nothing is left to test: the test begins at 9000000000000; the times of"):
        convert_by_beam([made], tmp_path / "out", Rules(split="time", test_from=9 * 10**12))
    assert not list(tmp_path.iterdir())


def test_the_original_layout_cannot_say_when_a_test_begins(by_time, tmp_path):
    with pytest.raises(NannError, match="is split by time, which alibaba/nann's TFRecords cannot say"):
        write_original(by_time.folder, tmp_path / "original")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("header", "options"),
    [
        ("u,i,t\n", ["--columns", "user=u,item=i,time=t", "--test-from", "1700000500000"]),
        ("u,i,t\n", ["--columns", "user=u,item=i,time=t", "--time-unit", "ms", "--test-from", "1700000500000"]),
        ("u,i,t\n", ["--columns", "user=u,item=i,time=t", "--test-from", "2023-11-14T22:21:40Z"]),
        ("", ["--test-from", "2023-11-14T22:21:40+00:00"]),
        ("", ["--test-from", "1700000500"]),
    ],
)
def test_the_moment_is_a_date_or_in_the_unit_of_the_files_times(tmp_path, header, options):
    times = [1_700_000_000 + 10 * place for place in range(100)]
    mapped = [(place % 5, place % 4, time * 1000) for place, time in enumerate(times)]
    rows = mapped if header else [(user, item, 1, "pv", time // 1000) for user, item, time in mapped]
    csv = write(tmp_path / "a.csv", rows)
    csv.write_text(header + csv.read_text())
    ran = CliRunner().invoke(app, ["convert", str(csv), "-o", str(tmp_path / "out"), "--split", "time", *options])
    assert ran.exit_code == 0, ran.output
    assert "the test begins at 1700000500: 50 behaviours" in " ".join(ran.output.split())
    assert read_json(tmp_path / "out" / "manifest.json")["time_split"]["test_from"] == 1_700_000_500


def test_a_moment_that_is_no_time_is_refused(csv, tmp_path):
    with pytest.raises(NannError, match="--test-from is 'soon'; allowed are an ISO 8601 time"):
        app(["convert", str(csv), "--split", "time", "--test-from", "soon"], standalone_mode=False)
