"""Coverage on request: `retrieve_surrogate` is asked for one, `retrieve` finds the one that was set at export."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from export_tools import Defaults, ExportOptions, export, inspect, reuse
from export_tools.manifest import read_manifest
from tests.export.test_search_choice import DIM, ITEMS, Squashed
from tfserving_ext.artifacts import sha256, write_json
from tfserving_ext.errors import NannError
from tfserving_ext.index import Hnsw, build_index
from tfserving_ext.index.coverage_rule import CoverageRule
from tfserving_ext.index.tuning import FORMAT, FORMAT_VERSION
from tfserving_ext.serving.models import ServingError, load_servable

pytestmark = pytest.mark.medium
K = 20
RULE = CoverageRule((0.5, 0.8, 0.98), (-30.0, -2.0, 0.9), k=K, pool=40, batch=32)
OPTIONS = ExportOptions(measure=False)


def tuned(folder, rule):
    write_json(
        folder / "tuning.json",
        {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "index_manifest_sha256": sha256(folder / "manifest.json"),
            "chosen": None,
            "coverage_rule": dataclasses.asdict(rule),
        },
    )


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    rng = np.random.default_rng(0)
    embeddings = (rng.normal(size=[ITEMS, 6]) @ rng.normal(size=[6, DIM])).astype(np.float32)
    root = tmp_path_factory.mktemp("coverage") / "index"
    build_index(np.arange(ITEMS) * 7, embeddings, root, Hnsw(threads=1))
    tuned(root, RULE)
    return root


@pytest.fixture(scope="module")
def saved_model(index, tmp_path_factory):
    return export(
        Squashed(), index, tmp_path_factory.mktemp("models") / "1", Defaults(K, coverage=0.9), options=OPTIONS
    )


@pytest.fixture(scope="module")
def servable(saved_model):
    return load_servable(saved_model)


@pytest.fixture(scope="module")
def request_of_eight():
    rng = np.random.default_rng(2)
    return {
        "vector": rng.normal(size=[8, DIM]).astype(np.float32),
        "seeds": rng.choice(ITEMS, [8, 10]) * 7,
    }


def test_retrieve_finds_what_was_asked_for_at_export(saved_model, servable, request_of_eight):
    defaults = read_manifest(saved_model)["defaults"]
    assert (defaults["search"], defaults["coverage"]) == ("surrogate", 0.9)
    assert defaults["surrogate"]["expected_coverage"] == pytest.approx(RULE.expected_for(0.9))
    assert (defaults["surrogate"]["pool"], defaults["surrogate"]["batch"]) == (40, 32)
    assert "coverage" not in servable.signature("retrieve").proto.inputs
    inputs = inspect(saved_model)["signatures"]["retrieve_surrogate"]["inputs"]
    assert inputs["coverage"]["default"] == pytest.approx(0.9) and "expected_coverage" not in inputs
    plain, own = (servable.signature(name).run(request_of_eight) for name in ("retrieve", "retrieve_surrogate"))
    for output in plain:
        np.testing.assert_array_equal(plain[output], own[output])


def test_more_coverage_costs_more_and_the_answer_says_what_it_covers(servable, request_of_eight):
    run = servable.signature("retrieve_surrogate").run
    scored = []
    for asked in (0.01, 0.5, 0.8, 0.9, 0.98):
        found = run({**request_of_eight, "coverage": np.float32(asked)})
        told = found["estimated_coverage"]
        assert (told[~found["fell_back"]] >= np.float32(min(max(asked, 0.5), 0.98)) - 1e-5).all()
        assert (told[found["fell_back"]] == 0).all() and (told <= 1).all()
        scored.append(found["items_scored"].sum())
        json.dumps({name: value.tolist() for name, value in found.items()}, allow_nan=False)
    assert scored[0] == scored[1] and scored[1:] == sorted(scored[1:]) and scored[1] < scored[-1]
    cut = run({**request_of_eight, "budget": np.int64(11)})
    assert (cut["estimated_coverage"] < 0.5).all() and (cut["estimated_coverage"] >= 0).all()


@pytest.mark.parametrize("asked", [0.0, -0.5, 0.9801, 1.0, 1.5, np.inf])
def test_a_coverage_out_of_range_is_refused(servable, request_of_eight, asked):
    with pytest.raises(ServingError, match=r"coverage must be above 0 and at most 0\.9800"):
        servable.signature("retrieve_surrogate").run({**request_of_eight, "coverage": np.float32(asked)})


def test_without_a_rule_there_is_no_coverage_to_ask_for(index, tmp_path):
    folder = shutil.copytree(index, tmp_path / "index")

    def refused(words, **defaults):
        with pytest.raises(NannError, match=words):
            export(Squashed(), folder, tmp_path / "1", Defaults(**{"k": K, "coverage": 0.9, **defaults}))

    refused("coverage is 0.99, allowed are numbers above 0 and at most 0.9800", coverage=0.99)
    refused("coverage is 0.9, which the surrogate search alone can be asked for", search="best_first")
    refused("k is 21, the coverage rule of .* holds up to 20; run `nann tune` with --k 21", k=21)
    (folder / "tuning.json").unlink()
    refused("has no tuning.json; make one with `nann tune`")


@pytest.mark.slow
def test_a_new_build_of_the_index_keeps_the_rule_if_it_holds(index, saved_model, tmp_path, capsys):
    folder = shutil.copytree(index, tmp_path / "index")
    (folder / "tuning.json").unlink()
    new = reuse(saved_model, folder, tmp_path / "2")
    assert "not checked: the rule for coverage" in capsys.readouterr().out
    assert read_manifest(new)["defaults"] == read_manifest(saved_model)["defaults"]
    tuned(folder, dataclasses.replace(RULE, coverage=(0.5, 0.79, 0.98)))
    reuse(saved_model, folder, tmp_path / "3")
    tuned(folder, dataclasses.replace(RULE, coverage=(0.4, 0.7, 0.9)))
    with pytest.raises(NannError, match=r"asked for a coverage of 0\.9000, the exported model would find 0\.8"):
        reuse(saved_model, folder, tmp_path / "4")
