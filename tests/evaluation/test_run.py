import itertools
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.evaluation.pages import Page
from tfserving_ext.errors import NannError
from tfserving_ext.evaluation import EvaluationOptions, HeldOut, evaluate, summary, user_tensors
from tfserving_ext.evaluation.cases import choose_cases
from tfserving_ext.evaluation.subject import Subject
from tfserving_ext.index import Hnsw, Index, build_index
from tfserving_ext.retrieval import BestFirst, NeuralTopK, Rounds
from tfserving_ext.training import load_model

K, POSITIONS, CASES = 60, 2, 30


@pytest.fixture(scope="module")
def evaluated(world, tmp_path_factory):
    """An evaluation with all options: its result, and its files' common name."""
    target = tmp_path_factory.mktemp("evaluated") / "figures.json"
    figures = evaluate(
        world.data,
        world.model,
        world.index,
        target,
        held_out=HeldOut(K, POSITIONS, CASES),
        options=EvaluationOptions(curve_cases=CASES),
    )
    return figures, target


@pytest.fixture(scope="module")
def by_hand(world):
    """The cases, and the answers of brute force and both searches from one call each: item ids [N, K]."""
    trained, index = load_model(world.model), Index.open(world.index)
    cases = choose_cases(world.sequences, HeldOut(K, POSITIONS, CASES), trained.model.config.history_length)
    user = user_tensors(trained, world.sequences, cases)
    items = tf.constant(index.embeddings())[None]
    scores = np.stack(
        [trained.model.score(tuple(part[b : b + 1] for part in user), items)[0].numpy() for b in range(len(cases))]
    )
    exact = np.asarray(index.item_ids)[np.argsort(-scores, axis=1, kind="stable")[:, :K]]
    seeds = tf.constant(world.sequences.ids_of(cases.histories))
    search = NeuralTopK(index, trained.model.score)
    found = {"best_first": search.best_first(user, k=K, seeds=seeds), "rounds": search.rounds(user, k=K)}
    return cases, world.sequences.ids_of(cases.targets), exact, found


def test_figures_are_those_by_hand(evaluated, by_hand):
    figures, _ = evaluated
    cases, targets, exact, found = by_hand
    assert (figures["cases"], figures["users"]) == (len(cases), len(set(cases.user_ids)))
    assert figures["cutoffs"] == [50, K]
    for cutoff in (50, K):
        hits = [target in row[:cutoff] for target, row in zip(targets, exact, strict=True)]
        assert figures["recall_all_at"][str(cutoff)]["recall"] == pytest.approx(np.mean(hits), abs=0.02)
    assert figures["recall_all"] == figures["recall_all_at"][str(K)]["recall"]
    for name, result in found.items():
        measured, ids = figures["searches"][name], result.item_ids.numpy()
        hits = np.array([target in row for target, row in zip(targets, ids, strict=True)])
        assert measured["recall_retrieval"] == pytest.approx(hits.mean(), abs=1e-9)
        for cutoff in (50, K):
            overlap = np.array(
                [len(set(a[:cutoff]) & set(b[:cutoff])) / cutoff for a, b in zip(ids, exact, strict=True)]
            )
            at = measured["at"][str(cutoff)]
            assert at["coverage"] == pytest.approx(overlap.mean(), abs=0.01)
            per_user = [overlap[cases.user_ids == user].mean() for user in np.unique(cases.user_ids)]
            assert at["coverage_5th_percentile"] == pytest.approx(np.percentile(per_user, 5), abs=0.03)
        assert measured["items_scored"] == result.items_scored.numpy().mean()
        assert measured["scored_fraction"] == measured["items_scored"] / figures["items"]
        assert measured["recall_delta"] == pytest.approx(1 - measured["recall_retrieval"] / figures["recall_all"])
        assert sum(measured["coverage_histogram"]["users"]) == figures["users"]


def test_every_interval_holds_its_figure(evaluated):
    figures, _ = evaluated
    for search in figures["searches"].values():
        for name, (low, high) in search["intervals"].items():
            assert low <= search[name] <= high or name.endswith("percentile"), name
    low, high = figures["recall_all_interval"]
    assert low <= figures["recall_all"] <= high


def test_groups_hold_every_case_once(evaluated, by_hand):
    figures, _ = evaluated
    for groups in figures["groups"].values():
        assert sum(group["cases"] for group in groups) == figures["cases"]
        together = sum(group["cases"] * group["recall_all"] for group in groups) / figures["cases"]
        assert together == pytest.approx(figures["recall_all"])
        assert all(one["high"] < following["low"] for one, following in itertools.pairwise(groups))
    lengths = [(group["low"], group["high"]) for group in figures["groups"]["history_length"]]
    assert lengths[0][0] == by_hand[0].positions.min()
    assert lengths[-1][1] == by_hand[0].positions.max()


def test_curves_meet_the_evaluation_where_their_parameters_do(evaluated):
    figures, _ = evaluated
    curves, rounds = figures["curves"], Rounds()
    (point,) = [point for point in curves["by_round"]["rounds"] if point["rounds"] == rounds.rounds[-1]]
    for name in ("coverage", "recall_retrieval", "scored_fraction"):
        assert point[name] == pytest.approx(figures["searches"]["rounds"][name])
    covered = [point["coverage"] for point in curves["by_round"]["rounds"]]
    assert covered == sorted(covered)
    at_best = [p for p in curves["by_scored_fraction"]["best_first"] if p["parameters"]["max_steps"] == 1000]
    assert at_best[0]["coverage"] == pytest.approx(figures["searches"]["best_first"]["coverage"])
    for points in curves["by_scored_fraction"].values():
        fractions = [point["scored_fraction"] for point in points]
        assert fractions == sorted(fractions)
    assert curves["recall_all"] == pytest.approx(figures["recall_all"])


def test_files_hold_what_was_returned(evaluated, by_hand):
    figures, target = evaluated
    cases, targets, _, _ = by_hand
    assert json.loads(target.read_text()) == json.loads(json.dumps(figures))
    with np.load(target.with_suffix(".npz")) as arrays:
        np.testing.assert_array_equal(arrays["user_ids"], cases.user_ids)
        np.testing.assert_array_equal(arrays["positions"], cases.positions)
        np.testing.assert_array_equal(arrays["target_ids"], targets)
        for name, search in figures["searches"].items():
            rank = arrays[f"rank/{name}"]
            assert ((rank >= 0) & (rank < K)).mean() == pytest.approx(search["recall_retrieval"])
            assert arrays[f"coverage/{name}"][:, -1].mean() == pytest.approx(search["coverage"])
    assert target.with_suffix(".html").exists()
    assert target.stat().st_size < 1 << 20  # The most that an export's manifest takes.


def test_the_summary_names_searches_and_baselines(evaluated):
    text = summary(evaluated[0])
    assert f"coverage@{K}" in text
    assert all(words in text for words in ("best_first", "rounds", "most popular", "own history"))


def test_brute_force_alone_has_no_search_figures(world, tmp_path):
    target = tmp_path / "figures.json"
    figures = evaluate(
        world.data, world.model, world.index, target, {}, HeldOut(10, max_cases=7), EvaluationOptions(html=False)
    )
    assert figures["cases"] == 7
    assert figures["searches"] == {}
    assert {path.name for path in tmp_path.iterdir()} == {"figures.json", "figures.npz"}


def test_bad_input(world, tmp_path):
    given = (world.data, world.model, world.index)
    for arguments, words in [
        ({"held_out": HeldOut(10_000)}, "k is 10000, allowed are 1 to"),
        ({"held_out": HeldOut(0)}, "k is 0, allowed are 1 to"),
        ({"held_out": HeldOut(5, split="train")}, "split is 'train'; allowed are 'validation', 'test'"),
        ({"held_out": HeldOut(5, max_cases=0)}, "must be 1 or more"),
        ({"held_out": HeldOut(5, 0)}, "positions_per_user is 0; it must be 1 or more"),
        ({"held_out": HeldOut(5), "searches": {"rounds": Rounds(ef=(1, 2))}}, "the index needs 3 values"),
        (
            {"held_out": HeldOut(5), "searches": {"best_first": BestFirst(frontier=0)}},
            "frontier is 0, allowed are 1 to",
        ),
        (
            {"held_out": HeldOut(5), "target": tmp_path / "figures.html"},
            r"figures\.html would hold JSON, .* name it .*figures\.json",
        ),
    ]:
        with pytest.raises(NannError, match=words):
            evaluate(*given, **arguments)
    with pytest.raises(NannError, match="does not describe an index"):
        evaluate(world.data, world.model, world.data)
    assert list(tmp_path.iterdir()) == []


def test_other_builds_are_measured_on_the_same_cases(world, tmp_path):
    """Each graph has the index's own parameters and another seed; the mean and its interval are over all graphs.

    Coverage is at k, the last cutoff, which here is not the first.

    First contact, line 27.
    """
    narrow = {"rounds": Rounds((5, 5, 60), (1, 1, 1))}
    target = tmp_path / "figures.json"
    figures = evaluate(
        world.data, world.model, world.index, target, narrow, HeldOut(60, max_cases=CASES), EvaluationOptions(builds=2)
    )
    found = figures["builds"]["rounds"]
    assert [graph["seed"] for graph in found["graphs"]] == [12345, 1, 2]
    assert found["graphs"][0]["coverage"] == pytest.approx(figures["searches"]["rounds"]["coverage"])
    ids, embeddings = (np.load(world.embeddings / f"{name}.npy") for name in ("item_ids", "item_embs"))
    for graph in found["graphs"][1:]:
        build_index(ids, embeddings, tmp_path / "index", Hnsw(seed=graph["seed"], threads=1))
        by_hand = evaluate(world.data, world.model, tmp_path / "index", None, narrow, HeldOut(60, max_cases=CASES))
        # Several threads do not build exactly the same graph every time.
        assert graph["coverage"] == pytest.approx(by_hand["searches"]["rounds"]["coverage"], abs=0.1)
    assert found["coverage"] == pytest.approx(np.mean([graph["coverage"] for graph in found["graphs"]]))
    low, high = found["intervals"]["coverage"]
    assert low < found["coverage"] < high
    with np.load(target.with_suffix(".npz")) as cases:
        assert cases["builds/rank/rounds"].shape == (CASES, 3)
        assert cases["builds/coverage/rounds"].shape == (CASES, 3, 2)
        np.testing.assert_allclose(cases["builds/coverage/rounds"][:, :, -1].mean(), found["coverage"], rtol=1e-5)
        assert abs(cases["builds/coverage/rounds"][:, :, 0].mean() - found["coverage"]) > 1e-3
    text = target.with_suffix(".html").read_text()
    page = Page(text)
    page.check_self_contained(text)
    words = " ".join(page.text)
    assert all(f"{graph['coverage']:.4f}" in words for graph in found["graphs"])
    assert ", ".join(f"{graph['coverage']:.4f}" for graph in found["graphs"]) in summary(figures)
    with pytest.raises(NannError, match="builds is -1"):
        evaluate(world.data, world.model, world.index, options=EvaluationOptions(builds=-1))


def test_a_graph_of_unknown_build_is_refused_before_anything_is_measured(world, tmp_path, monkeypatch):
    index = shutil.copytree(world.index, tmp_path / "index")
    manifest = json.loads((index / "manifest.json").read_text())
    del manifest["M"]
    (index / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setattr(Subject, "exact", lambda _: pytest.fail("brute force ran"))
    with pytest.raises(NannError, match=r"does not say how its graph was built .*; leave out --builds"):
        evaluate(world.data, world.model, index, options=EvaluationOptions(builds=1))
