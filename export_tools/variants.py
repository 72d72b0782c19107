"""Makes the variants of a scorer from which an export chooses, and checks that each gives the model's own scores.

A scorer has three forms: `plain`, as the model wrote it; `passes`, as the passes have rewritten it; and `passes+fold`,
which also takes rows in place of embeddings (docs/scorer.md). Each runs by TensorFlow's kernels or, as `plain+xla` and
so on, compiled by XLA.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from export_tools.sources import Source
from export_tools.warm_up import EXAMPLE_HISTORY, Examples
from tfserving_ext import ops
from tfserving_ext.index.format import Index
from tfserving_ext.models import UserTensors

PLAIN, PASSES, FOLD = FORMS = ("plain", "passes", "passes+fold")
XLA = "+xla"
# The simplest first.
NAMES = (*FORMS, *(form + XLA for form in FORMS))

SAMPLE_ITEMS = 1024
CHECKED = 256  # Items that are scored at once: one of the sizes that are measured, so that XLA compiles nothing more.
# Allowed difference, relative to the largest score: sums in another order differ by this much. The second applies to a
# scorer that computes in float16 or bfloat16.
TOLERANCE = 1e-5
NARROW_TOLERANCE = 3e-2


class VariantError(Exception):
    """A variant cannot be made, or gives other scores than the model; the message says why."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """A variant of a scorer, which gives the model's own scores.

    Attributes:
      name: one of `NAMES`.
      scorer: what a search runs; it has a compiled function only if the variant is one by XLA.
      rewritten: the result of `ops.rewrite_scorer`; None if the variant is the model's own function.
      difference: the largest difference found from the model's own scores, relative to the largest score.
    """

    name: str
    scorer: ops.Scorer
    rewritten: ops.RewrittenScorer | None = None
    difference: float = 0.0

    @property
    def fold(self) -> Callable[[tf.Tensor], tf.Tensor] | None:
        """The function from items, float32 [1, n, dim], to the rows that the scorer takes; None if it takes items."""
        return None if self.rewritten is None else self.rewritten.fold

    def facts(self) -> dict[str, Any] | None:
        """Returns the manifest's entry `scorer`, what the passes did; None if they did not run."""
        if self.rewritten is None:
            return None
        return {
            "folded": self.fold is not None,
            "row_dim": self.rewritten.row_dim,
            "difference": self.difference,
            "report": [report._asdict() for report in self.rewritten.report],
        }


class Variants:
    """Makes the variants of one scorer.

    Attributes:
      users: user tensors to compare scores for, each [1, ...]; the first are of a realistic request.
      items: float32 [m, dim], embeddings of the index.
      dim: width of an item embedding.
    """

    def __init__(
        self,
        score: Callable[..., tf.Tensor],
        specs: Sequence[tf.TensorSpec],
        users: Sequence[UserTensors],
        items: np.ndarray,
        xla: bool = True,
    ) -> None:
        """Traces the scorer.

        Args:
          score: called as score(*user, items) with user tensors [1, ...] and items float32 [1, n, dim].
          specs: shapes and types of the user tensors, [1, ...], with None for an extent that requests decide.
          users: see the attributes.
          items: see the attributes.
          xla: trace it for XLA too; otherwise, variants by XLA are refused.
        """
        self.users, self.items, self.dim = users, items, items.shape[1]
        self._specs = specs
        self._no_xla = "" if xla else "it was not traced for XLA"
        if any(extent is None for spec in specs for extent in spec.shape[1:]):
            # A request of another length would wait for XLA.
            self._no_xla = "XLA would compile it again for every new extent of a user tensor"
        try:
            self._scorer = ops.trace_scorer(score, specs, self.dim, xla=not self._no_xla)
        except ValueError as error:
            if self._no_xla:
                raise
            self._no_xla = first_line(error)
            self._scorer = ops.trace_scorer(score, specs, self.dim)
        self._rewritten: dict[bool, ops.RewrittenScorer] = {}

    @classmethod
    def of_source(cls, source: Source, index: Index, xla: bool) -> "Variants":
        """Makes the variants of a model's scorer, for users who have items of the index in their history."""
        examples = Examples.of_source(source)
        known = examples.seeds_of(index, slice(EXAMPLE_HISTORY))
        features = {
            name: tf.constant(value, source.features[name].dtype)
            for name, value in examples.inputs(known).items()
            if name in source.features
        }
        user = source.user_tensors({**source.defaults, **features})
        traced = tf.function(source.user_tensors, autograph=False).get_concrete_function(
            {name: tf.TensorSpec(spec.shape, spec.dtype, name) for name, spec in source.features.items()}
        )
        specs = [tf.TensorSpec([1, *tensor.shape[1:]], tensor.dtype) for tensor in traced.structured_outputs]
        noisy = tuple(_noise(tensor) for tensor in user)
        sample = np.linspace(0, len(index.item_ids) - 1, SAMPLE_ITEMS).astype(np.int64)
        items = index.embeddings(sample)
        return cls(lambda *tensors: source.score(tensors[:-1], tensors[-1]), specs, [user, noisy], items, xla)

    def make(self, name: str) -> Variant:
        """Makes a variant and compares its scores with the model's own, on items of the index and on random ones.

        Args:
          name: one of `NAMES`.

        Raises:
          VariantError: it cannot be made, or its scores differ.
        """
        form, by_xla = name.removesuffix(XLA), name.endswith(XLA)
        if by_xla and self._no_xla:
            raise VariantError(self._no_xla)
        rewritten = None if form == PLAIN else self._rewrite(form == FOLD)
        scorer = self._scorer if rewritten is None else rewritten.scorer
        variant = Variant(name, scorer if by_xla else scorer._replace(compiled=None), rewritten)
        if name == PLAIN:
            return variant
        try:
            difference, tolerance = self._difference(variant)
        except (tf.errors.OpError, ValueError) as error:
            raise VariantError(first_line(error)) from error
        if not difference <= tolerance:
            raise VariantError(f"its scores differ from the model's by {difference:.1e} of the largest score")
        return dataclasses.replace(variant, difference=difference)

    def _rewrite(self, fold: bool) -> ops.RewrittenScorer:
        if fold not in self._rewritten:
            try:
                made = ops.rewrite_scorer(self._scorer, self._specs, self.dim, fold_items=fold)
            except (tf.errors.OpError, ValueError) as error:
                raise VariantError(first_line(error)) from error
            self._rewritten[fold] = made
            if made.fold is None:  # Then it is what the passes make without folding.
                self._rewritten[False] = made
        if fold and self._rewritten[True].fold is None:
            reasons = [entry.reason for entry in self._rewritten[True].report if entry.name == "item_fold"]
            raise VariantError(f"nothing is folded: {', '.join(reasons)}")
        return self._rewritten[fold]

    def _difference(self, variant: Variant) -> tuple[float, float]:
        """Returns the largest difference relative to the largest score, and the largest one allowed."""
        real = self.items[np.arange(SAMPLE_ITEMS) % len(self.items)]
        random = np.random.default_rng(0).normal(0, real.std() or 1, real.shape).astype(np.float32)
        largest = 0.0
        for user in self.users:
            for items in (real, random):
                parts = [tf.constant(items[None, at : at + CHECKED]) for at in range(0, SAMPLE_ITEMS, CHECKED)]
                wanted = np.concatenate([self._scorer(user, part) for part in parts], axis=1)
                found = np.concatenate([_scores(variant, user, part) for part in parts], axis=1)
                scale = max(np.abs(wanted).max(initial=0), 1e-30)
                largest = max(largest, float(np.abs(found - wanted).max(initial=0) / scale))
        return largest, NARROW_TOLERANCE if self._narrow() else TOLERANCE

    def _narrow(self) -> bool:
        """Returns whether the scorer computes in float16 or bfloat16."""
        graph = self._scorer.plain.graph.as_graph_def()
        nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
        narrow = {tf.float16.as_datatype_enum, tf.bfloat16.as_datatype_enum}
        return any(node.attr["T"].type in narrow for node in nodes)


def _scores(variant: Variant, user: UserTensors, items: tf.Tensor) -> tf.Tensor:
    """Returns scores float32 [1, n] of items float32 [1, n, dim], by XLA if the variant is one by XLA."""
    scorer = variant.scorer
    if scorer.compiled is not None:
        scorer = scorer._replace(plain=scorer.compiled)
    return scorer(user, items if variant.fold is None else variant.fold(items))


def _noise(tensor: tf.Tensor) -> tf.Tensor:
    """Returns random values for a user tensor; a tensor that is not float stays, as its values may be indices."""
    if not tensor.dtype.is_floating:
        return tensor
    return tf.cast(tf.random.stateless_normal(tensor.shape, [0, 0]), tensor.dtype)


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
