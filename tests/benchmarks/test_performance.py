"""docs/performance.md: the same JSON gives the same page, and errors name what is damaged or missing."""

import json
import shutil
from pathlib import Path

import pytest

from benchmarks.suite import page_tables
from benchmarks.suite.parts import PARTS, Part
from benchmarks.suite.performance import make_page, write_page
from tfserving_ext.artifacts import write_json
from tfserving_ext.errors import NannError

ROOT = Path(__file__).parents[2]
ORIGIN = {
    "machine": {"processor": "A processor", "flags": ["avx2", "fma"], "cores": 2, "memory_gb": 23.6},
    "versions": {"python": "3.11.7", "numpy": "2.4.6"},
    "commit": "0123456789ab",
    "date": "2030-01-02T03:04:05+00:00",
}
FAST = Part("fast", "How fast", "make fast QUICK=1", "fast", figures={"ratio": "over the peer", "gone": "left out"})
PLAIN = Part("plain", "All figures", "make plain", "plain", tables=lambda figures: f"{figures['words']}\n")
NEVER = Part("never", "Never run", "make never", "never")
PAGE = """
## The machine

|  |  |
| --- | --- |
| processor | A processor |
| flags | avx2 fma |
| cores | 2 |
| memory gb | 23.6 |
| versions | python 3.11.7, numpy 2.4.6 |
| commit | 0123456789ab |

The demo's model: 28,165 products, recall@200 by brute force 0.3200; the default search covers 0.9950 of it and scores \
5.1 % of the products. Making it took 601 s.

## How fast

`make fast QUICK=1`, 2030-01-02, took 61 s; raw figures in `fast.json`.

| figure | value |
| --- | --- |
| over the peer | 4.099 |

## All figures

`make plain`, 2030-01-02; raw figures in `plain.json`.

| figure | value |
| --- | --- |
| rows a second | 1,998,605 |
| failed | 0 |

And a table.

## Not measured

- Never run: `make never`
"""


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    demo = {"k": 200, "items": 28165, "recall_all": 0.32, "coverage": 0.995, "scored_fraction": 0.051, "seconds": 601.2}
    write_json(folder / "run.json", {"demo": demo, "parts": {"fast": {"seconds": 60.8}}})
    write_json(folder / "fast.json", {**ORIGIN, "quick": True, "summary": {"ratio": 4.0992, "other": 1, "gone": None}})
    summary = {"rows_a_second": 1998605.37, "failed": 0.0, "nested": {"a": 1}}
    write_json(folder / "plain.json", {**ORIGIN, "summary": summary, "words": "And a table."})
    return folder


def test_the_page(results, tmp_path):
    page = make_page(results, (FAST, PLAIN, NEVER))
    assert page.startswith("<!-- Written by `make bench`; do not edit. -->\n\n# Performance\n")
    assert page[page.index("\n## The machine") :] == PAGE
    target = tmp_path / "docs" / "performance.md"
    for _ in range(2):
        write_page(results, target, (FAST, PLAIN, NEVER))
        assert target.read_text() == page
    assert [path.name for path in target.parent.iterdir()] == ["performance.md"]


def test_parts_of_several_machines_say_which_is_whose(results):
    figures = json.loads((results / "plain.json").read_text())
    write_json(results / "plain.json", {**figures, "commit": "ba9876543210-dirty"})
    page = make_page(results, (FAST, PLAIN, NEVER))
    assert (
        page.index("For fast:") < page.index("0123456789ab") < page.index("For plain:") < page.index("ba9876543210-d")
    )


@pytest.mark.parametrize(("share", "rough"), [(0.05, False), (0.42, True), (None, False)])
def test_figures_beside_much_other_work_are_called_rough(results, share, rough):
    write_json(results / "run.json", {"parts": {"fast": {"seconds": 60, "other_work": share}}})
    page = make_page(results, (FAST, PLAIN, NEVER))
    assert ("**Other work used 42 % of the cores in the meantime, so these figures are rough.**" in page) == rough


def test_nothing_measured_is_a_page_too(tmp_path):
    page = make_page(tmp_path, PARTS)
    assert "## The machine" not in page
    for part in PARTS:
        assert f"- {part.title}: `{part.command}`\n" in page


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("fast.json", "{", r"fast\.json is not valid JSON"),
        ("fast.json", "[]", r"fast\.json is not what `make fast QUICK=1` writes .* measure it again"),
        ("fast.json", "{}", r"fast\.json is not what .*KeyError\('summary'\)"),
        ("fast.json", '{"summary": 3}', r"fast\.json is not what"),
        ("plain.json", '{"summary": {}, "date": ""}', r"plain\.json is not what .*KeyError\('words'\)"),
        ("run.json", "[1]", r"run\.json is not what `make bench` writes"),
        ("run.json", '{"demo": {"items": 3}}', r"run\.json is not what .*KeyError"),
    ],
)
def test_damaged_json_is_told_with_its_name(results, name, text, said):
    (results / name).write_text(text)
    with pytest.raises(NannError, match=said):
        make_page(results, (FAST, PLAIN))


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (2.0, "2"), (63.36325, "63.36"), (0.04422, "0.04422"), (1998605.4, "1,998,605"), ("a", "a")],
)
def test_numbers_as_a_reader_wants_them(value, shown):
    assert page_tables.number(value) == shown


def test_the_page_in_the_repository_is_that_of_the_figures_beside_it(tmp_path):
    kept = ROOT / "benchmarks" / "results" / "bench"
    assert make_page(shutil.copytree(kept, tmp_path / "bench")) == (ROOT / "docs" / "performance.md").read_text()
