"""Writes self-contained pages, which load nothing and contain no scripts."""

import os
from pathlib import Path
from typing import Any

import jinja2

from tfserving_ext.artifacts import atomic_file

_SHARED = Path(__file__).with_name("templates")


def write_page(path: str | os.PathLike[str], templates: Path, template: str, **values: Any) -> None:
    """Writes a page, whole or not at all; all values are escaped except for the SVG of plots.

    Args:
      path: the file to write.
      templates: the folder with the caller's templates, which extend the shared page.html.jinja.
      template: the name of one of these templates.
      **values: the values for the template.

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
        # Messages of other programs may contain lone surrogates, which cannot be encoded.
        new.write_bytes(text.encode("utf-8", "replace"))
