"""Every option of every command reaches the Python function behind it."""

import contextlib
import dataclasses
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pydantic
import pytest
import rich.text
import typer
from typer.testing import CliRunner

import export_tools
import tfserving_ext
from tests.cli import building, measuring, serving
from tests.cli.entries import FILES, GONE, Command, Option
from tfserving_ext import cli
from tfserving_ext.errors import NannError
from tfserving_ext.loadtest import ModelSpec, Scenario

COMMANDS: Mapping[str, Command] = {
    "": building.NANN,
    "convert": building.CONVERT,
    "synth": building.SYNTH,
    "train": building.TRAIN,
    "extract": building.EXTRACT,
    "index": building.INDEX,
    "evaluate": measuring.EVALUATE,
    "report": measuring.REPORT,
    "tune": measuring.TUNE,
    "preflight": measuring.PREFLIGHT,
    "export": serving.EXPORT,
    "verify": serving.VERIFY,
    "inspect": serving.INSPECT,
    "explain": serving.EXPLAIN,
    "serve": serving.SERVE,
    "upsert": serving.UPSERT,
    "delete": serving.DELETE,
    "compact": serving.COMPACT,
    "smoke": serving.SMOKE,
    "judge": serving.JUDGE,
    "recommend": serving.RECOMMEND,
    "retrieve-all": serving.RETRIEVE_ALL,
    "bench": measuring.BENCH,
    "bench compare": measuring.BENCH_COMPARE,
    "bench report": measuring.BENCH_REPORT,
    "demo": serving.DEMO,
}


TYPER_OPTIONS = ("help", "install_completion", "show_completion")


def _parameters(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the parameters of all commands, with the command's name."""
    for parameter in command.params:
        if parameter.name not in TYPER_OPTIONS:
            yield name, parameter
    for under, each in getattr(command, "commands", {}).items():
        yield from _parameters(each, f"{name} {under}".strip())


PARAMETERS = [
    pytest.param(command, parameter, id=f"nann {command} {max([*parameter.opts, parameter.name], key=len)}")
    for command, parameter in _parameters(typer.main.get_command(cli.app))
]


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yields the values inside a configuration, with the path to each."""
    if isinstance(value, pydantic.BaseModel):
        value = value.model_dump()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping) and value:
        for key, each in value.items():
            yield from _flat(each, f"{name}.{key}")
    else:
        yield name, value


def _recorder(name: str, function: Callable[..., Any], result: Any, seen: dict[str, Any] | None) -> Callable[..., Any]:
    signature = inspect.signature(function)

    def recorded(*positional: Any, **named: Any) -> Any:
        bound = signature.bind(*positional, **named)
        bound.apply_defaults()
        if seen is not None:
            for argument, value in bound.arguments.items():
                seen.update(_flat(value, f"{name}.{argument}"))
        return result(*positional, **named) if inspect.isfunction(result) else result

    return recorded


@pytest.fixture(scope="module")
def everything_imported() -> None:
    """Imports all modules, because a module first imported while a recorder is in place would keep the recorder."""
    for package in (tfserving_ext, export_tools):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            with contextlib.suppress(ImportError):  # An extra that is not installed.
                importlib.import_module(module.name)


@pytest.fixture
def reached(everything_imported: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Callable[..., dict[str, Any]]:
    """Runs a command line; returns the arguments of the functions behind it, by function and argument."""
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)

    def run(command: Command, line: list[str]) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        with monkeypatch.context() as patch:
            for functions, record in ((command.behind, seen), (command.around, None)):
                for where, result in functions.items():
                    module_name, _, function = where.partition(":")
                    importlib.import_module(module_name)
                    # From sys.modules, because its package may have a function of the same name.
                    module = sys.modules[module_name]
                    patch.setattr(module, function, _recorder(function, getattr(module, function), result, record))
            ran = CliRunner().invoke(cli.app, line)
        assert ran.exit_code == 0, (line, ran.output, ran.exception)
        return seen

    return run


def _line(
    name: str, command: Command, option: Option, given: list[str], replaced: Mapping[str, list[str]]
) -> list[str]:
    arguments = {key: value.split() for key, value in command.arguments.items()}
    arguments |= replaced
    required = [part for key, parts in arguments.items() if key not in option.without for part in parts]
    if not name:  # An option of `nann` itself, which a subcommand follows.
        return [*option.beside, *given, "extract", "model"]
    return [*name.split(), *required, *option.beside, *given]


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values that differ; a group that is gone altogether is reported once, as GONE."""
    present = {prefix for key in after for prefix in _prefixes(key)}
    changed = {key: value for key, value in after.items() if key not in before or before[key] != value}
    for key in before.keys() - after.keys():
        gone = next(
            (prefix for prefix in _prefixes(key) if prefix not in present), None
        )  # None: an empty group was filled.
        if gone and not any(prefix in after for prefix in _prefixes(key)):  # Otherwise the group's own value changed.
            changed[gone] = GONE
    return changed


def _prefixes(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[: size + 1]) for size in range(len(parts))]


def _but(changes: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the changes without those that the entry allows by a name that ends in ".*"."""
    free = tuple(key.removesuffix("*") for key in wanted if key.endswith("*"))
    return {key: value for key, value in changes.items() if key in wanted or not key.startswith(free)}


@pytest.mark.medium
@pytest.mark.parametrize(("name", "parameter"), PARAMETERS)
def test_the_option_reaches_its_function(reached, name, parameter):
    """A command that ignores an option, or confuses two, would change something else than the entry says.

    First contact, line 27.
    """
    command = COMMANDS[name]
    assert parameter.name in command.options, f"`nann {name}`: {parameter.name} has no entry in tests/cli"
    option = command.options[parameter.name]
    if parameter.param_type_name == "argument":
        given = [([], {parameter.name: (option.value or "").split()})]
    elif option.value is None:
        names = (
            parameter.secondary_opts if parameter.secondary_opts and parameter.default is not False else parameter.opts
        )
        given = [([flag], {}) for flag in names]
    else:
        given = [([flag, option.value], {}) for flag in parameter.opts]
    if name == "serve":  # It accepts underscores too, as TensorFlow Serving does.
        flags = [flags for flags, _ in given if flags]
        given += [(["--" + flag[2:].replace("-", "_"), *rest], {}) for flag, *rest in flags if flag[:2] == "--"]
    usual = option if option.beside else option._replace(without=())
    before = reached(command, _line(name, command, usual, [], {}))
    for flags, replaced in given:
        after = reached(command, _line(name, command, option, flags, replaced))
        wanted = {key: value for key, value in option.changed.items() if not key.endswith("*")}
        assert _but(_changes(before, after), option.changed) == wanted
    assert option.changed or (name, parameter.name) == ("", "traceback")


def test_no_entry_is_of_an_option_that_is_gone():
    there = {name: set() for name in COMMANDS}
    for name, parameter in _parameters(typer.main.get_command(cli.app)):
        there[name].add(parameter.name)
    assert {name: set(command.options) for name, command in COMMANDS.items()} == there


@pytest.mark.parametrize(("name", "parameter"), PARAMETERS)
def test_the_help_of_an_option_is_shown_whole(name, parameter):
    """Rich, which prints the help, takes words in brackets for markup and leaves them out."""
    assert rich.text.Text.from_markup(parameter.help or "").plain == (parameter.help or "")


def test_the_help_of_bench_shows_the_defaults_of_a_scenario():
    """The options default to None, so that a configuration file can set them; the real defaults are the scenario's."""
    shown = {
        parameter.name: parameter.show_default
        for name, parameter in _parameters(typer.main.get_command(cli.app))
        if name == "bench" and isinstance(parameter.show_default, str)
    }
    usual = ModelSpec().model_dump() | Scenario().model_dump()
    usual |= {"model": usual.pop("name"), "concurrency": "1"}
    assert len(shown) == 11
    for name, text in shown.items():
        assert text == (f"{usual[name]:g}" if isinstance(usual[name], float) else str(usual[name])), name


def test_traceback_shows_where_an_error_is_from(monkeypatch, capsys):
    def fails(*_):
        raise NannError("it does not work")

    monkeypatch.setattr("tfserving_ext.training.extract", fails)
    monkeypatch.setattr(sys, "argv", ["nann", "extract", "model"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err == "error: it does not work\n"
    monkeypatch.setattr(sys, "argv", ["nann", "--traceback", "extract", "model"])
    with pytest.raises(NannError, match="it does not work"):
        cli.main()
