"""What README, docs/ and the commands' help say that one can type."""

import dataclasses
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from tfserving_ext import cli

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
# What follows the three backticks of a block: what is typed, and what is not.
SHELL, PYTHON, OTHER = "sh", "python", ("text", "bibtex", "protobuf", "yaml", "diff")
_FENCE = re.compile(r"^( *)```(\S*)$")
_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
# Words in the place of what a reader has: MODEL, models/NAME/1, A.json, `...`.
_PLACEHOLDER = re.compile(r"\b[A-Z]{1,}\b(?!=)|\.\.\.")
PROGRAMS = (
    "nann",
    "buildifier",
    ".venv/bin/pre-commit",
    "make",
    "python",
    "curl",
    "docker",
    "bazel",
    "apt-get",
    "pip",
    "pytest",
    "source",
    ".venv/bin/nann",
)


@dataclasses.dataclass(frozen=True)
class Typed:
    """One command.

    Attributes:
      page: the file that has it, or "nann CMD --help".
      line: where it begins, from 1.
      words: what is typed, comments left out.
    """

    page: str
    line: int
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}:{self.line} {' '.join(self.words)}"


@dataclasses.dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
      page: the file that has it.
      line: of its first line, from 1.
      language: what its fence says.
      text: what is in it.
    """

    page: str
    line: int
    language: str
    text: str


def blocks() -> Iterator[Block]:
    """All blocks of all pages."""
    for path in PAGES:
        page = str(path.relative_to(ROOT))
        fence, start, found = None, 0, []
        for number, line in enumerate(path.read_text().splitlines(), 1):
            match = _FENCE.match(line)
            if match is None:
                found.append(line)
            elif fence is None:
                fence, start, found = match, number + 1, []
            else:
                text = "\n".join(each.removeprefix(fence[1]) for each in found)
                yield Block(page, start, fence[2], text)
                fence, found = None, []
        assert fence is None, f"{page}: a block begins at line {start} and does not end"


def spans() -> Iterator[tuple[str, int, str]]:
    """All code within a line of text: page, line, code."""
    for path in PAGES:
        inside = False
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if _FENCE.match(line):
                inside = not inside
            elif not inside:
                yield from ((str(path.relative_to(ROOT)), number, span) for span in _SPAN.findall(line))


def block_commands(block: Block) -> Iterator[Typed]:
    """The commands of a block of shell; one that goes on in the next line is one."""
    begun, start = "", block.line
    for number, line in enumerate(block.text.splitlines(), block.line):
        start = start if begun else number
        begun += line.removesuffix("\\") + " " if line.endswith("\\") else line + "\n"
        if line.endswith("\\"):
            continue
        try:
            words = shlex.split(begun, comments=True)
        except ValueError:  # A quote that is still open.
            continue
        begun = ""
        yield from _joined(block.page, start, words)
    assert not begun, f"{block.page}:{start} does not end"


def span_commands() -> Iterator[Typed]:
    """Whole commands within the text, but for those with words in the place of what a reader has."""
    for page, line, span in spans():
        if span.split(" ")[0] in PROGRAMS and " " in span and not _PLACEHOLDER.search(span):
            yield from (each for each in _joined(page, line, shlex.split(span)) if _is_whole(each.words))


def _is_whole(words: tuple[str, ...]) -> bool:
    """Whether it can be typed so; `nann train --targets` is the name of an option, and `nann serve` of a command."""
    if words[0].removeprefix(".venv/bin/") != "nann":
        return True
    known = dict(subcommands())
    rest = list(words[3:] if words[1:2] == ("--import",) else words[1:])
    name = next((" ".join(rest[:size]) for size in (2, 1) if rest and " ".join(rest[:size]) in known), "")
    arguments = rest[len(name.split()) :]
    if not name or not arguments:
        return False
    if "--help" in words:
        return True
    try:
        known[name].make_context(name, arguments)
    except Exception as error:  # Typer has a Click of its own, whose errors it does not show.
        if type(error).__name__ not in ("MissingParameter", "NoSuchOption", "BadOptionUsage", "UsageError"):
            raise
        return False
    return True


def help_commands() -> Iterator[Typed]:
    """The examples in the help of `nann`'s commands."""
    for name, command in subcommands():
        text = (command.epilog or "").removeprefix("Example: ") if name else ""
        for line in filter(None, text.split("\n")):
            example = re.split(r"\s{2,}\(", line)[0]
            yield from _joined(f"nann {name} --help", 1, shlex.split(example))


def subcommands() -> Iterator[tuple[str, Any]]:
    """`nann` itself, named "", and all its commands."""

    def walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
        yield name, command
        for under, each in getattr(command, "commands", {}).items():
            yield from walk(each, f"{name} {under}".strip())

    yield from walk(typer.main.get_command(cli.app), "")


def commands() -> list[Typed]:
    """All commands, in their order; the same one in several places once."""
    shell = [block for block in blocks() if block.language == SHELL]
    found = [command for block in shell for command in block_commands(block)]
    found += [*span_commands(), *help_commands()]
    return list({command.words: command for command in reversed(found)}.values())[::-1]


def _joined(page: str, line: int, words: list[str]) -> Iterator[Typed]:
    """The commands that `&&` and `;` join."""
    command: list[str] = []
    for word in [*words, ";"]:
        if word in ("&&", ";"):
            if command:
                yield Typed(page, line, tuple(command))
            command = []
        else:
            command.append(word)
