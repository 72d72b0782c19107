"""How `make test-docs` runs what the pages say: on the demo's artefacts, in bounds, and what it leaves out."""

from collections.abc import Mapping
from pathlib import Path

from tests.docs.pages import ROOT

DEMO = ROOT / "demo"
# Programs whose commands are run.
RUNS = ("nann", "curl", "source")
# What is not run here, by how it begins, and why; "run by" names what does.
ELSEWHERE = {
    "python -m examples.rankers.shop": "run by tests/export/test_bring_your_model.py",
    "make demo": "run by tests/test_demo.py with few steps; minutes as it is",
    "nann demo": "run by tests/test_demo.py with few steps; minutes as it is",
    "make test": "these tests are a part of it",
    "make lint": "a part of make test",
    "make format": "changes files",
    "make docs": "run by the workflow; what it checks of links is held by tests/docs/test_links.py",
    "make setup": "has been run where these tests run",
    "make sanitize": "half an hour; run by hand after a change of the core",
    "make fuzz": "a minute and more, and Clang; run by hand after a change of the core",
    "make bench": "at most 40 minutes; run by hand, its page is docs/performance.md",
    "make soak": "five minutes; run by hand",
    "pytest -m alone": "a part of make test-slow",
    "make bench-paper": "two hours; run by hand, its page is docs/paper_tables.md",
    "python -m benchmarks.": "minutes to hours; run by hand, what they print is in benchmarks/README.md",
    "python -m tests.compatibility.": "run once for every version of the op interface; it replaces nothing",
    ".venv/bin/pre-commit install": "changes the clone's hooks",
    "make image": "needs Docker; what it looks at first is held by tests/docker/test_scripts.py",
    "make compose": "needs Docker; what it looks at first is held by tests/docker/test_scripts.py",
    "cmake -S . -B build/preload": "tests/native/test_preload.py builds the same target",
    "cmake --build build/preload": "tests/native/test_preload.py builds the same target",
    "LD_PRELOAD=": "needs TensorFlow Serving; tests/native/test_preload.py preloads into a program that stands for it",
    "printf ": "run by tests/docker/test_files.py",
    "docker ": "needs Docker; tests/docker carries out the Dockerfiles without it",
    "NANN_DOCKERFILE=": "needs Docker",
    "bazel": "needs Bazel and, for TensorFlow Serving, hours; tests/native/test_bazel.py reads the files",
    "cd /path/to/serving": "beside bazel",
    "apt-get ": "changes the machine",
    "pip install": "changes the environment",
    "nann convert /shared/parts": "needs a Flink cluster; tests/data/test_beam.py runs Beam here",
    "nann retrieve-all /shared/models": "needs a Flink cluster; tests/export/test_retrieve_all.py runs Beam here",
    "nann export converted_model": "needs the original's artefacts; run by tests/export/test_sources.py on such",
    "nann upsert models/shop": "needs a ranker's shop; run by tests/export/test_ranker_updates.py on one",
}
# What is added to a command so that it ends soon: the last of an option given twice is taken.
BOUNDS = {
    "convert": ("--validation", "0.1", "--test", "0.1"),
    "synth": ("--rows", "20000"),
    "train": ("--steps", "2", "--batch-size", "8", "--negatives", "20"),
    "evaluate": ("--max-cases", "6"),
    "tune": ("--max-cases", "6"),
    "preflight": ("--max-cases", "40"),
    "bench": ("--seconds", "1", "--warm-up", "0", "--trace", "2"),
}
# Bounds that such a command cannot have.
NOT_WITH = {"convert": ("original",), "bench": ("compare", "report", "--init")}
# What a busy machine may say instead, by a part of the command: its conditions hold of a fast one.
ALLOWED_TO_FAIL = {
    "--fail-if": "failed: p99_ms > 20",
    "--max-rate-with": "keeps p99_ms <= 20",
    "--latency-ms": "the fastest of",
    # Of an index that was not tuned, as each command finds it; tests/export/test_coverage.py has one that was.
    "--coverage": "has no tuning.json; make one with `nann tune`",
}
# Pages whose commands build on each other; elsewhere each finds the demo's artefacts.
CHAINED = ("docs/own_models.md", "docs/bring_your_model.md")


def bounded(words: tuple[str, ...]) -> list[str]:
    """The command with what makes it short."""
    rest = list(words[1:])
    if "--items" in rest:
        rest = ["whole.keras" if word == "ranker.keras" else word for word in rest]
    if "--feature" in rest:
        rest = ["renamed.keras" if word == "ranker.keras" else word for word in rest]
    name = rest[2] if rest[:1] == ["--import"] else rest[0]
    if set(NOT_WITH.get(name, ())) & set(rest):
        return rest
    added = list(BOUNDS.get(name, ()))
    starts = not {"two_sided", "--start-from", "--start-steps"} & set(rest) and not any(":" in word for word in rest)
    if name == "train" and starts:
        added += ["--start-steps", "2"]
    if "--builds" in rest:
        added += ["--builds", "1"]
    if "--curves" in rest:
        added += ["--curve-cases", "3"]
    return rest + added


def with_ports(words: list[str], grpc: int, rest: int) -> list[str]:
    """The command for the server that runs, wherever the documented ports stand or are meant."""
    name = words[0]
    told = [
        word.replace("127.0.0.1:8500", f"127.0.0.1:{grpc}").replace("127.0.0.1:8501", f"127.0.0.1:{rest}")
        for word in words
    ]
    if name == "smoke" and len(words) == 1:
        told.append(f"127.0.0.1:{grpc}")
    asks = name == "bench" and not {"compare", "report", "--init", "--target"} & set(words)
    return [*told, "--target", f"grpc://127.0.0.1:{grpc}"] if asks else told


MODULE = '''
from examples.transformer_model import TransformerModel


class MyModel(TransformerModel):
    """A model of a reader."""
'''
RANKERS = '''
import tensorflow as tf


class Ranker(tf.Module):
    """A user's vector and a product."""

    features = {"vector": tf.TensorSpec([None, %d], tf.float32)}

    def user(self, features):
        return (features["vector"],)

    def score(self, user, items):
        return tf.einsum("bd,bnd->bn", user[0], items)


ranker = Ranker()
'''


def model_config(models: Mapping[str, Path]) -> str:
    """A ModelServerConfig of folders of versions, by name."""
    entries = "".join(
        f'config {{ name: "{name}" base_path: "{path}" model_platform: "tensorflow" }}\n'
        for name, path in models.items()
    )
    return f"model_config_list {{\n{entries}}}\n"
