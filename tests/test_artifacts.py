import json

import numpy as np
import pytest

from tfserving_ext.artifacts import atomic_file, read_json, write_json
from tfserving_ext.errors import NannError


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
    """First contact, line 9: NaN and infinities, which Python writes as words that no JSON has, are null."""
    value = {"a": [1.5, float("nan"), (float("inf"), -1)], "b": {"c": float("-inf"), "d": np.float64("nan")}}
    write_json(tmp_path / "a.json", value)

    def refuse(text):
        raise AssertionError(text)

    found = json.loads((tmp_path / "a.json").read_text(), parse_constant=refuse)
    assert found == {"a": [1.5, None, [None, -1]], "b": {"c": None, "d": None}}
