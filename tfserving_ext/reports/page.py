"""Writes a page: no request leaves it, no script is in it."""

import os
from pathlib import Path
from typing import Any

import jinja2

from tfserving_ext.artifacts import atomic_file

_SHARED = Path(__file__).with_name("templates")


def write_page(path: str | os.PathLike[str], templates: Path, template: str, **values: Any) -> None:
    """Writes a page, whole or not at all; every value is escaped but for the plots' own SVG.

    Args:
      path: the file.
      templates: folder of the package's own templates; they extend page.html.jinja, which all share.
      template: one of them.
      values: what it shows.

    Raises:
      NannError: the file cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([templates, _SHARED]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template(template).render(**values)
    with atomic_file(path) as new:
        # Messages of others may hold halves of surrogate pairs, which no file can.
        new.write_bytes(text.encode("utf-8", "replace"))
