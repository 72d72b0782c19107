"""docker/Dockerfile.local from nothing to an answered request, by its own instructions, without Docker.

A minimal Debian is made by debootstrap; the instructions run in it by chroot (tests/docker/engine.py); the server runs
as its unprivileged user below a read-only root. It takes root, Debian's tools and minutes: where that cannot be had,
`-m "not clean_root"` leaves it out. It is not skipped by itself, so that a machine that should run it cannot forget to.
"""

import json
import shutil
import socket
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from tests.docker import engine
from tfserving_ext.errors import NannError
from tfserving_ext.serving import Client

pytestmark = pytest.mark.clean_root

ROOT = Path(__file__).parents[2]
# Any address of the loopback network but 127.0.0.1, on which a server that listens there alone does not answer: to a
# container's server every request comes from elsewhere.
ELSEWHERE = "127.0.0.2"
START_SECONDS = 120
STOP_SECONDS = 30


@pytest.fixture(scope="module")
def image(world, tmp_path_factory):
    if reason := engine.missing():
        pytest.fail(f'cannot build a root of its own: {reason}; leave this test out by -m "not clean_root"')
    folder = tmp_path_factory.mktemp("roots")
    try:
        # The caches that the Dockerfile asks for outlive the test, as Docker's do; `make clean` removes them.
        built = engine.Engine(folder, ROOT, ROOT / "build" / "docker")
        model = built.context / "demo" / "models" / "nann"
        shutil.rmtree(model, ignore_errors=True)
        shutil.copytree(world.saved_model.parent, model)
        yield built.build(ROOT / "docker" / "Dockerfile.local", "runtime", {"REVISION": "test"})
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # Gigabytes, which pytest would keep for three runs.


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind((ELSEWHERE, 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def server(image):
    environment = {"GRPC_PORT": str(free_port()), "REST_PORT": str(free_port())}
    process = image.run(environment)
    try:
        deadline = time.monotonic() + START_SECONDS
        while (health := image.execute(environment, *image.health)).returncode:
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                pytest.fail(f"{health.stderr}\nthe server printed:\n{process.communicate()[0].decode()}")
            time.sleep(1)
        yield SimpleNamespace(
            process=process,
            environment=environment,
            target=f"{ELSEWHERE}:{environment['GRPC_PORT']}",
            url=f"http://{ELSEWHERE}:{environment['REST_PORT']}",
        )
    finally:
        process.kill()
        process.wait()


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as response:
        return response.read().decode()


def test_the_image_has_the_product_and_no_tools(image):
    for name in ("opt/nann/bin/nann", "usr/local/bin/healthcheck", "etc/nann/monitoring.config", "models/nann/1"):
        assert (image.root / name).exists(), name
    for name in ("usr/bin/g++", "usr/bin/pip", "opt/nann/bin/pip", "nann", "wheels", "dist", "install_local.sh"):
        assert not (image.root / name).exists(), name
    assert image.labels["org.opencontainers.image.revision"] == "test"


def test_a_request_from_outside_is_answered_as_in_process(world, server):
    request = {
        "item_history": world.sequences.ids_of(world.sequences.cases("test").histories[:3]),
        "category_history": np.zeros([1, 0], np.int64),
        "k": np.int32(5),
        "frontier": np.int32(16),
        "pool": np.int32(200),
        "max_steps": np.int32(1000),
        "exclude": np.zeros([1, 0], np.int64),
        "budget": np.int64(0),
        "deadline_ms": np.int32(0),
    }
    with Client(server.target, "nann") as client:
        answer = client.predict("retrieve", request)
    loaded = tf.saved_model.load(str(world.saved_model))
    wanted = loaded.signatures["retrieve"](**{key: tf.constant(value) for key, value in request.items()})
    assert answer["item_ids"].shape == (3, 5)
    np.testing.assert_array_equal(answer["item_ids"], wanted["item_ids"].numpy())
    np.testing.assert_allclose(answer["scores"], wanted["scores"].numpy(), rtol=1e-5)


def test_rest_tells_the_version_s_state_and_metrics(server):
    status = json.loads(get(f"{server.url}/v1/models/nann"))
    assert [(version["version"], version["state"]) for version in status["model_version_status"]] == [
        ("1", "AVAILABLE")
    ]
    assert "# TYPE" in get(f"{server.url}/monitoring/prometheus/metrics")


def test_the_smoke_test_of_the_compose_file_passes(image, server):
    ports = server.environment
    smoked = image.execute(ports, "smoke.sh", ELSEWHERE)
    assert smoked.returncode == 0, smoked.stderr
    assert "smoke     passed" in smoked.stdout
    assert image.execute(ports | {"REST_PORT": "9"}, "smoke.sh").returncode != 0


def test_it_runs_without_any_privilege(image, server):
    first = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()[0]
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{first}/status").read_text().splitlines() if ":\t" in line
    )
    assert status["Uid"].split() == status["Gid"].split() == ["10001"] * 4
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    for place in ("/models/nann/1/x", "/opt/nann/x", "/x"):
        tried = image.execute({}, "sh", "-c", f"echo >{place}")
        assert "Read-only file system" in tried.stderr, place
    assert image.execute({}, "sh", "-c", "echo >/tmp/x").returncode == 0


# The last: the server is gone after it.
def test_it_ends_at_sigterm(server):
    before = time.monotonic()
    status = engine.stop(server.process, STOP_SECONDS)
    assert status == 0, server.process.communicate()[0].decode()
    assert time.monotonic() - before < STOP_SECONDS
    with Client(server.target, "nann", timeout=2) as client, pytest.raises(NannError, match="no server answers"):
        client.predict("retrieve", {"item_history": np.zeros([1, 1], np.int64)})
