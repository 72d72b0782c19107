"""`nann demo`: all stages on real purchases."""

from pathlib import Path
from typing import Annotated

import typer


def demo(
    folder: Annotated[Path, typer.Option(help="Where all artefacts go; finished stages in it are reused.")] = Path(
        "demo"
    ),
    train: Annotated[
        bool,
        typer.Option("--train", help="Train the models, in place of reading the trained one that comes with nann."),
    ] = False,
    steps: Annotated[
        int | None, typer.Option(help="Train, so many steps of each model; the default takes about five minutes.")
    ] = None,
    serve_forever: Annotated[bool, typer.Option("--keep-serving", help="Go on serving at the end.")] = False,
) -> None:
    """Run all stages on real purchases (Complete Journey), and ask for recommendations."""
    from tfserving_ext.demo import run_demo

    run_demo(folder, steps, serve_forever, train)


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog="Example: nann demo --folder demo")(demo)
