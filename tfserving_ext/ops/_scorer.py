"""Scorers as TensorFlow functions: traced from Python, and rewritten by the passes of `grappler_passes/`."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.types.experimental import ConcreteFunction

from tfserving_ext.ops._library import load


class Scorer(NamedTuple):
    """A score function as `trace_scorer` returns it; searches that share one also share what XLA compiles.

    Attributes:
      plain: the function (user..., prepared..., items, captured...) -> scores, or the name of such a function.
      captured: the tensors that the function captured, mostly variables.
      compiled: the same function for XLA, or None.
      prepare: the function (user..., captured...) -> prepared..., run once per user; None if nothing is prepared.
      origin: the scorer that this one was rewritten from, or None. It is kept because it owns functions that both call.
    """

    plain: Any
    captured: Sequence[tf.Tensor]
    compiled: Any = None
    prepare: Any = None
    origin: Any = None

    def __call__(self, user: Sequence[tf.Tensor], items: tf.Tensor) -> tf.Tensor:
        """Returns scores float32 [1, n] of one user as a search computes them, without XLA.

        Args:
          user: user tensors, each [1, ...].
          items: float32 [1, n, d].
        """
        # A function of `trace_scorer` has its captured tensors bound; one of `rewrite_scorer` takes them as arguments.
        captured = [] if self.plain.captured_inputs else self.captured
        prepared = [] if self.prepare is None else self.prepare(*user, *captured)
        if not isinstance(prepared, (list, tuple)):
            prepared = [prepared]
        return self.plain(*user, *prepared, items, *captured)


def trace_scorer(score: Callable[..., tf.Tensor], user: Sequence[tf.Tensor], dim: int, xla: bool = False) -> Scorer:
    """Traces a score function for the searches.

    Args:
      score: called as score(*user, items) with user tensors [1, ...] and items float32 [1, N, dim]; returns float32
        [1, N]. It must score items independently, since padded rows may have any values.
      user: user tensors, or their `tf.TensorSpec`s; the first dimension, the batch, does not matter.
      dim: width of an item embedding.
      xla: also trace it for XLA, which compiles it once per batch size at its first use. If the runtime has no XLA, or
        XLA cannot compile the function, it runs without XLA.

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
    """What one pass did to a scorer. Only nodes that depend on the items are counted, which run for every batch.

    Attributes:
      name: the name of the pass.
      rewrites: how often it found its pattern; for `user_hoist`, how many tensors are prepared.
      nodes_before: number of nodes before the pass.
      nodes_after: number of nodes after it.
      multiply_adds_before: multiply-adds of matrix products per item, before the pass.
      multiply_adds_after: multiply-adds of matrix products per item, after it.
      reason: why the pass did nothing, if it gives a reason.
    """

    name: str
    rewrites: int
    nodes_before: int
    nodes_after: int
    multiply_adds_before: float
    multiply_adds_after: float
    reason: str


class RewrittenScorer(NamedTuple):
    """The result of `rewrite_scorer`.

    Attributes:
      scorer: the rewritten scorer; if something was folded, it takes rows instead of items.
      fold: the function from items, float32 [1, n, dim], to rows, [1, n, row_dim], which the index then holds; None if
        nothing was folded.
      item_dim: width of an item embedding.
      row_dim: width of the rows that the scorer takes.
      report: what each pass did, in the order in which they ran.
      graphs: the resulting GraphDefs: `fold`, `prepare` and `score`.
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
      scorer: the scorer, from `trace_scorer`; if it was traced for XLA, the rewritten one is too.
      user: the user tensors or specs that it was traced for.
      dim: width of an item embedding.
      fold_items: move what depends on the items alone to `fold`, to be computed once per item.
      passes: names of the passes to run; empty for all.

    Raises:
      tf.errors.InvalidArgumentError: there is no such pass.
      tf.errors.OpError: the function cannot be read as a scorer, for example because it has loops.
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
        for graph in graphs.values():  # Conditions and loops in the graphs call functions of the library.
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
    """Reads the reports from the outputs of an op that runs the passes."""
    return tuple(
        PassReport(name.decode(), int(row[0]), int(row[1]), int(row[2]), row[3].item(), row[4].item(), reason.decode())
        for name, row, reason in zip(made.passes.numpy(), made.figures.numpy(), made.reasons.numpy(), strict=True)
    )


def _one_user(user: Sequence[tf.Tensor]) -> list[tf.TensorSpec]:
    return [tf.TensorSpec([1, *tensor.shape[1:]], tensor.dtype) for tensor in user]


def _for_xla(function: Callable[..., Any], specs: Sequence[tf.TensorSpec]) -> Any:
    jitted = tf.function(function, autograph=False, jit_compile=True)
    # As the op's attribute, the jitted function itself would run without XLA; wrapped in another one, it is compiled.
    return tf.function(lambda *tensors: jitted(*tensors), autograph=False).get_concrete_function(*specs)


def _concrete(graph: Any, specs: Sequence[tf.TensorSpec]) -> Any:
    return tf.function(_imported(graph), autograph=False).get_concrete_function(*specs)


def _imported(graph: Any) -> Callable[..., Any]:
    """Returns a function that runs a GraphDef, whose `_Arg` and `_Retval` nodes are its arguments and results."""
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
