"""docs/format.md against what the stages write. First contact, line 26: it described a version that no code wrote."""

import re

import pytest

from tests.docs.pages import ROOT
from tfserving_ext.artifacts import read_json
from tfserving_ext.data import sequence_format
from tfserving_ext.index import format as index_format
from tfserving_ext.models import checkpoint

PAGE = (ROOT / "docs" / "format.md").read_text()
# What a name stands for that has a number or a part of its own in it.
PARTS = {"{l}": r"\d+", "{i}": r"\d{5}", "{n}": r"\d{5}", "*": ".+"}


def section(title):
    """What a section says, and the patterns of the files that it names."""
    text = next(part for part in PAGE.split("\n## ") if part.startswith(title))
    table = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    named = re.findall(r"`([\w.{}*-]+)`", " ".join(table) if table else text.partition("\n")[2])
    patterns = []
    for name in named:
        if "." in name:
            pattern = re.escape(name)
            for part, meaning in PARTS.items():
                pattern = pattern.replace(re.escape(part), meaning)
            patterns.append(pattern)
    return text, patterns


@pytest.mark.parametrize(
    ("title", "of_world", "module"),
    [
        ("Index", "index", index_format),
        ("Sequences", "data", sequence_format),
        ("Model", "model", checkpoint),
        ("Embeddings", "embeddings", None),
    ],
)
def test_the_page_names_the_files_and_the_version(world, title, of_world, module):
    text, patterns = section(title)
    folder = getattr(world, of_world)
    there = {path.name for path in folder.iterdir()}
    assert {name for name in there if not any(re.fullmatch(pattern, name) for pattern in patterns)} == set()
    # Tables in int8, ids that are not whole numbers, and items with attributes have these.
    optional = {"item_scales", "_keys", "attributes"}
    unused = [pattern for pattern in patterns if not any(re.fullmatch(pattern, name) for name in there)]
    assert [pattern for pattern in unused if not any(word in pattern for word in optional)] == []
    if module is not None:
        assert f"format `{module.FORMAT}`, version {module.FORMAT_VERSION}" in text.splitlines()[0]
        manifest = next(read_json(folder / name) for name in there if name in ("manifest.json", "model.json"))
        assert (manifest["format"], manifest["format_version"]) == (module.FORMAT, module.FORMAT_VERSION)
