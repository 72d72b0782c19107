"""The UserBehavior format, read in blocks of bounded memory with every row checked.

A file has no header; a row is `user_id,item_id,category_id,behavior_type,timestamp`, the ids integers from 0, the
behaviour one of `BEHAVIORS`, the timestamp unix seconds. Polars parses a block at full speed; only when a block is bad
are its lines looked at one by one, to say which line is wrong and why.
"""

import gzip
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from tfserving_ext.errors import NannError
from tfserving_ext.progress import progress

BEHAVIORS = ("pv", "buy", "cart", "fav")
COLUMNS = ("user_id", "item_id", "category_id", "behavior_type", "timestamp")
ID_COLUMNS = COLUMNS[:3]
BLOCK_BYTES = 64 << 20
MAX_LINE_BYTES = 1 << 20

_SCHEMA = {column: pl.String() if column == "behavior_type" else pl.Int64() for column in COLUMNS}
_INTEGER = re.compile(r"\s*[+-]?[0-9]+")  # What Polars reads as an integer.
_GZIP_MAGIC = b"\x1f\x8b"


def read_blocks(path: str | os.PathLike[str], block_bytes: int = BLOCK_BYTES) -> Iterator[pl.DataFrame]:
    """Yields the rows of a UserBehavior file, plain or gzip, in file order.

    Args:
      path: the file; gzip is recognised by its first bytes, whatever the name.
      block_bytes: uncompressed bytes parsed at a time.

    Yields:
      Frames of `COLUMNS`: int64, but `behavior_type` a string; no nulls, no negative id, no unknown behaviour.

    Raises:
      NannError: the file is missing, empty, truncated, or has a bad row; the message says which line.
    """
    path = Path(path)
    line = 1
    try:
        with path.open("rb") as raw, progress(f"reading {path.name} (MB)", path.stat().st_size >> 20) as advance:
            zipped = raw.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
            raw.seek(0)
            file = gzip.GzipFile(fileobj=raw) if zipped else raw
            rest, shown = b"", 0
            while data := file.read(block_bytes):
                end = data.rfind(b"\n") + 1
                block, rest = (rest + data[:end], data[end:]) if end else (b"", rest + data)
                if len(rest) > MAX_LINE_BYTES:
                    at = line + block.count(b"\n")
                    raise NannError(f"{path}, line {at}: longer than {MAX_LINE_BYTES} bytes; is this a CSV file?")
                if block:
                    yield _parse(block, path, line)
                    line += block.count(b"\n")
                megabytes = raw.tell() >> 20
                advance(megabytes - shown)
                shown = megabytes
            if rest:
                yield _parse(rest, path, line)
            elif line == 1:
                raise NannError(f"{path} is empty; rows of {','.join(COLUMNS)} are expected")
    except FileNotFoundError as error:
        raise NannError(f"{path} does not exist") from error
    except EOFError as error:
        raise NannError(
            f"{path} is a truncated gzip file: it ends too early, after line {line - 1} or later"
        ) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise NannError(f"{path} is a damaged gzip file: {error}, after line {line - 1} or later") from error
    except OSError as error:
        raise NannError(f"cannot read {path}: {error.strerror or error}") from error


def _parse(block: bytes, path: Path, first_line: int) -> pl.DataFrame:
    """Parses whole lines, the first of which is line `first_line` of `path`."""
    good = pl.all_horizontal(
        pl.col("behavior_type").is_in(BEHAVIORS).all(),
        pl.col("timestamp").is_not_null().all(),
        *((pl.col(column).is_not_null() & (pl.col(column) >= 0)).all() for column in ID_COLUMNS),
    )
    try:
        frame = pl.read_csv(block, has_header=False, schema=_SCHEMA, quote_char=None)
        # `all` skips nulls, and `is_in` of a null is null.
        if frame["behavior_type"].null_count() == 0 and frame.select(good).item():
            return frame
        problem = "a bad row"
    except pl.exceptions.PolarsError as error:
        problem = str(error).partition("\n")[0]
    lines = block.removesuffix(b"\n").split(b"\n")
    for number, line in enumerate(lines, start=first_line):
        if reason := _fault(line.decode(errors="backslashreplace").rstrip("\r"), first=number == 1):
            raise NannError(f"{path}, line {number}: {reason}")
    raise NannError(f"{path}, lines from {first_line}: {problem}")


def _fault(line: str, first: bool) -> str:
    """What is wrong with one line; empty if nothing is."""
    fields = line.split(",")
    if not line.strip():
        return f"an empty line; {','.join(COLUMNS)} are expected"
    if first and not any(_INTEGER.fullmatch(field) for field in fields):
        return f"{line!r} looks like a header; the file must start with its first row, {','.join(COLUMNS)}"
    if len(fields) != len(COLUMNS):
        return f"{len(fields)} fields in {line!r}; {len(COLUMNS)} are expected: {','.join(COLUMNS)}"
    for column, field in zip(COLUMNS, fields, strict=True):
        if column == "behavior_type":
            if field not in BEHAVIORS:
                return f"behavior_type is {field!r}; allowed are {', '.join(BEHAVIORS)}"
        elif not _INTEGER.fullmatch(field):
            return f"{column} is {field!r}; an integer is expected"
        elif not -(2**63) <= int(field) < 2**63:
            return f"{column} is {field}; an integer of at most 64 bits is expected"
        elif column in ID_COLUMNS and int(field) < 0:
            return f"{column} is {field}; ids are 0 or more"
    return ""
