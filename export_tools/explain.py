"""What the passes did to the scorer of a SavedModel, and what is still expensive in it."""

import math
import os
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf
from tensorflow.core.framework import graph_pb2

from export_tools.graphs.costs import costed
from export_tools.graphs.draw import write_drawing
from export_tools.graphs.explanation import BATCH, ITEMS, Explanation, recorded_report
from export_tools.graphs.flat import as_function, used_functions
from export_tools.graphs.scorers import Argument, Part, Scorers, read_meta_graph, read_scorers
from export_tools.graphs.tables import TOP, clean
from export_tools.manifest import FILE, read_manifest
from tfserving_ext.errors import NannError
from tfserving_ext.ops._scorer import PassReport, Scorer, rewrite_scorer
from tfserving_ext.outputs import PAGE_MARK, PICTURE_MARK, check_file_replaceable

# Elements of a variable: what a stranger's file makes us allocate is bounded.
MAX_STAND_IN = 1 << 30


def explain(
    saved_model: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    fold_items: bool = False,
    items: int = ITEMS,
    batch: int = BATCH,
    top: int = TOP,
) -> Explanation:
    """Shows a scorer before and after the passes; neither the model nor its index is loaded or run.

    Example:
      >>> found = nann.explain("models/nann/1", "scorer.html")
      >>> found.at_export
      True

    Args:
      saved_model: what `nann export` wrote, or any SavedModel with a function `score` or a search in it.
      output: a file for the drawing, .html or .svg.
      fold_items: where the passes did not run at export, let them take out what depends on items alone, as an export
        does; a search that rewrites its scorer itself cannot.
      items: how many items the request scores by which nodes are compared.
      batch: how many of them are scored at a time.
      top: how many of the most expensive nodes to list in the drawing.

    Raises:
      NannError: it is no SavedModel, damaged, or has no scorer; or `output` cannot be written.
    """
    folder = Path(saved_model)
    if output is not None and Path(output).suffix.lower() not in (".html", ".svg"):
        raise NannError(f"{output} ends in {Path(output).suffix!r}, drawings are .html or .svg")
    if output is not None:
        mark = PAGE_MARK if Path(output).suffix.lower() == ".html" else PICTURE_MARK
        check_file_replaceable(output, "a drawing of `nann explain`", mark)
    meta_graph = read_meta_graph(folder)
    recorded = _recorded(folder)
    try:
        scorers = read_scorers(meta_graph)
        found = _explained(scorers, recorded, fold_items)._replace(items=items, batch=batch)
    except NannError as error:
        raise NannError(f"{folder}: {clean(str(error))}") from error  # Names are the file's.
    except (KeyError, IndexError, ValueError, TypeError) as error:
        # Protos are read field by field: a stranger's, or a damaged one, may contradict itself anywhere.
        raise NannError(f"{folder / 'saved_model.pb'} cannot be read: {clean(_first_line(error))}") from error
    if output is not None:
        write_drawing(found, Path(output), "/".join(folder.resolve().parts[-2:]), top)
    return found


class _Recorded(NamedTuple):
    report: tuple[PassReport, ...]
    note: str


def _recorded(folder: Path) -> _Recorded | None:
    """What the export wrote down of its passes; None where it ran none, or is not ours."""
    if not (folder / FILE).exists():
        return None
    scorer = read_manifest(folder).get("scorer")
    if not scorer:
        return None
    report = recorded_report(scorer)
    folded = f"; the index holds rows of {scorer['row_dim']} for it" if scorer.get("folded") else ""
    return _Recorded(report, f"the passes ran at export{folded}")


def _explained(scorers: Scorers, recorded: _Recorded | None, fold_items: bool) -> Explanation:
    library = scorers.library
    if recorded is not None or scorers.prepare is not None:
        if scorers.searched is None:
            raise NannError("its manifest says that the scorer was rewritten, but no search in it runs one")
        before = None if scorers.original is None else costed(library, scorers.original)
        after = costed(library, scorers.searched, scorers.prepare, scorers.fold)
        report, note = recorded or _Recorded((), "the scorer was rewritten before; what the passes did was not kept")
        return Explanation(True, note, report, before, after)
    # Without a record the search runs the scorer as the model gives it, or there is no search yet.
    original = scorers.searched or scorers.original
    assert original is not None
    before = costed(library, original)
    try:
        report, score, prepare, fold = _rewritten(original, scorers, fold_items)
    except (tf.errors.OpError, ValueError, TypeError) as error:
        return Explanation(False, f"the passes leave the scorer as it is: {_first_line(error)}", (), before, None)
    note = "not rewritten at export; `after` is what " + (
        "an export would make of it" if fold_items else "the search makes of it when it first runs"
    )
    return Explanation(False, note, report, before, costed(library, score, prepare, fold))


def _rewritten(
    part: Part, scorers: Scorers, fold_items: bool
) -> tuple[tuple[PassReport, ...], Part, Part | None, Part | None]:
    """What the passes make of a scorer: report, score, prepare and fold."""
    user, items, captured = ([one for one in part.arguments if one.kind == kind] for kind in ("user", "item", "model"))
    graph = graph_pb2.GraphDef(node=part.nodes)
    graph.versions.producer = tf.version.GRAPH_DEF_VERSION
    graph.library.function.extend(used_functions(part.nodes, scorers.library))
    user_specs = [_spec(one) for one in user]
    stand_ins = [_stand_in(one) for one in captured]  # Variables live as long as they are referred to.
    handles = [one.handle if isinstance(one, tf.Variable) else one for one in stand_ins]
    specs = [*user_specs, _spec(items[0]), *(tf.TensorSpec(handle.shape, handle.dtype) for handle in handles)]
    dim = (items[0].shape or (-1,))[-1]
    made = rewrite_scorer(Scorer(as_function(graph, specs), handles), user_specs, dim, fold_items)
    rows = items[0]._replace(shape=(1, -1, made.row_dim))
    prepared = [] if made.scorer.prepare is None else list(made.scorer.prepare.outputs)
    given = [Argument("prepared", f"prepared {number}", 0, None) for number in range(len(prepared))]
    graphs = {name: list(graph.node) for name, graph in made.graphs.items()}
    score = Part(graphs["score"], [*user, *given, rows, *captured])
    prepare = Part(graphs["prepare"], [*user, *captured]) if graphs["prepare"] else None
    fold = Part(graphs["fold"], [*items, *captured]) if graphs["fold"] else None
    return made.report, score, prepare, fold


def _spec(argument: Argument) -> tf.TensorSpec:
    shape = None if argument.shape is None else [None if extent < 0 else extent for extent in argument.shape]
    return tf.TensorSpec(shape, tf.dtypes.as_dtype(argument.dtype))


def _stand_in(argument: Argument) -> tf.Tensor | tf.Variable:
    """A tensor in place of a captured one, of whose values the passes read nothing."""
    shape = argument.shape
    known = shape is not None and min(shape, default=0) >= 0 and math.prod(shape) <= MAX_STAND_IN
    if argument.variable and known:
        return tf.Variable(tf.zeros(shape, tf.dtypes.as_dtype(argument.dtype)))
    if argument.variable or argument.dtype == tf.resource.as_datatype_enum:
        return tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[])
    return tf.zeros(shape if known else [], tf.dtypes.as_dtype(argument.dtype))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
