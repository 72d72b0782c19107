"""Time and memory of `nann index`, and how much of them Faiss takes: `make bench-index`.

    python -m benchmarks.data.index_build --folder demo

Faiss alone builds the graph with the same M and efConstruction, and writes it. `nann index` also reads the layers from
the graph and writes them as arrays that can be mapped. Both take turns, each in a process of its own.
"""

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.command import Folder, Out, measuring, print_summary
from benchmarks.processes import run_module, run_nann
from tfserving_ext.artifacts import write_json
from tfserving_ext.errors import NannError
from tfserving_ext.machine import provenance
from tfserving_ext.progress import console, progress

ITEMS, QUICK_ITEMS, DIM = 200_000, 100_000, 64  # The size of the synthetic table.
REPEATS, QUICK_REPEATS = 5, 3
_BUILDERS = "data.index_builders"


def bench_index_build(
    folder: Path | None, scratch: Path, log: Path, items: int = ITEMS, repeats: int = REPEATS
) -> dict[str, dict[str, Any]]:
    """Builds indexes of the embeddings in both tables, with `nann index` and Faiss taking turns.

    Args:
      folder: a demo's folder, for its embeddings; None for the synthetic table alone.
      scratch: an existing folder, to which about 1 kB per item is written.
      log: file for the output of the builders.
      items: number of items in the synthetic table.
      repeats: number of turns on each table.

    Returns:
      A dict with `tables`, by name, the seconds and memory of every turn; and `summary`, by table: the least `seconds`
      of `nann index`, its `items_per_second`, its largest `peak_gb`, and `seconds_vs_faiss` and `peak_vs_faiss`, the
      ratios to the least and the largest of Faiss alone. All are those of whole processes, including half a second to
      start.

    Raises:
      NannError: the demo has no embeddings, or a build failed.
    """
    tables = {"synthetic": scratch / "table"}
    if folder is not None:
        tables = {"demo": folder / "embeddings", **tables}
        if not (tables["demo"] / "item_embs.npy").exists():
            raise NannError(f"{tables['demo']} does not exist; make it with `nann demo --folder {folder}`")
    run_module(_BUILDERS, "table", scratch / "table", "--items", items, "--dim", DIM)
    measured: dict[str, Any] = {}
    with progress("index builds in turns", repeats * len(tables)) as advance:
        for name, table in tables.items():
            turns = []
            for _ in range(repeats):
                turns.append(_turn(table, scratch, log))
                advance(note=f"{name}: {turns[-1]['index']['seconds']:.1f} s")
            measured[name] = {**_shape(table), "turns": turns}
    return {"tables": measured, "summary": {name: _summarise(one) for name, one in measured.items()}}


def _turn(table: Path, scratch: Path, log: Path) -> dict[str, dict[str, float]]:
    """Runs `nann index` and Faiss alone, once each."""
    ours = run_nann("index", table, "-o", scratch / "index", log=log)
    bare = run_module(_BUILDERS, "faiss", table, "--target", scratch / "faiss.index", log=log)
    return {"index": ours._asdict(), "faiss": bare._asdict()}


def _shape(table: Path) -> dict[str, int]:
    from tfserving_ext.index.original import load_array

    items, dim = load_array(table / "item_embs.npy").shape
    return {"items": items, "dim": dim}


def _summarise(figures: dict[str, Any]) -> dict[str, float]:
    seconds, bare = (min(turn[name]["seconds"] for turn in figures["turns"]) for name in ("index", "faiss"))
    peak, bare_peak = (max(turn[name]["peak_gb"] for turn in figures["turns"]) for name in ("index", "faiss"))
    return {
        "items": figures["items"],
        "dim": figures["dim"],
        "seconds": round(seconds, 3),
        "items_per_second": round(figures["items"] / seconds, 1),
        "peak_gb": round(peak, 3),
        "faiss_seconds": round(bare, 3),
        "seconds_vs_faiss": round(seconds / bare, 3),
        "peak_vs_faiss": round(peak / bare_peak, 3),
    }


def main(
    folder: Folder = Path("demo"),
    out: Out = Path("benchmarks/out/index_build.json"),
    items: Annotated[
        int | None, typer.Option(help="Items in the synthetic table; 200,000 by default.", min=100)
    ] = None,
    synthetic: Annotated[bool, typer.Option("--synthetic", help="The synthetic table alone; no demo needed.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="100,000 items, in a minute or two.")] = False,
) -> None:
    """Measure `nann index` against Faiss alone; the last line is the summary as JSON.

    Example: python -m benchmarks.data.index_build --synthetic --items 1000000
    """
    log = out.with_suffix(".log")
    with measuring(out), tempfile.TemporaryDirectory(prefix="bench-index-", dir=out.parent) as scratch:
        found = bench_index_build(
            None if synthetic else folder,
            Path(scratch),
            log,
            items or (QUICK_ITEMS if quick else ITEMS),
            QUICK_REPEATS if quick else REPEATS,
        )
    log.unlink()
    write_json(out, {**provenance(), "quick": quick, **found})
    for name, one in found["summary"].items():
        console.print(
            f"{name}: {one['items']:,} items of width {one['dim']} in {one['seconds']:.1f} s, "
            f"{one['items_per_second']:,.0f} a second, at most {one['peak_gb']:.2f} GB; "
            f"{one['seconds_vs_faiss']:.2f} times Faiss alone, {one['peak_vs_faiss']:.2f} times its memory"
        )
    print_summary(found["summary"], out)


if __name__ == "__main__":
    typer.run(main)
