"""Options shared by several commands."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from tfserving_ext.errors import NannError

Out = Annotated[
    Path, typer.Option("--out", "-o", help="The output folder; an earlier output of this command is replaced.")
]
Force = Annotated[
    bool, typer.Option("--force", help="Replace the output folder, whatever it holds, even files of other stages.")
]
Frontier = Annotated[
    int,
    typer.Option(help="Best-first search: items expanded per step.", min=1),
]
Pool = Annotated[int, typer.Option(help="Best-first and surrogate search: scored items to keep; at least k.", min=1)]
Batch = Annotated[int, typer.Option(help="Surrogate search: items evaluated per step.", min=1)]
ExpectedCoverage = Annotated[
    float,
    typer.Option(help="Surrogate search: it ends when this share of the best k is expected to be found.", min=0, max=1),
]
Coverage = Annotated[
    float | None,
    typer.Option(help="Surrogate search: the mean coverage to find, by the rule that `nann tune` fitted to the index."),
]
EfOption = Annotated[str, typer.Option(help="The paper's search: beam width per layer, start layer first.")]
RoundsOption = Annotated[str, typer.Option(help="The paper's search: rounds per layer, start layer first.")]
K = Annotated[int, typer.Option("-k", "--k", help="Items in each answer.", min=1)]


def numbers(name: str, text: str) -> tuple[int, ...]:
    """Parses integers separated by commas.

    Args:
      name: the option's name, for the error message.
      text: the option's value.

    Raises:
      NannError: `text` is anything else.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise NannError(f"{name} is {text!r}, it must be integers separated by commas, such as 100,200,400") from error


def beam_options(text: str) -> list[str]:
    """Splits the value of `--beam` as a shell does.

    Raises:
      NannError: a quote is not closed.
    """
    try:
        return shlex.split(text)
    except ValueError as error:
        raise NannError(f"--beam is {text!r}: {error}") from error
