"""Writes one SavedModel: index files as mapped assets, functions, signatures, warm-up records and a manifest."""

import contextlib
import dataclasses
import os
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from export_tools.cut import Items, cut_and_indexed
from export_tools.items import check_index, write_sample
from export_tools.manifest import read_figures, write_manifest
from export_tools.rows import write_rows
from export_tools.scorer import Choice, check_assumed, choose_scorer
from export_tools.search_choice import with_search
from export_tools.served_model import ServedModel, check_requests
from export_tools.signatures import Defaults
from export_tools.signatures.keys import takes_numbers
from export_tools.sources import Source, open_source
from export_tools.sources.defaults import with_defaults
from export_tools.state import captured_state
from export_tools.trial import try_out
from export_tools.warm_up import Examples, write_warm_up
from tfserving_ext.artifacts import atomic_folder, tensorflow_writes
from tfserving_ext.errors import NannError
from tfserving_ext.index import import_original
from tfserving_ext.index.format import Index
from tfserving_ext.outputs import EXPORT, check_replaceable
from tfserving_ext.retrieval import NeuralTopK
from tfserving_ext.serving.known_values import ENTRY as KNOWN_VALUES


@dataclasses.dataclass(frozen=True)
class SourceOptions:
    """What the caller has to say about a model that the model does not say itself; see `open_source`.

    Attributes:
      features: the features that an object's `user` takes, if the object does not declare them.
      seeds: the feature, int64 or int32 [B, L], that holds the user's own item ids, from which the search starts.
        Checkpoints of `nann train` know it themselves.
      item_input: the input of a .keras archive that takes the item embedding.
      output: the output that is the score, if the model has several.
      rename: the model's names of its features, keyed by the names that requests will use.
      objectives: in place of `output`, names of several scores, and their weights in the sum by which items are ranked.
        Requests may give other weights, and the answer has each item's scores (docs/own_models.md).
      defaults: values of one user for features that requests may leave out, by their names in requests.
    """

    features: Mapping[str, tf.TensorSpec] | None = None
    seeds: str | None = None
    item_input: str = ""
    output: str = ""
    rename: Mapping[str, str] | None = None
    objectives: Mapping[str, float] | None = None
    defaults: Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """What else goes into an export, and how it is made.

    Attributes:
      embeddings: the folder with item_ids.npy and item_embs.npy for an index of alibaba/nann; by default the index's.
      evaluation: a JSON file of metrics, such as `nann evaluate` writes, to keep in the manifest.
      graphs: a folder for the GraphDefs of all functions, binary and as text, for inspection.
      rewrite: let the passes rewrite the scorer (docs/scorer.md); its scores are then compared with the model's own.
        Otherwise the search does so when it first runs, and nothing is measured.
      fold_items: let the passes store in the index what the scorer computes from an item alone, where reading the wider
        rows costs less than computing it.
      measure: time the variants of the scorer on this machine for some seconds, and ship the fastest (docs/export.md).
        Otherwise, the passes ship, with folded rows where they fold.
      assume: the variant to ship, which is then not measured: "plain", "passes" or "passes+fold", or one of these with
        "+xla".
      allow_non_finite: features in which the model expects NaN or infinity, such as NaN for a missing value. In all
        others these values are refused (docs/signatures.md).
    """

    embeddings: str | os.PathLike[str] | None = None
    evaluation: str | os.PathLike[str] | None = None
    graphs: str | os.PathLike[str] | None = None
    rewrite: bool = True
    fold_items: bool = True
    measure: bool = True
    assume: str | None = None
    allow_non_finite: Collection[str] = ()


DEFAULTS, SOURCE, OPTIONS = Defaults(), SourceOptions(), ExportOptions()


def export(
    model: Any,
    index: str | os.PathLike[str] | Items,
    target: str | os.PathLike[str],
    defaults: Defaults = DEFAULTS,
    source: SourceOptions = SOURCE,
    options: ExportOptions = OPTIONS,
    force: bool = False,
) -> Path:
    """Exports a model and its index to the SavedModel `target`, whole or not at all.

    Example:
      >>> nann.export("model", "index", "models/nann/2").name
      '2'

    Args:
      model: a folder that `nann train` wrote, a SavedModel with functions `user` and `score`, a .keras archive, a
        folder of alibaba/nann with frozen_graph.pb, `MODULE:NAME`, or an object with `user` and `score`.
      index: a folder that `nann index` wrote, or one of alibaba/nann's with its .npy files; or `Items`, the raw
        features of the items, for a .keras archive or SavedModel that takes them (docs/bring_your_model.md).
      target: the SavedModel's folder; TensorFlow Serving wants `BASE/NAME/VERSION`, such as `models/nann/1`.
      defaults: values for the parameters that requests may leave out.
      source: what the model does not say itself.
      options: what else goes into the export, and how it is made.
      force: replace `target` whatever it holds; by default, only an earlier export is replaced.

    Returns:
      `target`.

    Raises:
      NannError: the index was built from another model, the default parameters do not fit it, the model holds something
        that cannot be exported or fails once it is loaded, or `target` cannot be written. With `Items`: the model or
        the table are not what `Items` says, or the one cannot be cut by the other.
    """
    read = [model, index.table if isinstance(index, Items) else index, options.embeddings, options.evaluation]
    check_replaceable(target, EXPORT, force, [one for one in read if isinstance(one, (str, os.PathLike))])
    check_assumed(options.assume, options.rewrite, options.fold_items)
    figures = None if options.evaluation is None else read_figures(options.evaluation)
    with contextlib.ExitStack() as work:
        opened_model, opened = _model_and_index(model, index, source, options, work)
        defaults = with_search(defaults, opened, figures)
        sample = check_index(opened_model, opened, str(index))
        made = _traced(opened_model, opened, defaults, options, work)
        with atomic_folder(target, EXPORT, force) as new:
            with tensorflow_writes("SavedModel"):
                tf.saved_model.save(made.served, str(new), signatures=made.signatures)
                (new / "assets.extra").mkdir()
                if sample is not None:
                    write_sample(new, sample)
                examples = Examples.of_source(made.served.source, made.served.search.index.id_dtype)
                records = write_warm_up(new, examples, made.index, made.signatures)
            facts = {"defaults": dataclasses.asdict(defaults), "warm_up_records": records, "evaluation": figures}
            facts[KNOWN_VALUES] = {name: values.as_dict() for name, values in made.served.source.known.items()}
            write_manifest(new, made.facts(opened_model) | facts)
            try_out(new)
    if options.graphs is not None:
        _write_graphs(Path(options.graphs), made.graphs())
    return Path(target)


def _model_and_index(
    model: Any,
    index: str | os.PathLike[str] | Items,
    source: SourceOptions,
    options: ExportOptions,
    work: contextlib.ExitStack,
) -> tuple[Source, Index]:
    """Opens both, or cuts the model by a table of items, of which an index is built that is removed with `work`."""
    told_defaults = source.defaults or {}
    if not isinstance(index, Items):
        what = {name: value for name, value in vars(source).items() if name != "defaults"}
        return with_defaults(open_source(model, **what), told_defaults), work.enter_context(
            _opened(Path(index), options.embeddings)
        )
    if not isinstance(model, (str, os.PathLike)):
        raise NannError(
            f"items were given for a {type(model).__name__}; allowed is the path of a .keras archive or a SavedModel"
        )
    told = {"item_input": source.item_input, "features": source.features, "embeddings": options.embeddings}
    for name, value in told.items():
        if value:
            raise NannError(f"{name} is {value!r}, but items were given, whose columns say which inputs are the items'")
    made = cut_and_indexed(Path(model), index, source.output, source.seeds, source.rename or {}, source.objectives)
    opened_model, opened = work.enter_context(made)
    return with_defaults(opened_model, told_defaults), opened


@dataclasses.dataclass(frozen=True)
class _Traced:
    """Everything that is written: the model, its traced functions and the index in the form that the scorer takes."""

    served: ServedModel
    index: Index
    scorer: Choice | None
    signatures: Mapping[str, Any]
    functions: Mapping[str, Any]
    concrete: Mapping[str, Any]

    def facts(self, source: Source) -> dict[str, Any]:
        """Returns the manifest's entries about the model, the index and the scorer."""
        return {
            "source": {"kind": source.kind, "files": dict(source.inputs), "description": dict(source.description)},
            "index": self.index.manifest,
            "signatures": sorted(self.signatures),
            "seeds": source.seeds,
            "numbered": takes_numbers(source, self.index.item_keys is not None),
            "scorer": None if self.scorer is None else self.scorer.variant.facts(),
            "scorer_variants": None if self.scorer is None else self.scorer.facts(),
        }

    def graphs(self) -> dict[str, Any]:
        """Returns the GraphDefs of all functions, by name."""
        shown = {**{name: self.functions[name] for name in ("user", "score")}, **self.concrete}
        graphs = {name: function.graph.as_graph_def() for name, function in shown.items()}
        if self.scorer is not None and self.scorer.variant.rewritten is not None:
            scorers = self.scorer.variant.rewritten.graphs
            graphs |= {f"scorer_{name}": graph for name, graph in scorers.items() if graph.node}
        return graphs


def _traced(
    source: Source, opened: Index, defaults: Defaults, options: ExportOptions, work: contextlib.ExitStack
) -> _Traced:
    """Traces all functions. Temporary folders that they read are removed when `work` is closed."""
    try:
        scorer = None
        if options.rewrite:
            # Before seconds of measuring, not only when the signatures are made.
            check_requests(source, NeuralTopK(opened, source.score), defaults, options.allow_non_finite)
            scorer = choose_scorer(source, opened, options.fold_items, options.measure, options.assume)
        variant = None if scorer is None else scorer.variant
        if variant is not None and variant.rewritten is not None and variant.fold is not None:
            rows = work.enter_context(tempfile.TemporaryDirectory(prefix="nann_rows_"))
            opened = write_rows(opened, variant.fold, variant.rewritten.row_dim, Path(rows))
        served = ServedModel(source, opened, defaults, variant, options.allow_non_finite)
        signatures = served.signatures()
        concrete = {name: function.get_concrete_function() for name, function in signatures.items()}
        functions = {name: function.get_concrete_function() for name, function in served.functions().items()}
    except (NannError, OSError, MemoryError):
        raise
    except Exception as error:  # The model's own code may raise anything.
        raise NannError(
            f"the model does not fit the index's embeddings of width {opened.dim}, or its functions cannot be "
            f"traced: {_reason(error)}"
        ) from error
    served.tracked = [captured_state({**functions, **concrete}), source.tracked]
    return _Traced(served, opened, scorer, signatures, functions, concrete)


def _reason(error: Exception) -> str:
    """Returns the line of an error that says what is wrong: the last one before the arguments that Keras appends.

    The type is added unless TensorFlow raised the error: a KeyError, for one, is only a name in quotes.
    """
    text = re.sub(r"\x1b\[\d+m", "", str(error)).split("Arguments received by")[0]
    said = (text.strip().splitlines() or [""])[-1].strip()
    if said and isinstance(error, (ValueError, TypeError, tf.errors.OpError)):
        return said
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


@contextlib.contextmanager
def _opened(folder: Path, embeddings: str | os.PathLike[str] | None) -> Iterator[Index]:
    """Opens the index in `folder`; one in the format of alibaba/nann is converted first."""
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
