"""Reads times, given as numbers or as dates, as unix seconds."""

import polars as pl

from tfserving_ext.data.layouts.layout import MMDD_UNIT, UNITS

# Year, month, day, hour, minute, second, zone; all from the hour on may be missing.
_DATE = r"^(\d{4})[-/](\d\d?)[-/](\d\d?)(?:[T ](\d\d?)(?::(\d\d)(?::(\d\d)(?:[.,]\d+)?)?)?)? ?(Z|UTC|[+-]\d\d:?\d\d)?$"
# A time from 1973 to 5138 has so many digits at least in each unit.
_DIGITS = ((18, "ns"), (15, "us"), (12, "ms"))
DATE = "date"
_YEAR_OF_MMDD = 2014


def guess_unit(values: pl.Series) -> str:
    """Returns the unit of times by a sample of them: one of `UNITS`, or `DATE`.

    Args:
      values: texts, some of which may be null.
    """
    numbers = values.cast(pl.Float64, strict=False).drop_nulls().abs()
    if not len(numbers):
        return DATE
    digits = len(str(int(numbers.median())))
    return next((unit for least, unit in _DIGITS if digits >= least), "s")


def parse_time(text: str, unit: str | None) -> int | None:
    """Returns a time as unix seconds; None if it is none.

    Args:
      text: a date, or a number.
      unit: the unit of a number, one of `UNITS` or `MMDD_UNIT`; None to tell it by the number.
    """
    sample = pl.DataFrame({"time": [text]})
    told = guess_unit(sample["time"])
    value: int | None = sample.select(unix_seconds("time", told if told == DATE else unit or told)).item()
    return value


def unix_seconds(column: str, unit: str) -> pl.Expr:
    """Returns the expression of a column of texts as unix seconds, int64; null where the text is no time.

    Args:
      column: the column.
      unit: one of `UNITS`, `DATE`, or `MMDD_UNIT`. Dates without a zone are in UTC.
    """
    text = pl.col(column)
    if unit == DATE:
        return _of_date(text)
    # Large integers would lose their last digits as floating-point numbers.
    number = text.cast(pl.Int64, strict=False).fill_null(
        text.cast(pl.Float64, strict=False).floor().cast(pl.Int64, strict=False)
    )
    if unit == MMDD_UNIT:
        date = pl.format("{}{}", pl.lit(str(_YEAR_OF_MMDD)), number.cast(pl.String).str.zfill(4))
        return date.str.to_date("%Y%m%d", strict=False).cast(pl.Datetime("us")).dt.epoch("s")
    return number.floordiv(UNITS[unit])


def _of_date(text: pl.Expr) -> pl.Expr:
    parts = text.str.extract_groups(_DATE).struct
    year, month, day, hour, minute, second = (parts.field(str(place)).fill_null("00") for place in range(1, 7))
    plain = pl.format("{}-{}-{} {}:{}:{}", year, *(part.str.zfill(2) for part in (month, day, hour, minute, second)))
    local = plain.str.to_datetime("%Y-%m-%d %H:%M:%S", strict=False).dt.epoch("s")
    zone = parts.field("7").str.replace_all("Z|UTC|:", "")
    minutes = zone.str.slice(1, 2).cast(pl.Int64, strict=False) * 60 + zone.str.slice(3, 2).cast(pl.Int64, strict=False)
    east = pl.when(zone.str.starts_with("-")).then(-minutes).otherwise(minutes).fill_null(0)
    return local - 60 * east
