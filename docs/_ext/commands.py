"""The directive `nann-commands`: a section for each command of `nann`, made of what `--help` shows."""

import re
from collections.abc import Iterator
from typing import Any

import typer
from docstrings import as_rst
from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from sphinx.application import Sphinx

from tfserving_ext import cli


class Commands(Directive):
    """Writes the reference of the command line in reStructuredText and has it parsed in place."""

    def run(self) -> list[nodes.Node]:
        """Returns one section per command, in the order of `nann --help`."""
        # Typer brings a Click of its own, whose classes have no public names.
        root: Any = typer.main.get_command(cli.app)
        sections: list[nodes.Node] = []
        for name, command in _walk(root, "nann"):
            section = nodes.section(ids=[name.replace(" ", "-")])
            section += nodes.title("", "", nodes.literal("", name))
            self.state.nested_parse(StringList(list(_lines(name, command)), source=name), 0, section)
            sections.append(section)
        return sections


def _walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    yield name, command
    for under, each in getattr(command, "commands", {}).items():
        yield from _walk(each, f"{name} {under}")


def _lines(name: str, command: Any) -> Iterator[str]:
    """Writes the help of one command as lines of reStructuredText."""
    context = command.make_context(name, [], resilient_parsing=True)
    yield from map(as_rst, (command.help or "").splitlines())
    yield from ("", ".. code-block:: text", "", "   " + " ".join([name, *command.collect_usage_pieces(context)]), "")
    for parameter in command.params:
        yield from _parameter(parameter, context)
    examples = (command.epilog or "").removeprefix("Example: ") if name != "nann" else ""
    if examples:
        yield from ("", ".. code-block:: sh", "")
        yield from ("   " + re.sub(r"\s{2,}\((.*)\)$", r"    # \1", line) for line in examples.splitlines() if line)
    yield ""


def _parameter(parameter: Any, context: Any) -> Iterator[str]:
    """An option or an argument, as an entry of a definition list."""
    if getattr(parameter, "hidden", False):
        return
    names, text = parameter.get_help_record(context) or (parameter.make_metavar(context), "")
    yield "``" + names + "``"
    yield "   " + as_rst(re.sub(r"\s+", " ", text).strip() or parameter.human_readable_name)


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the directive."""
    app.add_directive("nann-commands", Commands)
    return {"parallel_read_safe": True}
