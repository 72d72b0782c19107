"""Fitting the rule for coverage: it never promises more than was found, and it is stored where exports read it."""

import shutil
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfserving_ext.evaluation import HeldOut
from tfserving_ext.evaluation.coverage_rule import rule_of
from tfserving_ext.evaluation.subject import Setting, Subject
from tfserving_ext.evaluation.tune import tune
from tfserving_ext.index.coverage_rule import read_rule
from tfserving_ext.retrieval import BestFirst, Surrogate

HELD_OUT = HeldOut(20, max_cases=500, split="validation")


@given(st.lists(st.integers(0, 50), min_size=1, max_size=12))
def test_a_rule_promises_no_more_than_was_found_there_or_at_a_higher_cost(found):
    found, expected = np.array(found) / 50, np.linspace(-2, 0.9, len(found))
    rule = rule_of(found, expected, 20, 30, 64)
    if rule is None:
        assert found[-1] == 0
        return
    assert (np.diff(rule.coverage) > 0).all() and (np.diff(rule.expected_coverage) > 0).all()
    assert rule.coverage[0] > 0 and rule.most < 1
    for coverage, share in zip(rule.coverage, rule.expected_coverage, strict=True):
        assert (found[expected >= share] >= coverage - 1e-12).all()
    wanted = np.linspace(rule.most / 50, rule.most, 50)
    assert (np.diff([rule.expected_for(float(one)) for one in wanted]) >= 0).all()


@pytest.mark.medium
def test_tuning_stores_a_rule_that_holds_on_its_users(world, tmp_path):
    index = shutil.copytree(world.index, tmp_path / "index")
    found = tune(world.data, world.model, index, held_out=HELD_OUT, candidates=[BestFirst(16, 20)])
    rule = read_rule(index)
    assert found["coverage_rule"] == asdict(rule)
    assert (rule.k, rule.pool, rule.batch) == (20, 20, 64)
    subject = Subject(world.data, world.model, index, HELD_OUT)
    asked = [rule.coverage[0], (rule.coverage[0] + rule.most) / 2, rule.most]
    settings = {str(one): Setting(Surrogate(**rule.parameters(one)), True) for one in asked}
    outcomes = subject.measure(settings).values()
    for one, outcome in zip(asked, outcomes, strict=True):
        assert outcome.coverage.mean() >= one - 0.01
    scored = [outcome.items_scored.mean() for outcome in outcomes]
    assert scored == sorted(scored)
