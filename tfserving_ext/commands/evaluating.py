"""`nann evaluate`: how good a model and its search are."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from tfserving_ext.commands.options import EfOption, Frontier, K, Pool, RoundsOption, numbers
from tfserving_ext.progress import outcome


class SearchName(str, Enum):
    """The searches that can be measured."""

    best_first = "best_first"
    rounds = "rounds"


def evaluate(
    data: Annotated[Path, typer.Argument(help="What `nann convert` wrote.")],
    model: Annotated[Path, typer.Argument(help="What `nann train` wrote.")],
    index: Annotated[Path, typer.Argument(help="What `nann index` wrote.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="JSON file for the figures.")] = None,
    k: K = 200,
    search: Annotated[list[SearchName] | None, typer.Option(help="Measure this one; all by default.")] = None,
    frontier: Frontier = 16,
    pool: Pool = 200,
    ef: EfOption = "100,200,400",
    rounds: RoundsOption = "1,1,3",
    positions: Annotated[int, typer.Option(help="Test cases per user; 1 is the middle of the history.", min=1)] = 1,
    max_cases: Annotated[int | None, typer.Option(help="Evaluate this many cases only.", min=1)] = None,
    brute_force: Annotated[bool, typer.Option("--brute-force", help="Recall by brute force alone.")] = False,
) -> None:
    """Measure recall, coverage and the scored fraction on held-out users."""
    from tfserving_ext.retrieval import BestFirst, Rounds
    from tfserving_ext.retrieval.evaluate import evaluate as run
    from tfserving_ext.retrieval.evaluate import summary

    searches: dict[str, BestFirst | Rounds] = {
        "best_first": BestFirst(frontier, pool),
        "rounds": Rounds(numbers("--ef", ef), numbers("--rounds", rounds)),
    }
    wanted = [] if brute_force else [name.value for name in search or SearchName]
    figures = run(data, model, index, out, {name: searches[name] for name in wanted}, k, positions, max_cases)
    outcome("evaluate", summary(figures))


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command(epilog="Example: nann evaluate data model index -o evaluation.json --positions 9")(evaluate)
