"""Every row of the table of irregular files in docs/data.md: the outcome is the documented one."""

import bz2
import gzip
import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from tfserving_ext.data.behavior_csv import COLUMNS
from tfserving_ext.data.conversion import convert
from tfserving_ext.data.rows import Rules
from tfserving_ext.data.sequence_format import load
from tfserving_ext.errors import NannError

GOOD = "1,20,3,pv,100\n1,21,3,buy,105\n2,20,4,cart,102\n2,20,4,fav,103\n"
HEADER = ",".join(COLUMNS) + "\n"
# GOOD's rows as (item, time), by user.
HISTORIES = {1: [(20, 100), (21, 105)], 2: [(20, 102), (20, 103)]}
LAST = 2**63 - 1


def line(text: str) -> bytes:
    """Returns GOOD with `text` as its fifth line, and more lines after it."""
    return (GOOD + text + "\n" + GOOD).encode()


def zipped(**members: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in members.items():
            archive.writestr(name.replace("_", "."), text)
    return file.getvalue()


def with_password() -> bytes:
    return zipped(UserBehavior_csv=GOOD).replace(b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01")


def parquet(**columns: pl.Series | None) -> bytes:
    frame = pl.read_csv((HEADER + GOOD).encode())
    for column, values in columns.items():
        frame = frame.drop(column) if values is None else frame.with_columns(values.alias(column))
    file = io.BytesIO()
    frame.write_parquet(file)
    return file.getvalue()


def damaged_gzip() -> bytes:
    whole = gzip.compress(GOOD.encode() * 100)
    return whole[:-8] + bytes(8)


REFUSED: dict[str, bytes | Callable[[Path], object]] = {
    "tabs between fields": line("1\t20\t3\tpv\t100"),
    "semicolons between fields": GOOD.replace(",", ";").encode(),
    "a header of other names": ("uid,iid,cid,type,ts\n" + GOOD).encode(),
    "a header in the middle": line(HEADER.strip()),
    "nothing but a header": HEADER.encode(),
    "an empty file": b"",
    "a column too few": line("1,20,pv,100"),
    "a column too many": line("1,20,3,pv,100,7"),
    "a comma inside quotes": line('"1,5",20,3,pv,100'),
    "a line end inside quotes": line('1,20,3,"p\nv",100'),
    "a quote that is not closed": line('1,"20,3,pv,100'),
    "an empty field": line("1,20,,pv,100"),
    "an empty line": line(""),
    "a last line that was cut off": (GOOD + "1,20,3,p").encode(),
    "an id that is no number": line("1,apple,3,pv,100"),
    "an id with a fraction": line("1,20.0,3,pv,100"),
    "an id of other digits than 0 to 9": line("1,٢٠,3,pv,100"),
    "an id of 2^63": line(f"1,{2**63},3,pv,100"),
    "an id of a thousand digits": line(f"1,{'9' * 1000},3,pv,100"),
    "a negative id": line("-1,20,3,pv,100"),
    "a behaviour of another name": line("1,20,3,click,100"),
    "a behaviour in capitals": line("1,20,3,PV,100"),
    "a fraction of a second": line("1,20,3,pv,100.5"),
    "bytes that are not UTF-8": (GOOD + "1,20,3,pé,100\n").encode("latin-1"),
    "UTF-16": GOOD.encode("utf-16"),
    "a null byte": line("1,2\0,3,pv,100"),
    "a line of two megabytes": line("1" * (2 << 20)),
    "line ends of CR alone": GOOD.rstrip().replace("\n", "\r").encode(),
    "gzip that was cut off": gzip.compress(GOOD.encode() * 100)[:-9],
    "gzip with a damaged byte": damaged_gzip(),
    "gzip with something else behind it": gzip.compress(GOOD.encode()) + b"more",
    "zip that was cut off": zipped(UserBehavior_csv=GOOD)[:-30],
    "zip without CSV": zipped(readme_md="hello"),
    "zip with a password": with_password(),
    "bzip2": bz2.compress(GOOD.encode()),
    "damaged Parquet": parquet()[:-20],
    "Parquet without a column": parquet(timestamp=None),
    "Parquet with a missing value": parquet(item_id=pl.Series([20, None, 20, 20])),
    "Parquet with ids of floating point": parquet(item_id=pl.Series([20.0, 21.0, 20.0, 20.0])),
    "a folder without parts": Path.mkdir,
}

READ: dict[str, tuple[bytes, dict[int, list[tuple[int, int]]]]] = {
    "a mark of UTF-8 (BOM)": (GOOD.encode("utf-8-sig"), HISTORIES),
    "a header of these names": ((HEADER + GOOD).encode(), HISTORIES),
    "quoted fields": (re.sub(r"(\w+)", r'"\1"', GOOD).encode(), HISTORIES),
    "line ends of CR LF": (GOOD.replace("\n", "\r\n").encode(), HISTORIES),
    "no line end at the end": (GOOD.rstrip().encode(), HISTORIES),
    "zeros, a plus or blanks before a number": (
        GOOD.replace(",20,", ",0020,").replace(",100", ",+100").replace("\n2", "\n 2").encode(),
        HISTORIES,
    ),
    "a negative timestamp": (line("2,21,3,pv,-7"), {1: [(20, 100)] * 2 + [(21, 105)] * 2, 2: [(21, -7)]}),
    "timestamps from -2^63 to 2^63 - 1": (
        f"1,20,3,pv,{LAST}\n1,21,3,pv,{-LAST - 1}\n2,20,3,pv,0\n2,21,3,pv,0\n".encode(),
        {1: [(21, -LAST - 1), (20, LAST)], 2: [(20, 0), (21, 0)]},
    ),
    "milliseconds": (
        GOOD.replace(",100\n", ",1511539200000\n").encode(),
        {1: [(21, 105), (20, 1511539200000)], 2: HISTORIES[2]},
    ),
    "duplicated rows": (
        GOOD.encode() * 2,
        {1: [(20, 100)] * 2 + [(21, 105)] * 2, 2: [(20, 102)] * 2 + [(20, 103)] * 2},
    ),
    "users in no order": ("".join(GOOD.splitlines(keepends=True)[::-1]).encode(), HISTORIES),
    "a user with one row": ((GOOD + "3,20,3,pv,100\n").encode(), HISTORIES),
    "a user of rare items alone": ((GOOD + "3,99,3,pv,100\n4,99,3,pv,100\n").encode(), HISTORIES),
    "an item under two categories": (GOOD.encode(), HISTORIES),
    "ids of 2^63 - 1": (
        GOOD.replace("2,20", f"{LAST},20").replace(",21,3", f",{LAST},{LAST}").encode(),
        {1: [(20, 100), (LAST, 105)], LAST: HISTORIES[2]},
    ),
    "gzip named .csv": (gzip.compress(GOOD.encode()), HISTORIES),
    "gzip of several members": (gzip.compress(GOOD[:20].encode()) + gzip.compress(GOOD[20:].encode()), HISTORIES),
}
READ["a negative timestamp"][1][2] += [(20, 102)] * 2 + [(20, 103)] * 2


def documented() -> dict[str, str]:
    """Returns the table of docs/data.md: outcomes by file."""
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    section = text.partition("## Files that are not as they should be")[2]
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", section, re.MULTILINE)
    return {file: outcome for file, outcome in rows if file not in ("file", "---")}


def test_the_table_and_the_tests_are_the_same_files():
    assert list(documented()) == [*REFUSED, *READ]


@pytest.mark.parametrize("file", REFUSED)
def test_refused(tmp_path, file):
    made = REFUSED[file]
    path = tmp_path / "a.csv"
    path.write_bytes(made) if isinstance(made, bytes) else made(path)
    match = re.fullmatch(r"refused: `(.+)`", documented()[file])
    assert match, documented()[file]
    with pytest.raises(NannError) as error:
        convert(path, tmp_path / "out", Rules(min_item_count=1, validation=1, test=0))
    assert match[1] in str(error.value)
    assert str(path) in str(error.value)
    assert len(str(error.value)) < 500
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.csv"]


@pytest.mark.medium
@pytest.mark.parametrize("file", READ)
def test_read(tmp_path, file):
    content, histories = READ[file]
    assert documented()[file].startswith("read")
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    # In the file with rare items, an item needs three rows.
    least = 3 if "rare" in file else 1
    if least == 3:
        path.write_bytes(content + b"1,21,3,pv,106\n1,21,3,pv,107\n")
        histories = {**histories, 1: [*histories[1], (21, 106), (21, 107)]}
    convert(path, tmp_path / "out", Rules(min_item_count=least, validation=1, test=0))
    _, arrays = load(tmp_path / "out")
    items = arrays["item_ids"][arrays["sequence_items"] - 1].tolist()
    pairs = list(zip(items, arrays["sequence_times"].tolist(), strict=True))
    splits = arrays["row_splits"].tolist()
    read = {
        user: pairs[begin:end]
        for user, begin, end in zip(arrays["user_ids"].tolist(), splits[:-1], splits[1:], strict=True)
    }
    assert read == histories
    if "two categories" in file:  # Item 20 is once under category 3, twice under 4.
        categories = arrays["category_ids"][arrays["item_categories"] - 1]
        assert dict(zip(arrays["item_ids"].tolist(), categories.tolist(), strict=True)) == {20: 4, 21: 3}
