"""The surrogate search on the reference models of benchmarks/scorer, whose weights are random: a score that is rough.

    python -m benchmarks.search.reference -o reference.json

The items are made up: clusters in 24 dimensions. A user's seeds are drawn from the thousand items with the highest
scores.
"""

import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tensorflow as tf
import typer

from benchmarks.scorer.models import SCORERS
from tfserving_ext.artifacts import write_json
from tfserving_ext.index import Hnsw, Index, build_index
from tfserving_ext.progress import console, progress
from tfserving_ext.retrieval import BruteForce, NeuralTopK

ITEMS, CLUSTERS, RANK, SPREAD = 8000, 60, 24, 0.6
K, SEEDS, AMONG = 100, 20, 1000
EXPECTED = (0.9, 0.99)
MODELS, QUICK_MODELS = 6, 2  # Weights that are drawn for each model.
USERS = 4  # Sets of seeds for each.


def bench_reference(models: int = MODELS) -> dict[str, Any]:
    """Measures both searches on every reference model.

    Args:
      models: how many sets of weights to draw for each model.

    Returns:
      By model, for `best_first` and each `surrogate EXPECTED_COVERAGE`: `coverage`, by score, so that ties count;
      `items_scored`; and `fell_back`, the part of the users for whom predictions failed.
    """
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="nann_reference_") as folder, progress("models", len(SCORERS)) as advance:
        indexes: dict[int, Index] = {}
        for name, make in SCORERS.items():
            rows: dict[str, list[tuple[float, float, float]]] = {}
            for seed in range(models):
                model = make(seed)
                if model.dim not in indexes:
                    indexes[model.dim] = _index(model.dim, Path(folder) / str(model.dim))
                _measure(model, indexes[model.dim], seed, rows)
            names = ("coverage", "items_scored", "fell_back")
            found[name] = {
                search: dict(zip(names, (float(mean) for mean in np.mean(values, axis=0)), strict=True))
                for search, values in rows.items()
            }
            advance(note=name)
    return found


def _index(dim: int, target: Path) -> Index:
    rng = np.random.default_rng(5)
    rank = min(dim, RANK)
    places = rng.normal(size=[CLUSTERS, rank])[rng.integers(CLUSTERS, size=ITEMS)]
    places += SPREAD * rng.normal(size=[ITEMS, rank])
    embeddings = (places / (1 + 0.15 * np.arange(rank))) @ rng.normal(size=[rank, dim])
    return build_index(np.arange(ITEMS), (embeddings / embeddings.std()).astype(np.float32), target, Hnsw(threads=1))


def _measure(model: Any, index: Index, seed: int, rows: dict[str, list[tuple[float, float, float]]]) -> None:
    """Adds a row for each user and search."""
    search, exact = NeuralTopK(index, model.score), BruteForce(index, model.score)
    best = exact.search(model.user, tf.constant(AMONG))
    ids, scores = best.item_ids.numpy()[0], best.scores.numpy()[0]
    last = scores[K - 1] - 1e-6 * abs(scores[K - 1])
    for user in range(USERS):
        drawn = np.random.default_rng([seed, user]).choice(ids, SEEDS, replace=False)
        seeds = tf.constant(drawn[None])
        answers: dict[str, tuple[Any, Any]] = {"best_first": (search.best_first(model.user, K, seeds), None)}
        for share in EXPECTED:
            answers[f"surrogate {share}"] = search.surrogate(model.user, K, seeds, expected_coverage=share)
        for name, (found, known) in answers.items():
            covered = float((found.scores.numpy()[0] >= last).mean())
            fell_back = 0.0 if known is None else float(known.fell_back.numpy()[0])
            rows.setdefault(name, []).append((covered, float(found.items_scored.numpy()[0]), fell_back))


def main(
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON file.")] = Path("reference.json"),
    folder: Annotated[Path, typer.Option(help="Not used; the other parts take it.")] = Path("demo"),
    quick: Annotated[bool, typer.Option("--quick", help="Fewer weights.")] = False,
) -> None:
    """Measure the surrogate and the best-first search on the reference models."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    write_json(out, bench_reference(QUICK_MODELS if quick else MODELS))
    console.print(f"reference models: {out}")


if __name__ == "__main__":
    typer.run(main)
