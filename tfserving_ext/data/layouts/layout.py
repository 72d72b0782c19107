"""Which column of a file is what, and how its values are read."""

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tfserving_ext.data.behavior_csv import BEHAVIORS
from tfserving_ext.errors import NannError

# What a column can be; a file needs the first two.
ROLES = ("user", "item", "category", "event", "time", "rating")
SEPARATORS = {"comma": ",", "tab": "\t", "semicolon": ";", "pipe": "|", "space": " "}
# How many units of time make a second; a date and time has its own unit, and month and day are those of one year.
UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
MMDD_UNIT = "mmdd"
DEFAULT_BEHAVIOR = "pv"  # The behaviour of the rows of a file without a column of events.


@dataclasses.dataclass(frozen=True)
class Layout:
    """A layout of files of behaviours.

    A column is given by its name or, in a file without a header, by its number, from 1. Without `time`, rows count as
    being in the order of time; without `category`, all items have the same one.

    Attributes:
      user: the column of the user's id, a number or a text.
      item: the column of the item's id, likewise.
      category: the column of the item's category, likewise.
      event: the column that says what kind of behaviour a row is.
      time: the column of the time.
      rating: the column of a rating.
      events: each value of `event` that is kept, with the behaviour (`behavior_csv.BEHAVIORS`) that it counts as. If
        empty, the values must be behaviours themselves.
      time_unit: "s", "ms", "us" or "ns" since 1970, or "mmdd" for month and day of 2014; None to tell by the values,
        which may be dates and times as well (2014-04-07T10:51:09Z, 2014-12-06 02).
      min_rating: rows with a lower rating are dropped.
      separator: between the fields of a line; None to tell by the first line.
      file: the name of the file, or how it ends, where a folder or an archive has several; None for all of them.
      history: a line is a user's id and all of its items in order, separated by spaces.
    """

    user: str = "user_id"
    item: str = "item_id"
    category: str | None = None
    event: str | None = None
    time: str | None = None
    rating: str | None = None
    events: tuple[tuple[str, str], ...] = ()
    time_unit: str | None = None
    min_rating: float | None = None
    separator: str | None = None
    file: str | None = None
    history: bool = False

    def __post_init__(self) -> None:
        """Raises NannError if a part does not fit the others."""
        columns = self.columns
        by_number = [column.isdecimal() for column in columns.values()]
        if any(by_number) and not all(by_number):
            raise NannError(
                f"columns are {_shown(columns)}: give all of them by name, or all by number for a file without a header"
            )
        if "0" in columns.values():
            raise NannError(f"columns are {_shown(columns)}: numbers of columns begin at 1")
        if self.events and self.event is None:
            raise NannError("events are given, but no column of them: add event=COLUMN to the columns")
        for value, behavior in self.events:
            if behavior not in BEHAVIORS:
                raise NannError(f"event {value!r} counts as {behavior!r}; allowed are {', '.join(BEHAVIORS)}")
        if self.min_rating is not None and self.rating is None:
            raise NannError("a lowest rating is given, but no column of ratings: add rating=COLUMN to the columns")
        if self.time_unit is not None and self.time_unit not in (*UNITS, MMDD_UNIT):
            raise NannError(f"the unit of time is {self.time_unit!r}; allowed are {', '.join((*UNITS, MMDD_UNIT))}")

    @property
    def columns(self) -> dict[str, str]:
        """The column of each role that has one."""
        return {role: column for role in ROLES if (column := getattr(self, role)) is not None}

    @property
    def has_header(self) -> bool:
        """Whether columns are found by their names in the first line."""
        return not self.user.isdecimal()

    def as_dict(self) -> dict[str, Any]:
        """Returns the manifest's `layout`: what is set."""
        made = {**dataclasses.asdict(self), "events": dict(self.events)}
        return {name: value for name, value in made.items() if value}


@dataclasses.dataclass(frozen=True)
class Mapped:
    """Files of behaviours in a layout of their own, to be converted.

    Attributes:
      paths: files, zip archives or folders of files: CSV or other separated text, JSON lines, Parquet; gzip where it is
        text.
      layout: how they are read.
    """

    paths: Sequence[str | os.PathLike[str]]
    layout: Layout


def _shown(columns: Mapping[str, str]) -> str:
    return ",".join(f"{role}={column}" for role, column in columns.items())


def parse_pairs(option: str, text: str) -> dict[str, str]:
    """Parses NAME=VALUE,NAME=VALUE.

    Raises:
      NannError: a part has another form, or a name comes twice.
    """
    pairs: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not (name and equals and value):
            raise NannError(f"{option} is {text!r}; allowed is NAME=VALUE,NAME=VALUE,...")
        if name in pairs:
            raise NannError(f"{option} names {name!r} twice: {text!r}")
        pairs[name] = value
    return pairs


def make_layout(
    preset: Layout | None = None,
    columns: Mapping[str, str] | None = None,
    events: Iterable[tuple[str, str]] | None = None,
    time_unit: str | None = None,
    min_rating: float | None = None,
    separator: str | None = None,
) -> Layout:
    """Returns a layout: that of `preset`, with each of the other arguments in place of what it says.

    Args:
      preset: the layout to begin with.
      columns: for each of `ROLES` its column; without a preset, at least `user` and `item`.
      events: see `Layout`; so is the rest.
      time_unit: see `Layout`.
      min_rating: see `Layout`.
      separator: a character, or one of `SEPARATORS`.

    Raises:
      NannError: a role is unknown, user or item is missing, or the parts do not fit together.
    """
    columns = dict(columns or {})
    if unknown := [role for role in columns if role not in ROLES]:
        raise NannError(f"columns name {unknown[0]!r}; allowed are {', '.join(ROLES)}")
    if preset is None and (missing := [role for role in ROLES[:2] if role not in columns]):
        raise NannError(f"columns give no {missing[0]}: at least user=COLUMN,item=COLUMN are needed")
    if separator is not None:
        separator = SEPARATORS.get(separator, separator)
        if len(separator) != 1:
            raise NannError(f"the separator is {separator!r}; allowed are one character, or {', '.join(SEPARATORS)}")
    changes: dict[str, Any] = {
        **columns,
        "events": None if events is None else tuple(events),
        "time_unit": time_unit,
        "min_rating": min_rating,
        "separator": separator,
    }
    return dataclasses.replace(
        preset or Layout(), **{name: value for name, value in changes.items() if value is not None}
    )
