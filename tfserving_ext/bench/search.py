"""How good and how fast the searches are on a trained model, over several builds of its graph.

    python -m tfserving_ext.bench.search --folder demo

All on one thread, all in one process: the figures to keep are ratios. A graph build is a matter of luck (Faiss draws
the layers at random), so there are several, each from another seed, and the lowest coverage stands beside the mean.
"""

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from tfserving_ext.artifacts import write_json
from tfserving_ext.errors import NannError
from tfserving_ext.progress import console

K = 200


def bench_search(
    folder: Path, out: Path | None = None, builds: int = 3, cases: int = 300, positions: int = 9, k: int = K
) -> dict[str, Any]:
    """Measures the default search, the paper's rounds and brute force.

    Args:
      folder: a demo's folder, with `data`, `model` and `embeddings` in it.
      out: JSON file for the raw figures of every build, or None.
      builds: graph builds.
      cases: test cases.
      positions: test cases per user.
      k: length of the answers.

    Returns:
      coverage, coverage_lowest: of the default search, the mean and the lowest over builds.
      rounds_coverage, rounds_coverage_lowest: of the paper's rounds with default beams.
      scored_vs_rounds: items that the default search scores for one that the rounds score.
      qps_vs_rounds, qps_vs_brute_force: queries per second of the default search for one of theirs.

    Raises:
      NannError: the folder lacks an artefact.
    """
    from tfserving_ext.index import build_index
    from tfserving_ext.index.original import load_array
    from tfserving_ext.retrieval.evaluate import evaluate

    for name in ("data", "model", "embeddings"):
        if not (folder / name).exists():
            raise NannError(f"{folder / name} does not exist; make it with `nann demo --folder {folder}`")
    arrays = load_array(folder / "embeddings" / "item_ids.npy"), load_array(folder / "embeddings" / "item_embs.npy")
    runs = []
    with tempfile.TemporaryDirectory() as scratch:
        for seed in range(1, builds + 1):
            index = build_index(*arrays, Path(scratch) / str(seed), seed=seed)
            figures = evaluate(
                folder / "data", folder / "model", index.folder, k=k, positions_per_user=positions, max_cases=cases
            )
            runs.append({"seed": seed, **figures})
    best_first, rounds = ([run["searches"][name] for run in runs] for name in ("best_first", "rounds"))

    def of(searches: list[dict[str, Any]], figure: str) -> list[float]:
        return [search[figure] for search in searches]

    summary = {
        "coverage": np.mean(of(best_first, "coverage")),
        "coverage_lowest": min(of(best_first, "coverage")),
        "rounds_coverage": np.mean(of(rounds, "coverage")),
        "rounds_coverage_lowest": min(of(rounds, "coverage")),
        "scored_vs_rounds": np.sum(of(best_first, "items_scored")) / np.sum(of(rounds, "items_scored")),
        "qps_vs_rounds": np.sum(of(rounds, "ms_per_case")) / np.sum(of(best_first, "ms_per_case")),
        "qps_vs_brute_force": sum(run["brute_force_ms_per_case"] for run in runs)
        / np.sum(of(best_first, "ms_per_case")),
    }
    summary = {name: round(float(value), 4) for name, value in summary.items()}
    if out is not None:
        write_json(out, {"summary": summary, "runs": runs})
    _print(runs, summary)
    return summary


def _print(runs: list[dict[str, Any]], summary: dict[str, float]) -> None:
    table = Table(title=f"{runs[0]['cases']} cases, one thread, k {runs[0]['k']}", title_justify="left")
    for column in ("build", "search", "recall-retrieval", "coverage", "coverage, 5th percentile", "scored", "ms"):
        table.add_column(column, justify="left" if column in ("build", "search") else "right")
    for run in runs:
        for name, search in run["searches"].items():
            table.add_row(
                str(run["seed"]),
                name,
                f"{search['recall_retrieval']:.4f}",
                f"{search['coverage']:.4f}",
                f"{search['coverage_5th_percentile']:.4f}",
                f"{search['items_scored']:,.0f}",
                f"{search['ms_per_case']:.2f}",
            )
        exact = ("brute force", f"{run['recall_all']:.4f}", "1", "1", f"{run['items']:,}")
        table.add_row(str(run["seed"]), *exact, f"{run['brute_force_ms_per_case']:.2f}")
    console.print(table)
    print(json.dumps(summary))


def main(
    folder: Annotated[Path, typer.Option(help="A demo's folder.")] = Path("demo"),
    out: Annotated[Path, typer.Option("--out", "-o", help="Raw JSON.")] = Path("benchmarks/out/search.json"),
    builds: Annotated[int, typer.Option(help="Graph builds.", min=1)] = 3,
    cases: Annotated[int, typer.Option(help="Test cases.", min=1)] = 600,
) -> None:
    """Measure the default search against the paper's rounds and brute force."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    bench_search(folder, out, builds, cases)


if __name__ == "__main__":
    typer.run(main)
