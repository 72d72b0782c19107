"""The cheapest set of tensors without which nothing of the items reaches the scorer: a minimum cut."""

from collections import deque
from collections.abc import Iterable, Mapping

# More than any sum of costs.
INFINITE = 1 << 60

# The entry or the exit of a vertex, and how much may still flow from one to the next.
_End = tuple[str, str]
_Room = dict[_End, dict[_End, int]]


def minimum_cut(
    edges: Iterable[tuple[str, str]], costs: Mapping[str, int], sources: Iterable[str], sinks: Iterable[str]
) -> set[str] | None:
    """Returns the vertices of least total cost that are on every path from a source to a sink.

    Among several such sets it is the one nearest to the sinks.

    Args:
      edges: the edges of a directed graph without circles.
      costs: the cost of each vertex; `INFINITE` for one that cannot be in the set.
      sources: vertices that paths begin with.
      sinks: vertices that paths end with.

    Returns:
      The set; None if every set contains a vertex of infinite cost.
    """
    # A vertex is an edge of its cost from its entry to its exit.
    room: _Room = {}

    def join(one: _End, other: _End, capacity: int) -> None:
        room.setdefault(one, {})[other] = capacity
        room.setdefault(other, {}).setdefault(one, 0)

    start, end = ("start", ""), ("end", "")
    for vertex, cost in costs.items():
        join(("in", vertex), ("out", vertex), cost)
    for source, target in edges:
        join(("out", source), ("in", target), INFINITE)
    for vertex in sources:
        join(start, ("in", vertex), INFINITE)
    for vertex in sinks:
        join(("out", vertex), end, INFINITE)
    room.setdefault(start, {})
    room.setdefault(end, {})
    flow = 0
    while path := _path(room, start, end):
        least = min(room[one][other] for one, other in path)
        flow += least
        # Not each path by itself: several may share a vertex of infinite cost.
        if flow >= INFINITE:
            return None
        for one, other in path:
            room[one][other] -= least
            room[other][one] += least
    # What still reaches the end lies behind the cut.
    behind, open_ = {end}, deque([end])
    while open_:
        here = open_.popleft()
        for one in room[here]:
            if one not in behind and room[one][here] > 0:
                behind.add(one)
                open_.append(one)
    return {vertex for vertex in costs if ("out", vertex) in behind and ("in", vertex) not in behind}


def _path(room: _Room, start: _End, end: _End) -> list[tuple[_End, _End]]:
    """Returns the edges of a shortest path that has room; none if there is no such path."""
    came: dict[_End, _End] = {start: start}
    open_ = deque([start])
    while open_ and end not in came:
        here = open_.popleft()
        for other, capacity in room[here].items():
            if capacity > 0 and other not in came:
                came[other] = here
                open_.append(other)
    path: list[tuple[_End, _End]] = []
    here = end
    while here in came and here != start:
        path.append((came[here], here))
        here = came[here]
    return path
