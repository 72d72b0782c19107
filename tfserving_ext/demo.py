"""The whole road on real purchases: from the Complete Journey data set to an answered request.

Every stage is the Python function of a subcommand. A stage whose inputs, parameters and result are the same as in an
earlier run is reused.
"""

import dataclasses
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from tfserving_ext import __version__
from tfserving_ext.artifacts import read_json, write_json
from tfserving_ext.errors import NannError
from tfserving_ext.progress import console, outcome

K = 200
SHOWN = 10
POSITIONS_PER_USER = 9
HOUSEHOLDS_HELD_OUT = 0.1
# Fewer than `nann train` takes: a demo is waited for.
TWO_SIDED_STEPS, STEPS = 5000, 1000


@dataclasses.dataclass
class _Stage:
    """One finished stage: its identity covers everything that its result depends on."""

    identity: str
    path: Path


class _Stages:
    """Runs stages in a folder, reusing those that are finished."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._record = folder / "stages.json"
        self._finished: dict[str, str] = read_json(self._record) if self._record.exists() else {}

    def run(
        self,
        name: str,
        result: str,
        parameters: dict[str, Any],
        inputs: list[_Stage],
        work: Callable[[Path], Any],
        describe: Callable[[Path], str],
    ) -> _Stage:
        """Runs `work(path)` unless the very same stage is finished; prints one line of outcome."""
        path = self.folder / result
        key = json.dumps([__version__, name, parameters, [stage.identity for stage in inputs]], sort_keys=True)
        identity = hashlib.sha256(key.encode()).hexdigest()
        reused = self._finished.get(name) == identity and path.exists()
        started = time.monotonic()
        if not reused:
            # Forget the stage first: an interruption must not leave an old record beside a new result.
            if self._finished.pop(name, None) is not None:
                write_json(self._record, self._finished)
            work(path)
            self._finished[name] = identity
            write_json(self._record, self._finished)
        spent = "reused" if reused else f"{time.monotonic() - started:.1f} s"
        outcome(name, f"{describe(path)} ({spent})")
        return _Stage(identity, path)


def run_demo(folder: Path = Path("demo"), steps: int | None = None, keep_serving: bool = False) -> None:
    """Runs all stages, serves the model and asks it.

    Args:
      folder: where all artefacts go.
      steps: training steps of each of the two models; None for the default, five minutes on two cores.
      keep_serving: go on serving until interrupted.

    Raises:
      NannError: a stage failed, or gRPC, REST and the model in process did not agree.
    """
    from export_tools import Defaults, export, verify
    from tfserving_ext.data.complete_journey import write_csv
    from tfserving_ext.data.convert import convert
    from tfserving_ext.data.rows import Rules
    from tfserving_ext.data.sequences import Sequences
    from tfserving_ext.evaluation import SEARCHES, evaluate, summary
    from tfserving_ext.index import Index, build_index
    from tfserving_ext.index.original import load_array
    from tfserving_ext.training import TWO_SIDED, extract, recipe, train

    console.print(f"All artefacts go to [bold]{folder}[/]; finished stages are reused.")
    stages = _Stages(folder)
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
    usual = recipe("nann_attention")
    two_sided = dataclasses.replace(TWO_SIDED, steps=steps or TWO_SIDED_STEPS)
    config = dataclasses.replace(usual.training, steps=STEPS if steps is None else steps)
    start = stages.run(
        "two_sided",
        "two_sided",
        dataclasses.asdict(two_sided) | dataclasses.asdict(usual.started()),
        [data],
        lambda path: train(data.path, path, two_sided, usual.started()),
        lambda path: f"two-sided model, {two_sided.steps * two_sided.batch_size:,} histories, the start: {path}",
    )
    model = stages.run(
        "train",
        "model",
        dataclasses.asdict(config) | dataclasses.asdict(usual.model),
        [data, start],
        lambda path: train(data.path, path, config, usual.model, start.path),
        lambda path: f"NANN attention, {config.steps * config.batch_size:,} histories, FGSM on: {path}",
    )
    embeddings = stages.run(
        "extract",
        "embeddings",
        {},
        [model],
        lambda path: extract(model.path, path),
        lambda path: "{:,} embeddings of width {}: {}".format(*load_array(path / "item_embs.npy").shape, path),
    )
    index = stages.run(
        "index",
        "index",
        {},
        [embeddings],
        lambda path: build_index(
            load_array(embeddings.path / "item_ids.npy"), load_array(embeddings.path / "item_embs.npy"), path
        ),
        lambda path: f"HNSW graph, {len(Index.open(path).layers[0].neighbors):,} edges at the ground layer: {path}",
    )

    def verified(found: dict[str, Any]) -> str:
        return (
            f"a fresh process replays {found['warm_up_records']} warm-up records, "
            f"{', '.join(found['signatures'])} answer, coverage {found['coverage']:.4f} of made-up users"
        )

    evaluation = stages.run(
        "evaluate",
        "evaluation.json",
        {
            "k": K,
            "positions": POSITIONS_PER_USER,
            "searches": {n: dataclasses.asdict(p) for n, p in SEARCHES.items()},
            "report": True,
        },
        [data, model, index],
        lambda path: evaluate(data.path, model.path, index.path, path, k=K, positions_per_user=POSITIONS_PER_USER),
        lambda path: summary(read_json(path)),
    )
    saved_model = stages.run(
        "export",
        "models/nann/1",
        dataclasses.asdict(Defaults(K)),
        [model, index, evaluation],
        lambda path: export(model.path, index.path, path, Defaults(K), evaluation=evaluation.path),
        lambda path: f"one SavedModel, {sum(f.stat().st_size for f in path.rglob('*')) / 1e6:.1f} MB: {path}",
    )
    stages.run(
        "verify",
        "verified.json",
        {},
        [saved_model],
        lambda path: write_json(path, verify(saved_model.path)),
        lambda path: verified(read_json(path)),
    )
    _serve_and_ask(folder, Sequences.open(data.path), purchases.path, saved_model.path, keep_serving)
    _last_table(folder, read_json(evaluation.path))


def _serve_and_ask(folder: Path, sequences: Any, purchases: Path, saved_model: Path, keep_serving: bool) -> None:
    """Starts the local server and asks it by gRPC and by REST for one household that training never saw."""
    from tfserving_ext.data.catalogue import Catalogue
    from tfserving_ext.retrieval import BestFirst
    from tfserving_ext.serving.client import GrpcClient, RestClient
    from tfserving_ext.serving.server import LocalServer

    names = Catalogue.open(purchases / "items.csv")
    case = sequences.cases("test", positions_per_user=1)
    history = sequences.ids_of(case.histories[0])
    history = history[history >= 0]
    with LocalServer({"nann": saved_model.parent}) as server:
        outcome("serve", f"gRPC 127.0.0.1:{server.grpc_port}, REST http://127.0.0.1:{server.rest_port}/v1/models/nann")
        # By REST every input of the signature has to be sent; an empty one counts as left out.
        inputs = {
            "item_history": history[None, :],
            "category_history": np.zeros([1, 0], np.int64),
            "k": np.int32(SHOWN),
            "frontier": np.int32(BestFirst.frontier),
            "pool": np.int32(BestFirst.pool),
            "max_steps": np.int32(BestFirst.max_steps),
            "exclude": np.zeros([1, 0], np.int64),
            "budget": np.int64(0),
            "deadline_ms": np.int32(0),
        }
        with GrpcClient(f"127.0.0.1:{server.grpc_port}", "nann") as grpc_client:
            by_grpc = grpc_client.predict("retrieve", inputs)
        by_rest = RestClient(f"http://127.0.0.1:{server.rest_port}", "nann").predict("retrieve", inputs)
        in_process = _in_process(saved_model, inputs)
        answers = {"gRPC": by_grpc, "REST": by_rest, "in process": in_process}
        for way, answer in answers.items():
            if not np.array_equal(np.asarray(answer["item_ids"]), by_grpc["item_ids"]):
                raise NannError(f"{way} answered {answer['item_ids']}, gRPC {by_grpc['item_ids']}")
        console.print(f"\nHousehold {case.user_ids[0]}, never seen in training. Its last purchases, oldest first:")
        for item in history[-SHOWN:]:
            console.print(f"    {names.name(int(item))}", markup=False)
        scored = int(np.ravel(by_grpc["items_scored"])[0])
        table = Table(
            title=f"Its top {SHOWN} of {sequences.num_items:,} products, {scored:,} scored", title_justify="left"
        )
        for column in ("product", "id", "score by gRPC", "score by REST"):
            table.add_column(column, justify="left" if column == "product" else "right")
        rows = zip(by_grpc["item_ids"][0], by_grpc["scores"][0], np.asarray(by_rest["scores"])[0], strict=True)
        for item, grpc_score, rest_score in rows:
            table.add_row(names.name(int(item)), str(item), f"{grpc_score:.4f}", f"{rest_score:.4f}")
        console.print(table)
        outcome("ask", f"the same {SHOWN} ids by {', '.join(answers)}")
        if keep_serving:
            console.print("Serving until Ctrl-C.")
            server.wait()


def _in_process(saved_model: Path, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
    """The same request to the SavedModel loaded here, without any server."""
    import tensorflow as tf

    import tfserving_ext.ops  # noqa: F401 - registers the ops that the model uses

    loaded = tf.saved_model.load(str(saved_model))
    answer = loaded.signatures["retrieve"](**{key: tf.constant(value) for key, value in inputs.items()})
    return {key: value.numpy() for key, value in answer.items()}


def _last_table(folder: Path, figures: dict[str, Any]) -> None:
    table = Table(title="What was measured", title_justify="left", show_header=False)
    nann = "nann" if shutil.which("nann") else sys.argv[0]
    rows = {f"recall-all@{K} (brute force)": f"{figures['recall_all']:.4f}"}
    titles = {"best_first": "best-first search, seeded with the history", "rounds": "the paper's rounds, default beams"}
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
