"""Reads behaviours from files, folders and archives, in blocks of bounded size.

A source is CSV (plain, gzip, members of a zip) or Parquet, or a folder of such parts, read in the order of their names.
A part's kind is recognized by its first bytes, not by its name.
"""

import gzip
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, cast

import polars as pl

from tfserving_ext.data.behavior_csv import COLUMNS, BadLineError, check_frame, parse_lines, without_header
from tfserving_ext.errors import NannError
from tfserving_ext.local_paths import check_local

MAX_LINE_BYTES = 1 << 20
ROW_BYTES = 40  # Blocks are measured in bytes of CSV; a row of Parquet counts as this many.
_SUFFIXES = (".csv", ".txt", ".gz", ".zip", ".parquet")
# The first bytes of files that users may mistake for a part.
_UNREADABLE = {b"BZh": "bzip2", b"\xfd7zX": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"7z\xbc\xaf": "7z", b"Rar!": "rar"}


@dataclass(frozen=True)
class Part:
    """One stream of rows.

    Attributes:
      path: the file.
      kind: "csv", "gzip", "zip" or "parquet".
      member: the name inside a zip archive.
      size: the part's size in bytes, for progress: that of the file, but uncompressed for a zip's member.
    """

    path: Path
    kind: str
    size: int
    member: str = ""

    @property
    def name(self) -> str:
        """The part's name in messages."""
        return f"{self.path}:{self.member}" if self.member else str(self.path)


@dataclass(frozen=True)
class Block:
    """Some rows of one part.

    Attributes:
      part: the part's place in the list of parts.
      start: where the block begins in the part: in bytes of uncompressed CSV, or rows of Parquet.
      end: where the next block begins.
      consumed: how much of the part's `size` has been read when the block ends.
      content: lines of CSV, or a frame. None for plain CSV: `rows` then reads the file, so that many threads can read
        at once.
    """

    part: int
    start: int
    end: int
    consumed: int
    content: bytes | pl.DataFrame | None

    def rows(self, parts: Sequence[Part]) -> pl.DataFrame:
        """Returns the checked rows, a frame of `COLUMNS`.

        Raises:
          NannError: a row is bad; the message says which.
        """
        part = parts[self.part]
        if isinstance(self.content, pl.DataFrame):
            return check_frame(self.content, part.name, self.start + 1)
        text, skipped = self._text(part), 0
        try:
            if self.start == 0:
                text, skipped = without_header(text)
            return parse_lines(text)
        except BadLineError as bad:
            line = 1 + _lines_before(part, self.start) + skipped + bad.line
            raise NannError(f"{part.name}, line {line}: {bad}") from bad

    def _text(self, part: Part) -> bytes:
        if isinstance(self.content, bytes):
            return self.content
        try:
            with part.path.open("rb") as file:
                file.seek(self.start)
                return file.read(self.end - self.start)
        except OSError as error:
            raise NannError(f"cannot read {part.name}: {error.strerror or error}") from error


def find_parts(paths: Sequence[str | os.PathLike[str]]) -> list[Part]:
    """Finds the parts of files and folders, in order.

    Raises:
      NannError: a path is missing, a folder has no part, or an archive is damaged, encrypted or without CSV.
    """
    parts: list[Part] = []
    for given in paths:
        check_local(given)
        path = Path(given)
        if not path.exists():
            raise NannError(f"{path} does not exist")
        files = [path]
        if path.is_dir():
            files = sorted(
                file
                for file in path.iterdir()
                # Hadoop and Spark leave _SUCCESS and .crc files beside their parts.
                if file.is_file() and file.name[0] not in "._" and (file.suffix.lower() in _SUFFIXES)
            )
            if not files:
                raise NannError(f"{path} holds no part; a part's name ends in {', '.join(_SUFFIXES)}")
        for file in files:
            parts += _parts_of(file)
    return parts


def _parts_of(file: Path) -> list[Part]:
    try:
        with file.open("rb") as opened:
            magic = opened.read(4)
        size = file.stat().st_size
        if magic == b"PAR1":
            return [Part(file, "parquet", size)]
        if magic[:2] == b"\x1f\x8b":
            return [Part(file, "gzip", size)]
        for start, called in _UNREADABLE.items():
            if magic.startswith(start):
                raise NannError(f"{file} is a {called} file; unpack it, or pack it as gzip or zip")
        if magic[:2] != b"PK":
            return [Part(file, "csv", size)]
        with zipfile.ZipFile(file) as archive:
            members = [
                info
                for info in archive.infolist()
                if not info.is_dir() and not info.filename.startswith(("__MACOSX/", "."))
            ]
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError) as error:
        raise NannError(f"{file} is a damaged or truncated zip file: {error}") from error
    except OSError as error:
        raise NannError(f"cannot read {file}: {error.strerror or error}") from error
    wanted = [info for info in members if Path(info.filename).suffix.lower() in (".csv", ".txt")]
    if not wanted:
        names = ", ".join(info.filename for info in members[:3]) or "nothing"
        raise NannError(f"{file} holds no .csv or .txt; it holds {names}")
    if encrypted := [info.filename for info in wanted if info.flag_bits & 1]:
        raise NannError(f"{file}: {encrypted[0]} is encrypted; decrypt it first")
    # zipfile unpacks other methods without a bound on the size of what it returns.
    bounded = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    if packed := [info.filename for info in wanted if info.compress_type not in bounded]:
        raise NannError(f"{file}: {packed[0]} is compressed by a method other than deflate; pack it again by deflate")
    if twice := [name for name, times in Counter(info.filename for info in wanted).items() if times > 1]:
        raise NannError(f"{file} has two members called {twice[0]}; pack it again")
    return [Part(file, "zip", info.file_size, info.filename) for info in sorted(wanted, key=lambda i: i.filename)]


def read_blocks(parts: Sequence[Part], block_bytes: int, first: tuple[int, int] = (0, 0)) -> Iterator[Block]:
    """Yields the rows of all parts, in order, about `block_bytes` of CSV at a time.

    The blocks depend on the parts and `block_bytes` alone, so that reading can resume where another run stopped.

    Args:
      parts: from `find_parts`.
      block_bytes: uncompressed bytes of CSV; a block is extended to the end of its last line. A row of Parquet counts
        as `ROW_BYTES`.
      first: part and start of the first block to read: where the last known block ended.

    Raises:
      NannError: a part is empty, truncated or damaged, or has too long a line.
    """
    for place in range(first[0], len(parts)):
        start = first[1] if place == first[0] else 0
        if parts[place].kind == "parquet":
            yield from _parquet_blocks(parts[place], place, max(1, block_bytes // ROW_BYTES), start)
        else:
            yield from _csv_blocks(parts[place], place, block_bytes, start)


def _csv_blocks(part: Part, place: int, block_bytes: int, start: int) -> Iterator[Block]:
    try:
        with part.path.open("rb") as raw:
            file = _uncompressed(raw, part)
            file.seek(start)  # In a compressed stream this reads and discards the bytes before.
            while True:
                if part.kind == "csv":
                    content = None
                    file.seek(end := min(part.size, start + block_bytes))
                else:
                    content = file.read(block_bytes)
                    end = start + len(content)
                rest = file.readline(MAX_LINE_BYTES)
                if len(rest) == MAX_LINE_BYTES:
                    line = 1 + _lines_before(part, end)
                    raise NannError(
                        f"{part.name}, line {line}: longer than {MAX_LINE_BYTES} bytes; is this a CSV file?"
                    )
                end += len(rest)
                if end == start:
                    break
                consumed = raw.tell() if part.kind == "gzip" else end
                yield Block(place, start, end, consumed, None if content is None else content + rest)
                start = end
            if start == 0:
                raise NannError(f"{part.name} is empty; rows of {','.join(COLUMNS)} are expected")
    except EOFError as error:
        raise NannError(f"{part.name} is a truncated {part.kind} file: it ends too early") from error
    except (gzip.BadGzipFile, zipfile.BadZipFile, zlib.error) as error:
        raise NannError(f"{part.name} is a damaged {part.kind} file: {error}") from error
    except (OSError, NotImplementedError) as error:  # zipfile raises the latter for a method that it does not know.
        raise NannError(f"cannot read {part.name}: {getattr(error, 'strerror', None) or error}") from error


def _lines_before(part: Part, end: int) -> int:
    """Counts the line ends before a place in the uncompressed text; reads the part again, for error messages only."""
    lines = 0
    with part.path.open("rb") as raw:
        file = _uncompressed(raw, part)
        while end > 0 and (text := file.read(min(end, 1 << 24))):
            lines += text.count(b"\n")
            end -= len(text)
    return lines


def _uncompressed(raw: BinaryIO, part: Part) -> IO[bytes]:
    if part.kind == "gzip":
        return cast(IO[bytes], gzip.GzipFile(fileobj=raw))
    return zipfile.ZipFile(raw).open(part.member) if part.kind == "zip" else raw


def _parquet_blocks(part: Part, place: int, rows: int, start: int) -> Iterator[Block]:
    try:
        scan = pl.scan_parquet(part.path, glob=False)
        missing = [column for column in COLUMNS if column not in scan.collect_schema()]
        if missing:
            raise NannError(
                f"{part.name} has no column {', '.join(missing)}; it has {', '.join(scan.collect_schema())}; "
                f"{', '.join(COLUMNS)} are expected"
            )
        height = scan.select(pl.len()).collect().item()
        if not height:
            raise NannError(f"{part.name} is empty; rows of {','.join(COLUMNS)} are expected")
        for begin in range(start, height, rows):
            frame = scan.select(COLUMNS).slice(begin, rows).collect()
            end = begin + frame.height
            yield Block(place, begin, end, part.size * end // height, frame)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise NannError(f"cannot read {part.name}: {str(error).partition(chr(10))[0]}") from error
