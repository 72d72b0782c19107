"""All stages on real purchases, from the Complete Journey data set to an answered request.

Every stage is the Python function of a subcommand. The model is the one that comes with the package (checkpoint.py)
unless training is requested.
"""

import dataclasses
import shutil
import sys
from pathlib import Path
from typing import Any

from rich.table import Table

from tfserving_ext.artifacts import read_json, write_json
from tfserving_ext.demo.ask import serve_and_ask
from tfserving_ext.demo.checkpoint import facts, restore
from tfserving_ext.demo.stages import Stage, Stages
from tfserving_ext.progress import console

K = 200
HOUSEHOLDS_HELD_OUT = 0.1
# Test cases per household, if the model was trained here and if it comes with the package. Users who wait minutes for
# the training also wait for narrower intervals.
POSITIONS, FEW_POSITIONS = 9, 1
# Fewer steps than `nann train` takes, because users wait for the demo.
TWO_SIDED_STEPS, STEPS = 5000, 1000


def run_demo(
    folder: Path = Path("demo"), steps: int | None = None, keep_serving: bool = False, train: bool = False
) -> None:
    """Runs all stages, serves the model and requests recommendations.

    Args:
      folder: the folder for all artefacts.
      steps: the number of training steps for each of the two models; giving it implies `train`. None for the default,
        which takes five minutes on two cores.
      keep_serving: whether to keep the server running until it is interrupted.
      train: whether to train the models instead of using the one that comes with the package. A model that an earlier
        run trained in `folder` with the default steps is used in any case.

    Raises:
      NannError: a stage failed, or the answers by gRPC, by REST and in process differ.
    """
    from tfserving_ext.data.sequences import Sequences

    console.print(f"All artefacts go to [bold]{folder}[/]; finished stages are reused.")
    stages = Stages(folder)
    purchases, data = _data(stages)
    training = _Training(stages, data, steps)
    trains = train or steps is not None or training.is_finished()
    model = training.run() if trains else _restored(stages, data)
    index = _index(stages, model)
    evaluation = _evaluation(stages, data, model, index, trains)
    saved_model = _export(stages, model, index, evaluation)
    serve_and_ask(Sequences.open(data.path), purchases.path, saved_model.path, keep_serving)
    _summary_table(folder, read_json(evaluation.path), trains)


def _data(stages: Stages) -> tuple[Stage, Stage]:
    """Runs the stages that write the purchases, as CSV and as sequences."""
    from tfserving_ext.data.complete_journey import write_csv
    from tfserving_ext.data.conversion import convert
    from tfserving_ext.data.rows import Rules
    from tfserving_ext.data.sequences import Sequences

    purchases = stages.run(
        "data",
        "purchases",
        {},
        [],
        write_csv,
        lambda path: f"Complete Journey purchases in UserBehavior's format: {path / 'UserBehavior.csv'}",
    )
    split: dict[str, Any] = {"validation": HOUSEHOLDS_HELD_OUT, "test": HOUSEHOLDS_HELD_OUT}

    def described(path: Path) -> str:
        counts = Sequences.open(path).counts
        return (
            f"{counts['behaviors']:,} purchases, {counts['users']:,} households, {counts['items']:,} products: {path}"
        )

    data = stages.run(
        "convert",
        "data",
        split,
        [purchases],
        lambda path: convert(purchases.path / "UserBehavior.csv", path, Rules(**split)),
        described,
    )
    return purchases, data


def _index(stages: Stages, model: Stage) -> Stage:
    """Runs the stages that extract the model's embeddings and build the index over them."""
    from tfserving_ext.index import Index, build_index
    from tfserving_ext.index.original import load_array
    from tfserving_ext.training import extract

    embeddings = stages.run(
        "extract",
        "embeddings",
        {},
        [model],
        lambda path: extract(model.path, path),
        lambda path: "{:,} embeddings of width {}: {}".format(*load_array(path / "item_embs.npy").shape, path),
    )
    return stages.run(
        "index",
        "index",
        {},
        [embeddings],
        lambda path: build_index(
            load_array(embeddings.path / "item_ids.npy"), load_array(embeddings.path / "item_embs.npy"), path
        ),
        lambda path: f"HNSW graph, {len(Index.open(path).layers[0].neighbors):,} edges at the ground layer: {path}",
    )


def _evaluation(stages: Stages, data: Stage, model: Stage, index: Stage, trained: bool) -> Stage:
    from tfserving_ext.evaluation import SEARCHES, HeldOut, evaluate, summary

    held_out = HeldOut(K, positions_per_user=POSITIONS if trained else FEW_POSITIONS)
    return stages.run(
        "evaluate",
        "evaluation.json",
        {
            "k": K,
            "positions": held_out.positions_per_user,
            "searches": {n: dataclasses.asdict(p) for n, p in SEARCHES.items()},
            "report": True,
        },
        [data, model, index],
        lambda path: evaluate(data.path, model.path, index.path, path, held_out=held_out),
        lambda path: summary(read_json(path)) + ("" if trained else _how_to_evaluate_all(data, model, index)),
    )


def _export(stages: Stages, model: Stage, index: Stage, evaluation: Stage) -> Stage:
    """Runs the stages that export and verify the SavedModel."""
    from export_tools import Defaults, ExportOptions, export, verify

    saved_model = stages.run(
        "export",
        "models/nann/1",
        dataclasses.asdict(Defaults(K)),
        [model, index, evaluation],
        lambda path: export(
            model.path, index.path, path, Defaults(K), options=ExportOptions(evaluation=evaluation.path)
        ),
        lambda path: f"one SavedModel, {sum(f.stat().st_size for f in path.rglob('*')) / 1e6:.1f} MB: {path}",
    )

    def verified(found: dict[str, Any]) -> str:
        return (
            f"a fresh process replays {found['warm_up_records']} warm-up records, "
            f"{', '.join(found['signatures'])} answer, coverage {found['coverage']:.4f} of made-up users"
        )

    stages.run(
        "verify",
        "verified.json",
        {},
        [saved_model],
        lambda path: write_json(path, verify(saved_model.path)),
        lambda path: verified(read_json(path)),
    )
    return saved_model


class _Training:
    """The training stages: a two-sided model, and the attention model that starts from it."""

    def __init__(self, stages: Stages, data: Stage, steps: int | None) -> None:
        from tfserving_ext.training import TWO_SIDED, recipe

        usual = recipe("nann_attention")
        self._stages, self._data, self._sizes = stages, data, usual.model
        self._start = dataclasses.replace(TWO_SIDED, steps=TWO_SIDED_STEPS if steps is None else steps)
        self._start_sizes = usual.started()
        self._config = dataclasses.replace(usual.training, steps=STEPS if steps is None else steps)
        start_parameters = dataclasses.asdict(self._start) | dataclasses.asdict(self._start_sizes)
        self._start_stage = ("two_sided", "two_sided", start_parameters, [data])
        self._parameters = dataclasses.asdict(self._config) | dataclasses.asdict(self._sizes)

    def is_finished(self) -> bool:
        """Returns whether an earlier run has trained the model."""
        start = self._stages.stage(*self._start_stage)
        return self._stages.has("train", "model", self._parameters, [self._data, start])

    def run(self) -> Stage:
        """Trains those of the two models that are not trained yet."""
        from tfserving_ext.training import fit

        start = self._stages.run(
            *self._start_stage,
            lambda path: fit(self._data.path, path, self._start, self._start_sizes),
            lambda path: f"two-sided model, {_histories(self._start)} histories, the start: {path}",
        )
        return self._stages.run(
            "train",
            "model",
            self._parameters,
            [self._data, start],
            lambda path: fit(self._data.path, path, self._config, self._sizes, start.path),
            lambda path: f"NANN attention, {_histories(self._config)} histories, FGSM on: {path}",
        )


def _histories(config: Any) -> str:
    return f"{config.steps * config.batch_size:,}"


def _restored(stages: Stages, data: Stage) -> Stage:
    """Runs the stage that writes the model that comes with the package as a folder like those of `nann train`."""
    return stages.run(
        "model",
        "model",
        {"checkpoint": facts()["sha256"]},
        [data],
        lambda path: restore(data.path, path),
        lambda path: (
            f"NANN attention, read from the checkpoint that comes with nann, not trained here: {path}\n"
            "          to train it, which takes some six minutes: `make demo TRAIN=1` or `nann demo --train`"
        ),
    )


def _how_to_evaluate_all(data: Stage, model: Stage, index: Stage) -> str:
    return (
        "\n          with one case per household the intervals are wide; "
        f"for {POSITIONS} per household, which takes some minutes:\n"
        f"          nann evaluate {data.path} {model.path} {index.path} --positions {POSITIONS}"
    )


def _summary_table(folder: Path, figures: dict[str, Any], trained: bool) -> None:
    table = Table(title="What was measured", title_justify="left", show_header=False)
    nann = "nann" if shutil.which("nann") else sys.argv[0]
    rows = {"model": "trained here" if trained else "read from the checkpoint that comes with nann"}
    rows |= {f"recall-all@{K} (brute force)": f"{figures['recall_all']:.4f}"}
    titles = {
        "surrogate": "surrogate search, seeded with the history",
        "best_first": "best-first search, seeded with the history",
        "rounds": "the paper's rounds, default beams",
    }
    rows |= {
        f"{name.replace('_', ' ')}, no model": f"recall@{K} {found[str(K)]['recall']:.4f}"
        for name, found in figures["baselines"].items()
    }
    for name, search in figures["searches"].items():
        rows[titles[name]] = (
            f"recall-retrieval@{K} {search['recall_retrieval']:.4f}, coverage@{K} {search['coverage']:.4f}\n"
            f"{search['items_scored']:,.0f} of {figures['items']:,} items scored "
            f"({100 * search['scored_fraction']:.1f} %), {search['ms_per_case']:.1f} ms"
        )
    rows |= {
        "brute force": f"{figures['brute_force_ms_per_case']:.1f} ms",
        "test cases": f"{figures['cases']:,} of {figures['users']:,} households",
        "SavedModel": str(folder / "models" / "nann" / "1"),
        "index, model, data": f"{folder / 'index'}, {folder / 'model'}, {folder / 'data'}",
        "figures": f"{folder / 'evaluation.json'}, with plots {folder / 'evaluation.html'}",
        "next": f"{nann} serve {folder / 'models' / 'nann'}\nthen, in another shell: {nann} smoke",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)
