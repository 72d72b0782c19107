"""docker/Dockerfile from nothing to a model that is available, by its own instructions, without Docker.

A minimal Debian stands for Ubuntu, and a program of our own for TensorFlow Serving's binary: it loads the model as the
server does, and knows the ops only because they are preloaded (tests/native/serving_host.cc). It is built on the
wheel of TensorFlow, so the ops are compiled with the ABI of the wheel here.
"""

import shutil
import time
from pathlib import Path

import pytest
import tensorflow as tf

from tests.docker import engine
from tests.native.building import ROOT
from tests.native.serving_host import build

pytestmark = pytest.mark.clean_root

SERVING_VERSION = "2.20.0"
START_SECONDS = 120
STOP_SECONDS = 30


def stand_in(root):
    """Puts the stand-in, and the libraries of TensorFlow that it needs, where the stock image has its server."""
    libraries = root / "usr/lib/tensorflow"
    libraries.mkdir()
    for name in ("libtensorflow_framework.so.2", "libtensorflow_cc.so.2"):
        shutil.copy2(Path(tf.__file__).parent / name, libraries)
    shutil.copy2(build().server, root / "usr/bin")
    environment = {"PATH": engine.DEFAULT_PATH, "LD_LIBRARY_PATH": "/usr/lib/tensorflow"}
    return engine.Image(root, environment)


@pytest.fixture(scope="module")
def image(world, tmp_path_factory):
    if reason := engine.missing():
        pytest.fail(f'cannot build a root of its own: {reason}; leave this test out by -m "not clean_root"')
    folder = tmp_path_factory.mktemp("roots")
    bases = {"ubuntu:22.04": engine.Image, f"tensorflow/serving:{SERVING_VERSION}": stand_in}
    try:
        built = engine.Engine(folder, ROOT, ROOT / "build" / "docker", bases)
        model = built.context / "demo" / "models" / "nann"
        shutil.rmtree(model, ignore_errors=True)
        shutil.copytree(world.saved_model.parent, model)
        arguments = {"REVISION": "test", "SERVING_VERSION": SERVING_VERSION, "CMAKE_OPTIONS": "-DNANN_SERVING_ABI=1"}
        # The last step before the user is set tries the server with the ops and the model.
        yield built.build(ROOT / "docker" / "Dockerfile", "runtime", arguments)
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # Gigabytes, which pytest would keep for three runs.


def test_the_image_has_the_files_to_preload_and_no_tools(image):
    assert sorted(path.name for path in (image.root / "opt/nann").iterdir()) == [
        f"libnann_serving-{'.'.join(SERVING_VERSION.split('.')[:2])}.so",
        "libnann_serving.so",
    ]
    for name in ("usr/bin/g++", "opt/build", "nann", "build_preload.sh"):
        assert not (image.root / name).exists(), name


def test_the_entry_point_serves_as_an_unprivileged_user(image):
    """The model is available only where the ops were preloaded, and answered its warm-up."""
    process = image.run({})
    try:
        deadline = time.monotonic() + START_SECONDS
        while (health := image.execute({}, *image.health)).returncode:
            assert process.poll() is None, process.communicate()[0].decode()
            assert time.monotonic() < deadline, health.stderr
            time.sleep(1)
    finally:
        status = engine.stop(process, STOP_SECONDS)
    assert status == 143, "SIGTERM reaches the server, which has no handler for it"


def test_a_server_without_the_ops_does_not_become_available(image):
    process = image.run({"NANN_PRELOAD": ""})
    assert process.wait(START_SECONDS) == 1
    assert "Op type not registered 'Nann>" in process.communicate()[0].decode()


def test_a_shell_of_the_container_is_left_alone(image):
    environment = {"LD_PRELOAD": "/opt/nann/libnann_serving.so"}
    done = image.execute(environment, "bash", "-c", "echo it works")
    assert (done.returncode, done.stdout, done.stderr) == (0, "it works\n", "")
