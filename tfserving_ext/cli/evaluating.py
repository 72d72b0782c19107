"""`nann evaluate`, `report`, `tune` and `preflight`: measure a model and its search, and choose search parameters."""

import dataclasses
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tfserving_ext.cli.options import (
    Batch,
    Coverage,
    EfOption,
    ExpectedCoverage,
    Frontier,
    K,
    Pool,
    RoundsOption,
    numbers,
)
from tfserving_ext.errors import NannError
from tfserving_ext.outputs import check_json
from tfserving_ext.progress import console, outcome


class SearchName(str, Enum):
    """The searches that can be measured."""

    surrogate = "surrogate"
    best_first = "best_first"
    rounds = "rounds"


Split = Annotated[Literal["validation", "test"], typer.Option(help="Users to measure on; training never saw them.")]
Data = Annotated[Path, typer.Argument(help="Output of `nann convert`.")]
Model = Annotated[Path, typer.Argument(help="Output of `nann train`.")]
IndexFolder = Annotated[Path, typer.Argument(help="Output of `nann index`.")]
Positions = Annotated[int, typer.Option(help="Cases per user; 1 is the middle of the history.", min=1)]
MaxCases = Annotated[int | None, typer.Option(help="Evaluate only this many cases.", min=1)]

_EVALUATE_EXAMPLES = """Example: nann evaluate data model index -o evaluation.json --positions 9

nann evaluate data model index -o evaluation.json --positions 9 --curves --builds 2

nann evaluate data model index --brute-force"""
_REPORT_EXAMPLES = """Example: nann report plain.json epsilon_0.1.json -o epsilons.html

nann report evaluation.json -o evaluation.html"""
_TUNE_EXAMPLES = """Example: nann tune data model index --coverage 0.99 --positions 9

nann tune data model index --latency-ms 5"""
_PREFLIGHT_EXAMPLES = """Example: nann preflight data model index --positions 9 --builds 3

nann preflight data model index --search rounds --rounds 1,1,6"""


def _searches(frontier: int, pool: int, batch: int, expected_coverage: float, ef: str, rounds: str) -> dict[str, Any]:
    from tfserving_ext.retrieval import BestFirst, Rounds, Surrogate

    return {
        "surrogate": Surrogate(frontier, pool, batch=batch, expected_coverage=expected_coverage),
        "best_first": BestFirst(frontier, pool),
        "rounds": Rounds(numbers("--ef", ef), numbers("--rounds", rounds)),
    }


def evaluate(
    data: Data,
    model: Model,
    index: IndexFolder,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="JSON file for the figures; .npz and .html files of the same name are written beside it.",
        ),
    ] = None,
    k: K = 200,
    search: Annotated[list[SearchName] | None, typer.Option(help="Measure only this search; may be repeated.")] = None,
    frontier: Frontier = 16,
    pool: Pool = 200,
    batch: Batch = 64,
    expected_coverage: ExpectedCoverage = 0.9,
    coverage: Coverage = None,
    ef: EfOption = "100,200,400",
    rounds: RoundsOption = "1,1,3",
    positions: Positions = 1,
    max_cases: MaxCases = None,
    brute_force: Annotated[bool, typer.Option("--brute-force", help="Measure only the recall of brute force.")] = False,
    split: Split = "test",
    curves: Annotated[
        bool, typer.Option("--curves", help="Also vary the searches: recall and coverage against items scored.")
    ] = False,
    curve_cases: Annotated[int, typer.Option(help="Cases for each point of a curve.", min=1)] = 500,
    builds: Annotated[
        int, typer.Option(help="Measure on this many more graphs, built with other seeds in a temporary folder.", min=0)
    ] = 0,
    html: Annotated[bool, typer.Option("--html/--no-html", help="Write the report beside the figures.")] = True,
) -> None:
    """Measure recall, coverage and the scored fraction on held-out users.

    With -o, the figures are written to a JSON file, the results of each case to an .npz file and a report with plots to
    an .html file.
    """
    from tfserving_ext.evaluation import EvaluationOptions, HeldOut, summary
    from tfserving_ext.evaluation import evaluate as run
    from tfserving_ext.index.coverage_rule import read_rule

    searches = _searches(frontier, pool, batch, expected_coverage, ef, rounds)
    if coverage is not None:
        own = read_rule(index).parameters(coverage)
        searches["surrogate"] = dataclasses.replace(searches["surrogate"], **own)
    wanted = [] if brute_force else [name.value for name in search or SearchName]
    figures = run(
        data,
        model,
        index,
        out,
        {name: searches[name] for name in wanted},
        HeldOut(k, positions, max_cases, split),
        EvaluationOptions(curve_cases if curves else None, builds, html),
    )
    outcome("evaluate", summary(figures))
    if out is not None and html:
        outcome("report", str(out.with_suffix(".html")))


def report(
    evaluations: Annotated[list[Path], typer.Argument(help="JSON files of `nann evaluate -o`, the baseline first.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="HTML file; an earlier report is replaced.")] = Path(
        "report.html"
    ),
) -> None:
    """Compare several evaluations on one page, or write the report of one again.

    Differences are from the first evaluation, with paired intervals if both were measured on the same cases.
    """
    from tfserving_ext.evaluation.compare import report as run

    found = run(evaluations, out)
    for each in found["differences"]:
        if each["interval"] is not None:
            low, high = each["interval"]
            figure = f"{each['figure'].replace('_', '-')}{' of ' + each['search'] if each['search'] else ''}"
            outcome("compare", f"{each['label']}: {figure} {each['value']:+.4f} ({low:+.4f} to {high:+.4f})")
    outcome("report", f"{len(evaluations)} evaluations: {out}")


def tune(
    data: Data,
    model: Model,
    index: IndexFolder,
    coverage: Annotated[
        float | None, typer.Option(help="Choose the fastest setting with this coverage@k or more.")
    ] = None,
    latency_ms: Annotated[
        float | None,
        typer.Option(help="Choose the setting of most coverage that answers 95 % of the users within this time."),
    ] = None,
    k: K = 200,
    positions: Positions = 1,
    max_cases: MaxCases = 500,
    split: Split = "validation",
) -> None:
    """Find search parameters for a wanted coverage or latency, on validation users.

    The settings that no other one beats in coverage, items scored and time are written to tuning.json in the index's
    folder, with the rule by which the surrogate search is asked for a coverage (--coverage of `nann export`).
    """
    from tfserving_ext.evaluation import HeldOut
    from tfserving_ext.evaluation.tune import options
    from tfserving_ext.evaluation.tune import tune as run
    from tfserving_ext.index.coverage_rule import KEY
    from tfserving_ext.index.tuning import FILE

    found = run(data, model, index, coverage, latency_ms, HeldOut(k, positions, max_cases, split))
    console.print(_table(found, options))
    outcome("tune", f"{len(found['table'])} of {found['tried']} settings are not beaten by any other: {index / FILE}")
    if found.get(KEY) is not None:
        low, high = found[KEY]["coverage"][0], found[KEY]["coverage"][-1]
        outcome(
            "tune", f"the surrogate search can be asked for a coverage up to {high:.4f}; it finds {low:.4f} at least"
        )
    if found["chosen"] is not None:
        row = found["chosen"]
        outcome("chosen", f"coverage {row['coverage']:.4f}, {row['ms_p95']:.2f} ms: {options(row)}")


def _table(found: dict[str, Any], options: Any) -> Any:
    from rich.table import Table

    table = Table(title=f"Coverage@{found['k']} of {found['cases']:,} cases", title_justify="left")
    for column in ("coverage", "95 % interval", "items scored", "% of all", "ms", "ms, 95 %"):
        table.add_column(column, justify="right")
    table.add_column("options", no_wrap=True)
    for row in found["table"]:
        low, high = row["coverage_interval"]
        table.add_row(
            f"{row['coverage']:.4f}",
            f"{low:.4f} to {high:.4f}",
            f"{row['items_scored']:,.0f}",
            f"{100 * row['scored_fraction']:.1f}",
            f"{row['ms']:.2f}",
            f"{row['ms_p95']:.2f}",
            options(row),
        )
    return table


def preflight(
    data: Data,
    model: Model,
    index: IndexFolder,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="JSON file for the verdict.")] = None,
    k: K = 200,
    search: Annotated[SearchName, typer.Option(help="The search that will be deployed.")] = SearchName.best_first,
    frontier: Frontier = 16,
    pool: Pool = 200,
    batch: Batch = 64,
    expected_coverage: ExpectedCoverage = 0.9,
    ef: EfOption = "100,200,400",
    rounds: RoundsOption = "1,1,3",
    positions: Positions = 1,
    max_cases: MaxCases = 500,
    split: Split = "test",
    builds: Annotated[int, typer.Option(help="Further graphs to build for comparison, with other seeds.", min=0)] = 0,
) -> None:
    """Check before a deployment whether an index serves this model well, and suggest what to change.

    The exit status is 1 if a check fails.
    """
    from tfserving_ext.artifacts import write_json
    from tfserving_ext.evaluation import HeldOut
    from tfserving_ext.evaluation.preflight import FAIL
    from tfserving_ext.evaluation.preflight import preflight as run

    if out is not None:
        check_json(out, "a verdict of `nann preflight`", "verdict")
    deployed = _searches(frontier, pool, batch, expected_coverage, ef, rounds)[search.value]
    found = run(data, model, index, deployed, HeldOut(k, positions, max_cases, split), builds)
    colors = {"PASS": "green", "WARN": "yellow", "FAIL": "red"}
    for check in found["checks"]:
        console.print(f"[bold {colors[check['status']]}]{check['status']}[/] {check['name']}: {check['text']}")
        if check["advice"]:
            console.print(f"     {check['advice']}", markup=False)
    console.print("Users with the least coverage:")
    for user in found["worst_users"]:
        console.print(
            f"     user {user['user_id']}: {user['coverage']:.4f} over {user['cases']} cases, "
            f"{user['history_length']:,} behaviours"
        )
    if out is not None:
        write_json(out, found)
    outcome("preflight", f"{found['verdict']}: {found['cases']:,} cases of {found['users']:,} users")
    if found["verdict"] == FAIL:
        failed = ", ".join(check["name"] for check in found["checks"] if check["status"] == FAIL)
        raise NannError(f"{index} should not be deployed: {failed}")


def add_to(app: typer.Typer) -> None:
    """Adds the commands to `nann`."""
    app.command(epilog=_EVALUATE_EXAMPLES)(evaluate)
    app.command(epilog=_REPORT_EXAMPLES)(report)
    app.command(epilog=_TUNE_EXAMPLES)(tune)
    app.command(epilog=_PREFLIGHT_EXAMPLES)(preflight)
