"""The subject of an evaluation: a model, its index and held-out cases; runs brute force and the searches on them."""

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfserving_ext.data.sequences import Sequences
from tfserving_ext.errors import NannError
from tfserving_ext.evaluation.cases import HeldOut, choose_cases, part, user_tensors
from tfserving_ext.index.format import Index
from tfserving_ext.models import UserTensors
from tfserving_ext.models.checkpoint import load_model
from tfserving_ext.ops import SearchResult
from tfserving_ext.progress import progress
from tfserving_ext.retrieval.brute_force import BruteForce
from tfserving_ext.retrieval.metrics import coverage, target_ranks
from tfserving_ext.retrieval.neural_top_k import NeuralTopK
from tfserving_ext.retrieval.parameters import BestFirst, Rounds, Surrogate
from tfserving_ext.training.extract import check_match

BATCH = 32
CUTOFFS = (50, 200)


@dataclasses.dataclass(frozen=True)
class Setting:
    """A search and where it starts.

    Attributes:
      parameters: the parameters of the search; their class tells which search it is.
      seeded: whether it starts from the user's history, as the best-first search does when deployed.
    """

    parameters: BestFirst | Rounds
    seeded: bool

    @classmethod
    def deployed(cls, parameters: BestFirst | Rounds) -> "Setting":
        """Returns the search as an export serves it: best-first from the history, the paper's from the entry points."""
        return cls(parameters, isinstance(parameters, BestFirst))


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The results of a search on N cases, compared with brute force.

    Attributes:
      ranks: int32 [N], the target's place in the answer, from 0; -1 if it is not there.
      coverage: float32 [N, cutoffs].
      items_scored: int64 [N].
      rounds: int32 [N], rounds of the walk.
      search_us: int64 [N], microseconds in the op; 0 for brute force.
      nan_scores: the number of scores that were NaN.
      seconds: wall time of all cases.
    """

    ranks: np.ndarray
    coverage: np.ndarray
    items_scored: np.ndarray
    rounds: np.ndarray
    search_us: np.ndarray
    nan_scores: int
    seconds: float


def name_of_search(parameters: BestFirst | Rounds) -> str:
    """Returns the name that the search with these parameters has in figures and options."""
    if isinstance(parameters, Rounds):
        return "rounds"
    return "surrogate" if isinstance(parameters, Surrogate) else "best_first"


def cutoffs_of(k: int) -> tuple[int, ...]:
    """Returns the cutoffs of recall and coverage for answers of length k: 50 and 200 if they are below k, and k."""
    return (*(cutoff for cutoff in CUTOFFS if cutoff < k), k)


class Subject:
    """A model, its index, and the held-out cases on which both are evaluated.

    Attributes:
      sequences: the data.
      trained: the model.
      index: its index.
      k: length of the answers.
      cutoffs: the cutoffs of recall and coverage, ascending; the last one is k.
      cases: the cases.
      targets: int64 [N], the item id of each case's target.
      neural: the searches.
    """

    def __init__(
        self,
        data: str | os.PathLike[str],
        model: str | os.PathLike[str],
        index: str | os.PathLike[str],
        held_out: HeldOut,
    ) -> None:
        """Opens the folders that `nann convert`, `nann train` and `nann index` wrote.

        Raises:
          NannError: the artefacts do not belong together, a parameter is out of its range, or the split has no users.
        """
        self.sequences, self.trained, self.index = Sequences.open(data), load_model(model), Index.open(index).numbered()
        check_match(self.trained, self.index)
        self.k = k = held_out.k
        self.cutoffs = cutoffs_of(k)
        self.neural = NeuralTopK(self.index, self.trained.model.score)
        self.neural.check(BestFirst(), k)
        if k > len(self.index.item_ids):
            raise NannError(f"k is {k}, allowed are 1 to {len(self.index.item_ids)}, the items of {index}")
        self.cases = choose_cases(self.sequences, held_out, self.trained.model.config.history_length)
        self.targets = self.sequences.ids_of(self.cases.targets)
        self._searches: dict[type, Callable[..., SearchResult]] = {}
        self._exact: tuple[np.ndarray, Outcome] | None = None

    def on(self, index: Index) -> "Subject":
        """Returns the same model and cases with another graph over the same items; keeps brute force's answers.

        Raises:
          NannError: the index holds other items.
        """
        if not np.array_equal(index.item_ids, self.index.item_ids):
            raise NannError(f"{index.folder} holds other items than {self.index.folder}")
        other = object.__new__(Subject)
        other.__dict__.update(self.__dict__)
        other.index, other.neural = index, NeuralTopK(index, self.trained.model.score)
        other._searches = {}
        return other

    def user(self, rows: Any) -> tuple[UserTensors, tf.Tensor]:
        """Returns user tensors, and the histories as seeds, int64 [B, L] item ids, of some of the cases."""
        chosen = part(self.cases, rows)
        seeds = tf.constant(self.sequences.ids_of(chosen.histories))
        return user_tensors(self.trained, self.sequences, chosen), seeds

    def exact(self) -> tuple[np.ndarray, Outcome]:
        """Returns brute force's answers, item ids int64 [N, k], and their outcome; computed by the first call."""
        if self._exact is None:
            # The users of a batch share the items, so that what depends on the item alone is computed once per batch.
            brute_force = BruteForce(self.index, self.trained.model.score, shared_items=True)
            k = tf.constant(self.k)
            search = _traced(lambda user, seeds: brute_force.search(user, k), self.user(slice(0, 1)))
            results, seconds = [], 0.0
            with progress("brute force", len(self.cases)) as advance:
                for rows in self._batches(np.arange(len(self.cases))):
                    user, seeds = self.user(rows)
                    before = time.monotonic()
                    results.append(_numpy(search(user, seeds)))
                    seconds += time.monotonic() - before
                    advance(len(rows))
            item_ids = np.concatenate([result.item_ids for result in results])
            held = np.ones([len(item_ids), len(self.cutoffs)], np.float32)
            ranks = target_ranks(item_ids, self.targets)
            self._exact = item_ids, _outcome(results, ranks, held, seconds)
        return self._exact

    def measure(
        self, settings: Mapping[str, Setting], rows: np.ndarray | None = None, title: str = "searches"
    ) -> dict[str, Outcome]:
        """Runs several searches on the same cases.

        Args:
          settings: the searches, by name.
          rows: int64 [N], the rows of the cases; None for all.
          title: title of the progress bar.

        Returns:
          The outcomes, by name.

        Raises:
          NannError: parameters do not fit the index.
        """
        for setting in settings.values():
            self.neural.check(setting.parameters, self.k)
        rows = np.arange(len(self.cases)) if rows is None else rows
        exact = self.exact()[0]
        results: dict[str, list[SearchResult]] = {name: [] for name in settings}
        ranks: dict[str, list[np.ndarray]] = {name: [] for name in settings}
        covered: dict[str, list[np.ndarray]] = {name: [] for name in settings}
        seconds = dict.fromkeys(settings, 0.0)
        with progress(title, len(rows) * len(settings)) as advance:
            for batch in self._batches(rows):
                user, seeds = self.user(batch)
                for name, setting in settings.items():
                    search = self._search(type(setting.parameters))
                    before = time.monotonic()
                    found = _numpy(search(user, seeds if setting.seeded else seeds[:, :0], setting.parameters))
                    seconds[name] += time.monotonic() - before
                    at = [coverage(found.item_ids[:, :c], exact[batch, :c]) for c in self.cutoffs]
                    covered[name].append(np.stack(at, axis=1).astype(np.float32))
                    ranks[name].append(target_ranks(found.item_ids, self.targets[batch]))
                    # The answers, which would take most of the memory, are dropped.
                    results[name].append(found._replace(item_ids=None, scores=None))
                    advance(len(batch))
        return {
            name: _outcome(results[name], np.concatenate(ranks[name]), np.concatenate(covered[name]), seconds[name])
            for name in settings
        }

    def _search(self, kind: type) -> Callable[[UserTensors, tf.Tensor, Any], SearchResult]:
        """Returns the search with this class of parameters; it is traced once for all their values."""
        if kind not in self._searches:
            neural, k = self.neural, self.k
            sample = self.user(slice(0, 1))
            if kind is Rounds:
                layers = tf.zeros([len(self.index.layers) + 1], tf.int32)
                traced = _traced(
                    lambda user, seeds, ef, rounds: neural.rounds(user, k, ef, rounds, seeds=seeds),
                    (*sample, layers, layers),
                )
            else:
                names = [field.name for field in dataclasses.fields(kind)]
                walk = neural.surrogate if kind is Surrogate else neural.best_first
                traced = _traced(
                    lambda user, seeds, *values: _alone(walk(user, k, seeds, **dict(zip(names, values, strict=True)))),
                    (*sample, *(tf.constant(field.default) for field in dataclasses.fields(kind))),
                )

            def search(user: UserTensors, seeds: tf.Tensor, parameters: BestFirst | Rounds) -> SearchResult:
                values = (getattr(parameters, field.name) for field in dataclasses.fields(parameters))
                return traced(user, seeds, *(tf.constant(value) for value in values))

            search(*sample, kind())  # The first call runs the passes over the scorer, which is not to be timed.
            self._searches[kind] = search
        return self._searches[kind]

    @staticmethod
    def _batches(rows: np.ndarray) -> Iterator[np.ndarray]:
        for start in range(0, len(rows), BATCH):
            yield rows[start : start + BATCH]


def _traced(function: Callable[..., SearchResult], sample: Any) -> Callable[..., SearchResult]:
    """Traces a function for batches of any size and any number of seeds."""
    user, seeds, *others = sample
    users = tuple(tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype) for tensor in user)
    specs = [users, tf.TensorSpec([None, None], seeds.dtype), *(tf.TensorSpec(o.shape, o.dtype) for o in others)]
    traced = tf.function(function, input_signature=specs)
    traced.get_concrete_function()  # Traces now, so that tracing is not timed as searching.
    return traced


def _alone(found: Any) -> SearchResult:
    """Returns a search's result without the statistics that some return beside it."""
    return found if isinstance(found, SearchResult) else found[0]


def _numpy(result: SearchResult) -> SearchResult:
    return SearchResult(*(part.numpy() for part in result))


def _outcome(results: list[SearchResult], ranks: np.ndarray, covered: np.ndarray, seconds: float) -> Outcome:
    joined = {
        name: np.concatenate([getattr(result, name) for result in results])
        for name in ("items_scored", "rounds", "search_us")
    }
    nan_scores = int(sum(result.nan_scores.sum() for result in results))
    return Outcome(ranks=ranks, coverage=covered, **joined, nan_scores=nan_scores, seconds=seconds)
