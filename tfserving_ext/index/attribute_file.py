"""The file of an index with the attributes of its items: columns of one table, which are mapped (docs/format.md).

It is one file, however many columns there are, because an export names its files: `nann export --reuse-model` can then
take an index with other columns.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfserving_ext.errors import NannError

ATTRIBUTES_FILE = "attributes.bin"
# A column's type is stored as its place in this list.
ATTRIBUTE_TYPES = ("bool", "int", "float", "string", "timestamp", "ints", "strings")
# The limits and the layout of the op (custom_ops/core/attributes.cc).
MAX_COLUMNS = 1024
MAX_NAME_BYTES = 256
_MAGIC = b"NANNATTR"
_HEAD_WORDS, _ENTRY_WORDS = 3, 13
_PARTS = ("name", "values", "present", "row_splits", "text_ends", "text")
_ALIGNMENT = 64

# The parts of a column by name; a part that is left out is empty.
Parts = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class StoredAttributes:
    """Attributes of the items of an index, as they are stored.

    Attributes:
      content: the content of the file, uint8 [bytes].
      facts: the manifest's entry: `columns`, the type of each by name; `unknown_ids`, how many rows were of items that
        are not in the index; `items_without`, how many items had no row.
    """

    content: np.ndarray
    facts: Mapping[str, Any]


def file_of(n: int, columns: Mapping[str, Parts], types: Mapping[str, str]) -> np.ndarray:
    """Returns the content of the file, uint8 [bytes]: the directory, then every part at its place.

    Args:
      n: the number of items.
      columns: the parts of each column by its name; `name` is added here.
      types: the type of each column.
    """
    directory = [int(np.frombuffer(_MAGIC, "<i8")[0]), n, len(columns)]
    end = 8 * (_HEAD_WORDS + _ENTRY_WORDS * len(columns))
    placed = []
    for name, parts in columns.items():
        directory.append(ATTRIBUTE_TYPES.index(types[name]))
        named = {"name": np.frombuffer(name.encode(), np.uint8), **parts}
        for part in _PARTS:
            place = end + -end % _ALIGNMENT
            content = np.ascontiguousarray(named.get(part, np.zeros(0, np.uint8))).view(np.uint8)
            directory += [place, len(content)]
            placed.append((place, content))
            end = place + len(content)
    made = np.zeros(end + -end % _ALIGNMENT, np.uint8)
    for place, content in [(0, np.array(directory, "<i8").view(np.uint8)), *placed]:
        made[place : place + len(content)] = content
    return made


def parts_of(content: np.ndarray, types: Mapping[str, str]) -> dict[str, Parts]:
    """Returns the parts of each column by its name, as views of the content of a file, uint8 [bytes].

    Args:
      content: what the op has checked, or `file_of` made.
      types: the type of each column.
    """
    values = {"float": "<f8", "bool": "<u8", "string": "<i4", "strings": "<i4"}
    others = {"present": "<u8", "row_splits": "<i8", "text_ends": "<i8"}
    found: dict[str, Parts] = {}
    for column in range(len(types)):
        begin = 8 * (_HEAD_WORDS + _ENTRY_WORDS * column)
        entry = content[begin : begin + 8 * _ENTRY_WORDS].view("<i8").tolist()
        parts = {part: content[at : at + size] for part, at, size in zip(_PARTS, entry[1::2], entry[2::2], strict=True)}
        name = parts.pop("name").tobytes().decode()
        dtypes = {**others, "values": values.get(types[name], "<i8"), "text": "|u1"}
        found[name] = {part: content.view(dtypes[part]) for part, content in parts.items()}
    return found


def file_size(folder: Path, manifest: Mapping[str, Any]) -> int:
    """Returns how many bytes an index's file of attributes must have.

    Raises:
      NannError: the manifest's entries about it are damaged.
    """
    facts, entry = manifest["attributes"], manifest["files"][ATTRIBUTES_FILE]
    columns = facts.get("columns") if isinstance(facts, dict) else None
    if not isinstance(columns, dict) or not columns or not all(kind in ATTRIBUTE_TYPES for kind in columns.values()):
        raise NannError(
            f"{folder / 'manifest.json'}: attributes must have columns, each of one of the types "
            f"{', '.join(ATTRIBUTE_TYPES)}"
        )
    shape = entry.get("shape") if isinstance(entry, dict) else None
    least = 8 * (_HEAD_WORDS + _ENTRY_WORDS * len(columns))
    if not isinstance(shape, list) or len(shape) != 1 or not isinstance(shape[0], int) or shape[0] < least:
        raise NannError(
            f"{folder / 'manifest.json'}: the shape of {ATTRIBUTES_FILE} is {shape!r}, expected at least [{least}]"
        )
    return shape[0]


def check_head(path: Path, content: np.ndarray, n: int, columns: int) -> None:
    """Checks how the file begins. The op checks all of it when it opens the index.

    Args:
      path: the file.
      content: uint8 [bytes].
      n: the number of items of the index.
      columns: the number of columns in the manifest.

    Raises:
      NannError: it begins otherwise.
    """
    words = content[: 8 * _HEAD_WORDS].view("<i8")
    if words[0].tobytes() != _MAGIC or words[1] != n or words[2] != columns:
        raise NannError(
            f"{path} does not begin as a file of {columns} attributes of {n} items does; the file is damaged or "
            "belongs to another index"
        )


def attribute_facts(manifest: Mapping[str, Any]) -> list[str]:
    """Returns lines of text on the attributes in an index's manifest; none if it has none."""
    facts = manifest.get("attributes")
    if not facts:
        return []
    lines = ["attributes " + ", ".join(f"{name} ({kind})" for name, kind in facts["columns"].items())]
    if facts["items_without"]:
        lines.append(f"{facts['items_without']:,} items have no row of attributes: all of theirs are null")
    if facts["unknown_ids"]:
        lines.append(f"{facts['unknown_ids']:,} rows of attributes are of items that are not in the index: left out")
    return lines
