"""Finds the files of a source and reads the columns of a layout from them, all as text."""

import gzip
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from tfserving_ext.data.layouts.layout import Layout
from tfserving_ext.errors import NannError
from tfserving_ext.local_paths import check_local

SUFFIXES = (".csv", ".tsv", ".txt", ".dat", ".inter", ".jsonl", ".json", ".parquet")
FIRST_BYTES = 1 << 16  # Enough for the first lines of any file of behaviours.
_SEPARATORS = ",\t;|"


@dataclass(frozen=True)
class File:
    """A file to read.

    Attributes:
      path: where it lies, for a member of a zip archive the unpacked copy.
      name: what messages call it.
      source: the file that the user gave, or that lies in the folder that the user gave.
    """

    path: Path
    name: str
    source: Path


def find_files(sources: Sequence[str | os.PathLike[str]], wanted: str | None, scratch: Path) -> list[File]:
    """Finds the files of sources, in order; members of zip archives are unpacked.

    Args:
      sources: files, zip archives, or folders of files.
      wanted: in folders and archives, only files whose names end in this are taken; None for all of `SUFFIXES`.
      scratch: a folder for what is unpacked.

    Raises:
      NannError: a source is missing, damaged or unreadable, or holds no such file.
    """
    found: list[File] = []
    for given in sources:
        check_local(given)
        source = Path(given)
        if not source.exists():
            raise NannError(f"{source} does not exist")
        inside = [one for one in sorted(source.iterdir()) if one.is_file()] if source.is_dir() else [source]
        if source.is_dir():
            inside = [one for one in inside if _is_wanted(one.name, wanted)]
            if not inside:
                raise NannError(f"{source} holds no file whose name ends in {wanted or ', '.join(SUFFIXES)}")
        for path in inside:
            found += _unpacked(path, wanted, scratch) if _is_zip(path) else [File(path, str(path), path)]
    return found


def _is_wanted(name: str, wanted: str | None) -> bool:
    plain = name.removesuffix(".gz").removesuffix(".zip")
    return name[0] not in "._" and plain.endswith(SUFFIXES if wanted is None else wanted)


def _is_zip(path: Path) -> bool:
    return first_bytes(path)[:4] == b"PK\x03\x04"


def _unpacked(path: Path, wanted: str | None, scratch: Path) -> Iterator[File]:
    try:
        with zipfile.ZipFile(path) as archive:
            every = [one for one in archive.infolist() if not one.is_dir() and not one.filename.startswith("__MACOSX/")]
            members = [one for one in every if _is_wanted(Path(one.filename).name, wanted)]
            if not members:
                names = ", ".join(one.filename for one in every[:5]) or "nothing"
                raise NannError(
                    f"{path} has no file whose name ends in {wanted or ', '.join(SUFFIXES)}; it has {names}"
                )
            for member in members:
                # Numbered: two members may have the same name, in different folders of the archive.
                copy = scratch / f"unpacked-{len(list(scratch.iterdir()))}"
                with archive.open(member) as packed, copy.open("wb") as file:
                    shutil.copyfileobj(packed, file, 1 << 20)
                yield File(copy, f"{path}:{member.filename}", path)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error) as error:
        raise NannError(f"{path} is damaged, encrypted, or packed by an unknown method: {error}") from error
    except OSError as error:
        raise NannError(f"cannot unpack {path}: {error.strerror or error}") from error


def first_bytes(path: Path) -> bytes:
    """Returns the beginning of a file, unpacked if it is a gzip file.

    Raises:
      NannError: the file cannot be read, or is a damaged gzip file.
    """
    try:
        with path.open("rb") as file:
            start = file.read(FIRST_BYTES)
        if start[:2] != b"\x1f\x8b":
            return start
        with gzip.open(path) as unpacked:
            return unpacked.read(FIRST_BYTES)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise NannError(f"{path} is a damaged gzip file: {error}") from error
    except OSError as error:
        raise NannError(f"cannot read {path}: {error.strerror or error}") from error


def guess_separator(line: str) -> str:
    """Returns the separator that is most frequent in a line; a comma if there is none."""
    return max(_SEPARATORS, key=line.count)


def scan(file: File, layout: Layout) -> pl.LazyFrame:
    """Returns the columns of a layout as texts, named by their roles, and a column `row`: the row's number, from 1.

    Raises:
      NannError: the file is empty or cannot be read, or a column is missing; the message names those that exist.
    """
    start = first_bytes(file.path)
    if not start.strip():
        raise NannError(f"{file.name} is empty")
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise NannError(f"{file.name} is UTF-16; UTF-8 is expected, as `iconv -f utf-16 -t utf-8` writes it")
    if layout.history:
        lines = pl.scan_csv(
            file.path, has_header=False, separator="\x01", quote_char=None, infer_schema=False, new_columns=["line"]
        ).with_row_index("row", 1)
        parts = pl.col("line").str.strip_chars().str.split(layout.separator or " ")
        return lines.select("row", user=parts.list.first(), item=parts.list.slice(1)).explode("item")
    if start[:4] == b"PAR1":
        whole = pl.scan_parquet(file.path, glob=False)
    elif start.lstrip()[:1] == b"{":
        # Other fields than these are skipped, whatever they hold.
        whole = pl.scan_ndjson(file.path, schema=dict.fromkeys(layout.columns.values(), pl.String()))
    else:
        separator = layout.separator or guess_separator(start.partition(b"\n")[0].decode(errors="replace"))
        whole = pl.scan_csv(
            file.path, has_header=layout.has_header, separator=separator, infer_schema=False, glob=False
        )
    schema = whole.collect_schema()
    columns = layout.columns
    if not layout.has_header:
        names = schema.names()
        if beyond := [column for column in columns.values() if int(column) > len(names)]:
            raise NannError(f"{file.name} has {len(names)} columns; there is no column {beyond[0]}")
        columns = {role: names[int(column) - 1] for role, column in columns.items()}
    if missing := [column for column in columns.values() if column not in schema]:
        raise NannError(f"{file.name} has no column {missing[0]!r}; it has {', '.join(schema)}")
    return whole.with_row_index("row", 1).select("row", *(_text(schema, role, name) for role, name in columns.items()))


def _text(schema: pl.Schema, role: str, name: str) -> pl.Expr:
    value = pl.col(name)
    if schema[name].is_temporal():  # Of Parquet. Seconds since 1970, which any unit but the default would misread.
        value = value.dt.strftime("%Y-%m-%d %H:%M:%S") if role == "time" else value
    return value.cast(pl.String).str.strip_chars().alias(role)
