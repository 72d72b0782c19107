"""Writes one SavedModel: tables as mapped assets, scorer and user tower as functions, signatures, warm-up, manifest."""

import contextlib
import dataclasses
import os
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from export_tools.items import check_index, write_sample
from export_tools.manifest import read_figures, write_manifest
from export_tools.scorer import rewrite_and_check, write_rows
from export_tools.served_model import ServedModel
from export_tools.signatures import Defaults
from export_tools.sources import open_source
from export_tools.state import captured_state
from export_tools.trial import try_out
from export_tools.warm_up import Examples, write_warm_up
from tfserving_ext.artifacts import atomic_folder, tensorflow_writes
from tfserving_ext.errors import NannError
from tfserving_ext.index import import_original
from tfserving_ext.index.format import Index
from tfserving_ext.outputs import EXPORT, check_replaceable


def export(
    model: Any,
    index: str | os.PathLike[str],
    target: str | os.PathLike[str],
    defaults: Defaults = Defaults(),  # noqa: B008 - frozen
    *,
    features: Mapping[str, tf.TensorSpec] | None = None,
    seeds: str | None = None,
    item_input: str = "",
    output: str = "",
    rename: Mapping[str, str] | None = None,
    embeddings: str | os.PathLike[str] | None = None,
    evaluation: str | os.PathLike[str] | None = None,
    graphs: str | os.PathLike[str] | None = None,
    rewrite: bool = True,
    fold_items: bool = True,
    allow_non_finite: Collection[str] = (),
    force: bool = False,
) -> Path:
    """Exports a model and its index to the SavedModel `target`, whole or not at all.

    Example:
      >>> nann.export("model", "index", "models/nann/2").name
      '2'

    Args:
      model: a folder that `nann train` wrote, a SavedModel with functions `user` and `score`, a .keras archive, a
        folder of alibaba/nann with frozen_graph.pb, `MODULE:NAME`, or an object with `user` and `score`.
      index: a folder that `nann index` wrote, or one of alibaba/nann's with its .npy files.
      target: the SavedModel's folder; TensorFlow Serving wants `BASE/NAME/VERSION`, such as `models/nann/1`.
      defaults: what requests may leave out.
      features: what an object's `user` takes, where the object does not say it.
      seeds: the feature, int64 [B, L], with the user's own item ids, from which the search starts. Checkpoints know it.
      item_input: the input of a .keras archive that takes the item embedding.
      output: the output that is the score, where the model has several.
      rename: what the model calls its features, by what requests shall call them.
      embeddings: where item_ids.npy and item_embs.npy of an index of alibaba/nann lie; by default beside it.
      evaluation: a JSON file of figures, such as `nann evaluate` writes, to keep in the manifest.
      graphs: a folder for the GraphDefs of all functions, binary and as text, for those who inspect them.
      rewrite: have the passes rewrite the scorer (docs/scorer.md); its scores are compared with the model's own.
      fold_items: let them keep what the scorer computes of an item alone in the index, where reading wider rows costs
        less than computing it.
      allow_non_finite: features in which the model wants NaN or infinity, such as NaN for a value that is missing; in
        all others they are refused (docs/serving.md).
      force: replace whatever `target` holds; without, only an export is replaced.

    Returns:
      `target`.

    Raises:
      NannError: the index is not of this model, parameters do not fit it, the model holds what cannot be exported or
        does not answer once it is loaded, or `target` cannot be written.
    """
    named = model if isinstance(model, (str, os.PathLike)) else None
    check_replaceable(target, EXPORT, force, [named, index, embeddings, evaluation])
    source = open_source(model, features, seeds, item_input, output, rename)
    figures = None if evaluation is None else read_figures(evaluation)
    with contextlib.ExitStack() as work:
        opened = work.enter_context(_opened(Path(index), embeddings))
        sample = check_index(source, opened, str(index))
        try:
            scorer = rewrite_and_check(source, opened, fold_items) if rewrite else None
            rewritten = None if scorer is None else scorer.rewritten
            if rewritten is not None and rewritten.fold is not None:
                rows = work.enter_context(tempfile.TemporaryDirectory(prefix="nann_rows_"))
                opened = write_rows(opened, rewritten.fold, rewritten.row_dim, Path(rows))
            served = ServedModel(source, opened, defaults, rewritten, allow_non_finite)
            signatures = served.signatures()
            concrete = {name: function.get_concrete_function() for name, function in signatures.items()}
            functions = {name: function.get_concrete_function() for name, function in served.functions().items()}
        except (NannError, OSError, MemoryError):
            raise
        except Exception as error:  # Whatever the model's own code raises.
            raise NannError(
                f"the model does not fit the index's embeddings of width {opened.dim}, or its functions cannot be "
                f"traced: {_reason(error)}"
            ) from error
        served.tracked = [captured_state({**functions, **concrete}), source.tracked]
        with atomic_folder(target, EXPORT, force) as new:
            with tensorflow_writes("SavedModel"):
                tf.saved_model.save(served, str(new), signatures=signatures)
                (new / "assets.extra").mkdir()
                if sample is not None:
                    write_sample(new, sample)
                records = write_warm_up(new, Examples.of_source(source), opened, signatures)
            facts = {
                "source": {"kind": source.kind, "files": dict(source.inputs), "description": dict(source.description)},
                "index": opened.manifest,
                "signatures": sorted(signatures),
                "seeds": source.seeds,
                "defaults": dataclasses.asdict(defaults),
                "warm_up_records": records,
                "evaluation": figures,
                "scorer": None if scorer is None else scorer.facts(),
            }
            write_manifest(new, facts)
            try_out(new)
    if graphs is not None:
        shown = {name: functions[name] for name in ("user", "score")}
        made = {name: function.graph.as_graph_def() for name, function in {**shown, **concrete}.items()}
        if rewritten is not None:
            made |= {f"scorer_{name}": graph for name, graph in rewritten.graphs.items() if graph.node}
        _write_graphs(Path(graphs), made)
    return Path(target)


def _reason(error: Exception) -> str:
    """The line that says what is wrong: the last, but for what Keras lists behind it.

    Others than TensorFlow's own errors say little without their kind: a KeyError is a name in quotes.
    """
    text = re.sub(r"\x1b\[\d+m", "", str(error)).split("Arguments received by")[0]
    said = (text.strip().splitlines() or [""])[-1].strip()
    if said and isinstance(error, (ValueError, TypeError, tf.errors.OpError)):
        return said
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


@contextlib.contextmanager
def _opened(folder: Path, embeddings: str | os.PathLike[str] | None) -> Iterator[Index]:
    """The index in `folder`, which may be one of alibaba/nann's."""
    if (folder / "manifest.json").exists() or not (folder / "neighbors_level_0_values.npy").exists():
        yield Index.open(folder, checksums=True)
        return
    with tempfile.TemporaryDirectory(prefix="nann_index_") as made:
        yield import_original(folder, embeddings or folder, Path(made) / "index")


def _write_graphs(folder: Path, graphs: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, graph in graphs.items():
        tf.io.write_graph(graph, str(folder), f"{name}.pb", as_text=False)
        tf.io.write_graph(graph, str(folder), f"{name}.pbtxt", as_text=True)
