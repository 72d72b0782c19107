"""docker/'s scripts keep what they promise, with stand-ins for the programs that they start."""

import http.server
import os
import shutil
import subprocess
import threading

import pytest

from tests.docker.stand_ins import DOCKER, ROOT, script


@pytest.mark.parametrize(
    ("server", "health", "words"),
    [
        ("sleep 60", "exit 0", "try_server.sh: the server has loaded the model in /models/nann"),
        (
            "echo no such op; exit 3",
            "echo not yet; exit 1",
            "no such op\ntry_server.sh: the model is not available: healthcheck\nnot yet",
        ),
        ("sleep 60", "echo not yet; exit 1", "try_server.sh: the model is not available: healthcheck\nnot yet"),
    ],
)
def test_an_image_that_cannot_serve_is_not_built(programs, server, health, words):
    programs("tensorflow_model_server")
    programs("healthcheck", health)
    folder = programs("entrypoint_server.sh", f"exec bash -c '{server}'")
    done = script(DOCKER / "try_server.sh", "1", path=folder, NANN_PRELOAD="")
    assert done.returncode == (0 if health == "exit 0" else 1)
    assert words in done.stdout + done.stderr


def test_a_server_that_does_not_take_the_ops_is_not_tried(programs):
    folder = programs("tensorflow_model_server", "exit 1")
    done = script(DOCKER / "try_server.sh", "1", path=folder, NANN_PRELOAD="")
    assert (done.returncode, done.stdout) == (1, "tensorflow_model_server --version\n")


@pytest.fixture
def checkout(tmp_path):
    """A repository whose bazel/add_to_serving.sh says what it was given, and TensorFlow Serving's sources."""
    for folder in ("nann/bazel", "nann/docker", "serving/tensorflow_serving/model_servers"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "nann/bazel/add_to_serving.sh").write_text('#!/bin/bash\necho add "$@"\n')
    (tmp_path / "nann/bazel/add_to_serving.sh").chmod(0o755)
    shutil.copy2(DOCKER / "build_server.sh", tmp_path / "nann/docker")
    (tmp_path / "serving/tensorflow_serving/model_servers/BUILD").touch()
    return tmp_path


BAZEL = """built=bazel-bin/tensorflow_serving/model_servers
mkdir -p $built && cp "$(command -v tensorflow_model_server)" $built/"""


def build_server(checkout, path, **environment):
    return script(
        checkout / "nann/docker/build_server.sh",
        checkout / "serving",
        checkout / "out/server",
        path=path,
        **environment,
    )


def test_the_build_adds_the_ops_then_builds_the_server(checkout, programs):
    programs("buildozer")
    programs("tensorflow_model_server")
    folder = programs("bazel", BAZEL)
    done = build_server(checkout, folder, BAZEL_OPTIONS="--jobs=4 --copt=-mavx2")
    assert done.returncode == 0, done.stderr
    target = "tensorflow_serving/model_servers:tensorflow_model_server"
    assert done.stdout.splitlines() == [
        f"add {checkout}/serving",
        f"bazel build --config=release --verbose_failures --jobs=4 --copt=-mavx2 {target}",
        "tensorflow_model_server --version",
    ]
    assert os.access(checkout / "out/server", os.X_OK)


def test_the_build_for_gpus_links_against_the_driver_s_stub(checkout, programs):
    programs("buildozer")
    programs("tensorflow_model_server")
    folder = programs("bazel", f"echo $LD_LIBRARY_PATH\n{BAZEL}")
    stubs = checkout / "stubs"
    missing = build_server(checkout, folder, DEVICE="gpu", CUDA_STUBS=str(stubs))
    assert f"{stubs}/libcuda.so is missing" in missing.stderr
    stubs.mkdir()
    (stubs / "libcuda.so").touch()
    done = build_server(checkout, folder, DEVICE="gpu", CUDA_STUBS=str(stubs))
    assert done.returncode == 0, done.stderr
    assert "--config=cuda_clang --copt=-fPIC" in done.stdout
    assert str(stubs) in done.stdout.splitlines()
    assert (stubs / "libcuda.so.1").exists()


def test_a_buildozer_for_another_machine_is_told(checkout, programs):
    """First contact, line 25: the Dockerfile brings buildozer for amd64."""
    programs("buildozer", "exit 126")
    done = build_server(checkout, programs("bazel", BAZEL))
    assert done.returncode == 1
    assert f"buildozer does not run on {os.uname().machine}: the Dockerfile's is for amd64" in done.stderr


DOCKER_PROGRAM = """case "$1 $2" in
  "buildx version") exit ${NO_BUILDX:-0} ;;
  "version --format") echo ${ARCH:-amd64} ;;
  "compose version") [[ -n ${COMPOSE-2.29.1} ]] && echo "${COMPOSE-2.29.1}" ;;
esac"""


@pytest.fixture
def build(tmp_path):
    """Runs check.sh in a repository with a model and a Docker of our own."""
    (tmp_path / "nann/docker").mkdir(parents=True)
    shutil.copy2(DOCKER / "check.sh", tmp_path / "nann/docker")
    (tmp_path / "nann/demo/models/nann/3").mkdir(parents=True)
    (tmp_path / "nann/demo/models/nann/3/saved_model.pb").touch()
    (tmp_path / "nann/demo/empty").mkdir()
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/docker"
    program.write_text(f"#!/bin/bash\n{DOCKER_PROGRAM}\n")
    program.chmod(0o755)
    return lambda what, **environment: script(
        tmp_path / "nann/docker/check.sh", what, path=tmp_path / "bin", **environment
    )


@pytest.mark.parametrize(
    ("what", "environment", "words"),
    [
        ("image", {}, ""),
        ("serving", {}, ""),
        ("compose", {}, ""),
        ("compose", {"COMPOSE": "v2.3.0"}, ""),
        ("compose", {"COMPOSE": "2.10.0"}, ""),
        ("image", {"ARCH": "arm64"}, ""),
        ("image", {"MODEL_DIR": "nowhere"}, "there is no folder nowhere: 'make demo' makes the demo's"),
        ("compose", {"MODEL_DIR": "demo/empty"}, "demo/empty holds no version such as demo/empty/1/saved_model.pb"),
        ("image", {"MODEL_DIR": "/models"}, "MODEL_DIR is /models; a build takes folders inside the repository"),
        ("image", {"NO_BUILDX": "1"}, "docker has no BuildKit"),
        ("serving", {"ARCH": "arm64"}, "docker builds for arm64: TensorFlow Serving's images are for amd64 alone"),
        ("compose", {"COMPOSE": ""}, "docker has no Compose 2; docker/compose.yaml needs 2.3.0 or newer"),
        ("compose", {"COMPOSE": "2.2.3"}, "Docker Compose is 2.2.3, docker/compose.yaml needs 2.3.0 or newer"),
        ("nonsense", {}, "got 'nonsense', wanted image, serving or compose"),
    ],
)
def test_a_build_that_cannot_succeed_is_told_before_it_begins(build, what, environment, words):
    """First contact, line 25: without a model, or with an old Compose, Docker's own words say nothing of the cause."""
    done = build(what, **environment)
    assert done.returncode == (1 if words else 0), done.stderr
    assert words in done.stderr if words else done.stderr == ""


@pytest.mark.parametrize(
    ("target", "what", "last"),
    [
        ("image", "image", "docker build -f docker/Dockerfile.local -t nann_local --build-arg MODEL_DIR=a/b ."),
        ("image-serving", "serving", "docker build -f docker/Dockerfile -t nann_serving --build-arg MODEL_DIR=a/b ."),
        ("compose", "compose", "docker compose -f docker/compose.yaml up --build"),
    ],
)
def test_make_checks_first(target, what, last):
    # Not as a part of the make that may run this test, whose flags and level stand in the environment.
    own = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "-n", target, "MODEL_DIR=a/b"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=own, check=True)
    assert done.stdout.splitlines() == [f"MODEL_DIR=a/b docker/check.sh {what}", last]


def test_the_compose_version_is_told_where_people_look():
    for path in (DOCKER / "compose.yaml", DOCKER / "check.sh", ROOT / "docs/docker.md"):
        assert "2.3.0" in path.read_text(), path


def test_the_build_says_what_is_missing(checkout, programs):
    folder = programs("bazel")
    assert "buildozer is not on the PATH" in build_server(checkout, folder).stderr
    (checkout / "serving/tensorflow_serving/model_servers/BUILD").unlink()
    assert "has not TensorFlow Serving's sources" in build_server(checkout, folder).stderr
    assert "got 0 arguments, wanted SERVING_DIR OUT" in script(DOCKER / "build_server.sh").stderr
    assert "usage: install_local.sh" in script(DOCKER / "install_local.sh", "wheels").stderr


@pytest.fixture(scope="module")
def rest_port():
    class Handler(http.server.BaseHTTPRequestHandler):
        answers = {  # noqa: RUF012
            "/v1/models/nann": (200, '"state": "AVAILABLE"'),
            "/v1/models/slow": (200, '"state": "LOADING"'),
            "/monitoring/prometheus/metrics": (200, "# TYPE requests counter"),
            "/api/v1/query?query=up%7Bjob%3D%22nann%22%7D": (200, '{"value":[1700000000.1,"1"]}'),
        }

        def do_GET(self):
            status, body = self.answers.get(self.path, (404, '"AVAILABLE"'))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield str(server.server_port)
    server.shutdown()


@pytest.mark.parametrize(
    ("name", "status", "text"),
    [("nann", 0, ""), ("slow", 1, "without 200 or without"), ("other", 1, "without 200 or without")],
)
def test_healthy_is_an_available_version(rest_port, name, status, text):
    done = script(DOCKER / "healthcheck", REST_PORT=rest_port, MODEL_NAME=name)
    assert (done.returncode, done.stdout) == (status, "")
    assert text in done.stderr


def test_nobody_there_is_not_healthy():
    done = script(DOCKER / "healthcheck", REST_PORT="9")
    assert done.returncode == 1
    assert "http://127.0.0.1:9/v1/models/nann does not answer" in done.stderr


def test_the_smoke_test_asks_the_server_and_prometheus(rest_port, programs):
    folder = programs("nann")
    environment = {"REST_PORT": rest_port, "PROMETHEUS": f"127.0.0.1:{rest_port}"}
    done = script(DOCKER / "smoke.sh", "127.0.0.1", path=folder, **environment)
    assert done.returncode == 0, done.stderr
    assert "nann smoke 127.0.0.1:8500 --name nann" in done.stdout
    assert "Prometheus reads the server" in done.stdout
    failing = script(DOCKER / "smoke.sh", path=programs("nann", "exit 3"), **environment)
    assert failing.returncode == 3
