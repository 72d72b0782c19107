"""The paper's experiment on Complete Journey: its table, models of equal time over seeds, and the trend in epsilon.

`make bench-paper` trains and evaluates all models (two hours on two cores; finished ones are not made again), and
writes the tables of docs/paper.md to docs/paper_tables.md.
"""

import concurrent.futures
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.command import Out, measuring
from benchmarks.paper.tables import figures_of, tables
from benchmarks.processes import run_nann
from tfserving_ext.artifacts import write_json
from tfserving_ext.data.rows import cores
from tfserving_ext.progress import console

SEEDS = (0, 1, 2)
EPSILONS = (0.0, 0.03, 0.1, 0.3, 1.0)
EPSILON = 0.1  # The recipe's.
# These take as long as the start and the attention model together, alone on two cores: 359 seconds, at 13 ms per step.
EQUAL_STEPS = 28_000
BUILDS = 2  # Graphs built besides the first.
POSITIONS, EPSILON_POSITIONS = 9, 3  # 2,198 cases, and 735 on three graphs each.


@dataclasses.dataclass(frozen=True)
class Run:
    """One model to train, and what to measure with it.

    Attributes:
      name: name of its folder.
      model: kind of model.
      epsilon: length of the adversarial step.
      seed: seed of the training.
      start: name of the run whose model it starts from, or "".
      steps: training steps; None for the recipe's.
      searches: whether to measure the searches, or brute force alone.
      by_epsilon: whether it is a point of the trend in epsilon, measured on several graphs.
      in_full: whether to evaluate it on all cases.
    """

    name: str
    model: str
    epsilon: float
    seed: int = 0
    start: str = ""
    steps: int | None = None
    searches: bool = True
    by_epsilon: bool = False
    in_full: bool = True


def plan() -> list[Run]:
    """Returns all runs, each after the run from whose model it starts."""
    runs = [Run(f"two_sided_seed{seed}", "two_sided", 0.0, seed, searches=seed == 0) for seed in SEEDS]
    for seed in SEEDS:
        start = f"two_sided_seed{seed}"
        runs += [
            Run(f"attention_seed{seed}", "nann_attention", EPSILON, seed, start, None, seed == 0, seed == 0),
            Run(f"two_sided_long_seed{seed}", "two_sided", 0.0, seed, steps=EQUAL_STEPS, searches=False),
        ]
    start = "two_sided_seed0"
    runs += [
        Run("attention_epsilon0", "nann_attention", 0.0, 0, start, by_epsilon=True),
        Run("dnn_epsilon0", "dnn", 0.0, 0, start),
        Run("dnn", "dnn", EPSILON, 0, start),
        Run("two_sided_epsilon0.1", "two_sided", EPSILON),
    ]
    return runs + [
        Run(f"attention_epsilon{epsilon:g}", "nann_attention", epsilon, 0, start, by_epsilon=True, in_full=False)
        for epsilon in EPSILONS
        if epsilon not in (0.0, EPSILON)
    ]


class Experiment:
    """The runs in a folder. Results that are finished are not made again."""

    def __init__(self, folder: Path, jobs: int) -> None:
        """Sets up the runs.

        Args:
          folder: where all runs are written.
          jobs: how many runs to do at once, each on its share of the cores.
        """
        self._folder, self._jobs = folder, jobs
        self._done: dict[str, concurrent.futures.Future[None]] = {}

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def measure(self) -> list[dict[str, Any]]:
        """Trains and evaluates all runs of `plan`.

        Returns:
          The result of `figures_of` for each run.

        Raises:
          NannError: a command failed; the message names its log.
        """
        if not (self._data / "manifest.json").exists():
            _convert(self._folder)
        with concurrent.futures.ThreadPoolExecutor(self._jobs) as pool:
            for run in plan():
                self._done[run.name] = pool.submit(self._make, run)
            for future in concurrent.futures.as_completed(self._done.values()):
                if future.exception() is not None:
                    pool.shutdown(wait=True, cancel_futures=True)
                future.result()
        return [figures_of(self._folder / run.name) for run in plan()]

    def _make(self, run: Run) -> None:
        if run.start:
            self._done[run.start].result()
        folder = self._folder / run.name
        folder.mkdir(parents=True, exist_ok=True)
        model, embeddings, index = (folder / name for name in ("model", "embeddings", "index"))
        training = ["--model", run.model, "--epsilon", run.epsilon, "--seed", run.seed]
        training += ["--start-from", self._folder / run.start / "model"] if run.start else []
        training += ["--steps", run.steps] if run.steps else []
        if not model.exists():
            write_json(folder / "jobs.json", self._jobs)
        self._nann(folder, model, "train", self._data, "-o", model, *training)
        self._nann(folder, embeddings, "extract", model, "-o", embeddings)
        self._nann(folder, index, "index", embeddings, "-o", index)
        evaluate = ["evaluate", self._data, model, index, "--no-html"]
        if run.in_full:
            target = folder / "evaluation.json"
            alone = [] if run.searches else ["--brute-force"]
            self._nann(folder, target, *evaluate, "-o", target, "--positions", POSITIONS, *alone)
        if run.by_epsilon:
            target = folder / "epsilon.json"
            self._nann(folder, target, *evaluate, "-o", target, "--positions", EPSILON_POSITIONS, "--builds", BUILDS)
        console.print(f"{run.name}: done")

    def _nann(self, folder: Path, result: Path, *arguments: object) -> None:
        if result.exists():
            return
        threads = str(max(1, cores() // self._jobs))
        names = ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS")
        environment = {} if self._jobs == 1 else dict.fromkeys(names, threads)
        run_nann(*arguments, log=folder / "log.txt", environment=environment)


def _convert(folder: Path) -> None:
    from tfserving_ext.data.complete_journey import write_csv
    from tfserving_ext.data.conversion import convert
    from tfserving_ext.data.rows import Rules
    from tfserving_ext.demo import HOUSEHOLDS_HELD_OUT

    write_csv(folder / "purchases")
    rules = Rules(validation=HOUSEHOLDS_HELD_OUT, test=HOUSEHOLDS_HELD_OUT)
    convert(folder / "purchases" / "UserBehavior.csv", folder / "data", rules)


def main(
    folder: Annotated[Path, typer.Option(help="Where models and evaluations go.")] = Path("benchmarks/out/paper"),
    out: Out = Path("benchmarks/out/paper.json"),
    docs: Annotated[Path, typer.Option(help="Markdown file for the tables.")] = Path("docs/paper_tables.md"),
    jobs: Annotated[
        int, typer.Option(help="Runs at once; with more than one, each has only a share of the machine.", min=1)
    ] = 1,
) -> None:
    """Train and evaluate the paper's models on Complete Journey, and write its tables.

    Example: python -m benchmarks.paper.run --jobs 2
    """
    with measuring(out):
        runs = Experiment(folder, jobs).measure()
        found: Mapping[str, Any] = {"cores": cores(), "runs": runs}
        text = tables(folder, runs)
    write_json(out, found)
    docs.write_text(text)
    console.print(f"raw figures: {out}; tables: {docs}")


if __name__ == "__main__":
    typer.run(main)
