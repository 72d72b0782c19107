"""`nann export`, `nann verify`, `nann inspect`, `nann explain`."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tfserving_ext.artifacts import to_json
from tfserving_ext.cli.options import (
    Batch,
    Coverage,
    EfOption,
    ExpectedCoverage,
    Force,
    Frontier,
    K,
    Out,
    Pool,
    RoundsOption,
    numbers,
)
from tfserving_ext.errors import NannError
from tfserving_ext.progress import outcome

_ITEMS = "A ranker as it is"
_EXPORT_EXAMPLES = """Example: nann export model index -o models/nann/1

nann export model index -o models/nann/1 --coverage 0.98

nann export ranker.keras index --seeds item_history -o models/ranker/1

nann export ranker.keras --items items.parquet -o models/ranker/1

nann export my_models:ranker index -o models/ranker/1

nann export --reuse-model models/nann/1 index -o models/nann/2"""


def export(
    arguments: Annotated[
        list[Path],
        typer.Argument(
            metavar="[MODEL] INDEX",
            help="MODEL: output of `nann train`, a SavedModel with the functions user and score, a .keras archive, "
            "alibaba/nann's folder with frozen_graph.pb, or MODULE:NAME. INDEX: output of `nann index`, or "
            "alibaba/nann's folder of .npy files; none with --items.",
        ),
    ],
    out: Out = Path("models/nann/1"),
    k: K = 200,
    search: Annotated[
        Literal["auto", "surrogate", "best_first"],
        typer.Option(
            help="The search of the signature retrieve. auto: surrogate if --evaluation or the index's tuning.json "
            "says that it is as good as best-first."
        ),
    ] = "auto",
    frontier: Frontier = 16,
    pool: Pool = 200,
    batch: Batch = 64,
    expected_coverage: ExpectedCoverage = 0.9,
    coverage: Coverage = None,
    ef: EfOption = "100,200,400",
    rounds: RoundsOption = "1,1,3",
    seeds: Annotated[
        str | None, typer.Option(help="The model's feature that contains the ids of the user's own items.")
    ] = None,
    item_input: Annotated[str, typer.Option(help="The input of a .keras archive that takes the item embedding.")] = "",
    output: Annotated[
        str, typer.Option(help="The output that is the score, if a .keras archive or a function score has several.")
    ] = "",
    objective: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=WEIGHT]",
            help="One of several outputs whose weighted sum is the score; repeat it. Requests may give other weights.",
        ),
    ] = None,
    feature: Annotated[
        list[str] | None,
        typer.Option(metavar="NEW=OLD", help="Rename the model's feature OLD to NEW in requests; may be repeated."),
    ] = None,
    feature_default: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Let requests leave out this feature; a value or JSON; repeated."),
    ] = None,
    embeddings: Annotated[
        Path | None, typer.Option(help="The folder with item_ids.npy and item_embs.npy of alibaba/nann's INDEX.")
    ] = None,
    evaluation: Annotated[
        Path | None, typer.Option(help="JSON file of `nann evaluate` to copy into the manifest.")
    ] = None,
    graphs: Annotated[
        Path | None, typer.Option(help="Also write the GraphDefs of all functions to this folder.")
    ] = None,
    rewrite: Annotated[
        bool, typer.Option(help="Rewrite the scorer by the graph passes; its scores are compared with the model's.")
    ] = True,
    fold_items: Annotated[
        bool,
        typer.Option(help="Precompute what depends on the item alone and store it in the index, if faster."),
    ] = True,
    measure: Annotated[
        bool,
        typer.Option(help="Time the variants of the scorer on this machine for some seconds, and export the fastest."),
    ] = True,
    assume: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Export this variant of the scorer without measuring, for another kind of machine: plain, passes or "
            "passes+fold, or one of these with +xla.",
        ),
    ] = None,
    allow_non_finite: Annotated[
        list[str] | None,
        typer.Option(
            help="A feature in which the model accepts NaN or infinity, for missing values say; may be repeated."
        ),
    ] = None,
    reuse_model: Annotated[
        Path | None, typer.Option(help="Take the model from this export and replace its index by INDEX.")
    ] = None,
    items: Annotated[
        Path | None,
        typer.Option(
            help="A .parquet or .csv table of the items' raw features, as MODEL takes them, a .keras archive or a "
            "SavedModel: it is cut where the item meets the user, and the index is built on the way.",
            rich_help_panel=_ITEMS,
        ),
    ] = None,
    item_id: Annotated[
        str,
        typer.Option(
            "--id", help="The column of --items with the ids.", show_default="item_id", rich_help_panel=_ITEMS
        ),
    ] = "",
    item_column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="INPUT=COLUMN",
            help="The column that an input of MODEL takes, where the names differ; may be repeated.",
            rich_help_panel=_ITEMS,
        ),
    ] = None,
    user_input: Annotated[
        list[str] | None,
        typer.Option(
            help="An input that is the user's although a column has its name; may be repeated.", rich_help_panel=_ITEMS
        ),
    ] = None,
    embedding: Annotated[
        str,
        typer.Option(
            metavar="LAYER",
            help="Build the graph on the output of this layer instead of all that the scorer takes of an item.",
            rich_help_panel=_ITEMS,
        ),
    ] = "",
    filter_by: Annotated[
        str,
        typer.Option(
            metavar="COLUMNS",
            help="Columns of --items, separated by commas, by which requests can filter.",
            rich_help_panel=_ITEMS,
        ),
    ] = "",
    explain_cut: Annotated[
        bool, typer.Option("--explain-cut", help="Show where MODEL is cut, and write nothing.", rich_help_panel=_ITEMS)
    ] = False,
    force: Force = False,
) -> None:
    """Write one SavedModel that contains the index; search options become the defaults of requests."""
    from export_tools import Defaults, ExportOptions, Items, SourceOptions
    from export_tools import export as run
    from export_tools import reuse as run_reuse
    from tfserving_ext.retrieval import BestFirst, Rounds, Surrogate

    wanted = 2 if reuse_model is None and items is None else 1
    if len(arguments) != wanted:
        raise NannError(
            f"{len(arguments)} arguments were given, allowed are MODEL INDEX, only INDEX with --reuse-model, or only "
            "MODEL with --items"
        )
    table = None
    if items is not None:
        columns = _names("--item-column", item_column or [], "target_category=category")
        table = Items(
            items, item_id, columns, tuple(user_input or ()), embedding, filter_by.split(",") if filter_by else ()
        )
    elif told := [
        name
        for name, value in _told_of_items(item_id, item_column, user_input, embedding, filter_by, explain_cut)
        if value
    ]:
        raise NannError(f"{told[0]} was given, but --items was not, the table that it is about")
    if table is not None and explain_cut:
        from export_tools.cut import explain_cut as shown

        print(shown(arguments[0], table, output))
        return
    if reuse_model is not None:
        if assume is not None:
            raise NannError(
                f"--assume is {assume!r}, but --reuse-model keeps the exported scorer; export the model anew"
            )
        if coverage is not None:
            raise NannError(f"--coverage is {coverage:g}, but --reuse-model keeps the search; export the model anew")
        run_reuse(reuse_model, arguments[0], out, evaluation, force)
    else:
        paper = Rounds(numbers("--ef", ef), numbers("--rounds", rounds))
        surrogate = Surrogate(frontier, pool, batch=batch, expected_coverage=expected_coverage)
        run(
            arguments[0],
            arguments[1] if table is None else table,
            out,
            Defaults(k, BestFirst(frontier, pool), paper, surrogate, search, coverage),
            SourceOptions(
                None,
                seeds,
                item_input,
                output,
                _names("--feature", feature, "user_age=user/age") if feature else None,
                _weights(objective),
                _values(feature_default) if feature_default else None,
            ),
            ExportOptions(embeddings, evaluation, graphs, rewrite, fold_items, measure, assume, allow_non_finite or ()),
            force,
        )
    outcome("export", f"{out}")


def _told_of_items(*values: Any) -> list[tuple[str, Any]]:
    """Returns the options about --items with their values."""
    return list(
        zip(
            ("--id", "--item-column", "--user-input", "--embedding", "--filter-by", "--explain-cut"),
            values,
            strict=True,
        )
    )


def _weights(given: Sequence[str] | None) -> dict[str, float] | None:
    """Parses NAME[=WEIGHT] to weights by name.

    Raises:
      NannError: a weight is not a number, or a name is empty or repeated.
    """
    if not given:
        return None
    weights: dict[str, float] = {}
    for one in given:
        name, equals, text = one.partition("=")
        try:
            weight = float(text) if equals else 1.0
        except ValueError:
            weight = math.nan
        if not name or name in weights or not math.isfinite(weight):
            raise NannError(f"--objective is {one!r}, it must be NAME or NAME=WEIGHT, each NAME once, such as buy=5")
        weights[name] = weight
    return weights


def _values(given: Sequence[str]) -> dict[str, Any]:
    """Parses NAME=VALUE to values by name; JSON where it is a list, true or false, and else the text."""
    values: dict[str, Any] = {}
    for name, text in _names("--feature-default", given, "hour=12").items():
        try:
            values[name] = json.loads(text) if text.startswith("[") or text in ("true", "false") else text
        except ValueError as error:
            raise NannError(f"--feature-default {name} is {text!r}, which is no JSON: {error}") from error
    return values


def _names(option: str, pairs: Sequence[str], example: str) -> dict[str, str]:
    """Parses NEW=OLD pairs of an option to the right sides by the left ones.

    Raises:
      NannError: a pair is malformed, or a left side is repeated.
    """
    names: dict[str, str] = {}
    for pair in pairs:
        new, equals, old = pair.partition("=")
        if not (new and equals and old) or new in names:
            raise NannError(f"{option} is {pair!r}, it must be NEW=OLD, each NEW once, such as {example}")
        names[new] = old
    return names


def verify(
    saved_model: Annotated[Path, typer.Argument(help="Output of `nann export`, or any SavedModel.")],
    least_coverage: Annotated[
        float, typer.Option(help="Least coverage of made-up users against brute force.", min=0, max=1)
    ] = 0.5,
) -> None:
    """Check a SavedModel in a fresh process: checksums, warm-up records, signatures, answers against brute force."""
    from export_tools import verify as run

    found = run(saved_model, least_coverage)
    for name, outputs in found["signatures"].items():
        shapes = ", ".join(f"{key} {value['dtype']} {value['shape']}" for key, value in outputs.items())
        outcome("verify", f"{name}: {shapes}")
    place = "on a read-only file system" if found["read_only"] else "in a fresh process"
    outcome("verify", f"{found['warm_up_records']} warm-up records replayed {place}")
    if "coverage" in found:
        outcome("verify", f"{found['files']} checksums, coverage {found['coverage']:.3f} of brute force")


def inspect(
    saved_model: Annotated[Path, typer.Argument(help="Output of `nann export`, or any SavedModel.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Show the sizes, signatures, search parameters and origin of a SavedModel, without running it."""
    from export_tools import inspect as run
    from export_tools.inspect import summary

    found = run(saved_model)
    if as_json:
        print(to_json(found))
        return
    outcome("inspect", f"{saved_model}")
    print(summary(found))


def explain(
    saved_model: Annotated[Path, typer.Argument(help="Output of `nann export`, or any SavedModel with a scorer.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Draw both graphs to this .html or .svg file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything, including every node, as JSON.")] = False,
    top: Annotated[int, typer.Option(help="Number of the most expensive nodes to list.", min=1)] = 8,
    items: Annotated[int, typer.Option(help="Items scored by the request for which costs are computed.", min=1)] = 4096,
    batch: Annotated[int, typer.Option(help="Items scored in each batch of that request.", min=1)] = 256,
    fold_items: Annotated[
        bool,
        typer.Option(
            "--fold-items", help="For a scorer not rewritten at export, show what an export would store in the index."
        ),
    ] = False,
) -> None:
    """Show a scorer before and after the passes: what each pass did and what is still expensive. Nothing is run."""
    from export_tools import explain as run
    from export_tools.graphs.tables import summary

    found = run(saved_model, output, fold_items=fold_items, items=items, batch=batch, top=top)
    if as_json:
        print(to_json(found.facts()))
        return
    outcome("explain", f"{saved_model}")
    print(summary(found, top))
    if output is not None:
        outcome("explain", f"drawn: {output}")


def add_to(app: typer.Typer) -> None:
    """Adds the commands to `nann`."""
    app.command(epilog=_EXPORT_EXAMPLES)(export)
    app.command(epilog="Example: nann verify models/nann/1")(verify)
    app.command(epilog="Example: nann inspect models/nann/1")(inspect)
    app.command(epilog="Example: nann explain models/nann/1 -o scorer.html")(explain)
