"""`import tfserving_ext as nann`: its names, its lazy imports, and the examples of its docstrings."""

import ast
import doctest
import inspect
import pkgutil
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import tfserving_ext as nann
from tests.docs.pages import ROOT
from tfserving_ext import progress

FACE = {
    *("Index", "Items", "NeuralTopK", "BruteForce", "LocalServer", "Client", "Updates", "RecallAtK"),
    *("convert", "synth", "train", "extract", "build_index", "evaluate", "tune", "preflight", "adversarial"),
    *("export", "verify", "inspect", "explain", "bench", "recommend", "judge", "retrieve_all"),
    *("upsert", "delete", "compact"),
}
# Each takes more than about ten seconds on a busy machine.
SLOW = {"compact", "evaluate", "export", "judge", "preflight", "retrieve_all", "train", "tune", "verify"}


def test_it_offers_this_and_nothing_else():
    assert set(nann.__all__) == FACE
    assert list(nann._HOMES) == nann.__all__
    for name in FACE:
        value = getattr(nann, name)
        assert (value.__name__, value.__module__) == (name, nann._HOMES[name])
    with pytest.raises(AttributeError, match="'tfserving_ext' has no attribute 'nothing'"):
        nann.nothing  # noqa: B018


def test_type_checkers_see_the_same():
    tree = ast.parse(inspect.getsource(nann))
    (checked,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in checked.body for alias in node.names}
    assert seen == nann._HOMES


def test_no_module_takes_the_name_of_what_is_offered():
    """Importing a submodule would overwrite the package's attribute of the same name."""
    assert FACE.isdisjoint(module.name for module in pkgutil.iter_modules(nann.__path__))


def test_every_package_says_what_it_offers():
    for folder in ("tfserving_ext", "export_tools"):
        for file in (ROOT / folder).rglob("__init__.py"):
            names = {
                target.id
                for node in ast.parse(file.read_text()).body
                if isinstance(node, (ast.Assign, ast.AnnAssign))
                for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
                if isinstance(target, ast.Name)
            }
            assert "__all__" in names, file


@pytest.mark.medium
def test_nothing_is_imported_before_it_is_used(tmp_path):
    script = (
        "import sys\n"
        "heavy = {'tensorflow', 'keras', 'numpy', 'polars', 'faiss', 'grpc'}\n"
        "import tfserving_ext as nann\n"
        "print('imported', heavy & set(sys.modules))\n"
        "print('listed', set(nann.__all__) <= set(dir(nann)), heavy & set(sys.modules))\n"
        "help(nann)\n"
        "print('helped', heavy & set(sys.modules))\n"
        "nann.NeuralTopK\n"
        "print('used', 'tensorflow' in sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    for line in ("imported set()", "listed True set()", "helped set()", "used True"):
        assert line in run.stdout.splitlines()
    table = re.findall(r"^      (\w+) +\S", run.stdout, re.MULTILINE)
    assert set(table) == FACE
    assert len(table) == len(FACE)


def test_the_help_of_the_command_line_imports_none_of_it(tmp_path):
    script = (
        "import atexit, sys\n"
        "from tfserving_ext.cli import main\n"
        "heavy = {'tensorflow', 'keras', 'numpy', 'polars', 'faiss', 'grpc'}\n"
        "atexit.register(lambda: print(heavy & set(sys.modules)))\n"
        "sys.argv = ['nann', '--help']\n"
        "main()\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert run.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize(
    "name", ["", *(pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in sorted(FACE))]
)
def test_the_example_runs(world, tmp_path, monkeypatch, name):
    """Runs each example in a folder with the outputs of earlier stages, named as on all pages."""
    shutil.copytree(world.root, tmp_path, dirs_exist_ok=True)
    shutil.copy(world.csv, tmp_path / "UserBehavior.csv")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(progress.console, "quiet", True)
    monkeypatch.setattr(progress, "LOG_SECONDS", float("inf"))
    described = getattr(nann, name) if name else nann
    given = {"nann": nann, "np": np, "tf": tf}
    test = doctest.DocTestParser().get_doctest(inspect.getdoc(described), given, name, None, 0)
    assert test.examples
    failures = []
    doctest.DocTestRunner().run(test, out=failures.append)
    assert not failures, "".join(failures)
