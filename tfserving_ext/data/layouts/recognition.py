"""Recognises the layout of a file that was given without one, to suggest the command that reads it."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from tfserving_ext.data.behavior_csv import COLUMNS
from tfserving_ext.data.layouts.files import SUFFIXES, first_bytes, guess_separator
from tfserving_ext.data.layouts.layout import ROLES
from tfserving_ext.data.layouts.presets import PRESETS
from tfserving_ext.errors import NannError

# Words in a column's name that tell its role; of several columns, the first counts.
_WORDS = {
    "user": ("user", "customer", "visitor", "session", "member", "reviewer", "uid"),
    "item": ("item", "product", "movie", "asin", "article", "sku", "track", "song", "book", "business", "iid"),
    "category": ("categ", "cate", "cat_", "genre", "department"),
    "event": ("event", "behavio", "action", "interaction"),
    "time": ("time", "date", "ts"),
    "rating": ("rating", "stars", "score"),
}
# The first lines of the layouts without a header.
_LINES = {
    "amazon": r"[^,\s]*[A-Z][^,\s]*,[^,\s]+,[0-5](\.\d+)?,\d{9,10}",
    "gowalla": r"\d+\t\d{4}-\d\d-\d\dT[\d:]+Z\t-?[\d.]+\t-?[\d.]+\t\d+",
    "yoochoose": r"\d+,\d{4}-\d\d-\d\dT[\d:.]+Z,\d+,\w+",
    "s3rec": r"\d+( \d+){2,}",
}


def suggestion(sources: Sequence[str | os.PathLike[str]]) -> str | None:
    """Returns a sentence with the command that reads the first source, or None if its layout is not recognised."""
    try:
        names, first, path = _beginning(Path(sources[0]))
    except (NannError, OSError, ValueError, pl.exceptions.PolarsError):
        return None
    if names is not None and set(COLUMNS) <= set(names):
        return None
    command = f"nann convert {path}"
    for name, layout in PRESETS.items():
        has_names = layout.has_header and names is not None and set(layout.columns.values()) <= set(names)
        if has_names or (name in _LINES and re.fullmatch(_LINES[name], first)):
            return f"it looks like {name}: {command} --preset {name}"
    columns = _guess(names or [])
    if "user" in columns and "item" in columns:
        given = ",".join(f"{role}={column}" for role, column in columns.items())
        return f"its columns may be read by {command} --columns {given}"
    return None


def _beginning(path: Path) -> tuple[list[str] | None, str, Path]:
    """Returns the names of the columns, if the file has any, its first line, and the path to give."""
    if path.is_dir():
        files = sorted(one for one in path.iterdir() if one.name.removesuffix(".gz").endswith(SUFFIXES))
        if len(files) != 1:  # The columns of which of them?
            return None, "", path
        path = files[0]
    start = first_bytes(path)
    if start.startswith(b"PAR1"):
        return pl.scan_parquet(path, glob=False).collect_schema().names(), "", path
    first = start.partition(b"\n")[0].decode("utf-8-sig").strip()
    if first.startswith("{"):
        return list(json.loads(first)), first, path
    fields = [field.strip('" ') for field in first.split(guess_separator(first))]
    is_header = len(fields) > 1 and not any(re.fullmatch(r"[-+.\d]*", field) for field in fields)
    return fields if is_header else None, first, path


def _guess(names: list[str]) -> dict[str, str]:
    columns: dict[str, str] = {}
    for role in ROLES:
        for name in names:
            if name not in columns.values() and any(word in name.lower() for word in _WORDS[role]):
                columns[role] = name
                break
    return columns
