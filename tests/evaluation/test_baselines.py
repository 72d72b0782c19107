from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfserving_ext.data.sequences import Cases
from tfserving_ext.errors import NannError
from tfserving_ext.evaluation.baselines import baseline_ranks, most_popular, own_history


def answer(history, popular):
    """Returns the whole answer in plain Python: own items, most frequent first, ties by recency, then popular ones."""
    counts = Counter(history)
    last = {item: place for place, item in enumerate(history)}
    own = sorted(counts, key=lambda item: (-counts[item], -last[item]))
    return own + [item for item in popular if item not in counts]


@given(
    st.lists(st.lists(st.integers(1, 9), min_size=2, max_size=15), min_size=1, max_size=4),
    st.lists(st.integers(0, 3), min_size=9, max_size=9),
    st.integers(1, 16),
    st.randoms(use_true_random=False),
)
def test_ranks_are_the_places_in_the_answer_by_hand(histories, popularity, window, random):
    user_ids = random.sample(range(100), len(histories))
    sequences = SimpleNamespace(
        folder="data",
        popularity=np.array([0, *popularity]),
        user_ids=np.array(user_ids),
        row_splits=np.cumsum([0, *map(len, histories)]),
        sequence_items=np.concatenate(histories).astype(np.int32),
    )
    positions = np.array([random.randrange(1, len(history)) for history in histories])
    targets = np.array([history[place] for history, place in zip(histories, positions, strict=True)])
    cases = Cases(np.array(user_ids), np.zeros([len(histories), 1], np.int32), targets, positions)
    popular = sorted(range(1, 10), key=lambda item: (-popularity[item - 1], item))
    found = baseline_ranks(sequences, cases, window)
    for case, (history, place, target) in enumerate(zip(histories, positions, targets, strict=True)):
        before = history[:place]
        assert found["most_popular"][case] == popular.index(target)
        assert found["own_history"][case] == answer(before, popular).index(target)
        assert found["own_history_in_window"][case] == answer(before[-window:], popular).index(target)


def test_popularity_is_that_of_training_users(world):
    sequences, cases = world.sequences, world.sequences.cases("test", 3)
    training = np.flatnonzero(sequences.user_splits == 0)
    counts = Counter()
    for user in training:
        counts.update(sequences.sequence_items[sequences.row_splits[user] : sequences.row_splits[user + 1]].tolist())
    order = sorted(range(1, sequences.num_items + 1), key=lambda item: (-counts[item], item))
    assert most_popular(sequences, cases).tolist() == [order.index(target) for target in cases.targets]


def test_bad_input(world):
    cases = world.sequences.cases("test")
    with pytest.raises(NannError, match="window is 0; it must be 1 or more"):
        own_history(world.sequences, cases, 0)
    other = Cases(cases.user_ids + 10**9, cases.histories, cases.targets, cases.positions)
    with pytest.raises(NannError, match=f"has no user {other.user_ids[0]}"):
        own_history(world.sequences, other)
