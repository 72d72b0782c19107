"""Shows what the passes did to the scorer of a SavedModel, and what is still expensive in it."""

import os
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf

from export_tools.graphs.chosen import Chosen, read_chosen
from export_tools.graphs.draw import write_drawing
from export_tools.graphs.explanation import BATCH, ITEMS, Explanation, recorded_report
from export_tools.graphs.report import described, rewritten
from export_tools.graphs.scorers import Scorers, read_meta_graph, read_scorers
from export_tools.graphs.tables import TOP, clean
from export_tools.manifest import FILE, read_manifest
from tfserving_ext.errors import NannError
from tfserving_ext.ops._scorer import PassReport
from tfserving_ext.outputs import PAGE_MARK, PICTURE_MARK, check_file_replaceable


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
      fold_items: if the passes did not run at export, let them take out the parts that depend on items alone, as an
        export does. A search that rewrites its scorer itself cannot do this.
      items: how many items the example request scores; nodes are compared by their cost in this request.
      batch: how many of them are scored at a time.
      top: how many of the most expensive nodes to list in the drawing.

    Returns:
      The nodes of the scorer before and after the passes, with their costs, and what each pass did.

    Raises:
      NannError: `saved_model` is not a SavedModel, is damaged or has no scorer, or `output` cannot be written.
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
        found = _explained(scorers, recorded, fold_items)._replace(items=items, batch=batch, chosen=recorded.chosen)
    except NannError as error:
        raise NannError(f"{folder}: {clean(str(error))}") from error  # The names in the message come from the file.
    except (KeyError, IndexError, ValueError, TypeError) as error:
        # Protos are read field by field. One that is damaged or from elsewhere may contradict itself in any field.
        raise NannError(f"{folder / 'saved_model.pb'} cannot be read: {clean(_first_line(error))}") from error
    if output is not None:
        write_drawing(found, Path(output), "/".join(folder.resolve().parts[-2:]), top)
    return found


class _Recorded(NamedTuple):
    """What an export's manifest says about its scorer; all empty if it was not made by `nann export`.

    Attributes:
      report: what the passes did at export.
      note: that they ran, and what the index holds; "" if they did not.
      chosen: the variant that ships.
    """

    report: tuple[PassReport, ...] = ()
    note: str = ""
    chosen: Chosen | None = None


def _recorded(folder: Path) -> _Recorded:
    if not (folder / FILE).exists():
        return _Recorded()
    manifest = read_manifest(folder)
    chosen, scorer = read_chosen(manifest), manifest.get("scorer")
    if not scorer:
        return _Recorded(chosen=chosen)
    report = recorded_report(scorer)
    folded = f"; the index holds rows of {scorer['row_dim']} for it" if scorer.get("folded") else ""
    why = "" if chosen is None else f"; {chosen.name} ships: {chosen.reason}"
    return _Recorded(report, f"the passes ran at export{folded}{why}", chosen)


def _explained(scorers: Scorers, recorded: _Recorded, fold_items: bool) -> Explanation:
    library = scorers.library
    if recorded.note or scorers.prepare is not None:
        if scorers.searched is None:
            raise NannError("its manifest says that the scorer was rewritten, but no search in it runs one")
        before = None if scorers.original is None else described(library, scorers.original)
        after = described(library, scorers.searched, scorers.prepare, scorers.fold)
        note = recorded.note or "the scorer was rewritten before; what the passes did was not kept"
        return Explanation(True, note, recorded.report, before, after)
    # Without a record, the search runs the model's scorer unchanged, or there is no search yet.
    original = scorers.searched or scorers.original
    assert original is not None
    before = described(library, original)
    if recorded.chosen is not None and not fold_items:
        return Explanation(False, f"{recorded.chosen.name} ships: {recorded.chosen.reason}", (), before, None)
    try:
        report, after = rewritten(library, original, fold_items)
    except tf.errors.OpError as error:
        return Explanation(False, f"the passes leave the scorer unchanged: {_first_line(error)}", (), before, None)
    note = "not rewritten at export; `after` is " + (
        "the scorer that an export would write" if fold_items else "the scorer that the search makes when it first runs"
    )
    return Explanation(False, note, report, before, after)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
