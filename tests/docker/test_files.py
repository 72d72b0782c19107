"""docker/ and the workflow as files: linted, and consistent with each other."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from google.protobuf import text_format
from tensorflow.core.protobuf import config_pb2
from tensorflow_serving.config import model_server_config_pb2

from tests.docker.dockerfile import Ignore, argument, read, substitute
from tests.docs.pages import blocks
from tfserving_ext.serving.text_protos import read_metrics_path, read_tls

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
DOCKERFILES = [DOCKER / "Dockerfile", DOCKER / "Dockerfile.bazel", DOCKER / "Dockerfile.local"]
SCRIPTS = sorted(path for path in DOCKER.iterdir() if path.read_bytes().startswith(b"#!"))
MODEL_DIR = "demo/models/nann"  # Made by `make demo`.


def tool(name: str) -> str:
    found = Path(sys.executable).with_name(name)
    assert found.exists(), f"{name} is missing beside {sys.executable}: pip install -r requirements.lock"
    return str(found)


def checked(*command: str | Path) -> None:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


# Linted.


def test_the_workflow_passes_actionlint():
    checked(tool("actionlint"), ".github/workflows/ci.yaml")


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfiles_pass_hadolint(path):
    checked(tool("hadolint"), path)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_pass_shellcheck_and_can_be_run(path):
    checked("bash", "-n", path)
    checked(tool("shellcheck"), "--severity=style", path)
    assert os.access(path, os.X_OK), f"{path} is not executable"
    assert "\nset -euo pipefail\n" in path.read_text()


# Consistent.


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_what_a_build_reads_is_there_and_not_ignored(path):
    file = read(path)
    ignore = Ignore((ROOT / ".dockerignore").read_text())
    for stage in file.stages.values():
        arguments = {}
        for step in stage.instructions:
            if step.name == "ARG":
                name, default = argument(step)
                arguments[name] = file.arguments[name] if default is None else default  # Every ARG has a default.
            needed = [mount["source"] for mount in step.mounts() if mount["type"] == "bind" and "from" not in mount]
            if step.name == "COPY" and step.flag("from") is None:
                needed += substitute(step.rest, arguments).split()[:-1]
            for source in needed:
                assert source == MODEL_DIR or (ROOT / source).exists(), f"line {step.line}: no {source}"
                assert not ignore.excludes(source), f"line {step.line}: {source} is in .dockerignore"
            for other in [step.flag("from"), *(mount.get("from") for mount in step.mounts())]:
                assert other is None or other in file.stages, f"line {step.line}: no stage {other}"


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_the_server_s_stages_exist_for_each_device(device):
    file = read(DOCKER / "Dockerfile.bazel", {"DEVICE": device})
    assert file.stages["build"].base in file.stages
    assert file.stages["runtime"].base in file.stages
    assert file.stages[f"devel-{device}"].base.startswith("tensorflow/serving:2.20.0-devel")


def test_the_server_is_built_from_all_that_bazel_reads():
    build = read(DOCKER / "Dockerfile.bazel").stages["build"]
    copied = [step.rest for step in build.instructions if step.name == "COPY"]
    for folder in ("bazel", "custom_ops", "grappler_passes"):
        assert not (ROOT / folder).exists() or any(line.split()[0] == folder for line in copied), folder


def test_the_stock_image_and_the_headers_are_of_one_version():
    file = read(DOCKER / "Dockerfile", {"SERVING_VERSION": "2.21.0"})
    assert file.stages["runtime"].base == "tensorflow/serving:2.21.0"
    assert file.stages["tools"].base == "ubuntu:22.04", "what check_library.py takes the image's libraries to be of"
    (step,) = [step for step in file.stages["tools"].instructions if step.name == "RUN"]
    assert step.rest == '/build_preload.sh tools "${SERVING_VERSION}"'


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_images_run_without_root_and_say_what_they_are(path):
    steps = read(path).stages["runtime"].instructions
    last = {step.name: step for step in steps}
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last["USER"].rest)
    assert last["EXPOSE"].rest == "8500 8501"
    copied = [
        f"{step.words()[-1]}{Path(source).name}" for step in steps if step.name == "COPY" for source in step.words()
    ]
    assert last["ENTRYPOINT"].words()[0] in copied
    assert last["HEALTHCHECK"].rest.removeprefix("CMD ") == '["/usr/local/bin/healthcheck"]'
    for label in ("title", "description", "version", "revision", "licenses"):
        assert f"org.opencontainers.image.{label}=" in last["LABEL"].rest


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_images_from_outside_have_a_version(path):
    file = read(path)
    for stage in file.stages.values():
        if stage.base not in (*file.stages, "scratch") and not stage.base.startswith(("devel-", "runtime-")):
            assert re.fullmatch(r"[a-z/]+:[\w.-]*\d[\w.-]*(@sha256:[0-9a-f]{64})?|debian:bookworm-slim", stage.base)


def test_the_labels_have_the_package_s_version():
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    for path in DOCKERFILES:
        arguments = dict(argument(step) for step in read(path).stages["runtime"].instructions if step.name == "ARG")
        assert arguments["VERSION"] == version


def test_configurations_are_what_the_servers_parse():
    text_format.Parse((DOCKER / "session_config.pbtxt").read_text(), config_pb2.ConfigProto())
    (job,) = yaml.safe_load((DOCKER / "prometheus.yml").read_text())["scrape_configs"]
    assert job["metrics_path"] == read_metrics_path(DOCKER / "monitoring.config")
    assert job["job_name"] in (DOCKER / "smoke.sh").read_text()


def test_the_page_s_configurations_are_what_the_servers_parse(tmp_path):
    found = [block.text for block in blocks() if block.page == "docs/docker.md"]
    (text,) = [text for text in found if text.startswith("model_config_list")]
    models = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    assert [model.name for model in models.model_config_list.config] == ["nann", "other"]
    (command,) = [text.splitlines()[0] for text in found if text.startswith("printf")]
    key, certificate = (ROOT / "tests/serving/tls" / name for name in ("server.key", "server.pem"))
    shutil.copy(key, tmp_path / "key.pem")
    shutil.copy(certificate, tmp_path / "cert.pem")
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True)
    assert read_tls(tmp_path / "ssl.config") == (key.read_bytes(), certificate.read_bytes(), None)


def test_the_compose_file_hardens_every_service():
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    services = compose["services"]
    assert list(services) == ["server", "prometheus", "smoke"]
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    targets = yaml.safe_load((DOCKER / "prometheus.yml").read_text())["scrape_configs"][0]["static_configs"]
    assert targets == [{"targets": ["server:8501"]}]
    assert "docker/Dockerfile.local" in services["server"]["build"]["dockerfile"]
    assert re.search(r"@sha256:[0-9a-f]{64}\}$", services["prometheus"]["image"])


def test_the_workflow_tests_every_python_that_the_package_takes():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yaml").read_text())
    versions = ["3.10", "3.11", "3.12", "3.13"]
    assert 'requires-python = ">=3.10,<3.14"' in (ROOT / "pyproject.toml").read_text()
    for job in ("tests", "wheel-installs"):
        assert workflow["jobs"][job]["strategy"]["matrix"]["python"] == versions
