import gzip
from pathlib import Path

import pytest

from tfserving_ext.data.behavior_csv import MAX_LINE_BYTES, read_blocks
from tfserving_ext.errors import NannError

GOOD = "1,20,3,pv,100\n1,21,3,buy,-5\n2,20,4,cart,102\n3,22,4,fav,103\n"
ROWS = [(1, 20, 3, "pv", 100), (1, 21, 3, "buy", -5), (2, 20, 4, "cart", 102), (3, 22, 4, "fav", 103)]


def rows_of(path: Path, block_bytes: int = 1 << 20) -> list[tuple]:
    return [row for block in read_blocks(path, block_bytes) for row in block.iter_rows()]


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
        ('"1",2,3,pv,4', ["user_id is '\"1\"'", "integer"]),
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


def test_a_header_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("user_id,item_id,category_id,behavior_type,timestamp\n" + GOOD)
    with pytest.raises(NannError, match=r"a\.csv, line 1: .*header"):
        rows_of(path)


@pytest.mark.parametrize("data", [b"", gzip.compress(b"")])
def test_an_empty_file_is_refused(tmp_path, data):
    path = tmp_path / "a.csv"
    path.write_bytes(data)
    with pytest.raises(NannError, match=r"a\.csv is empty"):
        rows_of(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(NannError, match=r"a\.csv does not exist"):
        rows_of(tmp_path / "a.csv")
    with pytest.raises(NannError, match="cannot read"):
        rows_of(tmp_path)


def test_damaged_gzip_is_refused(tmp_path):
    path = tmp_path / "a.csv.gz"
    whole = gzip.compress(GOOD.encode() * 1000)
    path.write_bytes(whole[:-9])
    with pytest.raises(NannError, match=r"a\.csv\.gz is a truncated gzip file"):
        rows_of(path, 100)
    path.write_bytes(whole[:-8] + bytes(8))
    with pytest.raises(NannError, match=r"a\.csv\.gz is a damaged gzip file"):
        rows_of(path, 100)


def test_a_file_without_line_ends_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(GOOD.encode() + bytes(2 * MAX_LINE_BYTES))
    with pytest.raises(NannError, match="line 5: longer than"):
        rows_of(path, MAX_LINE_BYTES // 2)
