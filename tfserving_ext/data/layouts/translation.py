"""Translates files of another layout to Parquet of UserBehavior's, which the conversion reads.

Ids that are whole numbers from 0 to 2^63 - 1 stay what they are. Others are numbered from 1 in the order of their
texts, and the texts are kept beside the data, so that the number of an item in an answer can be named again.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from tfserving_ext.data.behavior_csv import BEHAVIORS, COLUMNS
from tfserving_ext.data.layouts.files import File, find_files, scan
from tfserving_ext.data.layouts.layout import DEFAULT_BEHAVIOR, Layout
from tfserving_ext.data.layouts.times import guess_unit, unix_seconds
from tfserving_ext.errors import NannError
from tfserving_ext.progress import console

ID_ROLES = ("user", "item", "category")
_INTEGER = r"^(0|[1-9]\d{0,18})$"
_SAMPLE = 1000  # Rows by which the unit of time is told.
_WANTED = {
    "user": "an id is expected",
    "item": "an id is expected",
    "time": "a number or a date such as 2014-04-07T10:51:09Z is expected; name its unit if it has another",
    "rating": "a number is expected",
    "event": f"allowed are {', '.join(BEHAVIORS)}; map other events to these",
}


@dataclass(frozen=True)
class Translation:
    """Behaviours in UserBehavior's columns, and where they come from.

    Attributes:
      behaviors: a Parquet file of `COLUMNS`.
      keys: Parquet files of `id` and `key`, one for each of users, items and categories that were numbered.
      sources: the files that were read.
      record: for the manifest: the layout, how many rows were read, and how many dropped.
    """

    behaviors: Path
    keys: list[Path]
    sources: list[Path]
    record: dict[str, Any]


@contextmanager
def translated(
    sources: Sequence[str | os.PathLike[str]], layout: Layout, target: str | os.PathLike[str]
) -> Iterator[Translation]:
    """Translates files into a hidden folder beside `target`, which is removed at the end.

    Args:
      sources: files, zip archives or folders.
      layout: how they are read.
      target: the folder that will be made of them.

    Raises:
      NannError: a source is missing or unreadable, a column is missing, or a value is bad; the message names the file
        and the row.
    """
    parent = Path(target).resolve().parent
    parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{Path(target).name}.", suffix=".translating", dir=parent) as scratch:
        files = find_files(sources, layout.file, Path(scratch))
        try:
            made = _translate(files, layout, Path(scratch))
        except pl.exceptions.PolarsError as error:
            names = ", ".join(file.name for file in files)
            raise NannError(f"{names} cannot be read as {layout.as_dict()}: {str(error).splitlines()[0]}") from error
        yield made


def _translate(files: list[File], layout: Layout, folder: Path) -> Translation:
    rows = pl.concat(scan(file, layout).with_columns(file=pl.lit(place)) for place, file in enumerate(files))
    unit = None
    if layout.time is not None:
        sample = rows.select("time").head(_SAMPLE).collect()["time"]
        unit = layout.time_unit or guess_unit(sample)
        console.print(f"  times are read as {unit}")
    rows = rows.with_columns(**_typed(layout, unit)).with_columns(keep=_kept(layout))
    console.print(f"  checking {len(files)} files")
    _check(rows, layout, files)
    counts = rows.select(pl.len(), kept=pl.col("keep").sum(), **_dropped(layout)).collect(engine="streaming").row(0)
    read, kept, *dropped = counts
    if not kept:
        raise NannError(f"{files[0].name}: none of {read:,} rows is left; dropped were {_told(layout, dropped)}")
    console.print("  numbering ids that are not whole numbers")
    wanted = rows.filter("keep")
    keys = {role: found for role in ID_ROLES if role in layout.columns and (found := _keys(wanted, role)) is not None}
    behaviors = folder / "behaviors.parquet"
    _numbered(wanted, layout, keys).sink_parquet(behaviors)
    written = []
    for role, table in keys.items():
        written.append(folder / f"{role}_keys.parquet")
        table.write_parquet(written[-1])
    record = {**layout.as_dict(), "rows_read": read, "rows_dropped": dict(zip(_dropped(layout), dropped, strict=True))}
    return Translation(behaviors, written, list(dict.fromkeys(file.source for file in files)), record)


def _typed(layout: Layout, unit: str | None) -> dict[str, pl.Expr]:
    """Returns the columns that are no texts: the seconds, the behaviour and the value of the rating."""
    behavior: pl.Expr = pl.lit(DEFAULT_BEHAVIOR)
    if layout.event is not None:
        known = dict(layout.events) or {name: name for name in BEHAVIORS}
        behavior = pl.col("event").replace_strict(known, default=None, return_dtype=pl.String)
    typed = {"behavior": behavior}
    if unit is not None:
        typed["seconds"] = unix_seconds("time", unit)
    if layout.min_rating is not None:
        typed["value"] = pl.col("rating").cast(pl.Float64, strict=False)
    return typed


def _dropped(layout: Layout) -> dict[str, pl.Expr]:
    """Returns, by rule, how many rows it drops."""
    rules = {}
    if layout.events:
        rules["event"] = pl.col("behavior").is_null().sum()
    if layout.min_rating is not None:
        rules["min_rating"] = (pl.col("value") < layout.min_rating).sum()
    return rules


def _told(layout: Layout, dropped: list[int]) -> str:
    return ", ".join(f"{count:,} by {rule}" for rule, count in zip(_dropped(layout), dropped, strict=True))


def _kept(layout: Layout) -> pl.Expr:
    kept = pl.col("behavior").is_not_null()
    return kept if layout.min_rating is None else kept & (pl.col("value") >= layout.min_rating)


def _check(rows: pl.LazyFrame, layout: Layout, files: list[File]) -> None:
    """Raises NannError if a row is bad; the message names the first of them."""
    faults = {role: pl.col(role).is_null() | (pl.col(role) == "") for role in ID_ROLES[:2]}
    if layout.time is not None:
        faults["time"] = pl.col("seconds").is_null()
    if layout.min_rating is not None:
        faults["rating"] = pl.col("value").is_null() | pl.col("value").is_nan()
    if layout.event is not None and not layout.events:
        faults["event"] = pl.col("behavior").is_null()
    bad = rows.filter(pl.any_horizontal(*faults.values())).head(1)
    found = bad.with_columns(*(fault.alias(f"bad_{role}") for role, fault in faults.items())).collect()
    for row in found.iter_rows(named=True):
        role = next(role for role in faults if row[f"bad_{role}"])
        column = layout.columns[role]
        raise NannError(
            f"{files[row['file']].name}, row {row['row']} (a header does not count): {column} is {row[role]!r}; "
            f"{_WANTED[role]}"
        )


def _keys(rows: pl.LazyFrame, role: str) -> pl.DataFrame | None:
    """Returns the number of each text of a column; None if all are whole numbers that fit into 63 bits."""
    texts = rows.select(key=pl.col(role).fill_null("")).unique().collect(engine="streaming")
    whole = texts.select(
        (pl.col("key").str.contains(_INTEGER) & pl.col("key").cast(pl.Int64, strict=False).is_not_null()).all()
    )
    if whole.item():
        return None
    return texts.sort("key").with_row_index("id", 1).select(pl.col("id").cast(pl.Int64), "key")


def _numbered(rows: pl.LazyFrame, layout: Layout, keys: dict[str, pl.DataFrame]) -> pl.LazyFrame:
    """Returns the rows in UserBehavior's columns, in their order."""
    if layout.time is None:
        rows = rows.with_row_index("seconds")
    for role, table in keys.items():
        named = table.lazy().rename({"id": f"{role}_number"})
        rows = rows.with_columns(pl.col(role).fill_null("")).join(
            named, left_on=role, right_on="key", how="left", maintain_order="left"
        )
    ids = [
        pl.col(f"{role}_number")
        if role in keys
        else pl.col(role).cast(pl.Int64)
        if role in layout.columns
        else pl.lit(0, pl.Int64)
        for role in ID_ROLES
    ]
    columns = (*ids, pl.col("behavior"), pl.col("seconds").cast(pl.Int64))
    return rows.select(value.alias(name) for name, value in zip(COLUMNS, columns, strict=True))
