import json
import threading

import numpy as np
import pytest

from tfserving_ext import artifacts
from tfserving_ext.artifacts import atomic_file, atomic_folder, read_json, write_json
from tfserving_ext.errors import NannError
from tfserving_ext.outputs import Stage

STAGE = Stage("a test", "mark", "", ("mark", "other"))


def write(target, text: str) -> None:
    with atomic_folder(target, STAGE) as new:
        (new / "mark").write_text(text)
        (new / "other").write_text(text)


def test_two_writers_of_one_folder_both_end_and_the_last_one_stays(tmp_path):
    """The folder is always the complete output of one writer, whether it existed before or not.

    First contact, line 27.
    """
    target = tmp_path / "folder"
    for _ in range(2):
        with atomic_folder(target, STAGE) as first:
            (first / "mark").write_text("first")
            (first / "other").write_text("first")
            write(target, "second")
            assert (target / "mark").read_text() == "second"
        assert [(target / name).read_text() for name in ("mark", "other")] == ["first", "first"]
        assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_writers_in_many_threads_leave_one_whole_folder(tmp_path):
    """The same as above, with a random interleaving of writers. First contact, line 27."""
    target, failures = tmp_path / "folder", []

    def work(name: str) -> None:
        try:
            for number in range(30):
                write(target, f"{name} {number}")
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(str(name),)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert (target / "mark").read_text() == (target / "other").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.medium
def test_a_replaced_folder_is_never_missing(tmp_path):
    """A server that polls the folder always finds a model, the old one or the new one. First contact, line 27."""
    target, missing, done = tmp_path / "folder", [], threading.Event()
    write(target, "0")

    def look() -> None:
        while not done.is_set():
            try:
                (target / "mark").stat()
            except FileNotFoundError as error:
                missing.append(error)

    thread = threading.Thread(target=look)
    thread.start()
    for number in range(300):
        write(target, str(number))
    done.set()
    thread.join()
    assert missing == []


def test_a_replacement_is_one_exchange(tmp_path, monkeypatch):
    """One call replaces the old folder by the new one. First contact, line 27."""
    seen, exchange = [], artifacts._exchange
    write(tmp_path / "folder", "old")

    def spied(new, target):
        seen.append((target / "mark").read_text())
        exchange(new, target)
        seen.append((target / "mark").read_text())
        seen.append((new / "mark").read_text())

    monkeypatch.setattr(artifacts, "_exchange", spied)
    write(tmp_path / "folder", "new")
    assert seen == ["old", "new", "old"]


@pytest.mark.parametrize("dangling", [False, True])
def test_a_symbolic_link_stays_and_what_it_leads_to_is_written(tmp_path, dangling):
    (tmp_path / "disk").mkdir()
    link, place = tmp_path / "link", tmp_path / "disk" / "folder"
    link.symlink_to(place)
    if not dangling:
        write(link, "old")
    write(link, "new")
    assert link.is_symlink()
    assert (place / "mark").read_text() == "new"
    assert [sorted(path.name for path in at.iterdir()) for at in (tmp_path, place.parent)] == [
        ["disk", "link"],
        ["folder"],
    ]


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    write_json(tmp_path / "new" / "a.json", {"b": 1})
    assert read_json(tmp_path / "new" / "a.json") == {"b": 1}
    with pytest.raises(KeyboardInterrupt), atomic_file(tmp_path / "new" / "a.json") as path:
        path.write_text("half")
        raise KeyboardInterrupt
    assert read_json(tmp_path / "new" / "a.json") == {"b": 1}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.json"]


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NannError, match=r"cannot write .*file/a\.json"):
        write_json(tmp_path / "file" / "a.json", 1)
    with pytest.raises(NannError, match=r"cannot write .*file/deeper/a\.json"):
        write_json(tmp_path / "file" / "deeper" / "a.json", 1)


def test_files_are_strict_json(tmp_path):
    """NaN and infinities, which Python would write as words that JSON lacks, become null. First contact, line 9."""
    value = {"a": [1.5, float("nan"), (float("inf"), -1)], "b": {"c": float("-inf"), "d": np.float64("nan")}}
    write_json(tmp_path / "a.json", value)

    def refuse(text):
        raise AssertionError(text)

    found = json.loads((tmp_path / "a.json").read_text(), parse_constant=refuse)
    assert found == {"a": [1.5, None, [None, -1]], "b": {"c": None, "d": None}}
