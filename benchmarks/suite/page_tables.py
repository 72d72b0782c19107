"""The tables of docs/performance.md that need more than a benchmark's summary."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.search.report import TITLES


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Returns a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(number, line))} |\n" for line in lines)


def number(value: Any) -> str:
    """Formats a number with separators of thousands and four significant digits; other values are only made text."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def race(figures: Mapping[str, Any]) -> str:
    """Returns the table of searches at equal coverage, which took turns."""
    neural = figures["neural"]
    ours = neural["race"]["surrogate"]["ms_per_query"]
    rows = []
    for name, one in neural["race"].items():
        ms = one["ms_per_query"]
        rows.append([TITLES[name], f"`{one['setting']}`", f"{one['coverage']:.4f}", f"{ms:.2f}", f"{ms / ours:.1f}"])
    return (
        f"{neural['items']:,} items, k {neural['k']}, one thread. The fastest setting of each search that covers at "
        "least 0.98, or else the one that covers most; they took turns.\n\n"
        + table(["search", "setting", "coverage", "ms per query", "times ours"], rows)
    )


def scorers(figures: Mapping[str, Any]) -> str:
    """Returns the table of every reference model."""
    models = figures["summary"]["model"]
    columns = {
        "median": "speedup_median",
        "least": "speedup_min",
        "over TensorFlow": "speedup_over_tensorflow_median",
        "over the better": "speedup_over_better_median",
        "least over the better": "speedup_over_better_min",
    }
    # A run of an earlier release lacks the last of them, and the shares.
    columns = {head: key for head, key in columns.items() if all(key in one for one in models.values())}
    shares = list(next(iter(models.values())).get("share_of_peak", {}))
    rows = [
        [name, one["multiply_adds_before"], one["multiply_adds_after"], one["shipped"]]
        + [f"{one[key]:.2f}" for key in columns.values()]
        + [" / ".join(f"{100 * one['share_of_peak'][batch]:.0f}" for batch in shares)] * bool(shares)
        for name, one in models.items()
    ]
    head = ["model", "multiply-adds per item", "after", "shipped", *columns]
    text = "Speed-up of the scorer that an export ships, over the same scorer without the passes"
    if shares:
        head.append(f"% of peak at {', '.join(shares)} items")
        text += "; its multiply-adds a second, as a part of a large product's"
    return f"{text}.\n\n" + table(head, rows)


def index_builds(figures: Mapping[str, Any]) -> str:
    """Returns the table of index builds, for both sets of embeddings."""
    rows = [
        [f"{name}, width {one['dim']}", one["items"], f"{one['seconds']:.1f}", f"{one['items_per_second']:,.0f}"]
        + [f"{one[key]:.2f}" for key in ("peak_gb", "seconds_vs_faiss", "peak_vs_faiss")]
        for name, one in figures["summary"].items()
    ]
    head = ["embeddings", "items", "seconds", "items a second", "peak GB", "time / Faiss alone", "memory / Faiss's"]
    return "`nann index` as a whole process, M 32, efConstruction 40, all cores.\n\n" + table(head, rows)


def cold_starts(figures: Mapping[str, Any]) -> str:
    """Returns the table of cold starts, with and without warm-up records."""
    keys = {
        "serving_seconds": "server: serves after, s",
        "answered_seconds": "server: first answer after, s",
        "first_ms": "server: first answer takes, ms",
        "later_ms": "server: later answers take, ms",
        "first_to_later": "server: first answer / later ones",
        "import_seconds": "in process: import, s",
        "load_seconds": "in process: load, s",
        "in_process_first_to_later": "in process: first answer / later ones",
    }
    summary = figures["summary"]
    rows = [[words, *(f"{one[key]:.2f}" for one in summary.values())] for key, words in keys.items()]
    sizes = ", ".join(f"{name} {size:.1f}" for name, size in figures["sizes_mb"].items())
    return (
        f"Medians of {figures['repeats']} starts, in turns, with the files in the page cache. "
        f"Sizes of the SavedModel in MB: {sizes}.\n\n"
        + table(["", *(name.replace("_", " ") for name in summary)], rows)
    )
