"""What is required, by whom, and what the op library says where another TensorFlow is there."""

import ast
import importlib.metadata
import re
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import pytest
import tensorflow as tf
from packaging.requirements import Requirement

from tests.install.tree import ROOT, tree_files
from tfserving_ext.extras import EXTRAS
from tfserving_ext.ops import _library

PACKAGES = ("tfserving_ext", "export_tools")
BENCHMARKS = "benchmarks"
MINOR = ".".join(tf.__version__.split(".")[:2])


def names(lines):
    return {re.split(r"[^\w-]", line)[0].replace("_", "-").lower() for line in lines}


def required(extra=""):
    """What the installed distribution requires, with this extra, and with those that it names, or with none."""
    # Of this environment: what setuptools leaves in the tree is that of the last build, perhaps for another TensorFlow.
    places = [sysconfig.get_paths()["purelib"]]
    (ours,) = importlib.metadata.distributions(name="tfserving-ext", path=places)
    found = [Requirement(line) for line in ours.requires or []]
    chosen = [one for one in found if one.marker is None or one.marker.evaluate({"extra": extra})]
    named = {name for one in chosen if one.name == "tfserving-ext" for name in one.extras}
    return [one for one in chosen if one.name != "tfserving-ext"] + [one for name in named for one in required(name)]


def imports(path):
    """The modules that a file imports from outside, at its top or in a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module


@pytest.mark.medium
def test_all_that_is_imported_is_required():
    """First contact, line 1: what another distribution happens to bring, as TensorFlow did TensorBoard, is named."""
    peers = (ROOT / "benchmarks" / "requirements.in").read_text().splitlines()
    declared = names(line for line in peers if line and line[0] != "#")
    declared |= names(str(one) for extra in ("all", "beam") for one in required(extra))
    declared |= {"keras"}  # TensorFlow's own, of the version that it was tested with.
    brought_by = importlib.metadata.packages_distributions()
    missing = set()
    for path in [path for path in tree_files(*PACKAGES, BENCHMARKS) if path.suffix == ".py"]:
        for module in imports(ROOT / path):
            top = module.split(".")[0]
            if top in sys.stdlib_module_names or top in (*PACKAGES, BENCHMARKS):
                continue
            found = {name.replace("_", "-").lower() for name in brought_by.get(top, [])}
            if top == "google":  # A namespace that several share.
                found = {"protobuf"} if module.startswith("google.protobuf") else set()
            if not found & declared:
                missing.add((str(path), module, *sorted(found)))
    assert not missing


def test_nothing_that_is_shipped_imports_a_benchmark():
    files = [path for path in tree_files(*PACKAGES) if path.suffix == ".py"]
    assert not [path for path in files if any(name.split(".")[0] == BENCHMARKS for name in imports(ROOT / path))]


def test_few_packages_are_mandatory_and_the_extras_have_what_the_code_asks_for():
    mandatory = names(str(one) for one in required())
    assert len(mandatory) <= 12
    brought_by = importlib.metadata.packages_distributions()
    for extra, (_, modules) in EXTRAS.items():
        asked_for = {name.replace("_", "-").lower() for module in modules for name in brought_by[module]}
        assert asked_for == names(str(one) for one in required(extra)) - mandatory
    every = {name for extra in EXTRAS if extra != "beam" for name in names(str(one) for one in required(extra))}
    assert names(str(one) for one in required("all")) == every


def test_what_is_installed_requires_the_tensorflow_that_it_was_built_against():
    """First contact, line 1: by construction, for every TensorFlow that it is built against."""
    found = {one.name: one.specifier for one in required()}
    for name in ("tensorflow", "tensorflow-serving-api"):
        major, minor = MINOR.split(".")
        assert {str(part) for part in found[name]} == {f">={MINOR}", f"<{major}.{int(minor) + 1}"}
    for name, specifier in found.items():
        assert importlib.metadata.version(name) in specifier, name


def test_no_file_of_the_packages_is_left_out_of_the_wheel():
    """What setup.py's package-data names; the wheel itself is looked into by test_install.py."""
    text = (ROOT / "pyproject.toml").read_text()
    patterns = re.findall(r'"([^"]+)"', re.search(r"^tfserving_ext = \[(.+)\]", text, re.MULTILINE)[1])
    for path in tree_files(*PACKAGES):
        if path.suffix == ".py":
            assert (ROOT / path.parent / "__init__.py").exists(), f"{path.parent} is not a package to setuptools"
        else:
            assert any(path.relative_to("tfserving_ext").match(pattern) for pattern in patterns), path


def test_the_library_is_that_of_the_installed_tensorflow(tmp_path):
    for minor in ("2.20", "2.21"):
        (tmp_path / f"_nann_ops-tensorflow-{minor}.so").touch()
    for version in ("2.20.0", "2.20.1", "2.21.0-rc1"):
        found = _library.library(tmp_path, version)
        assert found.name == f"_nann_ops-tensorflow-{version[:4]}.so"


def test_another_tensorflow_is_refused_with_a_way_out_that_ends(tmp_path):
    """First contact, line 1: a build in isolation would take the TensorFlow that it was built for again."""
    with pytest.raises(ImportError, match=r"2\.20\.so is missing; .*`make setup`; or .* --no-build-isolation \."):
        _library.library(tmp_path, "2.20.0")
    (tmp_path / "_nann_ops-tensorflow-2.20.so").touch()
    with pytest.raises(ImportError) as refused:
        _library.library(tmp_path, "2.21.0")
    for words in (
        "was built for TensorFlow 2.20, but TensorFlow 2.21.0 is installed",
        "pip install 'tensorflow==2.20.*' 'tensorflow-serving-api==2.20.*'",
        "pip uninstall -y tfserving-ext && pip install --no-build-isolation .",
    ):
        assert words in str(refused.value)


def test_a_library_older_than_the_package_is_refused_with_the_command_that_builds_it():
    """A pull that changes the ops leaves the library of yesterday, which lacks what this package passes."""
    whole = _library.load()
    _library.check_interface(whole, Path("today.so"))
    without_ops = SimpleNamespace(nann_index_open=whole.nann_index_open)
    without_arguments = SimpleNamespace(
        **{name: lambda index: index for name in dir(whole) if name.startswith("nann_")}
    )
    for older in (without_ops, without_arguments):
        with pytest.raises(ImportError, match=r"older\.so is older than the Python package: nann_.*`make setup`"):
            _library.check_interface(older, Path("older.so"))
