"""The summary and the tables of `make bench-scorer`."""

import statistics
from typing import Any

from rich.table import Table

from benchmarks.scorer.whole_search import SHIPPED
from tfserving_ext.progress import console, outcome


def summarise(figures: dict[str, Any]) -> dict[str, Any]:
    """Summarises the figures of all models.

    Returns:
      model: for each model, of the scorer that an export ships: `speedup_min` and `speedup_median`, the least and the
        median over batch sizes of its speed-up over XLA without passes; the same over TensorFlow's kernels and over the
        better of the two, which is also there for each batch size; and by batch size, the share that it reaches of the
        multiply-adds per second of a large product.
      speedup_min, speedup_median: those of nann_attention; lowest_speedup_median: the lowest median of all models.
      median_min, least: the lowest median, and the lowest of all models and batch sizes, over the better of XLA and
        TensorFlow without passes.
      search_speedup: that of the demo's search with folded rows; None without a demo.
      peak_gflops: of the large product, the most over all turns.
      nanoseconds_per_multiply_add, nanoseconds_per_byte: the costs by which `item_fold` decides whether to fold.
    """
    models = {name: _summary_of(one) for name, one in figures["models"].items()}
    return {
        "model": models,
        "speedup_min": models["nann_attention"]["speedup_min"],
        "speedup_median": models["nann_attention"]["speedup_median"],
        "search_speedup": None if figures["search"] is None else round(figures["search"][SHIPPED]["speedup"], 3),
        "lowest_speedup_median": min(one["speedup_median"] for one in models.values()),
        "median_min": min(one["speedup_over_better_median"] for one in models.values()),
        "least": min(one["speedup_over_better_min"] for one in models.values()),
        "peak_gflops": round(max(max(one["peak_gflops"]) for one in figures["models"].values()), 1),
        "nanoseconds_per_multiply_add": round(figures["costs"]["multiply_add"], 4),
        "nanoseconds_per_byte": round(figures["costs"]["byte"], 4),
    }


def _summary_of(one: dict[str, Any]) -> dict[str, Any]:
    def by_batch(values: list[float]) -> dict[str, float]:
        return {str(batch): round(value, 3) for batch, value in zip(one["batches"], values, strict=True)}

    return {
        "speedup_min": round(min(one["speedups"]), 3),
        "speedup_median": round(statistics.median(one["speedups"]), 3),
        "speedup_over_tensorflow_median": round(statistics.median(one["speedups_over_tensorflow"]), 3),
        "speedup_over_better": by_batch(one["speedups_over_better"]),
        "speedup_over_better_min": round(min(one["speedups_over_better"]), 3),
        "speedup_over_better_median": round(statistics.median(one["speedups_over_better"]), 3),
        "share_of_peak": by_batch(one["shares_of_peak"]),
        "multiply_adds_before": one["multiply_adds_before"],
        "multiply_adds_after": one["multiply_adds_after"],
        "shipped": one["shipped"],
        "baseline": one["baseline"],
    }


def print_table(name: str, one: dict[str, Any]) -> None:
    """Prints the times of one model."""
    table = Table(
        title=f"{name}: {one['multiply_adds_before']:,.0f} multiply-adds per item before, "
        f"{one['multiply_adds_after']:,.0f} after; microseconds per batch, one thread",
        title_justify="left",
    )
    table.add_column("scorer")
    for column in (*map(str, one["batches"]), "prepare", "row, bytes"):
        table.add_column(column, justify="right")
    for contender, times in one["us"].items():
        known = contender.removesuffix(", xla")
        prepare, width = one["prepare_us"].get(known), one["row_bytes"].get(known)
        table.add_row(
            f"{contender}{' (shipped)' if contender == one['shipped'] else ''}",
            *(f"{time:.0f}" for time in times),
            "" if prepare is None else f"{prepare:.0f}",
            "" if width is None else str(width),
        )
    for title, values in (
        (f"speed-up over {one['baseline']}", one["speedups"]),
        ("over tensorflow", one["speedups_over_tensorflow"]),
        ("over the better", one["speedups_over_better"]),
    ):
        table.add_row(title, *(f"{value:.2f}" for value in values), "", "")
    table.add_row("share of a large product's speed", *(f"{share:.0%}" for share in one["shares_of_peak"]), "", "")
    console.print(table)
    for contender, reason in one["xla_refuses"].items():
        outcome(name, f"XLA cannot compile {contender!r}: {reason}")
