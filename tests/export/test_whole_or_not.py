"""An export appears whole or not at all, whenever it is killed, and has the same bytes every time."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.framework import graph_pb2

from export_tools import Defaults, ExportOptions, export, inspect
from export_tools.graphs.scorers import SEARCHES
from export_tools.manifest import check_files, read_manifest
from tests.export.sources import SIGNATURES
from tfserving_ext.artifacts import read_json

EXPORT = """
import sys
from export_tools import Defaults, ExportOptions, export
export(sys.argv[1], sys.argv[2], sys.argv[3], Defaults(k=7), options=ExportOptions(measure=False))
"""

# One process imports everything; its children export and are killed, so that no time is lost on imports.
KILLED = """
import os, signal, sys, time
from export_tools import ExportOptions, Defaults, export
import export_tools.warm_up
for line in sys.stdin:
    k, delay = line.split()
    child = os.fork()
    if not child:
        # The passes write nothing to the target.
        export(sys.argv[1], sys.argv[2], sys.argv[3], Defaults(k=int(k)), options=ExportOptions(rewrite=False))
        os._exit(0)
    begin = time.monotonic()
    ended = 0
    while not ended and time.monotonic() - begin < float(delay):
        ended, _ = os.waitpid(child, os.WNOHANG)
        time.sleep(0.0005)
    if not ended:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    print("ended" if ended else "killed", time.monotonic() - begin, flush=True)
"""


@pytest.mark.slow
def test_the_same_input_gives_the_same_bytes(world, tmp_path):
    for name in ("one", "two"):
        command = [sys.executable, "-c", EXPORT, world.model, world.index, tmp_path / name]
        subprocess.run(command, check=True, capture_output=True)
    files = {
        name: {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name).rglob("*")
            if path.is_file() and path.name != "fingerprint.pb"  # Stamped with a random number by TensorFlow.
        }
        for name in ("one", "two")
    }
    assert set(files["one"]) == set(files["two"])
    assert [str(path) for path in files["one"] if files["one"][path] != files["two"][path]] == []


@pytest.mark.slow
def test_a_killed_export_leaves_the_old_model_or_the_new_one(world, tmp_path):
    target = tmp_path / "models" / "1"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, world.model, world.index, target],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )

    def run(k, delay):
        process.stdin.write(f"{k} {delay}\n")
        process.stdin.flush()
        for line in process.stdout:  # Lines of the export itself are skipped.
            outcome, _, seconds = line.partition(" ")
            if outcome in ("ended", "killed"):
                return outcome, float(seconds)
        raise AssertionError("the exporting process ended")

    try:
        outcome, whole = run(1, 600)
        assert (outcome, read_manifest(target)["defaults"]["k"]) == ("ended", 1)
        rng = random.Random(6)
        # Half the kills fall into the last part, where files are written and the folders exchanged.
        shares = [rng.uniform(0.02, 1) for _ in range(8)] + [rng.uniform(0.7, 1.05) for _ in range(12)]
        held, killed = 1, 0
        for k, share in enumerate(shares, 2):
            outcome, seconds = run(k, share * whole)
            killed += outcome == "killed"
            if outcome == "ended":
                whole = min(whole, seconds)  # The least time seen, as the machine may be busy at times.
            manifest = read_manifest(target)
            check_files(target, manifest)
            assert manifest["defaults"]["k"] in ((k,) if outcome == "ended" else (held, k))
            held = manifest["defaults"]["k"]
        assert killed >= 10
    finally:
        process.stdin.close()
        process.wait()
    # The folders of killed exports are hidden from a server, and are removed once they are old.
    left = [path for path in target.parent.iterdir() if path != target]
    assert all(path.name.startswith(".1.") for path in left)
    for path in left:
        os.utime(path, (time.time() - 3600,) * 2)
    export(world.model, world.index, target, Defaults(k=3))
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.slow
def test_a_writer_at_work_is_left_alone(world, tmp_path):
    target = tmp_path / "models" / "1"
    held = target.parent / ".1.abc.new"
    held.mkdir(parents=True)
    os.utime(held, (time.time() - 3600,) * 2)
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import fcntl, os; fcntl.flock(os.open({str(held)!r}, 0), fcntl.LOCK_SH); print(); input()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    holder.stdout.readline()
    export(world.model, world.index, target, Defaults(k=3))
    assert held.exists()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    export(world.model, world.index, target, Defaults(k=3))
    assert not held.exists()


@pytest.mark.slow
def test_the_manifest_says_what_went_in(world, tmp_path):
    (tmp_path / "figures.json").write_text('{"recall_all": 0.5}')
    target = export(
        world.model,
        world.index,
        tmp_path / "1",
        Defaults(k=3),
        options=ExportOptions(evaluation=tmp_path / "figures.json"),
    )
    manifest = read_json(target / "assets.extra" / "nann_export.json")
    assert manifest["evaluation"] == {"recall_all": 0.5}
    assert set(manifest["source"]["files"]) == {path.name for path in world.model.iterdir()}
    given, held = read_json(world.index / "manifest.json"), manifest["index"]
    # The index holds rows for the scorer in place of the embeddings; everything else is unchanged.
    assert (given.pop("dim"), held.pop("dim")) == (64, manifest["scorer"]["row_dim"])
    assert given["files"].pop("item_embeddings.bin") != held["files"].pop("item_embeddings.bin")
    assert held == given
    assert manifest["scorer"]["folded"] and manifest["scorer"]["difference"] < 1e-5
    assert manifest["defaults"]["best_first"] == {"frontier": 16, "pool": 200, "max_steps": 1000}
    assert manifest["versions"]["tensorflow"] == tf.__version__
    assert "home" not in json.dumps(manifest) and str(world.root) not in json.dumps(manifest)


def test_inspect_shows_what_is_inside(world):
    found = inspect(world.saved_model)
    retrieve = found["signatures"]["retrieve"]
    assert retrieve["inputs"]["item_history"] == {"type": "int64 [?, ?]"}
    assert retrieve["inputs"]["k"] == {"type": "int32 of any shape", "default": 20}
    assert retrieve["outputs"]["scores"] == "float32 [?, ?]"
    assert found["signatures"]["serving_default"]["inputs"]["comm_seq"] == {"type": "float16 [1, 3200]"}
    assert set(found["ops"]) == {*SEARCHES, "Nann>IndexHandle", "Nann>IndexOpen"}
    files = [path for path in world.saved_model.rglob("*") if path.is_file()]
    assert found["bytes"]["all"] == sum(path.stat().st_size for path in files)
    # Tables are assets: the graph does not grow with them.
    assert found["bytes"]["saved_model.pb"] < 1_000_000


def test_graphs_for_those_who_look_at_them(world, tmp_path):
    export(world.model, world.index, tmp_path / "1", Defaults(k=3), options=ExportOptions(graphs=tmp_path / "graphs"))
    names = {path.stem for path in (tmp_path / "graphs").iterdir()}
    scorer = {"scorer_fold", "scorer_prepare", "scorer_score"}
    assert names == {"user", "score", *SIGNATURES, *scorer}
    for name in names:
        binary = graph_pb2.GraphDef.FromString((tmp_path / "graphs" / f"{name}.pb").read_bytes())
        text = text_format.Parse((tmp_path / "graphs" / f"{name}.pbtxt").read_text(), graph_pb2.GraphDef())
        assert binary == text
        assert len(binary.node) > 5
