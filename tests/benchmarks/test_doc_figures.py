"""The measured figures in the pages are those of the JSON in benchmarks/results. First contact, line 26."""

import re
from pathlib import Path

import pytest

from benchmarks.suite.doc_figures import FIGURES, PAGES, rewritten
from benchmarks.suite.performance import PAGE, make_page
from tfserving_ext.errors import NannError

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
# Figures in docs/paper.md that are from earlier runs, as the page says.
OF_EARLIER_RUNS = {"0.4281", "0.4254", "0.4245"}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_says_what_its_json_says(page):
    """If it fails, `python -m benchmarks.suite.doc_figures` writes the figures anew."""
    text = (ROOT / page).read_text()
    assert rewritten(text, RESULTS) == text


def test_the_performance_page_says_what_its_json_says():
    assert make_page(RESULTS / "bench") == (ROOT / PAGE).read_text()


def test_every_kind_of_figures_stands_in_a_page():
    text = "".join((ROOT / page).read_text() for page in PAGES)
    names = re.findall(r"<!-- figures: (.*?) -->", text)
    assert sorted(names) == sorted(FIGURES)
    assert text.count("<!-- end of figures -->") == len(names)


def test_a_figure_changed_by_hand_or_in_the_json_shows(tmp_path):
    text = (ROOT / "docs/searches.md").read_text()
    covered = re.search(r"0\.99\d\d", text.partition("<!-- figures")[2])[0]
    assert rewritten(text.replace(covered, "0.9999"), RESULTS) == text
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "search.json").write_text('{"neural": {}}')
    with pytest.raises(NannError, match=r"search\.json lacks results that 'settings of the searches' needs"):
        rewritten(text, tmp_path)
    with pytest.raises(NannError, match="figures are named 'nothing'"):
        rewritten("<!-- figures: nothing -->\n<!-- end of figures -->", RESULTS)


def test_what_the_paper_page_says_of_its_tables_stands_in_them():
    """The text of docs/paper.md quotes recalls from docs/paper_tables.md, which `make bench-paper` writes."""
    page = re.sub(r"<!-- figures.*?end of figures -->", "", (ROOT / "docs/paper.md").read_text(), flags=re.DOTALL)
    tables = (ROOT / "docs/paper_tables.md").read_text()
    quoted = set(re.findall(r"0\.\d{4}", page)) - OF_EARLIER_RUNS
    assert len(quoted) > 40
    assert {figure for figure in quoted if figure not in tables} == set()
