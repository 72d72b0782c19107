"""`nann convert`: behaviours to what training reads."""

from pathlib import Path
from typing import Annotated

import typer

from tfserving_ext.commands.options import Out
from tfserving_ext.errors import NannError
from tfserving_ext.progress import outcome


def _share(text: str) -> int | float:
    """A number of users, or a fraction of them."""
    try:
        return float(text) if "." in text else int(text)
    except ValueError as error:
        raise NannError(f"got {text!r}, allowed are a number of users (10000) or a fraction (0.1)") from error


def convert(
    csv: Annotated[Path, typer.Argument(help="UserBehavior CSV (plain or .gz), without a header.")],
    out: Out = Path("data"),
    min_item_count: Annotated[int, typer.Option(help="Drop items with fewer behaviours.", min=1)] = 5,
    validation: Annotated[str, typer.Option(help="Validation users: a number, or a fraction below 1.")] = "10000",
    test: Annotated[str, typer.Option(help="Test users: a number, or a fraction below 1.")] = "10000",
    seed: Annotated[int, typer.Option(help="Of the split.")] = 0,
) -> None:
    """Convert a UserBehavior CSV into sequences, split by user."""
    from tfserving_ext.data.convert import convert as run
    from tfserving_ext.data.sequences import Sequences

    run(csv, out, min_item_count=min_item_count, validation=_share(validation), test=_share(test), seed=seed)
    counts = Sequences.open(out).counts
    outcome(
        "convert", f"{counts['behaviors']:,} behaviours, {counts['users']:,} users, {counts['items']:,} items: {out}"
    )


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command(epilog="Example: nann convert UserBehavior.csv -o data --validation 10000 --test 10000")(convert)
