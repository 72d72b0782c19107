"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from tfserving_ext.errors import NannError

Out = Annotated[Path, typer.Option("--out", "-o", help="Where to write; what this command wrote there is replaced.")]
Force = Annotated[
    bool, typer.Option("--force", help="Replace whatever is there, what other stages or you yourself wrote too.")
]
Frontier = Annotated[int, typer.Option(help="Best-first search: items expanded per step.", min=1)]
Pool = Annotated[int, typer.Option(help="Best-first search: scored items that are kept; at least k.", min=1)]
EfOption = Annotated[str, typer.Option(help="The paper's search: beam width per layer, start layer first.")]
RoundsOption = Annotated[str, typer.Option(help="The paper's search: rounds per layer, start layer first.")]
K = Annotated[int, typer.Option("-k", "--k", help="Length of the answers.", min=1)]


def numbers(name: str, text: str) -> tuple[int, ...]:
    """The whole numbers in `text`, with commas between.

    Raises:
      NannError: they are something else; `name` is the option that is told.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise NannError(
            f"{name} is {text!r}, it must be whole numbers with commas between, such as 100,200,400"
        ) from error
