"""The surrogate search in float64, written from the comments of custom_ops/core/surrogate.h and its neighbours.

Everything is dense: a weight for each two items, and a fit from scratch in each step. What the documentation leaves to
the program, because it bounds time or memory, is here as the program has it: the constants, and that an evaluated item
corrects those neighbours that were candidates when it was evaluated.
"""

import dataclasses
import itertools
from pathlib import Path

import numpy as np

from tests.ops.reference import Answer, Graph, Scores, answer, enter_ground, user_scores, walk_ground

# The constants of surrogate.cc.
ONE, RIDGE, PRIOR = 16.0, 0.3 * 16.0**2, 0.1
STEPS_OF_WIDTH, FARTHEST = 64 * 0.3, 89
# The constants of surrogate_search.cc.
LEAST_ERROR, MANY_SEEDS, FEWEST, LEAST_BATCH = 1e-3, 100, 0.05, 8
ENOUGH, LEAST_CORRELATION, KNOWN = 192, 0.06, 0.5


@dataclasses.dataclass(frozen=True)
class World:
    """A graph with what the surrogate reads: features int8 [n, width], and a distance for each edge at the ground."""

    graph: Graph
    features: np.ndarray
    distances: list[list[int]]

    @classmethod
    def of(cls, graph: Graph) -> "World":
        """Gives any graph features and distances, always the same."""
        rng = np.random.default_rng(len(graph))
        features = np.clip(np.rint(rng.normal(0, 16, [len(graph), 16])), -127, 127).astype(np.int8)
        return cls(graph, features, [rng.integers(0, 256, len(row)).tolist() for row in graph.layers[0]])

    def write(self, folder: Path, embeddings: np.ndarray) -> list[str]:
        """Writes the files of docs/format.md byte by byte; returns the paths in the order of `Nann>IndexOpen`."""
        paths = self.graph.write(folder, embeddings)
        flat = [distance for row in self.distances for distance in row]
        for name, array in (("item_features", self.features.astype("i1")), ("edge_distances", np.array(flat, "u1"))):
            path = folder / f"{name}.bin"
            path.unlink(missing_ok=True)
            path.write_bytes(array.tobytes())
            paths.append(str(path))
        return paths


@dataclasses.dataclass(frozen=True)
class SurrogateAnswer(Answer):
    """An answer with the search's own outputs.

    Attributes:
      candidates: see `ops.SurrogateStatistics`, as the next three.
      margin: an upper bound of how far all predictions could move without any decision being another.
    """

    candidates: int = 0
    prediction_error: float = 0.0
    estimated_coverage: float = 0.0
    fell_back: bool = False
    margin: float = np.inf


def log_odds(scores: np.ndarray) -> np.ndarray:
    """Returns log(p / (1 - p)) for each score, [n], that is better than the share p; equal scores share their ranks."""
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    worse = (np.cumsum(counts) - counts / 2)[place]
    return np.log(worse) - np.log(len(scores) - worse)


def smooth_step(t: np.ndarray) -> np.ndarray:
    t = np.clip(t, 0, 1)
    return 35 * t**4 - 84 * t**5 + 70 * t**6 - 20 * t**7


class Surrogate:
    """Predicts targets of candidates. All arrays are over the items of the index."""

    def __init__(self, world: World) -> None:
        self.world = world
        n = len(world.graph)
        self.rows = np.concatenate([world.features.astype(np.float64), np.full([n, 1], ONE)], axis=1)
        self.weights = np.zeros([n, n])  # weights[c, i] of the evaluated neighbour i for the candidate c.
        self.met: dict[int, int] = {}  # The items that are or were candidates, in the order in which they became so.
        self.evaluated = np.zeros(n, bool)
        self.observed: list[int] = []

    def meet(self, item: int) -> None:
        self.met.setdefault(item, len(self.met))

    def ignore(self, item: int) -> None:
        self.meet(item)
        self.evaluated[item] = True

    def observe(self, item: int, expand: bool) -> None:
        self.meet(item)
        self.evaluated[item] = True
        self.observed.append(item)
        neighbors, distances = self.world.graph.layers[0][item], self.world.distances[item]
        for neighbor, distance in zip(neighbors, distances, strict=True):
            if expand:
                self.meet(neighbor)
            if neighbor in self.met and not self.evaluated[neighbor] and distance < FARTHEST:
                self.weights[neighbor, item] += np.exp(-distance / STEPS_OF_WIDTH)

    def predict(self, targets: np.ndarray) -> np.ndarray:
        """Returns predictions [n], from the targets of the observed items; -inf for what is no candidate."""
        rows = self.rows[self.observed]
        matrix = rows.T @ rows + RIDGE * np.eye(rows.shape[1])
        linear = np.linalg.solve(matrix, rows.T @ targets)
        weights = self.weights[:, self.observed]
        corrections = weights @ (targets - rows @ linear) / (weights.sum(axis=1) + PRIOR)
        predictions = np.full(len(self.rows), -np.inf)
        candidates = [item for item in self.met if not self.evaluated[item]]
        predictions[candidates] = (self.rows @ linear + corrections)[candidates]
        return predictions


class Check:
    """Compares predictions with what came of them."""

    def __init__(self) -> None:
        self.products = np.zeros(3)  # Covariance, variance of predictions, variance of targets.
        self.mean_square = self.expected = self.found = 0.0
        self.count = 0

    def add(self, predictions: np.ndarray, targets: np.ndarray, expected: float, found: float) -> None:
        p, t = predictions - predictions.mean(), targets - targets.mean()
        self.products += [p @ t, p @ p, t @ t]
        mean_square = np.mean((targets - predictions) ** 2)
        self.mean_square = (self.mean_square + mean_square) / 2 if self.count else mean_square
        self.expected = self.expected / 2 + expected
        self.found = self.found / 2 + found
        self.count += len(targets)

    @property
    def error(self) -> float:
        return float(np.sqrt(self.mean_square))

    @property
    def found_per_expected(self) -> float:
        return (self.found + KNOWN) / (self.expected + KNOWN)

    @property
    def excess(self) -> float:
        """By how much the covariance is above the least one, per unit by which all predictions move."""
        covariance, of_predictions, of_targets = self.products
        excess = covariance - LEAST_CORRELATION * np.sqrt(of_predictions * of_targets)
        return excess / (np.sqrt(self.count * of_targets) + 1e-12)


class SurrogateWalk:
    """The walk of the ground layer, for one user."""

    def __init__(self, world: World, user: Scores, k: int, pool: int, batch: int, allowed: float) -> None:
        self.user, self.k, self.pool, self.batch, self.allowed = user, k, max(pool, k), max(batch, k // 4), allowed
        self.surrogate = Surrogate(world)
        self.check = Check()
        self.learnt = 0
        self.numbers: list[int] = []  # The evaluated items whose score is not NaN.
        self.predicted: dict[int, float] = {}
        self.missed, self.expected, self.margin = np.inf, 0.0, np.inf
        self.exhausted = False  # Whether nothing is left to evaluate.

    def last(self, count: int) -> tuple[int, int]:
        """Returns the last of the best `count` items that are not excluded, or the worst, and its place."""
        ranked = self.user.ranked(set(self.numbers))
        others = np.cumsum([item not in self.user.excluded for item in ranked])
        place = int(np.searchsorted(others, count)) if others[-1] >= count else len(ranked) - 1
        return ranked[place], place

    def learn(self) -> None:
        fresh = list(self.user.evaluated)[self.learnt :]
        self.learnt += len(fresh)
        numbers = [item for item in fresh if not self.user.is_nan[item]]
        for item in fresh:
            if self.user.is_nan[item]:
                self.surrogate.ignore(item)
        self.numbers += numbers
        if self.numbers:
            allowed = set(self.user.ranked(set(self.numbers))[: self.last(self.pool + self.pool // 2)[1] + 1])
            for item in numbers:
                self.surrogate.observe(item, item in allowed)
        self.targets = log_odds(self.user.values[self.numbers].astype(np.float64))
        if self.predicted and numbers:
            best = set(self.user.ranked(set(self.numbers))[: self.last(self.k)[1] + 1])
            found = len(best & set(numbers)) if self.expected > 0 else 0
            predictions = np.array([self.predicted[item] for item in numbers])
            self.check.add(predictions, self.targets[-len(numbers) :], self.expected, found)
        self.predictions = self.surrogate.predict(self.targets)

    @property
    def failed(self) -> bool:
        if self.exhausted and self.user.is_nan[list(self.user.evaluated)].any():
            return True
        if self.check.count < ENOUGH:
            return False
        self.margin = min(self.margin, abs(self.check.excess))
        return self.check.excess < 0

    def choose(self) -> list[int]:
        """Returns the items to evaluate next, best prediction first; none if the walk is complete."""
        candidates = [item for item in self.surrogate.met if not self.surrogate.evaluated[item]]
        candidates.sort(key=lambda item: -self.predictions[item])  # Of equal ones, what was met first stays first.
        place = self.last(self.k)[1] if self.numbers else 0
        if self.check.count == 0 or place + 1 >= len(self.numbers):
            self.exhausted = not candidates
            self.missed, self.expected = np.inf if candidates else 0.0, 0.0
            chosen = candidates[: self.batch]
        else:
            chosen = self._expected(candidates)
        if 0 < len(chosen) < len(candidates):
            gap = self.predictions[chosen[-1]] - self.predictions[candidates[len(chosen)]]
            self.margin = min(self.margin, gap)
        self.predicted = {item: self.predictions[item] for item in chosen}
        return chosen

    def _expected(self, candidates: list[int]) -> list[int]:
        last = self.last(self.k)[0]
        bound = self.targets[self.numbers.index(last)] + 3 * LEAST_ERROR
        error, found = max(self.check.error, LEAST_ERROR), self.check.found_per_expected
        t = (self.predictions[candidates] - bound) / error / 6 + 0.5
        chances = smooth_step(t)
        slope = (smooth_step(t + 1e-6) - smooth_step(t - 1e-6)).sum() / 2e-6 / 6 / error * found
        missed = self.missed = chances.sum() * found

        def enough(missed: float) -> bool:
            self.margin = min(self.margin, abs(missed - self.allowed) / (slope + 1))
            return missed <= self.allowed

        chosen, self.expected = [], 0.0
        if enough(missed):
            return chosen
        for item, chance in zip(candidates[: self.batch], chances, strict=False):
            if chance == 0 or (len(chosen) >= LEAST_BATCH and enough(missed)):
                break
            chosen.append(item)
            self.expected += chance
            missed -= chance * found
        return chosen


def surrogate_search(
    world: World,
    scores: np.ndarray,
    k: int,
    frontier: int,
    pool: int,
    max_steps: int,
    batch: int,
    expected_coverage: float,
    exclude: list[int],
    seeds: set[int] = frozenset(),
) -> SurrogateAnswer:
    """Searches for one user; the parameters are those of `ops.surrogate_search`, and `seeds` are dense indices."""
    graph = world.graph
    user = user_scores(graph, scores, exclude)
    entries, cut = enter_ground(graph, user, seeds, frontier, max_steps)
    share = min(max(len(seeds) / MANY_SEEDS, FEWEST), 1)
    allowed = (1 - float(np.float32(expected_coverage))) * k * share
    walk = SurrogateWalk(world, user, k, pool, batch, allowed)
    for step in itertools.count():
        walk.learn()
        if walk.failed:
            break
        chosen = walk.choose()
        if not chosen:
            break
        if step == max_steps > 0:
            cut = True
            break
        user.round(chosen)
    failed = walk.failed
    if failed:
        user.rounds += bool(seeds)  # They are met again.
        cut |= walk_ground(graph, user, entries, bool(seeds), frontier, max(pool, k), max_steps)[1]
    return SurrogateAnswer(
        **dataclasses.asdict(answer(graph, user, set(user.evaluated), k)) | {"stopped": 3 if cut else 0},
        candidates=len({*walk.surrogate.met, *user.evaluated}),
        prediction_error=walk.check.error,
        estimated_coverage=0.0 if failed else max(-100.0, 1 - walk.missed / (k * share)),
        fell_back=failed,
        margin=walk.margin,
    )
