"""Docstrings and help texts as reStructuredText: in ours single backticks mark code, and stars mean themselves."""

import re

from sphinx.application import Sphinx


def as_rst(text: str) -> str:
    """Returns a line of text whose code and special characters reStructuredText reads as they are meant."""
    return re.sub(r"`+[^`]+`+|[*|\\]", _marked, text)


def _marked(match: re.Match[str]) -> str:
    code = match[0].strip("`")
    return f"``{code}``\\ " if match[0].startswith("`") else "\\" + code


def _read(app: Sphinx, kind: str, name: str, item: object, options: object, lines: list[str]) -> None:
    in_example = False
    for number, line in enumerate(lines):
        in_example = bool(line.strip()) and (in_example or line.lstrip().startswith(">>>"))
        if not in_example:
            lines[number] = as_rst(line)


def setup(app: Sphinx) -> dict[str, bool]:
    """Has every docstring read so."""
    app.connect("autodoc-process-docstring", _read, priority=100)  # Before Napoleon's.
    return {"parallel_read_safe": True}
