"""`nann judge` and `nann recommend`: whether an exported model's answers are good, by figures and by eye."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from tfserving_ext.errors import NannError
from tfserving_ext.progress import console, outcome

_JUDGE_EXAMPLES = """Example: nann judge models/nann/1 requests.json -o judgement.json

nann judge models/nann/1 requests.parquet -k 100 --by country

nann judge models/nann/1 requests.parquet --server 127.0.0.1:8500"""
_RECOMMEND_EXAMPLES = """Example: nann recommend models/nann/1 --user 1234 --data data --names products.csv

nann recommend models/nann/1 --features '{"item_history": [1082185, 1029743]}' -k 20

nann recommend models/nann/1 --user 1234 --data data --filter 'price < 20' --cap-by brand --cap 2"""


def judge(
    saved_model: Annotated[Path, typer.Argument(help="Output of `nann export`.")],
    requests: Annotated[
        Path,
        typer.Argument(
            help="The inputs of one user each, by name: JSON, JSON lines or Parquet; with `next`, the ids of the items "
            "that the user chose next, recall is measured too."
        ),
    ],
    k: Annotated[
        int | None, typer.Option("-k", help="Number of items to answer.", min=1, show_default="the model's")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="JSON file for the figures.")] = None,
    signature: Annotated[list[str] | None, typer.Option(help="Measure only this signature; may be repeated.")] = None,
    server: Annotated[
        str | None,
        typer.Option(
            help="Measure the answers of a server that serves this version: HOST:PORT of its gRPC port, or "
            "HOST:PORT/NAME if its name of the model is not that of the folder.",
            show_default="this process",
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(help="Tell the figures by the values of this input, or other name in the requests, too."),
    ] = None,
) -> None:
    """Measure an exported model on real requests, against scoring every item."""
    from export_tools.judge import SIGNATURES
    from export_tools.judge import judge as run
    from export_tools.judgement import as_segments, as_table, verdict

    figures = run(saved_model, requests, k, out, SIGNATURES if signature is None else tuple(signature), server, by)
    outcome("judge", verdict(figures))
    console.print(as_table(figures))
    if by is not None:
        console.print(as_segments(figures))
    if out is not None:
        outcome("judge", f"figures: {out}")


def recommend(
    model: Annotated[Path, typer.Argument(help="Output of `nann export`.")],
    user: Annotated[str | None, typer.Option(help="A user's id in --data.")] = None,
    data: Annotated[Path | None, typer.Option(help="Output of `nann convert`, for the user's history.")] = None,
    features: Annotated[
        str | None,
        typer.Option(help="In place of --user: the model's inputs for one user, as JSON, or a file that holds it."),
    ] = None,
    names: Annotated[
        Path | None, typer.Option(help="CSV file with the columns item_id and name, and perhaps category.")
    ] = None,
    k: Annotated[int, typer.Option("-k", help="Number of items.", min=1)] = 10,
    new: Annotated[bool, typer.Option("--new", help="Leave out the items of the user's history.")] = False,
    filter: Annotated[
        str | None, typer.Option(help="Answer with the items that pass this filter, of their attributes, alone.")
    ] = None,
    cap_by: Annotated[
        str | None, typer.Option(help="A column of the attributes: at most --cap items have the same value in it.")
    ] = None,
    cap: Annotated[int, typer.Option(help="See --cap-by.", min=1)] = 1,
    signature: Annotated[str, typer.Option(help="The signature to call.")] = "retrieve",
) -> None:
    """Show what an exported model answers for one user, beside the user's history."""
    from rich.table import Table

    from tfserving_ext.serving.recommendation import Asked
    from tfserving_ext.serving.recommendation import recommend as run

    inputs: dict[str, Any] = {} if filter is None else {"filter": filter}
    if cap_by is not None:
        inputs.update(cap_by=cap_by, cap=cap)
    asked = Asked(user, data, None if features is None else _json("--features", features), new, inputs)
    found = run(model, asked, k, names, signature)
    if found.history:
        console.print(f"User {user}, {len(found.history):,} items so far; the last {min(k, len(found.history))}:")
        for item in found.history[-k:]:
            console.print(f"    {item.name}", markup=False, highlight=False)
    table = Table(title=f"The best {len(found.items)}, {found.items_scored:,} items scored", title_justify="left")
    table.add_column("item")
    table.add_column("id")
    table.add_column("score", justify="right")
    for item in found.items:
        table.add_row(item.name, item.id, f"{item.score:.4f}")
    console.print(table)


def _json(option: str, text: str) -> dict[str, Any]:
    """Reads a JSON object, or the file that holds it."""
    try:
        path = Path(text)
        found = json.loads(text if text.lstrip().startswith("{") else path.read_text())
    except (OSError, ValueError) as error:
        raise NannError(f"{option} is {text!r}, which is neither JSON nor a file of it: {error}") from error
    if not isinstance(found, dict):
        raise NannError(f"{option} holds {found!r}; an object of inputs by name is expected")
    return found


def add_to(app: typer.Typer) -> None:
    """Adds the commands to `nann`."""
    app.command(epilog=_JUDGE_EXAMPLES)(judge)
    app.command(epilog=_RECOMMEND_EXAMPLES)(recommend)
