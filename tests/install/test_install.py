"""First contact, line 1: what a stranger gets by `pip install`, far from the tree and without its lock."""

import contextlib
import os
import socket
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import tensorflow as tf

from tests.install.tree import ROOT, tree_files
from tfserving_ext.demo.checkpoint import _weights, facts

pytestmark = pytest.mark.install

MINOR = ".".join(tf.__version__.split(".")[:2])
START_SECONDS = 120
# The other version that requirements.in takes; the wheel gets a library for it that was built elsewhere.
OTHER = {"2.20": "2.21", "2.21": "2.20"}[MINOR]
LIBRARIES = sorted(f"tfserving_ext/ops/_nann_ops-tensorflow-{version}.so" for version in (MINOR, OTHER))


def run(*command, cwd, environment=None, **options):
    """Runs a command that must succeed; none of this tree's folders is where it looks for modules."""
    more = environment or {}
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"} | more,
        timeout=900,
        check=False,
        **options,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextlib.contextmanager
def served(nann, base_path, folder):
    """Serves `base_path` by the command `nann`; the gRPC port of the server that has loaded it."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        ports = [taken.getsockname()[1] for taken in (one, other)]
    command = [nann, "serve", base_path, "--port", ports[0], "--rest_api_port", ports[1]]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log, cwd=folder)
    try:
        begin = time.monotonic()
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{ports[1]}/v1/models/nann", timeout=5) as response:
                    assert b"AVAILABLE" in response.read()
                break
            except urllib.error.URLError:
                started = server.poll() is None and time.monotonic() < begin + START_SECONDS
                assert started, (folder / "log").read_text()
                time.sleep(0.2)
        yield ports[0]
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist of what a clone of the tree would hold, and the wheel that is built from the sdist alone."""
    folder = tmp_path_factory.mktemp("built")
    clone, dist = folder / "clone", folder / "dist"
    for path in tree_files():
        (clone / path).parent.mkdir(parents=True, exist_ok=True)
        (clone / path).write_bytes((ROOT / path).read_bytes())
    dist.mkdir()
    # What `python -m build --sdist` calls.
    run(sys.executable, "-c", f"from setuptools import build_meta; build_meta.build_sdist({str(dist)!r})", cwd=clone)
    (sdist,) = dist.glob("*.tar.gz")
    # The TensorFlow and the tools of this environment: an isolated build would download and unpack the same again.
    others = folder / "others"
    others.mkdir()
    (others / f"_nann_ops-tensorflow-{OTHER}.so").write_bytes(b"built elsewhere")
    command = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", sdist)
    run(*command, cwd=dist, environment={"NANN_OP_LIBRARIES": str(others)})
    (wheel,) = dist.glob("*.whl")
    return SimpleNamespace(sdist=sdist, wheel=wheel)


def test_the_sdist_has_the_sources_and_no_library(built):
    with tarfile.open(built.sdist) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    for wanted in (
        "CMakeLists.txt",
        "requirements.in",
        "custom_ops/core/search.h",
        "tfserving_ext/py.typed",
        "LICENSE",
    ):
        assert wanted in names
    native = {str(path) for path in tree_files("custom_ops", "grappler_passes") if path.suffix in (".cc", ".h")}
    assert len(native) > 60
    assert native <= names
    assert not [name for name in names if name.endswith(".so")]


def test_the_wheel_is_for_any_python_and_each_tensorflow_that_it_has_a_library_for(built, tmp_path):
    assert built.wheel.name.startswith("tfserving_ext-0.1.0-py3-none-linux_")
    with zipfile.ZipFile(built.wheel) as file:
        names = file.namelist()
        (metadata,) = (file.read(name).decode() for name in names if name.endswith("/METADATA"))
        library = file.extract(f"tfserving_ext/ops/_nann_ops-tensorflow-{MINOR}.so", tmp_path)
        checkpoint = Path(file.extract("tfserving_ext/demo/nann_attention.npz", tmp_path))
    assert sorted(name for name in names if name.endswith(".so")) == LIBRARIES
    # The TensorFlow that it was built against is nowhere on a user's machine.
    assert "RUNPATH" not in run("readelf", "-d", library, cwd=tmp_path)
    for line in ("tensorflow<2.22,>=2.20", "tensorflow-serving-api<2.22,>=2.20"):
        assert f"Requires-Dist: {line}\n" in metadata
    for line in ('polars>=1.30; extra == "train"', 'tensorboard>=2.20; extra == "train"'):
        assert f"Requires-Dist: {line}\n" in metadata
    assert len(_weights(checkpoint, facts()["sha256"])) > 40
    ours = {str(path) for path in tree_files("tfserving_ext", "export_tools")}
    assert ours <= set(names)
    assert {name.split("/")[0] for name in names} == {"tfserving_ext", "export_tools", "tfserving_ext-0.1.0.dist-info"}


def test_a_gap_between_the_versions_is_refused(tmp_path):
    (tmp_path / "_nann_ops-tensorflow-2.17.so").touch()
    environment = os.environ | {"NANN_OP_LIBRARIES": str(tmp_path)}
    command = [sys.executable, "setup.py", "--quiet", "egg_info", "--egg-base", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert done.returncode == 1
    assert f"there are op libraries for TensorFlow 2.17, {MINOR}, and for none between them" in done.stderr
    environment["NANN_OP_LIBRARIES"] = str(tmp_path / "nowhere")
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert done.returncode == 1
    assert "nowhere, which has no _nann_ops-tensorflow-*.so" in done.stderr


def test_the_installed_wheel_exports_serves_and_answers(built, world, tmp_path):
    """In an environment that has nothing but what the wheel requires, as the index has it today."""
    environment = tmp_path / "environment"
    run(sys.executable, "-m", "venv", environment, cwd=tmp_path)
    # The other version's library is no real one.
    versions = (f"tensorflow=={MINOR}.*", f"tensorflow-serving-api=={MINOR}.*")
    run(environment / "bin" / "pip", "install", "--quiet", "--no-compile", built.wheel, *versions, cwd=tmp_path)
    run(environment / "bin" / "pip", "check", cwd=tmp_path)
    nann, saved_model = environment / "bin" / "nann", tmp_path / "models" / "nann" / "1"
    run(nann, "export", world.model, world.index, "-o", saved_model, "-k", 20, cwd=tmp_path)
    where = run(environment / "bin" / "python", "-c", "import tfserving_ext as t; print(t.__file__)", cwd=tmp_path)
    assert where.startswith(str(environment))
    refused = subprocess.run([nann, "train", world.data], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert refused.returncode == 1 and "pip install 'tfserving-ext[train]'" in refused.stderr
    with served(nann, saved_model.parent, tmp_path) as port:
        assert "smoke" in run(nann, "smoke", f"127.0.0.1:{port}", cwd=tmp_path)
