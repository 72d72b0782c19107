from types import SimpleNamespace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tfserving_ext.evaluation.graph import unreachable_items
from tfserving_ext.index.format import Layer


@given(st.data())
def test_unreachable_items_are_those_that_a_plain_walk_leaves_out(data):
    n = data.draw(st.integers(1, 25))
    edges = data.draw(st.lists(st.lists(st.integers(0, n - 1), max_size=4), min_size=n, max_size=n))
    entries = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=3))
    waiting, met = list(entries), set(entries)
    while waiting:
        for neighbor in edges[waiting.pop()]:
            if neighbor not in met:
                met.add(neighbor)
                waiting.append(neighbor)
    splits = np.cumsum([0, *map(len, edges)]).astype(np.int64)
    neighbors = np.array([item for row in edges for item in row], np.int32)
    index = SimpleNamespace(
        item_ids=np.arange(n), entry_points=np.array(entries, np.int32), layers=(Layer(splits, neighbors),)
    )
    assert unreachable_items(index).tolist() == sorted(set(range(n)) - met)
