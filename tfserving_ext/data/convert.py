"""From a UserBehavior CSV to the `nann-sequences` folder that training, evaluation and index building read.

Memory at its peak is about 45 bytes a row of the CSV: 4.5 GB for 100 million rows.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from tfserving_ext.artifacts import atomic_folder, sha256, write_json
from tfserving_ext.data.behavior_csv import BEHAVIORS, read_blocks
from tfserving_ext.data.sequence_format import FORMAT, FORMAT_VERSION, SPLITS
from tfserving_ext.errors import NannError
from tfserving_ext.progress import progress

_PAIRS_IN_MEMORY = 8_000_000


def convert(
    csv: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    min_item_count: int = 5,
    min_user_count: int = 2,
    validation: int | float = 10_000,
    test: int | float = 10_000,
    behaviors: Sequence[str] = BEHAVIORS,
    time_range: tuple[int, int] | None = None,
    seed: int = 0,
) -> Path:
    """Converts a UserBehavior file to a `nann-sequences` folder.

    Rows are dropped in this order, and counted: behaviours not in `behaviors`, timestamps outside `time_range`, items
    with fewer than `min_item_count` rows left, users with fewer than `min_user_count` rows left. Identical rows are
    kept. An item seen under several categories gets its most frequent one, the lowest id among equals.

    Args:
      csv: rows of user_id,item_id,category_id,behavior_type,timestamp without a header, in any order, plain or gzip.
      target: the folder to write; it appears whole or not at all, and replaces an earlier one.
      min_item_count: rows an item needs, over the users of all splits.
      min_user_count: rows a user needs; with fewer than 2 there is nothing to predict from.
      validation: users held out for validation: a number, or a fraction below 1 of the users that are left.
      test: users held out for test, likewise.
      behaviors: the behaviour types to keep.
      time_range: first and last timestamp to keep, unix seconds, both inclusive; None keeps all.
      seed: of the shuffle that assigns users to splits.

    Returns:
      `target`.

    Raises:
      NannError: the file is missing or bad (the message names the line), a rule is out of range, nothing is left.
    """
    csv, target = Path(csv), Path(target)
    _check_rules(min_item_count, min_user_count, behaviors, time_range, seed)
    if target.resolve() in csv.resolve().parents:
        raise NannError(f"{target} holds {csv.name} and would be replaced; choose another folder")
    with atomic_folder(target) as folder:
        rows = _read(csv, behaviors, time_range)
        items = _item_table(rows.merged_pairs(), min_item_count)
        kept = _keep(rows, items, min_user_count)
        if not kept.items.size:
            raise NannError(
                f"{csv}: none of {rows.read:,} rows is left; dropped were {_listing(rows.dropped)}. Relax behaviors "
                f"{', '.join(behaviors)}, time_range {time_range}, min_item_count {min_item_count} or min_user_count "
                f"{min_user_count}"
            )
        splits = _split_users(kept.user_ids.size, validation, test, seed)
        lengths = np.diff(kept.row_splits)
        in_training = np.repeat(splits == 0, lengths)
        category_ids, categories = np.unique(items.categories, return_inverse=True)
        arrays = {
            "item_ids": items.ids,
            "item_categories": (categories + 1).astype(np.int32),
            "item_counts": np.bincount(kept.items[in_training] - 1, minlength=items.ids.size),
            "category_ids": category_ids,
            "user_ids": kept.user_ids,
            "user_splits": splits,
            "row_splits": kept.row_splits,
            "sequence_items": kept.items,
            "sequence_times": kept.times,
        }
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)
        manifest = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "counts": {
                "users": kept.user_ids.size,
                "items": items.ids.size,
                "categories": category_ids.size,
                "behaviors": kept.items.size,
                "rows_read": rows.read,
                "rows_read_by_behavior": dict(sorted(rows.read_by_behavior.items())),
                "rows_dropped": rows.dropped,
                "items_dropped": items.dropped,
                "users_dropped": kept.users_dropped,
                "items_of_several_categories": items.ambiguous,
            },
            "splits": {
                name: {"users": int(np.sum(splits == code)), "behaviors": int(np.sum(lengths[splits == code]))}
                for code, name in enumerate(SPLITS)
            },
            "rules": {
                "min_item_count": min_item_count,
                "min_user_count": min_user_count,
                "validation": validation,
                "test": test,
                "behaviors": list(behaviors),
                "time_range": time_range,
            },
            "seed": seed,
            "source": {"file": csv.name, "sha256": sha256(csv)},
        }
        write_json(folder / "manifest.json", manifest)
    return target


@dataclass
class _Rows:
    """What one pass over the file gathers."""

    blocks: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list)  # user, item, time; int64.
    pairs: list[pl.DataFrame] = field(default_factory=list)  # item_id, category_id and their rows, `len`.
    read: int = 0
    read_by_behavior: Counter[str] = field(default_factory=Counter)
    dropped: dict[str, int] = field(default_factory=dict)

    def merged_pairs(self) -> pl.DataFrame:
        """Sums the partial counts, so that an (item, category) pair stands once."""
        merged = pl.concat(self.pairs).group_by("item_id", "category_id").agg(pl.col("len").sum())
        self.pairs = [merged]
        return merged


@dataclass
class _Items:
    ids: np.ndarray  # int64 [V], ascending.
    categories: np.ndarray  # int64 [V], the data's own category ids.
    dropped: int
    ambiguous: int


@dataclass
class _Kept:
    """The histories, users ascending, each in time order."""

    user_ids: np.ndarray  # int64 [U]
    row_splits: np.ndarray  # int64 [U + 1]
    items: np.ndarray  # int32 [R], 1-based.
    times: np.ndarray  # int64 [R]
    users_dropped: int


def _check_rules(
    min_item_count: int, min_user_count: int, behaviors: Sequence[str], time_range: tuple[int, int] | None, seed: int
) -> None:
    for name, value, least in (
        ("min_item_count", min_item_count, 1),
        ("min_user_count", min_user_count, 1),
        ("seed", seed, 0),
    ):
        if value < least:
            raise NannError(f"{name} is {value}; it must be {least} or more")
    if not behaviors or (unknown := sorted(set(behaviors) - set(BEHAVIORS))):
        got = ", ".join(map(repr, unknown)) if behaviors else "empty"
        raise NannError(f"behaviors: got {got}; allowed are {', '.join(BEHAVIORS)}")
    if time_range and time_range[0] > time_range[1]:
        raise NannError(f"time_range is {time_range[0]} to {time_range[1]}; the first must not be above the last")


def _read(csv: Path, behaviors: Sequence[str], time_range: tuple[int, int] | None) -> _Rows:
    """Reads the file once, dropping by behaviour and time and counting items under their categories."""
    rows = _Rows(dropped={"behavior": 0, "time_range": 0, "rare_item": 0, "short_user": 0})
    for block in read_blocks(csv):
        rows.read += block.height
        rows.read_by_behavior.update(dict(block["behavior_type"].value_counts().iter_rows()))
        wanted = block.filter(pl.col("behavior_type").is_in(behaviors))
        rows.dropped["behavior"] += block.height - wanted.height
        in_time = wanted.filter(pl.col("timestamp").is_between(*time_range)) if time_range else wanted
        rows.dropped["time_range"] += wanted.height - in_time.height
        rows.blocks.append(
            (in_time["user_id"].to_numpy(), in_time["item_id"].to_numpy(), in_time["timestamp"].to_numpy())
        )
        rows.pairs.append(in_time.group_by("item_id", "category_id").len())
        # Merging costs as much as what is already merged: wait until as much again has come in.
        if sum(pairs.height for pairs in rows.pairs[1:]) > max(_PAIRS_IN_MEMORY, rows.pairs[0].height):
            rows.merged_pairs()
    return rows


def _item_table(pairs: pl.DataFrame, min_item_count: int) -> _Items:
    """Picks every item's category and drops the rare items."""
    pairs = pairs.sort(["item_id", "len", "category_id"], descending=[False, True, False])
    ids, first, spread = np.unique(pairs["item_id"].to_numpy(), return_index=True, return_counts=True)
    lens = pairs["len"].to_numpy().astype(np.int64)
    counts = np.add.reduceat(lens, first) if first.size else lens
    kept = counts >= min_item_count
    return _Items(
        ids=ids[kept],
        categories=pairs["category_id"].to_numpy()[first[kept]],
        dropped=int(np.sum(~kept)),
        ambiguous=int(np.sum(spread[kept] > 1)),
    )


def _keep(rows: _Rows, items: _Items, min_user_count: int) -> _Kept:
    """Drops rare items' rows and short users, and sorts by user, then time, then position in the file.

    Empties `rows.blocks` on the way and adds to `rows.dropped`.
    """
    every_user = np.unique(np.concatenate([np.unique(users) for users, _, _ in rows.blocks]))
    user_parts, item_parts, time_parts = [], [], []
    with progress("building the histories", len(rows.blocks) + 1) as advance:
        for _ in range(len(rows.blocks)):
            users, item_ids, times = rows.blocks.pop(0)  # Freed as it goes.
            found = np.searchsorted(items.ids, item_ids).astype(np.int32)
            known = np.zeros(found.size, bool) if not items.ids.size else items.ids.take(found, mode="clip") == item_ids
            rows.dropped["rare_item"] += int(np.sum(~known))
            user_parts.append(np.searchsorted(every_user, users[known]).astype(np.int32))
            item_parts.append(found[known] + 1)
            time_parts.append(times[known])
            advance()
        lengths = np.bincount(np.concatenate(user_parts), minlength=every_user.size)
        long = lengths >= min_user_count
        rows.dropped["short_user"] = int(np.sum(lengths[~long]))
        of_long = [long[users] for users in user_parts]
        users, found, times = (
            np.concatenate([part[kept] for part, kept in zip(parts, of_long, strict=True)])
            for parts in (user_parts, item_parts, time_parts)
        )
        del user_parts, item_parts, time_parts, of_long
        order = _time_order(users, times)
        advance()
    row_splits = np.concatenate([[0], np.cumsum(lengths[long])]).astype(np.int64)
    return _Kept(every_user[long], row_splits, found[order], times[order], int(np.sum(~long)))


def _time_order(users: np.ndarray, times: np.ndarray) -> np.ndarray:
    """The stable order by user, then time: int64 [R]."""
    if not users.size:
        return np.zeros(0, np.int64)
    earliest = int(times.min())
    span = int(times.max()) - earliest + 1
    if (int(users.max()) + 1) * span >= 2**63:
        return np.lexsort((times, users))
    # One packed key is about five times as fast as two, the more so where the file is almost sorted already.
    return np.argsort(users * np.int64(span) + (times - earliest), kind="stable")


def _split_users(users: int, validation: int | float, test: int | float, seed: int) -> np.ndarray:
    """The split of each user: uint8 [users]."""
    sizes = [_split_size(name, value, users) for name, value in (("validation", validation), ("test", test))]
    if sum(sizes) >= users:
        raise NannError(
            f"validation {sizes[0]:,} and test {sizes[1]:,} users of {users:,} leave none to train on; choose fewer, "
            f"or fractions such as validation=0.1, test=0.1"
        )
    shuffled = np.random.default_rng(seed).permutation(users)
    splits = np.zeros(users, np.uint8)
    splits[shuffled[: sizes[0]]] = 1
    splits[shuffled[sizes[0] : sum(sizes)]] = 2
    return splits


def _split_size(name: str, value: int | float, users: int) -> int:
    whole = isinstance(value, int)
    if not (value >= 0 and (whole or value < 1)):
        raise NannError(f"{name} is {value}; it must be a number of users or a fraction from 0 to below 1")
    return int(value) if whole else round(value * users)


def _listing(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} by {name}" for name, count in counts.items())
