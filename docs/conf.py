"""Sphinx's configuration of the site that `make docs` builds from these pages."""

import logging
import os
import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

from tfserving_ext import __version__

# Importing the packages should not fill the build's output.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
logging.getLogger("faiss").setLevel(logging.WARNING)
sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "nann"
author = "the nann authors"
release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "commands",
    "docstrings",
]
exclude_patterns = ["_ext"]

myst_enable_extensions = ["colon_fence"]
# The headings of a page can be linked to by the anchors that GitHub gives them.
myst_heading_anchors = 4

# Typography would join the two hyphens of an option.
smartquotes = False

napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = "nann"
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False

# Pages of the site whose text lies elsewhere in the repository, relative to this folder.
_INCLUDED = {
    "benchmarks": "../benchmarks/README.md",
    "contributing": "../CONTRIBUTING.md",
    "changelog": "../CHANGELOG.md",
}
_DOCS = Path(__file__).resolve().parent


def _read_page(app: Sphinx, docname: str, source: list[str]) -> None:
    """Takes the text of included pages from where it lies, and leads links to these to the site's own pages."""
    page = _DOCS / f"{docname}.md"
    file = (_DOCS / _INCLUDED[docname]).resolve() if docname in _INCLUDED else page
    if file != page:
        app.env.note_dependency(str(file))
        source[0] = file.read_text()

    def link(match: re.Match[str]) -> str:
        target = (file.parent / match[1]).resolve()
        names = {(_DOCS / path).resolve(): _DOCS / f"{name}.md" for name, path in _INCLUDED.items()}
        return f"]({os.path.relpath(names.get(target, target), page.parent)}"

    source[0] = re.sub(r"\]\((?![a-z]+:|#)([^)#\s]+)", link, source[0])


def setup(app: Sphinx) -> None:
    """Registers what this configuration does with the pages."""
    app.connect("source-read", _read_page)
