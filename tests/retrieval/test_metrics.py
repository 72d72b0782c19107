import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfserving_ext.retrieval.metrics import coverage, recall, recall_delta, target_ranks

ids = st.lists(st.integers(-1, 12), min_size=1, max_size=8)


@given(st.lists(st.tuples(ids, ids, st.integers(0, 12)), min_size=1, max_size=6))
def test_equal_the_definitions_by_sets(cases):
    width = max(max(len(found), len(exact)) for found, exact, _ in cases)

    def padded(rows):
        unique = [list(dict.fromkeys(item for item in row if item >= 0)) for row in rows]
        return np.array([row + [-1] * (width - len(row)) for row in unique])

    found, exact = padded([case[0] for case in cases]), padded([case[1] for case in cases])
    targets = np.array([case[2] for case in cases])
    for row, (value, hit) in enumerate(zip(coverage(found, exact), recall(found, targets), strict=True)):
        wanted, got = set(exact[row]) - {-1}, set(found[row]) - {-1}
        assert value == (len(wanted & got) / len(wanted) if wanted else 1.0)
        assert hit == (targets[row] in got)


def test_recall_delta():
    assert recall_delta(0.4, 0.3) == (0.4 - 0.3) / 0.4
    assert recall_delta(0.0, 0.0) == 0.0


@pytest.mark.medium
@given(st.lists(st.tuples(st.lists(st.integers(-1, 9), min_size=5, max_size=5), st.integers(-1, 9)), min_size=1))
def test_ranks_are_first_places(cases):
    answers, targets = np.array([row for row, _ in cases]), np.array([target for _, target in cases])
    for (row, target), rank in zip(cases, target_ranks(answers, targets), strict=True):
        assert rank == (row.index(target) if target >= 0 and target in row else -1)
