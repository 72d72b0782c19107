"""Rows of the UserBehavior format, every one of them checked.

A row is `user_id,item_id,category_id,behavior_type,timestamp`: the ids integers from 0, the behaviour one of
`BEHAVIORS`, the timestamp unix seconds. Polars parses many lines at full speed; only when some are bad are they looked
at one by one, to say which line is wrong and why.
"""

import re

import polars as pl

from tfserving_ext.errors import NannError

BEHAVIORS = ("pv", "buy", "cart", "fav")
COLUMNS = ("user_id", "item_id", "category_id", "behavior_type", "timestamp")
ID_COLUMNS = COLUMNS[:3]

_SCHEMA = {column: pl.String() if column == "behavior_type" else pl.Int64() for column in COLUMNS}
_INTEGER = re.compile(r" *[+-]?[0-9]+")  # What Polars reads as an integer.
_SHOWN = 80  # Characters of a bad line that a message shows.
_UTF8_MARK, _UTF16_MARKS = b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")


def without_header(text: bytes, name: str) -> tuple[bytes, int]:
    """The first lines of a file without what is no row: a mark of UTF-8, and a header of `COLUMNS`.

    Args:
      text: whole lines, the file's first.
      name: the file, for messages.

    Returns:
      The lines, and how many were taken off.

    Raises:
      NannError: the text is UTF-16.
    """
    if text.startswith(_UTF16_MARKS):
        raise NannError(f"{name} is UTF-16; UTF-8 is expected, as `iconv -f utf-16 -t utf-8` writes it")
    text = text.removeprefix(_UTF8_MARK)
    first, _, rest = text.partition(b"\n")
    if first.replace(b'"', b"").strip().lower() == ",".join(COLUMNS).encode():
        return rest, 1
    return text, 0


def parse_lines(text: bytes, name: str, first_line: int) -> pl.DataFrame:
    """Parses whole lines of CSV; fields may be quoted, lines may end in CR LF.

    Args:
      text: the lines.
      name: the file, for messages.
      first_line: the number of the first of them in the file, from 1.

    Returns:
      A frame of `COLUMNS`: int64, but `behavior_type` a string; no nulls, no negative id, no unknown behaviour.

    Raises:
      NannError: a bad row; the message says which line.
    """
    if not text:
        return pl.DataFrame(schema=_SCHEMA)
    quote = '"' if b'"' in text else None
    try:
        frame = pl.read_csv(text, has_header=False, schema=_SCHEMA, quote_char=quote)
        if _is_good(frame):
            return frame
        problem = "a bad row"
    except pl.exceptions.PolarsError as error:
        problem = str(error).partition("\n")[0]
    for number, line in enumerate(text.removesuffix(b"\n").split(b"\n"), start=first_line):
        if reason := _fault(line.decode(errors="backslashreplace").rstrip("\r"), first=number == 1):
            raise NannError(f"{name}, line {number}: {reason}")
    raise NannError(f"{name}, lines from {first_line}: {problem}")


def check_frame(frame: pl.DataFrame, name: str, first_row: int) -> pl.DataFrame:
    """Rows that came with types, of Parquet, in the types of `parse_lines`.

    Args:
      frame: has `COLUMNS`.
      name: the file, for messages.
      first_row: the number of its first row in the file, from 1.

    Raises:
      NannError: a column of a type that holds no integers (or no text), or a bad row; the message says which.
    """
    for column, wanted in _SCHEMA.items():
        got = frame.schema[column]
        text = got in (pl.String, pl.Categorical) or isinstance(got, pl.Enum)
        if not (text if wanted == pl.String else got.is_integer()):
            kind = "text" if wanted == pl.String else "an integer"
            raise NannError(f"{name}: {column} is {got}; {kind} is expected")
    try:
        cast = frame.select(pl.col(column).cast(kind) for column, kind in _SCHEMA.items())
        if _is_good(cast):
            return cast
    except pl.exceptions.PolarsError:
        pass  # A number above 2^63: found below.
    for number, row in enumerate(frame.iter_rows(), start=first_row):
        if reason := _fault_of(["" if value is None else str(value) for value in row]):
            raise NannError(f"{name}, row {number}: {reason}")
    raise NannError(f"{name}, rows from {first_row}: a bad row")


def _is_good(frame: pl.DataFrame) -> bool:
    good = pl.all_horizontal(
        pl.col("behavior_type").is_in(BEHAVIORS).all(),
        pl.col("timestamp").is_not_null().all(),
        *((pl.col(column).is_not_null() & (pl.col(column) >= 0)).all() for column in ID_COLUMNS),
    )
    # `all` skips nulls, and `is_in` of a null is null.
    return frame["behavior_type"].null_count() == 0 and frame.select(good).item()


def _fault(line: str, first: bool) -> str:
    """What is wrong with one line; empty if nothing is."""
    fields = [field[1:-1] if len(field) > 1 and field[0] == field[-1] == '"' else field for field in line.split(",")]
    shown = repr(line if len(line) <= _SHOWN else line[:_SHOWN] + "…")
    if not line.strip():
        return f"an empty line; {','.join(COLUMNS)} are expected"
    if "\0" in line:
        return f"{shown} has a null byte; text is expected"
    for delimiter, called in (("\t", "a tab"), (";", "';'"), ("|", "'|'")):
        if len(fields) == 1 and len(line.split(delimiter)) == len(COLUMNS):
            return f"the delimiter of {shown} is {called}; ',' is expected"
    if first and not any(_INTEGER.fullmatch(field) for field in fields):
        return f"{shown} looks like a header; the one that is allowed is {','.join(COLUMNS)}"
    if len(fields) != len(COLUMNS):
        return f"{len(fields)} fields in {shown}; {len(COLUMNS)} are expected: {','.join(COLUMNS)}"
    return _fault_of(fields)


def _fault_of(fields: list[str]) -> str:
    """What is wrong with one row's fields; empty if nothing is."""
    for column, field in zip(COLUMNS, fields, strict=True):
        if column == "behavior_type":
            if field not in BEHAVIORS:
                return f"behavior_type is {field[:_SHOWN]!r}; allowed are {', '.join(BEHAVIORS)}"
        elif not _INTEGER.fullmatch(field):
            return f"{column} is {field[:_SHOWN]!r}; an integer is expected"
        elif len(field) > _SHOWN or not -(2**63) <= int(field) < 2**63:
            return f"{column} is {field[:_SHOWN]}; an integer of at most 64 bits is expected"
        elif column in ID_COLUMNS and int(field) < 0:
            return f"{column} is {field}; ids are 0 or more"
    return ""
