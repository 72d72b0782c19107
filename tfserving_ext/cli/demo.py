"""`nann demo`: all stages on real purchases."""

from pathlib import Path
from typing import Annotated

import typer


def demo(
    folder: Annotated[Path, typer.Option(help="The folder for all outputs; finished stages in it are reused.")] = Path(
        "demo"
    ),
    train: Annotated[
        bool,
        typer.Option("--train", help="Train the models instead of using the trained one that comes with nann."),
    ] = False,
    steps: Annotated[
        int | None, typer.Option(help="Train each model for this many steps; the default takes about five minutes.")
    ] = None,
    serve_forever: Annotated[bool, typer.Option("--keep-serving", help="Keep the server running at the end.")] = False,
) -> None:
    """Run all stages on real purchases (Complete Journey), then request recommendations."""
    from tfserving_ext.demo import run_demo

    run_demo(folder, steps, serve_forever, train)


def add_to(app: typer.Typer) -> None:
    """Adds the command to `nann`."""
    app.command(epilog="Example: nann demo --folder demo")(demo)
