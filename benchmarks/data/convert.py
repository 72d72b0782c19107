"""Speed and memory of `nann convert`, compared with a row-by-row conversion in Python: `make bench-convert`."""

import os
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # Read when TensorFlow is imported.

from benchmarks.command import Out, measuring, print_summary
from benchmarks.data.rowwise import convert_rowwise
from benchmarks.processes import run_nann
from tfserving_ext.artifacts import write_json
from tfserving_ext.data.rows import cores
from tfserving_ext.data.sequence_format import read_manifest
from tfserving_ext.data.synth import FIRST_TIME, LAST_TIME
from tfserving_ext.machine import provenance
from tfserving_ext.progress import console

ROWS, QUICK_ROWS = 20_000_000, 2_000_000
SAMPLE_ROWS = 100_000


def bench_convert(folder: Path, rows: int, memory_gb: float, sample_rows: int = SAMPLE_ROWS) -> dict[str, Any]:
    """Makes a corpus, converts it by `nann convert` in a process of its own, and converts a sample of it row by row.

    Args:
      folder: where the corpus and both results are written, about 90 bytes per row.
      rows: number of rows in the corpus.
      memory_gb: the bound on memory, `nann convert --memory`.
      sample_rows: how many of the first rows are converted row by row.

    Returns:
      A dict with `rows`, `csv_bytes`, `seconds`, `rows_per_second`, `memory_bound_gb`, `peak_memory_gb` (the process's
      largest resident set, including mapped files), `cores`, the manifest's `counts`, and `data_bytes`; `rowwise`, with
      the rows, records, seconds and rows per second of the other conversion; and `speedup_vs_rowwise`, the ratio of
      rows per second.

    Raises:
      NannError: the conversion failed.
    """
    csv = folder / "UserBehavior.csv"
    # In a process of its own, because a process that is started inherits the peak memory of the one that starts it.
    run_nann("synth", "-o", csv, "--rows", rows)
    sample = folder / "sample.csv"
    with csv.open("rb") as source, sample.open("wb") as file:
        file.writelines(islice(source, sample_rows))
    # Once before and once after, because the machine may be slower at one time than at another.
    rowwise = [_rowwise(sample, folder / "sample.tfrecord")]
    kept = ["--time-range", f"{FIRST_TIME}..{LAST_TIME}", "--validation", 0.01, "--test", 0.01]
    spent = run_nann("convert", csv, "-o", folder / "data", "--memory", memory_gb, *kept)
    rowwise.append(_rowwise(sample, folder / "sample.tfrecord"))
    slow_rows, records = rowwise[0][0], rowwise[0][1]
    slow = slow_rows / (sum(one[2] for one in rowwise) / len(rowwise))
    return {
        "rows": rows,
        "csv_bytes": csv.stat().st_size,
        "seconds": spent.seconds,
        "rows_per_second": rows / spent.seconds,
        "memory_bound_gb": memory_gb,
        "peak_memory_gb": spent.peak_gb,
        "cores": cores(),
        "counts": read_manifest(folder / "data")["counts"],
        "data_bytes": sum(path.stat().st_size for path in (folder / "data").iterdir()),
        "rowwise": {
            "rows": slow_rows,
            "records": records,
            "seconds": [one[2] for one in rowwise],
            "rows_per_second": slow,
        },
        "speedup_vs_rowwise": rows / spent.seconds / slow,
    }


def _rowwise(source: Path, target: Path) -> tuple[int, int, float]:
    """Converts row by row; returns the numbers of rows and records, and the seconds."""
    import tensorflow as tf  # noqa: F401 - must not be imported while time is measured.

    begin = time.perf_counter()
    rows, records = convert_rowwise(source, target)
    return rows, records, time.perf_counter() - begin


def main(
    rows: Annotated[int | None, typer.Option(help="Rows of the corpus; 20 million by default.", min=1000)] = None,
    memory: Annotated[float, typer.Option(help="The bound on memory, in GB.", min=1)] = 4.0,
    out: Out = Path("benchmarks/out/convert.json"),
    scratch: Annotated[Path | None, typer.Option(help="Where to work; a temporary folder by default.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Two million rows.")] = False,
) -> None:
    """Measure the conversion; the last line is the summary as JSON.

    Example: python -m benchmarks.data.convert --rows 100150807 --memory 6
    """
    with measuring(out), tempfile.TemporaryDirectory(prefix="bench-convert-", dir=scratch) as folder:
        figures = bench_convert(Path(folder), rows or (QUICK_ROWS if quick else ROWS), memory)
    names = ("rows", "seconds", "rows_per_second", "memory_bound_gb", "peak_memory_gb", "speedup_vs_rowwise")
    summary = {name: round(figures[name], 3) for name in names}
    write_json(out, {**provenance(), "quick": quick, **figures, "summary": summary})
    console.print(
        f"{figures['rows']:,} rows in {figures['seconds']:.1f} s on {figures['cores']} cores, at most "
        f"{figures['peak_memory_gb']:.2f} of {figures['memory_bound_gb']:g} GB; row by row "
        f"{figures['rowwise']['rows_per_second']:,.0f} rows a second\nraw figures: {out}"
    )
    print_summary(summary)


if __name__ == "__main__":
    typer.run(main)
