"""Makes up behaviours shaped like UserBehavior, to measure speed and memory at scale; never to claim accuracy.

Popularity follows Zipf's law: a category's weight is one over its rank, and an item's one over its rank within its
category. A user has an interest, a category that most of its behaviours are in and that changes over time; the other
behaviours follow popularity. Ids are shuffled, so that they say nothing about popularity. As in the real file, a few
timestamps are garbage, and a few rows name another category than their item's.
"""

import gzip
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np
import polars as pl

from tfserving_ext.artifacts import atomic_file
from tfserving_ext.data.behavior_csv import BEHAVIORS, COLUMNS
from tfserving_ext.data.rows import cores
from tfserving_ext.errors import NannError
from tfserving_ext.outputs import check_file_replaceable
from tfserving_ext.progress import progress

# Of UserBehavior: the numbers of rows, users, items and categories, and the share of each of BEHAVIORS.
ROWS, USERS, ITEMS, CATEGORIES = 100_150_807, 987_994, 4_162_024, 9_439
_BEHAVIOR_SHARES = (0.8958, 0.0201, 0.0553, 0.0288)
FIRST_TIME, LAST_TIME = 1_511_539_200, 1_512_316_799  # Unix seconds: 2017-11-25 to 2017-12-03, as days of Beijing.
_GARBAGE_TIMES, _OTHER_CATEGORIES = 0.0005, 0.0002
_IN_INTEREST, _NEW_INTEREST = 0.8, 0.04
_USERS_AT_ONCE, _ROWS_AT_ONCE = 20_000, 2_100_000  # A chunk is as small as the smaller of these makes it.
_MOST_ROWS_A_USER = 1_000_000


@dataclass(frozen=True)
class SynthConfig:
    """The size of the made-up data.

    Attributes:
      rows: number of behaviours.
      users: approximate number of users; None for as many behaviours a user as in UserBehavior, 101.
      items: the most items that may occur; None for UserBehavior's number, scaled by the square root of its share of
        rows.
      categories: the most categories that may occur, likewise.
      seed: for all draws.
    """

    rows: int = ROWS
    users: int | None = None
    items: int | None = None
    categories: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises NannError if a value is out of its range."""
        for name, low, high in (("rows", 1, 2**40), ("users", 1, 2**31), ("items", 1, 2**31), ("categories", 1, 2**31)):
            value = getattr(self, name)
            if value is not None and not low <= value < high:
                raise NannError(f"{name} is {value}, allowed are {low} to {high - 1}")
        if self.seed < 0:
            raise NannError(f"seed is {self.seed}, allowed are 0 and above")
        if self.users and self.rows / self.users > _MOST_ROWS_A_USER:
            raise NannError(
                f"rows is {self.rows} and users {self.users}, allowed are at most {_MOST_ROWS_A_USER} rows a user"
            )
        items, categories = self.sizes()
        if categories > items:
            raise NannError(f"categories is {categories}, allowed are at most as many as there are items, {items}")

    def sizes(self) -> tuple[int, int]:
        """Returns the numbers of items and categories."""
        scale = (self.rows / ROWS) ** 0.5
        items = self.items or max(1, round(ITEMS * scale))
        return items, self.categories or min(items, max(1, round(CATEGORIES * scale)))


def synth(target: str | os.PathLike[str], config: SynthConfig = SynthConfig(), force: bool = False) -> int:
    """Writes made-up behaviours as CSV, compressed by gzip if the name ends in `.gz`, sorted by user.

    The same configuration gives the same file, on any number of cores.

    Example:
      >>> from tfserving_ext.data.synth import SynthConfig
      >>> users = nann.synth("made_up.csv", SynthConfig(rows=10_000, items=500))
      >>> 0 < users < 10_000
      True

    Args:
      target: the file; it appears whole or not at all.
      config: the size of the data.
      force: replace an existing file. Otherwise none is replaced, since a file of real behaviours looks the same.

    Returns:
      The number of users.

    Raises:
      NannError: the file cannot be written.
    """
    target = Path(target)
    check_file_replaceable(target, "made-up behaviours", "", force)
    users = 0
    with (
        atomic_file(target) as path,
        path.open("wb") as raw,
        closing(
            cast(IO[bytes], gzip.GzipFile("", "wb", fileobj=raw, mtime=0)) if target.suffix == ".gz" else raw
        ) as file,
        progress("making rows", config.rows) as advance,
    ):
        for text, rows, made_users in _texts(config):
            file.write(text)
            users += made_users
            advance(rows)
    return users


def _texts(config: SynthConfig) -> Iterator[tuple[bytes, int, int]]:
    """Yields lines of CSV, their number, and the number of their users; made on all cores, in order."""
    corpus = _Corpus(config)
    left, chunk = config.rows, 0
    waiting: list[Future[tuple[pl.DataFrame, bytes]]] = []
    with ThreadPoolExecutor(cores()) as pool:
        while left > 0:
            while len(waiting) <= cores():
                waiting.append(pool.submit(corpus.chunk, chunk))
                chunk += 1
            frame, text = waiting.pop(0).result()
            if frame.height > left:
                frame = frame[:left]
                text = frame.write_csv(include_header=False).encode()
            left -= frame.height
            yield text, frame.height, frame["user_id"].n_unique()
        for future in waiting:
            future.cancel()


class _Corpus:
    """The items, and the behaviours of any chunk of users.

    Attributes:
      users_at_once: users in a chunk; depends on the configuration alone.
    """

    def __init__(self, config: SynthConfig) -> None:
        self._seed = config.seed
        users = config.users or max(1, round(config.rows * USERS / ROWS))
        self._mean_length = config.rows / users
        self.users_at_once = max(1, min(_USERS_AT_ONCE, int(_ROWS_AT_ONCE // self._mean_length)))
        items, categories = config.sizes()
        weights = 1.0 / np.arange(1, categories + 1)
        self._cumulative = np.cumsum(weights) / weights.sum()
        # Every category has one item; the other items are spread over categories by popularity.
        sizes = 1 + np.floor((items - categories) * np.diff(self._cumulative, prepend=0)).astype(np.int64)
        sizes[0] += items - sizes.sum()
        self._sizes, self._starts = sizes, np.cumsum(sizes) - sizes
        rng = np.random.default_rng([config.seed, 0])
        self._item_ids = rng.permutation(items) + 1
        self._category_ids = rng.permutation(categories) + 1

    def chunk(self, number: int) -> tuple[pl.DataFrame, bytes]:
        """Returns the behaviours of the `number`th chunk of users, as a frame and as CSV."""
        at_once = self.users_at_once
        rng = np.random.default_rng([self._seed, 1, number])
        # As in UserBehavior, lengths are log-normal with a median of two thirds of the mean.
        sigma = 0.9
        drawn = rng.lognormal(np.log(self._mean_length) - sigma**2 / 2, sigma, at_once)
        lengths = np.maximum(1, np.round(drawn)).astype(np.int64)
        users = np.repeat(np.arange(at_once) + number * at_once + 1, lengths)
        rows = users.size
        first = np.zeros(rows, bool)
        first[np.cumsum(lengths) - lengths] = True
        interest = np.cumsum(first | (rng.random(rows) < _NEW_INTEREST)) - 1
        interests = self._categories(rng.random(int(interest[-1]) + 1))
        wandering = rng.random(rows) >= _IN_INTEREST
        categories = np.where(wandering, self._categories(rng.random(rows)), interests[interest])
        # Log-uniform ranks: the weight of rank r is log(1 + 1 / r), nearly 1 / r.
        ranks = np.exp(rng.random(rows) * np.log1p(self._sizes[categories])).astype(np.int64) - 1
        items = self._starts[categories] + np.minimum(ranks, self._sizes[categories] - 1)
        # Times ascend within a user: cumulative gaps, scaled to the whole time range.
        gaps = np.cumsum(rng.standard_exponential(rows))
        begin = np.repeat(np.where(first)[0], lengths)
        elapsed = (gaps - gaps[begin]) / np.maximum(
            1e-9, np.repeat(gaps[np.cumsum(lengths) - 1], lengths) - gaps[begin]
        )
        times = FIRST_TIME + (elapsed * (LAST_TIME - FIRST_TIME)).astype(np.int64)
        garbage = rng.random(rows) < _GARBAGE_TIMES
        times[garbage] = rng.integers(-(2**31), 2**31, int(garbage.sum()))
        strange = rng.random(rows) < _OTHER_CATEGORIES
        categories[strange] = self._categories(rng.random(int(strange.sum())))
        behaviors = np.searchsorted(np.cumsum(_BEHAVIOR_SHARES)[:-1], rng.random(rows), side="right")
        columns = (users, self._item_ids[items], self._category_ids[categories], behaviors, times)
        frame = pl.DataFrame(dict(zip(COLUMNS, columns, strict=True))).with_columns(
            pl.col("behavior_type").replace_strict(range(len(BEHAVIORS)), BEHAVIORS, return_dtype=pl.String)
        )
        return frame, frame.write_csv(include_header=False).encode()

    def _categories(self, uniform: np.ndarray) -> np.ndarray:
        return np.minimum(np.searchsorted(self._cumulative, uniform), self._cumulative.size - 1)
