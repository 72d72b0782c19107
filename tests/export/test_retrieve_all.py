"""`nann retrieve-all` against asking the signature of the SavedModel for one user after another."""

import json
import signal
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from export_tools import ExportOptions, export
from export_tools.batch import BatchOptions, pipeline, retrieve_all
from tests.text_ids import UNKNOWN, spell, twin
from tfserving_ext.artifacts import read_json
from tfserving_ext.cli import app
from tfserving_ext.errors import NannError
from tfserving_ext.index import Hnsw, Index, build_index
from tfserving_ext.serving.models import load_servable
from tfserving_ext.serving.requests import as_inputs

QUICK, K, USERS = ExportOptions(measure=False), 12, 90


@pytest.fixture(scope="module")
def filtered(world, tmp_path_factory):
    """The world's model, whose index has attributes."""
    root, index = tmp_path_factory.mktemp("filtered"), Index.open(world.index)
    ids = np.asarray(index.item_ids)
    attributes = pl.DataFrame({"item_id": ids, "price": ids % 50, "shelf": ids % 9})
    build_index(ids, index.embeddings(), root / "index", Hnsw(threads=1), attributes=attributes)
    return export(world.model, root / "index", root / "1", options=QUICK)


@pytest.fixture(scope="module")
def by_text(world, tmp_path_factory):
    """The world's model, whose items have texts for ids."""
    root = tmp_path_factory.mktemp("texts")
    index = twin(Index.open(world.index), root / "index")
    return export(world.model, index.folder, root / "1", options=QUICK)


@pytest.fixture(scope="module")
def users(world):
    """Users of many kinds: with and without exclusions, filters, caps and another pool, and of different lengths."""
    rng, ids = np.random.default_rng(3), np.asarray(Index.open(world.index).item_ids)
    made = []
    for number in range(USERS):
        user = {"user_id": f"u{number}", "item_history": rng.choice(ids, rng.integers(1, 7)).tolist()}
        if number % 2:
            user["exclude"] = [*rng.choice(ids, 5 * (number % 4)).tolist(), UNKNOWN]
        if number % 3:
            user["filter"] = f"price < {10 * (number % 3)}"
        if number % 5 == 0:
            user |= {"cap_by": "shelf", "cap": 1 + number % 2}
        if number % 7 == 0:
            user["pool"] = 40
        made.append(user)
    return made


def one_by_one(saved_model, users, k, signature="retrieve"):
    """Item ids and scores of each user, who is asked about alone; places without an item are left out."""
    servable = load_servable(saved_model)
    asked, found = servable.signature(signature), []
    for user in users:
        inputs = {name: value for name, value in user.items() if name != "user_id" and value is not None}
        answer = asked.run({**as_inputs(asked, inputs), "k": np.int32(k)})
        there = answer["item_ids"][0] != (b"" if answer["item_ids"].dtype == object else -1)
        found.append((answer["item_ids"][0][there].tolist(), answer["scores"][0][there]))
    servable.close()
    return found


def same(answers, wanted):
    assert len(answers) == len(wanted)
    for ids, scores, (item_ids, of_items) in zip(answers["item_ids"], answers["scores"], wanted, strict=True):
        assert ids.to_list() == [one.decode() if isinstance(one, bytes) else one for one in item_ids]
        np.testing.assert_allclose(scores.to_numpy(), of_items, rtol=1e-6)


@pytest.fixture(scope="module")
def wanted(filtered, users):
    return one_by_one(filtered, users, K)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_answers_are_those_of_users_who_are_asked_about_alone(filtered, users, wanted, tmp_path, batch):
    pl.DataFrame(users, infer_schema_length=None).write_parquet(tmp_path / "users.parquet")
    options = BatchOptions(K, keep=("user_id",), batch=batch, part_users=50)
    made = retrieve_all(filtered, tmp_path / "users.parquet", tmp_path / "answers", options)
    files = sorted((tmp_path / "answers").glob("*.parquet"))
    assert [path.name for path in files] == ["part-00000-of-00002.parquet", "part-00001-of-00002.parquet"]
    answers = pl.concat(pl.read_parquet(path) for path in files)
    assert dict(answers.schema) == {"user_id": pl.String, "item_ids": pl.List(pl.Int64), "scores": pl.List(pl.Float32)}
    assert answers["user_id"].to_list() == [user["user_id"] for user in users]
    same(answers, wanted)
    assert min(len(ids) for ids, _ in wanted) < K  # Some filters leave few items.
    assert (made.users, made.answered) == (USERS, USERS) and made.cores


def test_users_of_text_ids_by_the_command(by_text, users, tmp_path):
    """From JSON lines, whose rows are numbered where no column is kept."""
    spelled = []
    for user in users[:20]:
        ids = {name: spell(np.array(user[name])) for name in ("item_history", "exclude") if name in user}
        spelled.append({name: [one.decode() for one in texts] for name, texts in ids.items()})
    (tmp_path / "users.jsonl").write_text("\n".join(json.dumps(user) for user in spelled))
    words = ["retrieve-all", by_text, tmp_path / "users.jsonl", "-o", tmp_path / "answers", "-k", K]
    ran = CliRunner().invoke(app, [*map(str, words), "--signature", "retrieve_rounds", "--part-users", "8"])
    assert ran.exit_code == 0, ran.output
    assert "20 users in" in ran.output and "a second a core" in ran.output
    answers = pl.read_parquet(tmp_path / "answers" / "*.parquet")
    assert dict(answers.schema) == {"row": pl.Int64, "item_ids": pl.List(pl.String), "scores": pl.List(pl.Float32)}
    assert answers["row"].to_list() == list(range(20))
    same(answers, one_by_one(by_text, spelled, K, "retrieve_rounds"))


def test_a_folder_of_files_is_one_table(filtered, users, wanted, tmp_path):
    (tmp_path / "users").mkdir()
    frame = pl.DataFrame(users, infer_schema_length=None)
    for name, rows in (("a", frame[:35]), ("b", frame[35:40]), ("c", frame[40:])):
        rows.write_parquet(tmp_path / "users" / f"{name}.parquet")
    (tmp_path / "users" / "_SUCCESS").touch()
    (tmp_path / "users" / ".unfinished.parquet").write_bytes(b"PAR1")  # As another writer leaves it.
    options = BatchOptions(K, keep=("user_id", "exclude"), part_users=30)
    retrieve_all(filtered, tmp_path / "users", tmp_path / "answers", options)
    files = sorted((tmp_path / "answers").glob("*.parquet"))
    assert [pl.read_parquet(path).height for path in files] == [30, 5, 5, 30, 20]
    answers = pl.concat(pl.read_parquet(path) for path in files)
    assert answers.select("user_id", "exclude").equals(frame.select("user_id", "exclude"))
    same(answers, wanted)


def test_a_worker_loads_the_model_once(filtered, users, tmp_path, monkeypatch):
    """Here, the worker is a thread of the process that checked the table, and takes the model from it."""
    loads, load = [], pipeline._load
    monkeypatch.setattr(pipeline, "_load", lambda path: loads.append(path) or load(path))
    pl.DataFrame(users[:9], infer_schema_length=None).write_parquet(tmp_path / "users.parquet")
    options = BatchOptions(K, keep=("user_id",), part_users=3)
    retrieve_all(filtered, tmp_path / "users.parquet", tmp_path / "answers", options)
    assert len(list((tmp_path / "answers").glob("part-*.parquet"))) == 3
    assert loads == [filtered]


KILL = """
import os, signal, sys
from export_tools.batch import BatchOptions, pipeline, retrieve_all
write, calls = pipeline._Answering.write, []
def dying(*arguments):
    calls.append(None)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return write(*arguments)
pipeline._Answering.write = dying
retrieve_all(*sys.argv[1:4], BatchOptions(12, keep=("user_id",), part_users=20))
"""


def test_a_killed_run_goes_on_where_it_was(filtered, users, wanted, tmp_path, capsys):
    table, target = tmp_path / "users.parquet", tmp_path / "answers"
    pl.DataFrame(users, infer_schema_length=None).write_parquet(table)
    run = subprocess.run([sys.executable, "-c", KILL, filtered, table, target], check=False)
    assert run.returncode == -signal.SIGKILL
    assert not target.exists()
    finished = {path.name: path.stat() for path in (tmp_path / ".answers.retrieving").glob("part-*")}
    assert len(finished) == 2
    options = BatchOptions(K, keep=("user_id",), batch=5, part_users=20)
    made = retrieve_all(filtered, table, target, options)
    assert made.answered == USERS - 40 and "40 of whom were answered before" in str(made)
    assert "resuming after 2 of 5 files" in capsys.readouterr().out
    for name, before in finished.items():
        after = (target / name).stat()
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    same(pl.concat(pl.read_parquet(path) for path in sorted(target.glob("*.parquet"))), wanted)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers", "users.parquet"]
    assert read_json(target / "manifest.json")["users"] == USERS


def test_only_answers_of_the_same_run_are_taken_for_its_own(filtered, world, users, tmp_path):
    table, target, options = tmp_path / "users.parquet", tmp_path / "answers", BatchOptions(K, keep=("user_id",))
    frame = pl.DataFrame(users[:5], infer_schema_length=None)
    frame.write_parquet(table)
    retrieve_all(filtered, table, target, options)
    before = {path.name: path.stat().st_mtime_ns for path in target.iterdir()}
    again = retrieve_all(filtered, table, target, options)
    assert (again.users, again.answered) == (5, 0) and "answered before" in str(again)
    with pytest.raises(NannError, match="another value of k; choose another folder, or give --force"):
        retrieve_all(filtered, table, target, BatchOptions(K + 1, keep=("user_id",)))
    frame[:3].drop("filter", "cap_by", "cap").write_parquet(table)
    with pytest.raises(NannError, match="another value of model, users;"):
        retrieve_all(world.saved_model, table, target, options)
    assert {path.name: path.stat().st_mtime_ns for path in target.iterdir()} == before
    assert retrieve_all(world.saved_model, table, target, options, force=True).answered == 3
    assert pl.read_parquet(target / "*.parquet")["user_id"].to_list() == ["u0", "u1", "u2"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").touch()
    with pytest.raises(NannError, match=r"files that no stage wrote, such as mine\.txt"):
        retrieve_all(world.saved_model, table, tmp_path / "other", options)


HISTORY = {"item_history": [[100031], [100062]]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("columns", "options", "words"),
    [
        (
            {"user_id": [1, 2]},
            {"keep": ("user_id",)},
            "no column 'item_history', which signature 'retrieve' needs",
        ),
        ({**HISTORY, "user_id": [1, 2]}, {}, "column 'user_id', which is no input of .*keep it in the answers"),
        ({"item_history": [[1.5], [2.5]]}, {}, r"column 'item_history' is List\(Float64\); the input takes int64"),
        ({"item_history": ["a", "b"]}, {}, "column 'item_history' is String; the input takes int64"),
        ({"item_history": [[[[1]]], [[[2]]]]}, {}, "the input takes int64 of at most 2 dimensions"),
        ({**HISTORY, "pool": [[[1]], [[1]]]}, {}, "the input takes int32 of at most 1 dimensions"),
        (HISTORY, {"keep": ("user",)}, "has no column 'user' to keep; it has item_history"),
        ({**HISTORY, "scores": [1, 2]}, {"keep": ("scores",)}, "column 'scores' cannot be kept"),
        ({**HISTORY, "k": [3, 4]}, {"k": 5}, "has the column 'k', which is given for all users too"),
        (HISTORY, {"signature": "retreive"}, "no signature 'retreive'; it has retrieve, "),
        (HISTORY, {"signature": "serving_default"}, "signature 'serving_default' returns no item_ids"),
        ({"item_history": []}, {}, "has no row; at least one user is expected"),
        ({**HISTORY, "filter": ["price <", ""]}, {}, r"row 0 \(from 0\): .*price"),
        ({**HISTORY, "k": [0, 3]}, {}, r"row 0 \(from 0\): .*k"),
        ({"item_history": [[1, None], [2]]}, {}, r"row 0 \(from 0\): item_history is \[1, None\], which is not int64"),
    ],
)
def test_a_bad_table_is_refused_before_the_pipeline_starts(filtered, tmp_path, monkeypatch, columns, options, words):
    monkeypatch.setattr("export_tools.batch.pipeline.run_pipeline", None)
    pl.DataFrame(columns).write_parquet(tmp_path / "users.parquet")
    with pytest.raises(NannError, match=words) as error:
        retrieve_all(filtered, tmp_path / "users.parquet", tmp_path / "answers", BatchOptions(**options))
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["users.parquet"]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("users.json", '[{"item_history": [1]}, {"item_history": "a"}]', "users.json: an input has values of several"),
        ("users.csv", "item_history\n1\n", "is neither JSON nor Parquet"),
        ("users.parquet", "PAR1", "users.parquet cannot be read"),
        ("other.json", "[]", "cannot read .*users.json"),
    ],
)
def test_a_bad_file_is_refused(filtered, tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(NannError, match=words):
        retrieve_all(filtered, tmp_path / name.replace("other", "users"), tmp_path / "answers")
    with pytest.raises(NannError, match=r"holds no table of users; .* end in \.parquet"):
        retrieve_all(filtered, tmp_path / "..", tmp_path / "answers")


def test_files_of_a_folder_have_the_same_columns(filtered, tmp_path):
    pl.DataFrame(HISTORY).write_parquet(tmp_path / "a.parquet")
    pl.DataFrame({**HISTORY, "pool": [20, 30]}).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(NannError, match=r"b\.parquet has the columns item_history .*, pool .*, but .*a\.parquet has"):
        retrieve_all(filtered, tmp_path, tmp_path.with_name("answers"))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"filter": "price <"}, r"row 7 \(from 0\): .*price"),
        ({"item_history": [3, None]}, r"row 7 \(from 0\): item_hist"),
    ],
)
def test_a_bad_row_is_named(filtered, users, tmp_path, changed, words):
    """It shares a call with others, whose error would not say which of them is wrong."""
    rows = [{**user, **(changed if number == 7 else {})} for number, user in enumerate(users[:12])]
    pl.DataFrame(rows, infer_schema_length=None).write_parquet(tmp_path / "users.parquet")
    options = BatchOptions(K, keep=("user_id",), part_users=12)
    with pytest.raises(NannError, match=words) as error:
        retrieve_all(filtered, tmp_path / "users.parquet", tmp_path / "answers", options)
    assert "\n" not in str(error.value) and "while running" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["users.parquet"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"k": 0}, "k is 0; allowed are 1 and more"),
        ({"batch": 2000}, "batch is 2000; allowed are 1 to 1,024"),
        ({"part_users": 0}, "part_users is 0; allowed are 1 and more"),
        ({"keep": ("a", "a")}, "the columns to keep are a, a; each can be kept once"),
    ],
)
def test_options_that_are_refused(options, words):
    with pytest.raises(NannError, match=words):
        BatchOptions(**options)
