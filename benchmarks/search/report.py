"""The tables and the plot of `make bench-search`."""

from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.search.evaluations import scored_at
from tfserving_ext.progress import console

TITLES = {
    "surrogate": "surrogate (ours)",
    "best_first": "best-first (ours)",
    "rounds": "the paper's rounds, in our op",
    "tensorflow_ops": "the paper's rounds, in TensorFlow's ops",
    "brute_force": "brute force",
    "usearch": "usearch, numba metric",
    "usearch_tuned": "usearch, numba metric tuned by hand",
    "rerank": "two-sided model, reranked",
    "guitar": "GUITAR's gradient pruning, scoring alone",
    "no_residuals": "surrogate without residuals",
}
COVERAGES = (0.98, 0.99, 0.995)


def print_tables(figures: dict[str, Any]) -> None:
    """Prints the results of every setting, and of the race."""
    for name in ("neural", "neural_2_threads"):
        if name not in figures:
            continue
        part = figures[name]
        table = Table(
            title=f"{part['items']:,} items, k {part['k']}, threads: {part['threads']}; brute force's own recall "
            f"{part['model']['recall_all']:.4f}",
            title_justify="left",
        )
        for column in ("search", "setting", "cases", "coverage", "recall", "ms", "ms, in turns"):
            table.add_column(column, justify="left" if column in ("search", "setting") else "right")
        for search, settings in part["settings"].items():
            for one in settings:
                raced = one["setting"] == part["race"][search]["setting"]
                table.add_row(
                    TITLES[search],
                    str(one["setting"]),
                    str(one["cases"]),
                    f"{one['coverage']:.4f}",
                    f"{one['recall']:.4f}",
                    f"{one['ms_per_query']:.2f}",
                    f"{part['race'][search]['ms_per_query']:.2f}" if raced else "",
                )
        console.print(table)
    for search, points in figures["neural"]["evaluations"].items():
        scored = ((wanted, scored_at(points, wanted)) for wanted in COVERAGES)
        cells = (f"{'not reached' if one is None else f'{one:,.0f}'} for {wanted}" for wanted, one in scored)
        console.print(f"evaluations for a coverage, {TITLES[search]}: {', '.join(cells)}")


def plot(figures: dict[str, Any], target: Path) -> None:
    """Draws coverage and recall over the time per query, one line per search, as an SVG file."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    part = figures["neural"]
    figure, panels = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for panel, value in zip(panels, ("coverage", "recall"), strict=True):
        for search, settings in part["settings"].items():
            ordered = sorted(settings, key=lambda one: one["ms_per_query"])
            times, values = ([one[key] for one in ordered] for key in ("ms_per_query", value))
            panel.plot(times, values, marker="o", markersize=4, label=TITLES[search])
        panel.set_xscale("log")
        panel.set_xlabel("milliseconds per query, one thread")
        panel.set_ylabel(f"{value}@{part['k']}")
        panel.grid(alpha=0.3)
    panels[1].axhline(part["model"]["recall_all"], color="grey", linewidth=0.8, linestyle="--")
    panels[0].legend(fontsize=8)
    figure.suptitle(f"{part['items']:,} items under the neural model", fontsize=10)
    figure.savefig(target)
    pyplot.close(figure)
