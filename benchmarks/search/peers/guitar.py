"""GUITAR: the gradient of the score at an expanded item says which of its neighbours are evaluated (arXiv 2312.16828).

The walk is best-first, from the user's history. When an item is expanded, its neighbours that were not evaluated yet
are ranked by the angle between the score's gradient at the item and the way to the neighbour. A part of them is
evaluated: a fixed share or, adaptively, all whose angle is at most `alpha` times the smallest.

It has no public implementation, and a walk in NumPy would measure NumPy. What is timed is therefore a lower bound: our
op scores as many items as the walk evaluates, and two more for each gradient, which takes a pass forward and one back.
Its batches are as large as those of the walk on average, of which a step has three: the neighbours, and the expanded
items in both directions. The walk itself and the angles are not counted.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.search.peers.peer import Workload
from tfserving_ext.progress import progress
from tfserving_ext.retrieval import NeuralTopK, ScorerOptions

POOL = 200  # The default of our best-first search; a pool below k counts as k.
GRADIENT = 2  # Evaluations that a gradient costs.
BATCHES = 1 + GRADIENT  # The batches that the model runs in one step.
CHUNK = 2048  # Items that are scored at a time for the walk, which looks its scores up.
FINENESS = 16  # Sizes of batches are multiples of it.

# How neighbours are pruned, and how many items are expanded in a step. "share" evaluates this part of an item's
# neighbours, "alpha" those within so many times the smallest angle.
Setting = tuple[str, float, int]


@dataclasses.dataclass(frozen=True)
class Walk:
    """The counts and the answer of one walk.

    Attributes:
      found: dense indices of the best k items, best first.
      evaluated: how many items it evaluated.
      gradients: how many items it expanded, each of which needs a gradient.
      steps: in how many steps.
    """

    found: np.ndarray
    evaluated: int
    gradients: int
    steps: int

    @property
    def cost(self) -> int:
        """How many evaluations it is worth, including the gradients."""
        return self.evaluated + GRADIENT * self.gradients


class Guitar:
    """Gradient pruning on the ground layer of our graph. Implements `Peer`.

    Attributes:
      name: see `Peer`.
      settings: see `Setting`.
      walks: for each setting, the walks of all cases.
    """

    name = "guitar"
    settings: Sequence[Setting] = (
        *(("alpha", amount, frontier) for frontier in (16, 32) for amount in (1.03, 1.05, 1.1)),
        *(("share", amount, frontier) for frontier in (16, 32) for amount in (0.05, 0.1, 0.2, 0.3)),
        *(("alpha", 1.03, 64), ("share", 0.05, 64)),
        ("share", 1.0, 16),  # Every neighbour, as our best-first search.
    )

    def __init__(self, workload: Workload) -> None:
        """Walks for every case with every setting, and traces what is timed."""
        self._workload, index = workload, workload.index
        self._embeddings, self._item_ids = np.array(index.embeddings()), np.array(index.item_ids)
        ground = index.layers[0]
        self._neighbors = np.split(np.array(ground.neighbors), ground.row_splits[1:-1])
        score = workload.trained.model.score
        specs = [tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype) for tensor in workload.user]

        def gradients(user: Sequence[tf.Tensor], rows: tf.Tensor) -> tf.Tensor:
            return tf.gradients(score(tuple(user), rows), rows)[0]

        rows = tf.TensorSpec([1, None, index.dim])
        self._gradients = tf.function(gradients, autograph=False, input_signature=[specs, rows])
        self.walks: dict[Setting, list[Walk]] = {setting: [] for setting in self.settings}
        with progress("guitar: walking", len(workload.histories)) as advance:
            for case in range(len(workload.histories)):
                self._walk_case(case)
                advance()
        self._scoring: dict[int, Any] = {}
        for setting in self.settings:
            size = self._batch(setting)
            if size not in self._scoring:
                neural = NeuralTopK(index, score, options=ScorerOptions(batch_sizes=[size]))
                self._scoring[size] = tf.function(
                    # The first step scores the seeds, and the budget ends the search after it.
                    partial(_scored_seeds, neural),
                    autograph=False,
                    input_signature=[specs, tf.TensorSpec([None, None], tf.int64)],
                )
        self._order = np.random.default_rng(0).permutation(self._item_ids)
        for setting in self.settings:
            self(0, 1, setting)

    def __call__(self, first: int, last: int, setting: Setting) -> np.ndarray:
        """Scores what is timed and gives the walks' answers; see `Peer`."""
        answers, _ = self.counted(first, last, setting)
        self.score_as_many(first, last, setting)
        return answers

    def score_as_many(self, first: int, last: int, setting: Setting) -> np.ndarray:
        """Scores as many items for each case as the walks cost on average; returns how many the op scored, int64 [B].

        Which items they are makes no difference to the time; they differ from case to case.
        """
        cost = round(float(np.mean([walk.cost for walk in self.walks[setting][first:last]])))
        places = (np.arange(first, last)[:, None] * cost + np.arange(cost)) % len(self._order)
        user = [tensor[first:last] for tensor in self._workload.user]
        return self._scoring[self._batch(setting)](user, tf.constant(self._order[places])).numpy()

    def _batch(self, setting: Setting) -> int:
        """Returns the size of the batches to time, that of the walks' batches on average or a little more."""
        walks = self.walks[setting]
        mean = sum(walk.cost for walk in walks) / sum(BATCHES * walk.steps for walk in walks)
        return FINENESS * int(np.ceil(mean / FINENESS))

    def counted(self, first: int, last: int, setting: Setting) -> tuple[np.ndarray, np.ndarray]:
        """See `Counting`; each gradient counts as `GRADIENT` evaluations."""
        walks = self.walks[setting][first:last]
        answers = np.full([len(walks), self._workload.k], -1, np.int64)
        for answer, walk in zip(answers, walks, strict=True):
            answer[: len(walk.found)] = self._item_ids[walk.found]
        return answers, np.array([walk.cost for walk in walks])

    def _walk_case(self, case: int) -> None:
        """Walks for a case with every setting; its scores and gradients are computed once."""
        user = [tensor[case : case + 1] for tensor in self._workload.user]
        score, table = self._workload.trained.model.score, self._embeddings
        parts = [score(tuple(user), tf.constant(table[None, at : at + CHUNK]))[0] for at in range(0, len(table), CHUNK)]
        scores = np.concatenate(parts)
        known: dict[int, np.ndarray] = {}

        def gradients(items: np.ndarray) -> list[np.ndarray]:
            fresh = [item for item in items.tolist() if item not in known]
            if fresh:
                known.update(zip(fresh, self._gradients(user, table[None, fresh])[0].numpy(), strict=True))
            return [known[item] for item in items.tolist()]

        start = np.flatnonzero(np.isin(self._item_ids, self._workload.histories[case]))
        start = start if len(start) else np.asarray(self._workload.index.entry_points)
        for setting, walks in self.walks.items():
            walks.append(self._walk(scores, gradients, start, setting))

    def _walk(self, scores: np.ndarray, gradients: Any, start: np.ndarray, setting: Setting) -> Walk:
        k, steps = self._workload.k, 0
        evaluated, expanded = np.zeros(len(scores), bool), np.zeros(len(scores), bool)
        evaluated[start] = True
        pool = _best(max(POOL, k), scores, start)
        while len(frontier := pool[~expanded[pool]][: setting[2]]):
            steps += 1
            expanded[frontier] = True
            met = [pool]
            for item, gradient in zip(frontier, gradients(frontier), strict=True):
                fresh = self._neighbors[item][~evaluated[self._neighbors[item]]]
                chosen = fresh[promising(gradient, self._embeddings[fresh] - self._embeddings[item], setting)]
                evaluated[chosen] = True
                met.append(chosen)
            pool = _best(max(POOL, k), scores, np.concatenate(met))
        return Walk(pool[:k], int(evaluated.sum()), int(expanded.sum()), steps)


def promising(gradient: np.ndarray, ways: np.ndarray, setting: Setting) -> np.ndarray:
    """Chooses the neighbours of an item that are evaluated, by the angles between the gradient and the ways to them.

    Args:
      gradient: of the score at the item, [dim].
      ways: from the item to its neighbours, [m, dim].
      setting: see `Setting`.

    Returns:
      Which of the m are chosen, int64 [chosen].
    """
    if not len(ways):
        return np.zeros(0, np.int64)
    rule, amount, _ = setting
    lengths = np.maximum(np.linalg.norm(ways, axis=1) * np.linalg.norm(gradient), 1e-30)
    angles = np.arccos(np.clip(ways @ gradient / lengths, -1, 1))
    if rule == "alpha":
        return np.flatnonzero(angles <= amount * angles.min())
    return np.argsort(angles, kind="stable")[: int(np.ceil(amount * len(ways)))]


def _scored_seeds(neural: NeuralTopK, user: Sequence[tf.Tensor], seeds: tf.Tensor) -> tf.Tensor:
    return neural.best_first(user, 1, seeds, budget=tf.size(seeds[0])).items_scored


def _best(count: int, scores: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Returns the `count` of `items` with the highest scores, best first; ties by the lower index."""
    return items[np.lexsort((items, -scores[items]))[:count]]
