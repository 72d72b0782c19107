"""The rule for coverage: what it says between its points and outside them, and what is no rule."""

import dataclasses

import numpy as np
import pytest

from tfserving_ext.artifacts import sha256, write_json
from tfserving_ext.errors import NannError
from tfserving_ext.index.coverage_rule import CoverageRule, read_rule, rule_or_none
from tfserving_ext.index.tuning import FORMAT, FORMAT_VERSION

RULE = CoverageRule((0.9, 0.96, 0.99), (-3.0, -1.0, 0.5), k=20, pool=20, batch=64)
FACTS = dataclasses.asdict(RULE)


def test_it_is_linear_between_its_points():
    for coverage, expected in [(0.9, -3.0), (0.93, -2.0), (0.96, -1.0), (0.975, -0.25), (0.99, 0.5)]:
        assert RULE.expected_for(coverage) == pytest.approx(expected)
        assert RULE.coverage_at(expected) == pytest.approx(coverage)
    assert RULE.expected_for(0.1) == -3.0, "the cheapest search that is known finds more"
    assert RULE.parameters(0.96) == {"pool": 20, "batch": 64, "expected_coverage": -1.0}
    np.testing.assert_allclose(RULE.coverage_at([-100, -51.5, 0.9, 1.0]), [0, 0.45, 0.998, 1])


@pytest.mark.parametrize("coverage", [0.0, -0.1, 0.991, 1.0, 2.0, np.nan])
def test_a_coverage_that_it_does_not_reach_is_refused(coverage):
    with pytest.raises(NannError, match=r"coverage is .*, allowed are numbers above 0 and at most 0\.9900"):
        RULE.expected_for(coverage)


@pytest.mark.parametrize(
    "change",
    [
        {"coverage": [0.9, 0.96]},
        {"coverage": [], "expected_coverage": []},
        {"coverage": [0.96, 0.9, 0.99]},
        {"coverage": [0.0, 0.96, 0.99]},
        {"coverage": [0.9, 0.96, 1.0]},
        {"coverage": [0.9, float("nan"), 0.99]},
        {"coverage": "many"},
        {"coverage": None},
        {"expected_coverage": [-1.0, -1.0, 0.5]},
        {"expected_coverage": [-101.0, -1.0, 0.5]},
        {"expected_coverage": [-3.0, -1.0, 1.0]},
        {"k": 0},
        {"batch": "none"},
        {"pool": None},
    ],
)
def test_what_is_no_rule_is_refused(change):
    with pytest.raises(NannError, match=r"here: coverage_rule"):
        CoverageRule.of(FACTS | change, "here")


def test_it_lies_in_the_tuning_of_this_build(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    facts = {"format": FORMAT, "format_version": FORMAT_VERSION}
    write_json(tmp_path / "tuning.json", facts | {"index_manifest_sha256": sha256(tmp_path / "manifest.json")})
    with pytest.raises(NannError, match=r"tuning\.json has no coverage_rule; run `nann tune` again"):
        read_rule(tmp_path)
    known = facts | {"index_manifest_sha256": sha256(tmp_path / "manifest.json"), "coverage_rule": FACTS}
    write_json(tmp_path / "tuning.json", known)
    assert read_rule(tmp_path) == rule_or_none(tmp_path) == RULE
    (tmp_path / "manifest.json").write_text("{ }")
    with pytest.raises(NannError, match="another build of the index"):
        read_rule(tmp_path)
    assert rule_or_none(tmp_path) is None
