import gzip
import zipfile
from pathlib import Path

import polars as pl
import pytest

from tfserving_ext.data.behavior_csv import COLUMNS
from tfserving_ext.data.sources import MAX_LINE_BYTES, find_parts, read_blocks
from tfserving_ext.errors import NannError

GOOD = "1,20,3,pv,100\n1,21,3,buy,-5\n2,20,4,cart,102\n3,22,4,fav,103\n"
ROWS = [(1, 20, 3, "pv", 100), (1, 21, 3, "buy", -5), (2, 20, 4, "cart", 102), (3, 22, 4, "fav", 103)]


def rows_of(path: Path, block_bytes: int = 1 << 20) -> list[tuple]:
    parts = find_parts([path])
    return [row for block in read_blocks(parts, block_bytes) for row in block.rows(parts).iter_rows()]


@pytest.mark.parametrize("block_bytes", [1, 7, 14, 15, 29, 1000])
@pytest.mark.parametrize("text", [GOOD, GOOD.rstrip("\n"), GOOD.replace("\n", "\r\n")])
def test_reads_every_row_whatever_the_block(tmp_path, text, block_bytes):
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode())
    assert rows_of(path, block_bytes) == ROWS


def test_reads_gzip_whatever_the_name(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(gzip.compress(GOOD[:30].encode()) + gzip.compress(GOOD[30:].encode()))
    assert rows_of(path, 20) == ROWS


@pytest.mark.parametrize("block_bytes", [10, 1 << 20])
@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("1,2,pv,4", ["4 fields", "5 are expected"]),
        ("1,2,3,pv,4,5", ["6 fields", "5 are expected"]),
        ("1,2x,3,pv,4", ["item_id is '2x'", "integer"]),
        ("1,2.0,3,pv,4", ["item_id is '2.0'", "integer"]),
        ('"1x",2,3,pv,4', ["user_id is '1x'", "integer"]),
        ("1\t2\t3\tpv\t4", ["the delimiter", "is a tab", "',' is expected"]),
        ("1;2;3;pv;4", ["the delimiter", "is ';'", "',' is expected"]),
        ("1,2,,pv,4", ["category_id is ''", "integer"]),
        ("1,2,3,pv,", ["timestamp is ''", "integer"]),
        ("-1,2,3,pv,4", ["user_id is -1", "0 or more"]),
        ("1,2,-3,pv,4", ["category_id is -3", "0 or more"]),
        ("1,99999999999999999999,3,pv,4", ["item_id is 99999999999999999999", "64 bits"]),
        ("1,2,3,click,4", ["behavior_type is 'click'", "pv, buy, cart, fav"]),
        ("1,2,3,,4", ["behavior_type is ''", "pv, buy, cart, fav"]),
        ("", ["an empty line"]),
        ("1,2,3,p\udcffv,4", [r"behavior_type is 'p\\xffv'"]),
    ],
)
def test_names_the_line_that_is_bad(tmp_path, bad, words, block_bytes):
    path = tmp_path / "a.csv"
    path.write_bytes(f"{GOOD}{bad}\n{GOOD}".encode(errors="surrogateescape"))
    with pytest.raises(NannError) as error:
        rows_of(path, block_bytes)
    for word in ["a.csv, line 5: ", *words]:
        assert word in str(error.value)


HEADER = "user_id,item_id,category_id,behavior_type,timestamp\n"


@pytest.mark.parametrize("head", ["", "\ufeff", HEADER, "\ufeff" + HEADER, HEADER.upper().replace("\n", "\r\n")])
@pytest.mark.parametrize("block_bytes", [1, 60, 1000])
def test_a_byte_order_mark_and_a_header_of_the_columns_are_skipped(tmp_path, head, block_bytes):
    path = tmp_path / "a.csv"
    path.write_bytes((head + GOOD).encode())
    assert rows_of(path, block_bytes) == ROWS
    path.write_bytes((head + GOOD + "bad\n").encode())
    with pytest.raises(NannError, match=rf"a\.csv, line {5 + ('user' in head.lower())}: 1 fields"):
        rows_of(path, block_bytes)


def test_another_header_and_utf_16_are_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("user,item,category,behavior,time\n" + GOOD)
    with pytest.raises(NannError, match=r"a\.csv, line 1: .*header"):
        rows_of(path)
    path.write_text(GOOD, encoding="utf-16")
    with pytest.raises(NannError, match=r"a\.csv, line 1: this is UTF-16; UTF-8 is expected"):
        rows_of(path)


@pytest.mark.parametrize("block_bytes", [1, 25, 1000])
def test_fields_may_be_quoted(tmp_path, block_bytes):
    path = tmp_path / "a.csv"
    path.write_text('"1","20","3","pv","100"\n1,21,3,buy,-5\n2,20,4,"cart",102\r\n"3",22,4,fav,103')
    assert rows_of(path, block_bytes) == ROWS


def zipped(path: Path, members: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_that_cannot_be_unpacked_in_bounded_memory_is_refused(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("a.csv", GOOD)
    with pytest.raises(NannError, match=r"a\.csv is compressed by a method other than deflate"):
        find_parts([tmp_path / "a.zip"])


def test_a_zip_with_two_members_of_one_name_is_refused(tmp_path):
    """Opening a member by name opens the last of that name, so the first would be lost."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        for _ in range(2):
            archive.writestr("a.csv", GOOD)
    with pytest.raises(NannError, match=r"two members called a\.csv"):
        find_parts([tmp_path / "a.zip"])


@pytest.mark.parametrize("block_bytes", [20, 1000])
def test_reads_a_folder_of_parts_of_every_kind_in_the_order_of_names(tmp_path, block_bytes):
    folder = tmp_path / "parts"
    folder.mkdir()
    lines = GOOD.splitlines(keepends=True)
    (folder / "part-0.csv").write_text(lines[0])
    (folder / "part-1.csv.gz").write_bytes(gzip.compress(lines[1].encode()))
    zipped(folder / "part-2.zip", {"UserBehavior.csv": lines[2], "__MACOSX/._UserBehavior.csv": "x", "readme.md": "x"})
    frame = pl.DataFrame([ROWS[3]], schema=COLUMNS, orient="row")
    frame.with_columns(pl.col("user_id").cast(pl.UInt64), extra=1).write_parquet(folder / "part-3.parquet")
    (folder / "_SUCCESS").write_text("")
    (folder / ".part-0.csv.crc").write_text("x")
    assert rows_of(folder, block_bytes) == ROWS


def test_the_blocks_of_parquet_start_anywhere(tmp_path):
    rows = [(user, 1, 2, "pv", user) for user in range(100)]
    pl.DataFrame(rows, schema=COLUMNS, orient="row").write_parquet(tmp_path / "a.parquet", row_group_size=7)
    parts = find_parts([tmp_path / "a.parquet"])
    blocks = list(read_blocks(parts, 11 * 40))
    assert [row for block in blocks for row in block.rows(parts).iter_rows()] == rows
    rest = list(read_blocks(parts, 11 * 40, (0, blocks[3].end)))
    assert [block.rows(parts).rows() for block in rest] == [block.rows(parts).rows() for block in blocks[4:]]


@pytest.mark.parametrize("kind", ["plain", "gzip", "zip"])
def test_the_blocks_of_csv_start_anywhere(tmp_path, kind):
    text = HEADER + "".join(f"{user},1,2,pv,{user * 7}\n" for user in range(500))
    path = tmp_path / "a"
    if kind == "zip":
        zipped(path, {"a.csv": text})
    else:
        path.write_bytes(gzip.compress(text.encode()) if kind == "gzip" else text.encode())
    parts = find_parts([path])
    blocks = list(read_blocks(parts, 256))
    assert len(blocks) > 20
    for nth in (1, 7, len(blocks) - 1):
        before = blocks[nth - 1]
        assert list(read_blocks(parts, 256, (0, before.end))) == blocks[nth:]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"timestamp": None}, ["has no column timestamp", "it has user_id, item_id"]),
        ({"item_id": pl.Series([1.5, 2.5])}, ["item_id is Float64; an integer is expected"]),
        ({"behavior_type": pl.Series([1, 2])}, ["behavior_type is Int64; text is expected"]),
        ({"item_id": pl.Series([1, None])}, ["row 2: item_id is ''; an integer is expected"]),
        ({"user_id": pl.Series([1, -2])}, ["row 2: user_id is -2; ids are 0 or more"]),
        ({"user_id": pl.Series([1, 2**63], dtype=pl.UInt64)}, ["row 2: user_id is 9223372036854775808", "64 bits"]),
        ({"behavior_type": pl.Series(["pv", "click"])}, ["row 2: behavior_type is 'click'"]),
    ],
)
def test_names_the_row_of_parquet_that_is_bad(tmp_path, columns, words):
    frame = pl.DataFrame(ROWS[:2], schema=COLUMNS, orient="row")
    for column, values in columns.items():
        frame = frame.drop(column) if values is None else frame.with_columns(values.alias(column))
    frame.write_parquet(tmp_path / "a.parquet")
    with pytest.raises(NannError) as error:
        rows_of(tmp_path / "a.parquet")
    for word in ["a.parquet", *words]:
        assert word in str(error.value)


@pytest.mark.parametrize("data", [b"", gzip.compress(b"")], ids=["plain", "gzip"])
def test_an_empty_file_is_refused(tmp_path, data):
    path = tmp_path / "a.csv"
    path.write_bytes(data)
    with pytest.raises(NannError, match=r"a\.csv is empty"):
        rows_of(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(NannError, match=r"a\.csv does not exist"):
        rows_of(tmp_path / "a.csv")
    with pytest.raises(NannError, match=r"holds no part; a part's name ends in \.csv"):
        rows_of(tmp_path)


@pytest.mark.medium
def test_damaged_gzip_is_refused(tmp_path):
    path = tmp_path / "a.csv.gz"
    whole = gzip.compress(GOOD.encode() * 1000)
    path.write_bytes(whole[:-9])
    with pytest.raises(NannError, match=r"a\.csv\.gz is a truncated gzip file"):
        rows_of(path, 100)
    path.write_bytes(whole[:-8] + bytes(8))
    with pytest.raises(NannError, match=r"a\.csv\.gz is a damaged gzip file"):
        rows_of(path, 100)


def test_damaged_archives_are_refused(tmp_path):
    path = zipped(tmp_path / "a.zip", {"a.csv": GOOD * 1000})
    whole = path.read_bytes()
    path.write_bytes(whole[:-50])
    with pytest.raises(NannError, match=r"a\.zip is a damaged or truncated zip file"):
        rows_of(path)
    path.write_bytes(whole[:100] + bytes(20) + whole[120:])
    with pytest.raises(NannError, match=r"a\.zip:a\.csv is a damaged zip file"):
        rows_of(path)
    zipped(path, {"a.bin": "x"})
    with pytest.raises(NannError, match=r"a\.zip holds no \.csv or \.txt; it holds a\.bin"):
        rows_of(path)
    zipped(path, {"a.csv": GOOD})
    encrypted = path.read_bytes().replace(b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01")
    path.write_bytes(encrypted)
    with pytest.raises(NannError, match=r"a\.csv is encrypted"):
        rows_of(path)
    (tmp_path / "a.parquet").write_bytes(b"PAR1" + bytes(100))
    with pytest.raises(NannError, match=r"cannot read .*a\.parquet"):
        rows_of(tmp_path / "a.parquet")


def test_a_file_without_line_ends_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(GOOD.encode() + bytes(2 * MAX_LINE_BYTES))
    with pytest.raises(NannError, match="line 5: longer than"):
        rows_of(path, MAX_LINE_BYTES // 2)
