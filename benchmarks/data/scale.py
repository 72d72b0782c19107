"""Time and memory of conversion, training, extraction and index building on a corpus of UserBehavior's size.

This takes fifteen minutes and 25 GB of disk. The results of one run are in benchmarks/results/scale.json.
"""

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.command import Out, measuring, print_summary
from benchmarks.processes import run_nann
from tfserving_ext.artifacts import write_json
from tfserving_ext.data.rows import cores
from tfserving_ext.data.sequence_format import read_manifest
from tfserving_ext.data.synth import FIRST_TIME, ITEMS, LAST_TIME, ROWS
from tfserving_ext.machine import provenance
from tfserving_ext.progress import console

# More than in UserBehavior, as some of the items from which the corpus is drawn never occur.
DRAWN_ITEMS = round(1.04 * ITEMS)


def bench_scale(folder: Path, rows: int, items: int, memory_gb: float, steps: int) -> dict[str, Any]:
    """Runs every stage once, each in a process of its own.

    Args:
      folder: where everything is written.
      rows: behaviours in the corpus.
      items: number of items from which they are drawn.
      memory_gb: the conversion's bound on memory.
      steps: training steps; the training's memory does not depend on them.

    Returns:
      A dict with `counts`, those of the conversion; `stages`, the seconds and peak_gb of each; and where it was run.

    Raises:
      NannError: a stage failed.
    """
    csv, data, model, embeddings, index = (
        folder / name for name in ("UserBehavior.csv", "data", "model", "embeddings", "index")
    )
    sizes = ["--rows", rows, "--items", items]
    # Items that occur once are kept, so that there are as many as in UserBehavior.
    kept = ["--min-item-count", 1, "--time-range", f"{FIRST_TIME}..{LAST_TIME}", "--validation", 0.01, "--test", 0.01]
    stages: dict[str, list[Any]] = {
        "synth": ["synth", "-o", csv, *sizes],
        "convert": ["convert", csv, "-o", data, "--memory", memory_gb, *kept],
        "train": ["train", data, "-o", model, "--steps", steps, "--start-steps", steps],
        "extract": ["extract", model, "-o", embeddings],
        "index": ["index", embeddings, "-o", index],
    }
    spent = {}
    for name, arguments in stages.items():
        one = run_nann(*arguments)
        spent[name] = {"seconds": round(one.seconds, 1), "peak_gb": round(one.peak_gb, 2)}
        console.print(f"{name}: {one.seconds:,.0f} s, at most {one.peak_gb:.2f} GB")
    return {
        **provenance(),
        "cores": cores(),
        "memory_bound_gb": memory_gb,
        "counts": read_manifest(data)["counts"],
        "stages": spent,
    }


def main(
    rows: Annotated[int, typer.Option(help="Behaviours of the corpus.", min=1000)] = ROWS,
    items: Annotated[int, typer.Option(help="Items from which it is drawn.", min=1)] = DRAWN_ITEMS,
    memory: Annotated[float, typer.Option(help="The conversion's bound on memory, in GB.", min=1)] = 6.0,
    steps: Annotated[int, typer.Option(help="Steps of the start, and of the training itself.", min=1)] = 100,
    out: Out = Path("benchmarks/out/scale.json"),
    scratch: Annotated[Path | None, typer.Option(help="Where to work; a temporary folder by default.")] = None,
) -> None:
    """Measure every stage; the last line is the summary as JSON.

    Example: python -m benchmarks.data.scale --rows 2000000
    """
    with measuring(out), tempfile.TemporaryDirectory(prefix="bench-scale-", dir=scratch) as folder:
        figures = bench_scale(Path(folder), rows, items, memory, steps)
    write_json(out, figures)
    print_summary({name: stage["peak_gb"] for name, stage in figures["stages"].items()}, out)


if __name__ == "__main__":
    typer.run(main)
