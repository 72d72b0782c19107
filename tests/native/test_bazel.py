"""The Bazel files name every source, and `bazel/add_to_serving.sh` links the ops into a checkout of TensorFlow Serving.

The checkout is a small imitation with the two files that the script touches. The tests run with the real buildozer, if
it is on the PATH, and always with a stand-in that has its arguments, its effect and its exit status.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "bazel" / "add_to_serving.sh"

WORKSPACE = 'workspace(name = "tf_serving")\n'
SERVER = """SUPPORTED_TENSORFLOW_OPS = []

cc_library(
    name = "server_lib",
    srcs = ["server.cc"],
    deps = [
        ":server_core",
        "@org_tensorflow//tensorflow/core:lib",
    ] + SUPPORTED_TENSORFLOW_OPS,
)
"""
BUILDOZER = """#!/usr/bin/env bash
set -euo pipefail
[[ $1 == -root_dir && $4 == //tensorflow_serving/model_servers:server_lib ]]
file=$2/tensorflow_serving/model_servers/BUILD
case $3 in
  "print name") grep -q 'name = "server_lib"' "$file" || exit 2 ;;
  "add deps "*)
    changed=3
    for label in ${3#add deps }; do
      grep -qF "\\"$label\\"" "$file" && continue
      sed -i "s|^    deps = \\[|&\\n        \\"$label\\",|" "$file"
      changed=0
    done
    exit $changed ;;
  *) exit 1 ;;
esac
"""


@pytest.fixture(params=["stand-in", "real"])
def buildozer(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The path of a buildozer, the real one or the stand-in."""
    if request.param == "real":
        found = shutil.which("buildozer")
        if found is None:
            pytest.skip("no buildozer on the PATH")
        return found
    stand_in = tmp_path / "buildozer"
    stand_in.write_text(BUILDOZER)
    stand_in.chmod(0o755)
    return str(stand_in)


@pytest.fixture
def serving(tmp_path: Path) -> Path:
    folder = tmp_path / "serving"
    (folder / "tensorflow_serving" / "model_servers").mkdir(parents=True)
    (folder / "WORKSPACE").write_text(WORKSPACE)
    (folder / "tensorflow_serving" / "model_servers" / "BUILD").write_text(SERVER)
    return folder


def files(serving: Path) -> dict[str, str]:
    return {str(path.relative_to(serving)): path.read_text() for path in serving.rglob("*") if path.is_file()}


def add(*arguments: str | Path, buildozer: str = "buildozer") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "BUILDOZER": buildozer}
    return subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, check=False, env=environment)


def test_build_names_every_source():
    named = set(re.findall(r'"([^"]+)"', (ROOT / "BUILD").read_text()))
    # Preloaded sources are for a server that Bazel has built already.
    sources = [path for path in (ROOT / "custom_ops").rglob("*.cc") if path.parent.name != "preload"]
    # Tests are named without folder and suffix, in the list that makes a target for each.
    missing = [str(path) for path in sources if not {str(path.relative_to(ROOT)), path.stem} & named]
    assert sources
    assert not missing


def test_adds_the_repository_and_the_dependency_and_nothing_else(serving: Path, buildozer: str):
    run = add(serving, buildozer=buildozer)
    assert run.returncode == 0, run.stderr
    repository = f'\nlocal_repository(\n    name = "nann",\n    path = "{ROOT}",\n)\n'
    after = files(serving)
    assert after.pop("WORKSPACE") == WORKSPACE + repository
    build = after.pop("tensorflow_serving/model_servers/BUILD")
    assert sorted(build.splitlines()) == sorted([*SERVER.splitlines(), '        "@nann//:nann_ops",'])
    assert not after


def test_a_second_run_changes_nothing(serving: Path, buildozer: str):
    assert add(serving, buildozer=buildozer).returncode == 0
    once = files(serving)
    run = add(serving, buildozer=buildozer)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("unchanged") == 2
    assert files(serving) == once


def test_adds_the_targets_that_are_named(serving: Path, buildozer: str):
    assert add(serving, "@nann//:index_ops", "@nann//:search_ops", buildozer=buildozer).returncode == 0
    build = files(serving)["tensorflow_serving/model_servers/BUILD"]
    assert '"@nann//:index_ops"' in build
    assert '"@nann//:search_ops"' in build
    assert "nann_ops" not in build


def test_refuses_a_server_that_it_does_not_know(serving: Path, buildozer: str):
    build = serving / "tensorflow_serving" / "model_servers" / "BUILD"
    build.write_text(SERVER.replace("server_lib", "another"))
    before = files(serving)
    run = add(serving, buildozer=buildozer)
    assert run.returncode == 1
    assert "no server_lib" in run.stderr
    assert files(serving) == before


def test_refuses_another_copy_of_the_project(serving: Path, buildozer: str):
    other = '\nlocal_repository(\n    name = "nann",\n    path = "/elsewhere",\n)\n'
    (serving / "WORKSPACE").write_text(WORKSPACE + other)
    before = files(serving)
    run = add(serving, buildozer=buildozer)
    assert run.returncode == 1
    assert f"another path than {ROOT}" in run.stderr
    assert files(serving) == before


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "Usage:"),
        (["/nowhere"], 1, "/nowhere has no WORKSPACE"),
        (["--wrong"], 1, "unknown option --wrong"),
        (["/nowhere", "//:nann_ops"], 1, "//:nann_ops is not of this project"),
    ],
)
def test_names_what_is_wrong_with_the_arguments(arguments: list[str], status: int, message: str):
    run = add(*arguments)
    assert run.returncode == status
    assert message in run.stderr


def test_needs_buildozer(serving: Path):
    run = add(serving, buildozer="no-such-buildozer")
    assert run.returncode == 1
    assert "no-such-buildozer is not there" in run.stderr


def test_help_says_what_it_does():
    run = add("--help")
    assert run.returncode == 0
    assert "local_repository" in run.stdout
