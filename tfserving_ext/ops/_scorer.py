"""Scorers as TensorFlow functions: traced from Python, and rewritten by the passes of `grappler_passes/`."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.types.experimental import ConcreteFunction

from tfserving_ext.ops._library import load


class Scorer(NamedTuple):
    """A score function as `trace_scorer` made it; searches that share one share what XLA compiled of it.

    Attributes:
      plain: the function, or the name of one in the library, (user..., prepared..., items, captured...) -> scores.
      captured: what it captured, variables for the most part.
      compiled: the same for XLA, or None.
      prepare: the function (user..., captured...) -> prepared..., run once per user; None where nothing is prepared.
      origin: the scorer that this one was made of. Held, as functions that both call are its own.
    """

    plain: Any
    captured: Sequence[tf.Tensor]
    compiled: Any = None
    prepare: Any = None
    origin: Any = None

    def __call__(self, user: Sequence[tf.Tensor], items: tf.Tensor) -> tf.Tensor:
        """Scores float32 [1, n] of one user, as a search computes them, without XLA.

        Args:
          user: user tensors, each [1, ...].
          items: float32 [1, n, d].
        """
        # What `trace_scorer` made holds what it captured; what `rewrite_scorer` made takes it.
        captured = [] if self.plain.captured_inputs else self.captured
        prepared = [] if self.prepare is None else self.prepare(*user, *captured)
        if not isinstance(prepared, (list, tuple)):
            prepared = [prepared]
        return self.plain(*user, *prepared, items, *captured)


def trace_scorer(score: Callable[..., tf.Tensor], user: Sequence[tf.Tensor], dim: int, xla: bool = False) -> Scorer:
    """Traces a score function, for the searches to call.

    Args:
      score: called as score(*user, items), with user tensors [1, ...] and items float32 [1, N, dim]; returns float32
        [1, N]. It must treat items independently: padded rows hold anything.
      user: user tensors, or their `tf.TensorSpec`s; the first dimension, the batch, does not matter.
      dim: width of an item embedding.
      xla: trace it for XLA as well, which compiles it once per batch size at its first use. Where the runtime has no
        XLA, or XLA cannot compile it, it runs as it is.

    Raises:
      ValueError: the second trace, for XLA, captured other tensors than the first.
    """
    specs = [*_one_user(user), tf.TensorSpec([1, None, dim], tf.float32)]
    plain = tf.function(score, autograph=False).get_concrete_function(*specs)
    if not xla:
        return Scorer(plain, plain.captured_inputs)
    compiled = _for_xla(score, specs)
    if [id(tensor) for tensor in compiled.captured_inputs] != [id(tensor) for tensor in plain.captured_inputs]:
        raise ValueError("score captured other tensors when it was traced a second time; XLA needs it to be repeatable")
    return Scorer(plain, plain.captured_inputs, compiled)


class PassReport(NamedTuple):
    """What one pass did to a scorer; `nodes` are those that depend on the items, of which a batch runs each.

    Attributes:
      name: the pass's.
      rewrites: how often it found its pattern; for `user_hoist` how many tensors are prepared.
      nodes_before: nodes.
      nodes_after: nodes.
      multiply_adds_before: multiply-adds of matrix products per item.
      multiply_adds_after: the same.
      reason: why it did nothing, where it says.
    """

    name: str
    rewrites: int
    nodes_before: int
    nodes_after: int
    multiply_adds_before: float
    multiply_adds_after: float
    reason: str


class RewrittenScorer(NamedTuple):
    """What `rewrite_scorer` made.

    Attributes:
      scorer: the rewritten scorer; where something was folded, of rows instead of items.
      fold: float32 [1, n, dim] items -> rows [1, n, row_dim], for an index to hold; None where nothing was folded.
      item_dim: width of an item embedding.
      row_dim: width of what the scorer takes of an item.
      report: what each pass did, in the order in which they ran.
      graphs: the GraphDefs that were made: `fold`, `prepare` and `score`.
    """

    scorer: Scorer
    fold: Callable[[tf.Tensor], tf.Tensor] | None
    item_dim: int
    row_dim: int
    report: tuple[PassReport, ...]
    graphs: dict[str, Any]


def rewrite_scorer(
    scorer: Scorer,
    user: Sequence[tf.Tensor],
    dim: int,
    fold_items: bool = False,
    passes: Sequence[str] = (),
) -> RewrittenScorer:
    """Rewrites a scorer by the passes of `grappler_passes/` (docs/scorer.md).

    Args:
      scorer: as `trace_scorer` made it; compiled for XLA again where it was.
      user: what it was traced for.
      dim: width of an item embedding.
      fold_items: let what depends on the items alone be taken out, to be computed once per item.
      passes: names of those to run; none for all.

    Raises:
      tf.errors.InvalidArgumentError: there is no such pass.
      tf.errors.OpError: the function cannot be read as a scorer, such as one with loops.
    """
    made = load().nann_rewrite_scorer(
        captured=list(scorer.captured),
        scorer=scorer.plain,
        user_types=[tensor.dtype for tensor in user],
        user_shapes=[tensor.shape for tensor in user],
        dim=dim,
        fold_items=fold_items,
        wanted=list(passes),
    )
    graphs = {
        name: tf.compat.v1.GraphDef.FromString(getattr(made, name).numpy()) for name in ("fold", "prepare", "score")
    }
    if isinstance(scorer.plain, ConcreteFunction):
        for graph in graphs.values():  # Conditions and loops call functions.
            graph.library.CopyFrom(scorer.plain.graph.as_graph_def().library)
    captured = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in scorer.captured]
    fold, row_dim = None, dim
    if graphs["fold"].node:
        run = _concrete(graphs["fold"], [tf.TensorSpec([1, None, dim]), *captured])

        def fold(items: tf.Tensor) -> tf.Tensor:
            return run(items, *scorer.captured)

        row_dim = fold(tf.zeros([1, 1, dim])).shape[-1]
    prepare, prepared = None, []
    if graphs["prepare"].node:
        prepare = _concrete(graphs["prepare"], [*_one_user(user), *captured])
        prepared = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in prepare.outputs]
    specs = [*_one_user(user), *prepared, tf.TensorSpec([1, None, row_dim]), *captured]
    plain = _concrete(graphs["score"], specs)
    compiled = None if scorer.compiled is None else _for_xla(_imported(graphs["score"]), specs)
    return RewrittenScorer(
        Scorer(plain, scorer.captured, compiled, prepare, scorer), fold, dim, row_dim, pass_reports(made), graphs
    )


def pass_reports(made: Any) -> tuple[PassReport, ...]:
    """The reports among the outputs of an op that runs the passes."""
    return tuple(
        PassReport(name.decode(), int(row[0]), int(row[1]), int(row[2]), row[3].item(), row[4].item(), reason.decode())
        for name, row, reason in zip(made.passes.numpy(), made.figures.numpy(), made.reasons.numpy(), strict=True)
    )


def _one_user(user: Sequence[tf.Tensor]) -> list[tf.TensorSpec]:
    return [tf.TensorSpec([1, *tensor.shape[1:]], tensor.dtype) for tensor in user]


def _for_xla(function: Callable[..., Any], specs: Sequence[tf.TensorSpec]) -> Any:
    jitted = tf.function(function, autograph=False, jit_compile=True)
    # A function attribute that is the jitted function itself would run without XLA: what calls it is compiled.
    return tf.function(lambda *tensors: jitted(*tensors), autograph=False).get_concrete_function(*specs)


def _concrete(graph: Any, specs: Sequence[tf.TensorSpec]) -> Any:
    return tf.function(_imported(graph), autograph=False).get_concrete_function(*specs)


def _imported(graph: Any) -> Callable[..., Any]:
    """The function whose arguments and results are the `_Arg` and `_Retval` nodes of a GraphDef."""
    body = tf.compat.v1.GraphDef(versions=graph.versions, library=graph.library)
    arguments: dict[int, str] = {}
    results: dict[int, str] = {}
    for node in graph.node:
        if node.op == "_Arg":
            arguments[node.attr["index"].i] = node.name
        elif node.op == "_Retval":
            results[node.attr["index"].i] = node.input[0]
        else:
            body.node.add().CopyFrom(node)
    used = {name for node in body.node for name in node.input}
    wanted = [name if ":" in name else f"{name}:0" for _, name in sorted(results.items())]

    def function(*tensors: tf.Tensor) -> Any:
        inputs = {name: tensors[index] for index, name in arguments.items()}
        mapped = {name: tensor for name, tensor in inputs.items() if name in used}
        computed = [name for name in wanted if name.split(":")[0] not in inputs]
        found = iter(tf.graph_util.import_graph_def(body, input_map=mapped, return_elements=computed, name=""))
        made = [inputs[name.split(":")[0]] if name.split(":")[0] in inputs else next(found) for name in wanted]
        return made[0] if len(made) == 1 else made

    return function
