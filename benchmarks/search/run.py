"""The searches against their peers: `make bench-search` (benchmarks/README.md has the results).

    python -m benchmarks.search.run --folder demo

Each part runs in a process of its own, because TensorFlow fixes its threads at its start. Compare ratios within one
part, as machines differ and are shared.
"""

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.command import Folder, Out, measuring, print_summary
from benchmarks.search.report import plot, print_tables
from benchmarks.search.summary import summarise
from tfserving_ext.artifacts import read_json, write_json
from tfserving_ext.errors import NannError
from tfserving_ext.machine import provenance


def bench_search(folder: Path, out: Path, quick: bool = False) -> dict[str, Any]:
    """Runs all parts.

    Args:
      folder: a demo's folder; files that the parts build are kept in its folder `bench`.
      out: JSON file for the raw results of all parts; a plot is drawn next to it.
      quick: fewer cases, one number of threads, a tenth of the large corpora.

    Returns:
      The summary (see `summarise`).

    Raises:
      NannError: an artefact or a library is missing, or a part failed.
    """
    for name in ("data", "model", "embeddings", "index"):
        if not (folder / name).exists():
            raise NannError(f"{folder / name} does not exist; make it with `nann demo --folder {folder}`")
    parts = {
        "neural": ("neural", "--threads", "1", "--builds", "3"),
        "neural_2_threads": ("neural", "--threads", "2", "--builds", "1", "--quick"),  # The first part has more cases.
        "asked": ("asked", "--builds", "3"),
        "large": ("large",),
        "reference": ("reference",),
        "metrics": ("metrics",),
    }
    if quick:
        del parts["neural_2_threads"]
    figures: dict[str, Any] = {"quick": quick, **provenance()}
    targets = {name: out.with_name(f"{out.stem}_{name}.json") for name in parts}
    for name, (module, *options) in parts.items():
        target = targets[name]
        command = [sys.executable, "-m", f"benchmarks.search.{module}", "--folder", str(folder), "-o", str(target)]
        if subprocess.run([*command, *options, *["--quick"] * quick], check=False).returncode != 0:
            raise NannError(f"the part {name} failed; its output is above")
        figures[name] = read_json(target)
    figures["summary"] = summarise(figures)
    write_json(out, figures)
    for target in targets.values():  # Kept until here, so that a part that fails loses no results of earlier ones.
        target.unlink()
    print_tables(figures)
    plot(figures, out.with_suffix(".svg"))
    return figures["summary"]


def main(
    folder: Folder = Path("demo"),
    out: Out = Path("benchmarks/out/search.json"),
    quick: Annotated[bool, typer.Option("--quick", help="Fewer cases, in a few minutes.")] = False,
) -> None:
    """Measure the searches against their peers; the last line is the summary as JSON.

    Example: python -m benchmarks.search.run --folder demo --quick
    """
    with measuring(out):
        summary = bench_search(folder, out, quick)
    print_summary(summary)


if __name__ == "__main__":
    typer.run(main)
