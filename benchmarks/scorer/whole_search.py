"""The whole search of a demo's model with its scorer unchanged, rewritten at load, and rewritten at export."""

import tempfile
from pathlib import Path

from benchmarks.search.harness import answer, make_workload
from benchmarks.search.peers.ours import BestFirst
from benchmarks.search.peers.peer import Workload
from export_tools.rows import write_rows
from tfserving_ext import ops
from tfserving_ext.errors import NannError
from tfserving_ext.index import Index
from tfserving_ext.retrieval import NeuralTopK, ScorerOptions
from tfserving_ext.retrieval.metrics import coverage

K, POSITIONS = 200, 9
CASES, QUICK_CASES = 320, 96
REPEATS, QUICK_REPEATS = 7, 3
AS_IT_IS, AT_LOAD, SHIPPED = "as it is", "passes at load", "passes+fold at export"


def bench_whole_search(folder: Path, quick: bool = False) -> dict[str, dict[str, float]]:
    """Measures the default search with each scorer, taking turns, with the threads that the caller gave TensorFlow.

    Args:
      folder: a demo's folder, with `data`, `model` and `index` in it.
      quick: fewer cases and repetitions.

    Returns:
      For each scorer `ms_per_query`, that of the fastest turn; `coverage`, against brute force; `speedup`, over the
      unchanged scorer; and `same_answers`, the part of the cases with the same ids in the same order as with that one.

    Raises:
      NannError: an artefact is missing, or the passes folded nothing.
    """
    cases, repeats = (QUICK_CASES, QUICK_REPEATS) if quick else (CASES, REPEATS)
    index = Index.open(folder / "index")
    workload = make_workload(folder, index, cases, POSITIONS, K, threads=1)
    cases = len(workload.targets)
    with tempfile.TemporaryDirectory(prefix="nann_bench_rows_") as rows:
        score = workload.trained.model.score
        peers = {
            name: BestFirst(workload, neural)
            for name, neural in {
                AS_IT_IS: NeuralTopK(index, score, options=ScorerOptions(rewrite=False)),
                AT_LOAD: NeuralTopK(index, score),
                SHIPPED: _folded(workload, Path(rows)),
            }.items()
        }
        setting = BestFirst.settings[0]
        answers = {name: answer(peer, setting, cases)[0] for name, peer in peers.items()}
        best = dict.fromkeys(peers, float("inf"))
        for _ in range(repeats):
            for name, peer in peers.items():
                best[name] = min(best[name], answer(peer, setting, cases)[1])
    return {
        name: {
            "ms_per_query": 1000 * seconds / cases,
            "speedup": best[AS_IT_IS] / seconds,
            "coverage": float(coverage(answers[name], workload.exact).mean()),
            "same_answers": float((answers[name] == answers[AS_IT_IS]).all(axis=1).mean()),
        }
        for name, seconds in best.items()
    }


def _folded(workload: Workload, folder: Path) -> NeuralTopK:
    """Makes the search over rows, written to `folder`, as an export would."""
    score, dim = workload.trained.model.score, workload.index.dim
    user = [tensor[:1] for tensor in workload.user]
    scorer = ops.trace_scorer(lambda *tensors: score(tensors[:-1], tensors[-1]), user, dim)
    rewritten = ops.rewrite_scorer(scorer, user, dim, fold_items=True)
    if rewritten.fold is None:
        raise NannError(f"no part of the scorer of {workload.scratch.parent / 'model'} was folded into rows")
    index = write_rows(workload.index, rewritten.fold, rewritten.row_dim, folder)
    return NeuralTopK(index, score, scorer=rewritten.scorer)
