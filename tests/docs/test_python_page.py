"""docs/python.md: what Python offers, which function is behind each command, and that their defaults agree."""

import importlib
import inspect
import re
import sys

import pytest
from typer.testing import CliRunner

import tfserving_ext
from tests.cli.entries import FILES
from tests.cli.test_options import COMMANDS
from tests.docs.pages import ROOT
from tfserving_ext import cli

PAGE = (ROOT / "docs" / "python.md").read_text()
ROWS = re.findall(r"^\| `nann (.*?)` \| `([\w.]+)` \| (.*?) ?\|$", PAGE, re.MULTILINE)


def resolved(name):
    module, _, function = name.rpartition(".")
    if module == "nann":
        return getattr(tfserving_ext, function)
    importlib.import_module(module)
    return getattr(sys.modules[module], function)


def test_all_that_python_offers_is_in_one_of_the_tables():
    assert sorted(re.findall(r"^\| .*?`nann\.(\w+)` \|", PAGE, re.MULTILINE)) == tfserving_ext.__all__


def test_every_command_has_a_row():
    assert [name for name, _, _ in ROWS] == [name for name in COMMANDS if name]


@pytest.mark.parametrize(("name", "function", "others"), ROWS, ids=[row[0] for row in ROWS])
def test_the_command_calls_that_function_with_its_own_defaults(name, function, others, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for file, text in FILES.items():
        (tmp_path / file).write_text(text)
    command = COMMANDS[name]
    wanted = resolved(function)
    signature = inspect.signature(wanted)
    given = {}

    def recorder(result, records):
        def recorded(*positional, **named):
            if records:
                given.update(signature.bind(*positional, **named).arguments)
            return result(*positional, **named) if inspect.isfunction(result) else result

        return recorded

    found = False
    for where, result in (command.behind | command.around).items():
        path, _, behind = where.partition(":")
        importlib.import_module(path)
        is_it = getattr(sys.modules[path], behind) is wanted
        found |= is_it
        monkeypatch.setattr(sys.modules[path], behind, recorder(result, is_it))
    assert found, f"tests/cli knows no {function} behind `nann {name}`"
    words = [part for key, value in command.arguments.items() if key != "usual" for part in value.split()]
    words += {"bench": ["--target", "grpc://127.0.0.1:8500"], "recommend": ["--features", "{}"]}.get(name, [])
    ran = CliRunner().invoke(cli.app, [*name.split(), *words])
    assert ran.exit_code == 0, (ran.output, ran.exception)
    assert given or not signature.parameters
    told = set(re.findall(r"`(\w+)`", others))
    differ = {
        key
        for key, value in given.items()
        if (default := signature.parameters[key].default) is not inspect.Parameter.empty
        and value != default
        and not (value == {} and default is None)
        and not (key in ("target", "path", "folder", "out") or name == "bench report")
    }
    assert differ == told, {key: (given[key], signature.parameters[key].default) for key in differ ^ told}


def test_the_recipe_is_what_nann_train_trains(monkeypatch):
    from tfserving_ext.training import recipe

    seen = []
    monkeypatch.setattr("tfserving_ext.training.train", lambda *given: seen.append(given) or {"histories": 1})
    assert CliRunner().invoke(cli.app, ["train", "data"]).exit_code == 0
    assert seen[0][2] == recipe("nann_attention")
