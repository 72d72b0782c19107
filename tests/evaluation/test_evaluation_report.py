import copy
import re

import pytest

from tests.evaluation.pages import Page
from tfserving_ext.errors import NannError
from tfserving_ext.evaluation import EvaluationOptions, HeldOut, evaluate
from tfserving_ext.evaluation.evaluation_report import write_report

K = 10


@pytest.fixture(scope="module")
def figures(world):
    options = EvaluationOptions(curve_cases=8, resamples=50)
    return evaluate(world.data, world.model, world.index, held_out=HeldOut(K, max_cases=24), options=options)


def written(tmp_path, figures):
    write_report(tmp_path / "report.html", figures)
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    page.check_self_contained(text)
    return page, text


def numbers(value, name=""):
    """Yields the names and values of all metrics in the JSON that the page shows."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from numbers(part, key)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from numbers(part, name)
    elif isinstance(value, float):
        yield name, value


def test_every_figure_is_in_the_page(tmp_path, figures):
    page, _ = written(tmp_path, figures)
    text = " ".join(page.text)
    assert "svg" in page.tags
    told = {"recall_all", "recall_all_at", "baselines", "groups", "curves"}
    for name, value in numbers({key: figures[key] for key in told}):
        if name not in ("ms_per_case", "scored_fraction", "expected_coverage"):
            assert f"{value:.4f}" in text, name
    for points in figures["curves"]["by_scored_fraction"].values():
        assert all(f"{100 * point['scored_fraction']:.2f} %" in text for point in points)
    for search in figures["searches"].values():
        for at in search["at"].values():
            for name, value in numbers(at):
                assert f"{value:.4f}" in text, name
        for value in (search["ms_per_case"], *search["latency_ms"].values(), 100 * search["scored_fraction"]):
            assert f"{value:.2f}" in text
    for title in ("Coverage@10 by rounds", "Users by their coverage@10", "Coverage@10 over the scored fraction"):
        assert title in page.titles


def test_the_same_figures_give_the_same_page(tmp_path, figures):
    assert written(tmp_path, figures)[1] == written(tmp_path, figures)[1]


def test_brute_force_alone_has_a_page(tmp_path, figures):
    bare = copy.deepcopy(figures)
    del bare["curves"]
    bare["searches"] = {}
    for groups in bare["groups"].values():
        for group in groups:
            group["searches"] = {}
    page, _ = written(tmp_path, bare)
    assert "What the searches lose" not in page.text


def test_names_are_escaped(tmp_path, figures):
    hostile = "<script>alert(1)</script>\"'&$x^2$"
    changed = copy.deepcopy(figures)
    changed["searches"][hostile] = changed["searches"].pop("rounds")
    for groups in changed["groups"].values():
        for group in groups:
            group["searches"][hostile] = group["searches"].pop("rounds")
    changed["model"]["model"] = hostile
    changed["split"] = hostile
    page, text = written(tmp_path, changed)
    assert "<script" not in text
    assert any(hostile in part for part in page.text)


def test_colours_are_the_pages_own(tmp_path, figures):
    _, text = written(tmp_path, figures)
    assert "prefers-color-scheme: dark" in text
    drawings = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    for drawing in drawings:
        assert not re.findall(r"(?:fill|stroke): *#\w+", drawing)
        assert "var(--series-" in drawing
        assert "currentColor" in drawing


def test_a_page_that_cannot_be_written(tmp_path, figures):
    (tmp_path / "report.html").mkdir()
    with pytest.raises(NannError, match="cannot write"):
        write_report(tmp_path / "report.html", figures)
