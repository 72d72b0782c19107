"""docs/troubleshooting.md: each error that it names is one that the sources can print."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
# Its errors are not ours.
OURS = PAGE.partition("## From TensorFlow")[0]
ERRORS = re.findall(r"^- `(.+)`$", OURS, re.MULTILINE)
HOLE = "\0"  # What a message leaves open.


def _of_python(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text())
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if id(node) in docstrings:
            continue
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else HOLE for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def messages() -> Iterator[str]:
    """All texts in the sources, with HOLE in place of what is filled in."""
    for folder in ("tfserving_ext", "export_tools"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield from _of_python(path)
    yield from _of_python(ROOT / "setup.py")
    yield (ROOT / "Makefile").read_text().replace("%s", HOLE)


MESSAGES = tuple(messages())


def is_printed(error: str) -> bool:
    """Whether one message has all parts of `error`, in order; `...` stands for what is left open, or left out."""
    parts = [re.escape(part.strip()) for part in error.split("...")]
    pattern = re.compile(".*?".join(part.replace(r"\ ", " ") for part in parts), re.DOTALL)
    return any(pattern.search(message) for message in MESSAGES)


def test_the_page_has_errors():
    assert len(ERRORS) > 40


@pytest.mark.parametrize("error", ERRORS)
def test_the_sources_can_print_it(error):
    assert max(len(part) for part in error.split("...")) >= 12, "too little of the message to know it by"
    assert is_printed(error)


def test_an_error_that_no_source_has_is_found():
    assert not is_printed("the moon is ...; allowed are full and new")


def test_every_error_has_a_cure():
    without = re.findall(r"^- `(.+)`$\n+(?=- `|## |\Z)", PAGE, re.MULTILINE)
    assert not without
