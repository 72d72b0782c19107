"""Limits that keep the code readable: the length of files and functions, and the number of parameters."""

import ast
from collections.abc import Iterator

import pytest
import typer

from tests.docs.pages import ROOT
from tfserving_ext import cli

MOST_LINES, MOST_LINES_OF_A_FUNCTION, MOST_PARAMETERS = 400, 60, 7
PYTHON = ("tfserving_ext", "export_tools", "benchmarks")
FILES = sorted(path for folder in PYTHON for path in (ROOT / folder).rglob("*.py"))
FOLDERS = (*PYTHON, "tests", "custom_ops", "grappler_passes")


def _commands(app: typer.Typer) -> Iterator[tuple[str, str]]:
    """Yields the module and name of each function from which Typer reads options."""
    callbacks = [command.callback for command in app.registered_commands]
    callbacks += [app.registered_callback.callback] if app.registered_callback else []
    yield from ((callback.__module__, callback.__name__) for callback in callbacks if callback is not None)
    for group in app.registered_groups:
        yield from _commands(group.typer_instance)


# The parameters of a command are its options, so their number is not limited, and only the lines after them count.
COMMANDS = set(_commands(cli.app))


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_file_is_long(folder):
    """Covers benchmarks, tests and C++ too."""
    files = [path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".cc", ".h")]
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert {path: count for path, count in lines.items() if count > MOST_LINES} == {}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_it_fits_in_the_head(path):
    text = path.read_text()
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        first = node.lineno
        if (module, node.name) in COMMANDS:
            first = node.body[0].lineno
        else:
            names = [one.arg for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            taken = [name for name in names if name not in ("self", "cls")]
            assert len(taken) <= MOST_PARAMETERS, f"{node.name} takes {', '.join(taken)}: bundle what belongs together"
        assert node.end_lineno - first < MOST_LINES_OF_A_FUNCTION, (
            f"{node.name} has {node.end_lineno - first + 1} lines"
        )
