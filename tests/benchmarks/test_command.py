"""The options, errors and last lines that the commands of the benchmarks share."""

import json

import pytest

from benchmarks.command import measuring, print_summary
from tfserving_ext.errors import NannError


def test_an_error_is_a_message_and_an_exit_status(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended, measuring(tmp_path / "made" / "out.json"):
        raise NannError("k is 0, allowed are 1 and above")
    assert ended.value.code == 1
    assert capsys.readouterr().err == "error: k is 0, allowed are 1 and above\n"
    assert (tmp_path / "made").is_dir()


def test_the_last_line_is_the_summary(tmp_path, capsys):
    print_summary({"recall": 0.5}, tmp_path / "out.json")
    *first, last = capsys.readouterr().out.splitlines()
    assert json.loads(last) == {"recall": 0.5}
    assert "raw figures: " in " ".join(first)
