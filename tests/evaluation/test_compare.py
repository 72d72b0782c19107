import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from tests.evaluation.pages import Page
from tfserving_ext.errors import NannError
from tfserving_ext.evaluation import SEARCHES, EvaluationOptions, HeldOut, evaluate
from tfserving_ext.evaluation.compare import _short, compare, load, report
from tfserving_ext.evaluation.intervals import Bootstrap
from tfserving_ext.index import Hnsw, build_index
from tfserving_ext.retrieval import Rounds

K = 10


@pytest.fixture(scope="module")
def runs(world, tmp_path_factory):
    """Evaluations: `first`; `built` on another graph; `narrow` with a narrower search; `others` on other cases; and,
    with the narrower search, `fewer` on other cases and `twice` on two graphs."""
    root = tmp_path_factory.mktemp("runs")
    arrays = (np.load(world.embeddings / f"{name}.npy") for name in ("item_ids", "item_embs"))
    build_index(*arrays, root / "index", Hnsw(threads=1, seed=5))
    narrow = {"rounds": Rounds((2, 2, K), (1, 1, 1))}

    def made(name, held_out, searches=SEARCHES, index=world.index, builds=0):
        options = EvaluationOptions(builds=builds, html=False, resamples=50)
        evaluate(world.data, world.model, index, root / f"{name}.json", searches, held_out, options)
        return root / f"{name}.json"

    three, nine = HeldOut(K, 3), HeldOut(K, max_cases=9)

    return SimpleNamespace(
        root=root,
        first=made("first", three),
        built=made("built", three, index=root / "index"),
        narrow=made("narrow", three, narrow),
        others=made("others", nine, {}),
        fewer=made("fewer", nine, narrow),
        twice=made("twice", three, narrow, builds=1),
    )


def test_differences_are_paired_over_users(runs):
    found = compare(load([runs.first, runs.narrow]))
    first, narrow = (np.load(path.with_suffix(".npz")) for path in (runs.first, runs.narrow))
    by_figure = {(part["figure"], part["search"]): part for part in found["differences"]}
    assert set(by_figure) == {("recall_all", None), ("recall_retrieval", "rounds"), ("coverage", "rounds")}
    same = by_figure["recall_all", None]
    assert (same["value"], tuple(same["interval"])) == (0.0, (0.0, 0.0))
    covered = narrow["coverage/rounds"][:, -1].astype(float) - first["coverage/rounds"][:, -1]
    part = by_figure["coverage", "rounds"]
    assert part["value"] == pytest.approx(covered.mean())
    # The closed form of the standard error of a mean over clusters.
    users, place = np.unique(first["user_ids"], return_inverse=True)
    residuals = np.bincount(place, weights=covered - covered.mean())
    error = np.sqrt((residuals**2).sum()) / len(covered)
    assert len(users) < len(covered)
    assert part["interval"][1] - part["interval"][0] == pytest.approx(2 * 1.96 * error, rel=0.15)
    assert part["interval"][1] < 0


def test_other_cases_have_no_paired_difference(runs):
    found = compare(load([runs.first, runs.others]))
    assert all(part["value"] is None and part["interval"] is None for part in found["differences"])
    assert [row["search"] for row in found["rows"]] == ["surrogate", "best_first", "rounds", None]


def test_builds_of_one_model_are_grouped(runs):
    found = compare(load([runs.first, runs.built, runs.narrow]))
    (best_first,) = [
        build for build in compare(load([runs.first, runs.built]))["builds"] if build["search"] == "best_first"
    ]
    covered = [json.loads(path.read_text())["searches"]["best_first"]["coverage"] for path in (runs.first, runs.built)]
    assert best_first["coverage"] == covered
    assert best_first["range"] == max(covered) - min(covered)
    # Another search does not count as another build.
    assert [(build["search"], build["labels"]) for build in found["builds"]] == [
        ("surrogate", ["first", "built"]),
        ("best_first", ["first", "built"]),
        ("rounds", ["first", "built"]),
    ]
    assert compare(load([runs.first, runs.narrow]))["builds"] == []


def with_epsilon(path, target, epsilon, recall_all):
    figures = json.loads(path.read_text())
    figures["model"]["training"]["epsilon"] = epsilon
    figures["recall_all"] = recall_all
    target.write_text(json.dumps(figures))
    shutil.copy(path.with_suffix(".npz"), target.with_suffix(".npz"))
    return target


def test_recall_and_coverage_by_epsilon(runs, tmp_path):
    paths = [
        with_epsilon(runs.first, tmp_path / f"{number}.json", epsilon, recall)
        for number, (epsilon, recall) in enumerate([(0.1, 0.5), (0.0, 0.4), (0.1, 0.3)])
    ]
    found = report(paths, tmp_path / "page.html")
    (points,) = found["epsilons"].values()
    assert [(p["epsilon"], p["evaluations"]) for p in points] == [(0.0, 1), (0.1, 2)]
    assert [p["recall_all"] for p in points] == pytest.approx([0.4, 0.4])
    text = (tmp_path / "page.html").read_text()
    page = Page(text)
    assert {"Recall-all@10 by ε", "Coverage@10 by ε"} <= set(page.titles)
    page.check_self_contained(text)


def test_models_that_differ_in_more_than_epsilon_are_lines_of_their_own(runs, tmp_path):
    paths = [with_epsilon(runs.first, tmp_path / f"{epsilon}.json", epsilon, 0.5) for epsilon in (0.0, 0.1, 0.2, 0.3)]
    for seconds, path in enumerate(paths[2:]):
        figures = json.loads(path.read_text())
        # The same steps, but with a start.
        figures["model"]["training"]["start_from"] = {
            "model": "two_sided",
            "training": {"steps": 7, "seconds": seconds},
        }
        path.write_text(json.dumps(figures))
    found = compare(load(paths))["epsilons"]
    assert list(found) == ["nann_attention, relative (1)", "nann_attention, relative (2)"]
    assert [[point["epsilon"] for point in points] for points in found.values()] == [[0.0, 0.1], [0.2, 0.3]]


def test_labels_on_an_axis_differ():
    labels = ["attention/evaluation", "no_attention/evaluation", "a"]
    assert len(set(_short(labels))) == 3
    assert _short(["runs/a", "runs/with/a/long/name"]) == ["runs/a", "…th/a/long/name"]


def test_points_of_epsilon_are_over_builds_with_paired_intervals(runs, tmp_path):
    paths = [
        with_epsilon(runs.twice, tmp_path / "a.json", 0.0, 0.5),
        with_epsilon(runs.narrow, tmp_path / "b.json", 1, 0.5),
    ]
    found = report(paths, tmp_path / "page.html")
    ((first, second),) = found["epsilons"].values()
    with np.load(runs.twice.with_suffix(".npz")) as twice, np.load(runs.narrow.with_suffix(".npz")) as narrow:
        built, users = twice["builds/coverage/rounds"][:, :, -1], twice["user_ids"]
        single = narrow["coverage/rounds"][:, -1]
        np.testing.assert_array_equal(built[:, 0], twice["coverage/rounds"][:, -1])
        np.testing.assert_array_equal(built[:, 0], single)
    means = built.mean(axis=1)
    assert np.abs(means - single).max() > 0
    assert first["coverage"]["rounds"] == pytest.approx(means.mean())
    assert first["differences"]["rounds"] == (0.0, (0.0, 0.0))
    bootstrap = Bootstrap(users)
    assert first["intervals"]["rounds"] == pytest.approx(bootstrap.interval(means))
    value, interval = bootstrap.difference(single, means)
    assert second["differences"]["rounds"] == (pytest.approx(value), pytest.approx(interval))
    words = " ".join(Page((tmp_path / "page.html").read_text()).text)
    assert f"{second['coverage']['rounds']:.4f}" in words
    others = with_epsilon(runs.fewer, tmp_path / "c.json", 2, 0.5)
    (points,) = compare(load([*paths, others]))["epsilons"].values()
    assert not any("intervals" in point for point in points)


def test_the_page_has_every_row_and_difference(runs, tmp_path):
    found = report([runs.first, runs.built, runs.narrow], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    page = Page(text)
    page.check_self_contained(text)
    words = " ".join(page.text)
    for row in found["rows"]:
        for name in ("recall_all", "recall_retrieval", "recall_delta", "coverage", "coverage_5th_percentile"):
            assert f"{row[name]:.4f}" in words
    for part in found["differences"]:
        assert f"{part['value']:.4f}" in words
        assert part["label"] in words


def test_one_evaluation_gives_its_own_report(runs, tmp_path):
    report([runs.first], tmp_path / "page.html")
    assert "Which users and items are served well" in (tmp_path / "page.html").read_text()


def test_labels_tell_evaluations_apart(runs, tmp_path):
    copies = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        copies.append(tmp_path / name / "evaluation.json")
        for suffix in (".json", ".npz"):
            shutil.copy(runs.first.with_suffix(suffix), copies[-1].with_suffix(suffix))
    assert [each.label for each in load(copies)] == ["a/evaluation", "b/evaluation"]
    assert len({each.label for each in load([runs.first, runs.first])}) == 2


def test_bad_files_are_refused(runs, tmp_path):
    with pytest.raises(NannError, match="there are no evaluations"):
        compare([])
    with pytest.raises(NannError, match="does not exist"):
        load([tmp_path / "none.json"])
    (tmp_path / "other.json").write_text('{"format": "nann-model"}')
    with pytest.raises(NannError, match=r"other\.json has format 'nann-model' version None, this release reads"):
        load([tmp_path / "other.json"])
    shutil.copy(runs.first, tmp_path / "copy.json")
    with pytest.raises(NannError, match=r"copy\.npz does not exist; keep it beside copy\.json"):
        load([tmp_path / "copy.json"])
    shutil.copy(runs.narrow.with_suffix(".npz"), tmp_path / "copy.npz")
    with pytest.raises(NannError, match=r"copy\.npz is not what copy\.json was written with"):
        load([tmp_path / "copy.json"])
    figures = json.loads(runs.first.read_text())
    (tmp_path / "longer.json").write_text(json.dumps({**figures, "k": 20}))
    shutil.copy(runs.first.with_suffix(".npz"), tmp_path / "longer.npz")
    with pytest.raises(NannError, match="longer has k 20, first has 10"):
        compare(load([runs.first, tmp_path / "longer.json"]))
