"""Rewrites a model's scorer at export by the passes, and checks the result against the original."""

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from export_tools.sources import Source
from export_tools.warm_up import EXAMPLE_HISTORY, Examples
from tfserving_ext import ops
from tfserving_ext.index.format import Index
from tfserving_ext.progress import outcome

SAMPLE_ITEMS = 1000
# Allowed difference, relative to the largest score: sums in another order differ by this much. The second applies to a
# scorer that computes in float16 or bfloat16.
TOLERANCE = 1e-5
NARROW_TOLERANCE = 3e-2


@dataclasses.dataclass(frozen=True)
class CheckedScorer:
    """A scorer after the passes, with its scores compared with the model's own.

    Attributes:
      rewritten: the result of `ops.rewrite_scorer`.
      difference: the largest difference found from the model's own scores, relative to the largest score.
    """

    rewritten: ops.RewrittenScorer
    difference: float

    def facts(self) -> dict[str, Any]:
        """Returns the manifest's entry `scorer`."""
        return {
            "folded": self.rewritten.fold is not None,
            "row_dim": self.rewritten.row_dim,
            "difference": self.difference,
            "report": [report._asdict() for report in self.rewritten.report],
        }


def rewrite_and_check(source: Source, index: Index, fold_items: bool) -> CheckedScorer | None:
    """Runs the passes and compares the scores with the model's own, on items of the index and on random ones.

    Args:
      source: the model.
      index: the open index, of the model's embeddings.
      fold_items: let the passes take out what depends on items alone.

    Returns:
      The rewritten scorer; None if the passes cannot read the scorer or the scores differ. The model is then exported
      without rewriting, and the log says why.
    """
    features = {
        name: tf.constant(value, source.features[name].dtype)
        for name, value in Examples.of_source(source).inputs(np.asarray(index.item_ids[:EXAMPLE_HISTORY])).items()
        if name in source.features
    }
    users = [source.user_tensors({**source.defaults, **features})]
    traced = tf.function(source.user_tensors, autograph=False).get_concrete_function(
        {name: tf.TensorSpec(spec.shape, spec.dtype, name) for name, spec in source.features.items()}
    )
    specs = [tf.TensorSpec([1, *tensor.shape[1:]], tensor.dtype) for tensor in traced.structured_outputs]
    users.append(tuple(_noise(tensor) for tensor in users[0]))
    scorer = ops.trace_scorer(lambda *tensors: source.score(tensors[:-1], tensors[-1]), specs, index.dim)
    try:
        rewritten = ops.rewrite_scorer(scorer, specs, index.dim, fold_items=fold_items)
        difference, tolerance = _difference(scorer, rewritten, users, index)
    except (tf.errors.OpError, ValueError) as error:
        outcome("export", f"the scorer is not rewritten: {(str(error).splitlines() or [''])[0]}")
        return None
    if not difference <= tolerance:
        outcome(
            "export",
            f"the scorer is not rewritten: after the passes its scores differ by {difference:.1e} of the largest score",
        )
        return None
    before, after = rewritten.report[0], rewritten.report[-1]
    outcome(
        "export",
        f"scorer: {before.multiply_adds_before:,.0f} multiply-adds per item, {after.multiply_adds_after:,.0f} after "
        f"the passes; {before.nodes_before} nodes per batch, {after.nodes_after} after",
    )
    return CheckedScorer(rewritten, difference)


def _noise(tensor: tf.Tensor) -> tf.Tensor:
    """Returns random values for a user tensor; a tensor that is not float stays, as its values may be indices."""
    if not tensor.dtype.is_floating:
        return tensor
    return tf.cast(tf.random.stateless_normal(tensor.shape, [0, 0]), tensor.dtype)


def _difference(
    scorer: ops.Scorer, rewritten: ops.RewrittenScorer, users: list[tuple[tf.Tensor, ...]], index: Index
) -> tuple[float, float]:
    """Returns the largest difference relative to the largest score, and the largest one allowed."""
    sample = np.unique(np.linspace(0, len(index.item_ids) - 1, SAMPLE_ITEMS).astype(np.int64))
    real = index.embeddings(sample)
    random = np.random.default_rng(0).normal(0, real.std() or 1, [SAMPLE_ITEMS, index.dim]).astype(np.float32)
    largest = 0.0
    for user in users:
        for items in (tf.constant(real[None]), tf.constant(random[None])):
            wanted = scorer.plain(*user, items).numpy()
            rows = items if rewritten.fold is None else rewritten.fold(items)
            found = rewritten.scorer(user, rows).numpy()
            scale = max(np.abs(wanted).max(initial=0), 1e-30)
            largest = max(largest, float(np.abs(found - wanted).max(initial=0) / scale))
    dtypes = {node.attr["T"].type for node in rewritten.graphs["score"].node}
    narrow = dtypes & {tf.float16.as_datatype_enum, tf.bfloat16.as_datatype_enum}
    return largest, NARROW_TOLERANCE if narrow else TOLERANCE
