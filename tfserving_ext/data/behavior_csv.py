"""Parses rows of the UserBehavior format and checks every one of them.

A row is `user_id,item_id,category_id,behavior_type,timestamp`: the ids are integers from 0, the behaviour is one of
`BEHAVIORS`, the timestamp is in unix seconds. Polars parses many lines at full speed; only if some of them are bad are
the lines checked one by one, to say which line is wrong and why.
"""

import re

import polars as pl

from tfserving_ext.errors import NannError

BEHAVIORS = ("pv", "buy", "cart", "fav")
COLUMNS = ("user_id", "item_id", "category_id", "behavior_type", "timestamp")
ID_COLUMNS = COLUMNS[:3]

_SCHEMA = {column: pl.Enum(BEHAVIORS) if column == "behavior_type" else pl.Int64() for column in COLUMNS}
_INTEGER = re.compile(r" *[+-]?[0-9]+")  # The texts that Polars reads as an integer.
_SHOWN = 80  # A message shows this many characters of a bad line.
_UTF8_MARK, _UTF16_MARKS = b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")


class BadLineError(Exception):
    """A line is not a valid row.

    Attributes:
      line: the line's number among the lines that were parsed, from 0.
    """

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line


def without_header(text: bytes) -> tuple[bytes, int]:
    """Removes what precedes the rows in a file: a UTF-8 byte order mark and a header of `COLUMNS`.

    Args:
      text: the first lines of the file.

    Returns:
      The remaining lines, and how many lines were removed.

    Raises:
      BadLineError: the text is UTF-16, or the first line is another header.
    """
    expected = ",".join(COLUMNS)
    if text.startswith(_UTF16_MARKS):
        raise BadLineError(0, "this is UTF-16; UTF-8 is expected, as `iconv -f utf-16 -t utf-8` writes it")
    text = text.removeprefix(_UTF8_MARK)
    first, _, rest = text.partition(b"\n")
    if first.replace(b'"', b"").strip().lower() == expected.encode():
        return rest, 1
    fields = first.decode(errors="backslashreplace").split(",")
    if len(fields) > 1 and not any(_INTEGER.fullmatch(field.strip('"\r')) for field in fields):
        raise BadLineError(0, f"{_shown(first)} looks like a header; the only header allowed is {expected}")
    return text, 0


def parse_lines(text: bytes) -> pl.DataFrame:
    """Parses complete lines of CSV; fields may be quoted, and lines may end in CR LF.

    Returns:
      A frame of `COLUMNS`: `behavior_type` is an enumeration of `BEHAVIORS`, the others are int64. There are no nulls
      and no negative ids.

    Raises:
      BadLineError: a row is bad.
    """
    if not text:
        return pl.DataFrame(schema=_SCHEMA)
    quote = '"' if b'"' in text else None
    try:
        frame = pl.read_csv(text, has_header=False, schema=_SCHEMA, quote_char=quote)
        if _is_good(frame):
            return frame
        problem = "a bad row here or below"
    except pl.exceptions.PolarsError as error:
        problem = str(error).partition("\n")[0]
    for number, line in enumerate(text.removesuffix(b"\n").split(b"\n")):
        if reason := _fault(line):
            raise BadLineError(number, reason)
    raise BadLineError(0, problem)


def check_frame(frame: pl.DataFrame, name: str, first_row: int) -> pl.DataFrame:
    """Checks rows that have types already, as those of Parquet, and casts them to the types of `parse_lines`.

    Args:
      frame: rows with at least the columns `COLUMNS`.
      name: the file's name, for messages.
      first_row: the number in the file of the frame's first row, from 1.

    Raises:
      NannError: a column's type holds no integers (or, for `behavior_type`, no text), or a row is bad; the message says
        which.
    """
    for column in COLUMNS:
        got = frame.schema[column]
        text = got in (pl.String, pl.Categorical) or isinstance(got, pl.Enum)
        if not (text if column == "behavior_type" else got.is_integer()):
            kind = "text" if column == "behavior_type" else "an integer"
            raise NannError(f"{name}: {column} is {got}; {kind} is expected")
    try:
        cast = frame.select(pl.col(column).cast(kind) for column, kind in _SCHEMA.items())
        if _is_good(cast):
            return cast
    except pl.exceptions.PolarsError:
        pass  # A number does not fit into 64 bits: the loop below finds it.
    for number, row in enumerate(frame.iter_rows(), start=first_row):
        if reason := _fault_of(["" if value is None else str(value) for value in row]):
            raise NannError(f"{name}, row {number}: {reason}")
    raise NannError(f"{name}, rows from {first_row}: a bad row")


def _is_good(frame: pl.DataFrame) -> bool:
    # Polars has turned a number that is too large, or an unknown behaviour, into null or raised an error.
    return not any(frame.null_count().row(0)) and all(frame[column].min() >= 0 for column in ID_COLUMNS)  # type: ignore[operator]


def _fault(line: bytes) -> str:
    """Returns what is wrong with one line; empty if it is a valid row."""
    text = line.decode(errors="backslashreplace").rstrip("\r")
    fields = [field[1:-1] if len(field) > 1 and field[0] == field[-1] == '"' else field for field in text.split(",")]
    if not text.strip():
        return f"an empty line; {','.join(COLUMNS)} are expected"
    if "\0" in text:
        return f"{_shown(line)} has a null byte; text is expected"
    for delimiter, called in (("\t", "a tab"), (";", "';'"), ("|", "'|'")):
        if len(fields) == 1 and len(text.split(delimiter)) == len(COLUMNS):
            return f"the delimiter of {_shown(line)} is {called}; ',' is expected"
    if len(fields) != len(COLUMNS):
        return f"{len(fields)} fields in {_shown(line)}; {len(COLUMNS)} are expected: {','.join(COLUMNS)}"
    return _fault_of(fields)


def _shown(line: bytes) -> str:
    text = line.decode(errors="backslashreplace").rstrip("\r")
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")


def _fault_of(fields: list[str]) -> str:
    """Returns what is wrong with one row's fields; empty if they are valid."""
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
