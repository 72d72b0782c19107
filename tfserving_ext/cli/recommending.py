"""`nann recommend`: one user's recommendations as a table."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from tfserving_ext.errors import NannError
from tfserving_ext.progress import console

_EXAMPLES = """Example: nann recommend models/nann/1 --user 42 --data data --names products.csv

nann recommend models/mine/1 --features '{"age": [[35]], "country": ["fr"]}' -k 20"""


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
    signature: Annotated[str, typer.Option(help="The signature to call.")] = "retrieve",
) -> None:
    """Show what an exported model answers for one user, beside the user's history."""
    from rich.table import Table

    from tfserving_ext.serving.recommendation import Asked
    from tfserving_ext.serving.recommendation import recommend as run

    asked = Asked(user, data, None if features is None else _json("--features", features), new)
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
    """Adds the command to `nann`."""
    app.command(epilog=_EXAMPLES)(recommend)
