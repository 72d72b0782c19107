"""Filters, from a table of attributes to the items that pass, against Polars' own expressions on the same table."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest
import tensorflow as tf

from tests.ops.searching import any_search
from tfserving_ext.index import Graph, Index, ItemStorage, Layer, write_index
from tfserving_ext.index.attributes import store_attributes
from tfserving_ext.index.resource import MappedIndex
from tfserving_ext.retrieval import BruteForce

N = 1500
WORDS = ["", "a", "A", "ab", "it's", "zoo", "Ärger", "日本", 'say "x"', "ab c"]
COLUMNS = ["count", "price", "small", "in_stock", "brand", "order by", "since", "tags", "sizes"]
ALGORITHMS = {
    "rounds": ([N, N, N], [1, 1, 2]),
    "deployed": ([N, N, N], []),
    "best_first": ([9, N], [0]),
    "surrogate": ([9, N], [0, 8]),
}


def write(folder, table: pl.DataFrame, ids: np.ndarray) -> Index:
    """Writes an index of `ids` in a ring, in which item i has the embedding [i, 1]."""
    n = len(ids)
    embeddings = np.stack([np.arange(n), np.ones(n)], axis=1).astype(np.float32)
    ring = Layer(np.arange(n + 1) * 2, ((np.arange(n)[:, None] + [1, 2]) % n).ravel().astype(np.int32))
    upper = Layer(np.zeros(n + 1, np.int64), np.zeros(0, np.int32))
    storage = ItemStorage(attributes=store_attributes(table, ids))
    return write_index(folder, ids, embeddings, Graph(np.array([0, n // 2]), [ring, upper]), {}, storage)


def random_table(rng: np.random.Generator) -> pl.DataFrame:
    """Returns a column of every type, with nulls."""

    def with_nulls(values: list) -> list:
        return [None if rng.random() < 0.15 else value for value in values]

    words = [str(word) for word in rng.choice(WORDS, N)]
    extremes = [2**63 - 1, -(2**63), 2**53 + 1]
    return pl.DataFrame(
        {
            "item_id": np.arange(N),
            "count": with_nulls([int(v) for v in rng.integers(-5, 6, N - 3)] + extremes),
            "price": with_nulls([float(v) for v in rng.integers(-8, 9, N - 1) / 4] + [float("inf")]),
            "small": pl.Series(rng.integers(0, 9, N), dtype=pl.UInt8),
            "in_stock": with_nulls([bool(v) for v in rng.integers(0, 2, N)]),
            "brand": with_nulls(words),
            "order by": pl.Series(words, dtype=pl.Categorical),
            "since": pl.Series(with_nulls([int(v) * 43200 for v in rng.integers(-9, 9, N)])).cast(pl.Int64) * 1_000_000,
            "tags": with_nulls([[str(w) for w in rng.choice(WORDS, rng.integers(0, 4))] for _ in range(N)]),
            "sizes": with_nulls([[int(v) for v in rng.integers(0, 9, rng.integers(0, 3))] for _ in range(N)]),
        },
        strict=False,
        schema_overrides={"tags": pl.List(pl.String), "sizes": pl.List(pl.Int32)},
    ).with_columns(pl.col("since").cast(pl.Datetime("us")))


@dataclass
class RandomFilter:
    """Draws filters, each as a text and as an expression of Polars."""

    rng: np.random.Generator

    def draw(self, depth: int = 3) -> tuple[str, pl.Expr]:
        kind = self.rng.integers(0, 4) if depth else 3
        if kind == 3:
            return self.comparison()
        text, expression = self.draw(depth - 1)
        if kind == 2:
            return f"NOT ({text})" if self.rng.random() < 0.7 else f"not {self.bare(text)}", ~expression
        other_text, other = self.draw(depth - 1)
        if kind == 0:
            return f"({text}) AND ({other_text})", expression & other
        return f"({text}) or ({other_text})", expression | other

    def bare(self, text: str) -> str:
        return f"({text})" if " " in text else text

    def comparison(self) -> tuple[str, pl.Expr]:
        column = str(
            self.rng.choice(["count", "price", "small", "in_stock", "brand", "order by", "since", "tags", "sizes"])
        )
        name, value = f'"{column}"' if " " in column else column, pl.col(column)
        if self.rng.random() < 0.1:
            return (f"{name} IS NULL", value.is_null()) if self.rng.random() < 0.5 else (
                f"{name} is not null", value.is_not_null()
            )  # fmt: skip
        if column in ("tags", "sizes"):
            return self.has(name, value, "brand" if column == "tags" else "small")
        if column == "in_stock" and self.rng.random() < 0.5:
            return name, value
        if column == "order by":
            value = value.cast(pl.String)
        if self.rng.random() < 0.3:
            literals = [self.literal(column) for _ in range(self.rng.integers(1, 5))]
            listed = value.is_in(pl.Series([one for _, one in literals]).implode())
            negated = self.rng.random() < 0.5
            texts = ", ".join(text for text, _ in literals)
            return f"{name} {'NOT ' if negated else ''}IN ({texts})", ~listed if negated else listed
        symbols: dict[str, Callable] = {"=": value.eq, "!=": value.ne, "<>": value.ne}
        if column != "in_stock":
            symbols |= {"<": value.lt, "<=": value.le, ">": value.gt, ">=": value.ge}
        symbol = str(self.rng.choice(list(symbols)))
        text, literal = self.literal(column)
        return f"{name}{symbol}{text}", symbols[symbol](pl.lit(literal))

    def has(self, name: str, value: pl.Expr, like: str) -> tuple[str, pl.Expr]:
        literals = [self.literal(like) for _ in range(self.rng.integers(1, 4))]
        if len(literals) == 1:
            return f"{name} HAS {literals[0][0]}", value.list.contains(literals[0][1])
        found = pl.any_horizontal([value.list.contains(one) for _, one in literals])
        return f"{name} HAS ANY ({', '.join(text for text, _ in literals)})", found

    def literal(self, column: str):
        if column in ("brand", "order by"):
            word = str(self.rng.choice([*WORDS, "not there", "b"]))
            return "'" + word.replace("'", "''") + "'", word
        if column == "in_stock":
            return [("true", True), ("FALSE", False)][self.rng.integers(0, 2)]
        if column == "since":
            time = np.datetime64(int(self.rng.integers(-9, 9)) * 43200, "s")
            text = f"'{time}'" if self.rng.random() < 0.5 else str(time.astype(int))
            return text, pl.Series([time.astype("datetime64[us]").item()]).item()
        if column == "price":
            number = int(self.rng.integers(-8, 9)) / 4
            return f"{number:+}" if self.rng.random() < 0.5 else f"{number:e}", number
        number = int(self.rng.integers(-5, 9)) if self.rng.random() < 0.9 else 2**63 - 1
        return str(number), min(number, 99) if column == "small" else number


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    table = random_table(np.random.default_rng(5))
    return table, MappedIndex(write(tmp_path_factory.mktemp("filters") / "index", table, np.arange(N)))


def test_random_filters_pass_what_polars_says(world):
    table, index = world
    draws = RandomFilter(np.random.default_rng(1))
    some = 0
    for _ in range(1500):
        text, expression = draws.draw()
        passing = table.select(expression.fill_null(False).alias("passes"))["passes"].to_numpy()
        np.testing.assert_array_equal(index.passing(text), np.flatnonzero(passing), err_msg=text)
        some += 0 < passing.sum() < N
    assert some > 1000


def test_nulls_are_neither_equal_nor_different(tmp_path):
    """SQL's rule, written down item by item."""
    table = pl.DataFrame({"item_id": [0, 1, 2], "x": [1, 2, None], "tags": [["a", None], [], None]})
    index = MappedIndex(write(tmp_path / "index", table, np.arange(3)))
    for text, passing in (
        ("x = 1", [0]),
        ("x != 1", [1]),
        ("NOT x = 1", [1]),
        ("x = 1 OR NOT x = 1", [0, 1]),
        ("x IS NULL", [2]),
        ("x IS NULL OR x > 0", [0, 1, 2]),
        ("x > 0 AND NOT (x IS NULL AND x = 1)", [0, 1]),
        ("x NOT IN (2, 3)", [0]),
        ("tags HAS 'a'", [0]),
        ("NOT tags HAS 'a'", [1]),
        ("tags IS NULL", [2]),
        (" \n", [0, 1, 2]),
    ):
        np.testing.assert_array_equal(index.passing(text), passing, err_msg=text)


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """An index of 90 items whose prices differ, and a user for whom scores rise with the item."""
    ids = 1000 + np.arange(90)
    table = pl.DataFrame({"item_id": ids, "price": ids % 10, "even": ids % 2 == 0})
    return write(tmp_path_factory.mktemp("searched") / "index", table, ids)


def test_brute_force_scores_passing_items_alone(searched):
    index, ids = searched, searched.item_ids

    def score(user, items):
        return user[0][:, :1] * items[..., 0]

    users = (tf.constant([[1.0], [-1.0]]),)
    filters = ["price IN (3, 4) AND even", "price > 8"]
    wanted = [ids[ids % 10 == 4][::-1], ids[ids % 10 == 9]]
    for shared in (False, True):
        exact = BruteForce(index, score, chunk=16, shared_items=shared)
        found = exact.search(users, 12, filter=filters)
        for row in range(2):
            np.testing.assert_array_equal(found.item_ids[row], np.pad(wanted[row], [0, 3], constant_values=-1))
        np.testing.assert_array_equal(found.items_scored, [9, 9])
        assert np.isneginf(found.scores[:, 9:]).all() and np.isfinite(found.scores[:, :9]).all()
        found = exact.search(users, 4, filter=["price = 4"])
        np.testing.assert_array_equal(found.item_ids, [wanted[0][:4], wanted[0][::-1][:4]])
        np.testing.assert_array_equal(exact.search(users, 4).item_ids, exact.search(users, 4, [""]).item_ids)
        assert found.exact.numpy().all()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_search_answers_with_passing_items_alone(searched, algorithm):
    mapped, ids = MappedIndex(searched), searched.item_ids
    ef, rounds = ALGORITHMS[algorithm]
    users = [tf.constant([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])]
    filters = ["price IN (3, 4)", "even AND price > 7", ""]
    passing = [ids[np.isin(ids % 10, [3, 4])][::-1], ids[ids % 10 == 8], ids[::-1]]
    call = {"algorithm": algorithm, "exclude": np.repeat([[1004, 1008]], 3, axis=0)}
    found = any_search(mapped.resource_handle, users, "dot", 2, 30, ef, rounds, filter=filters, **call)
    for row, some in enumerate(passing):
        wanted = some[~np.isin(some, [1004, 1008])]
        answered = found.item_ids[row].numpy()
        assert set(answered) <= {*wanted, -1}
        if found.exact[row]:
            np.testing.assert_array_equal(answered[: len(wanted)], wanted[:30])
    assert found.exact.numpy().tolist() == [True, True, False]
    assert (found.items_scored.numpy()[:2] <= [18, 9]).all()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    ("filters", "words"),
    [
        (["price = 'x'"], "filter, character 9: expected a number, got 'x'; price is an int"),
        (["even", "even AND colour = 3"], "there is no column colour; the columns are price, even"),
        (["even"] * 3, r"filter has shape \[3\], it must be \[1\] or"),
        ([["even"]], r"filter has shape \[1,1\]"),
    ],
)
def test_a_wrong_filter_is_refused_before_anything_is_scored(searched, algorithm, filters, words):
    mapped = MappedIndex(searched)
    ef, rounds = ALGORITHMS[algorithm]
    users = [tf.ones([2, 2])]
    with pytest.raises(tf.errors.InvalidArgumentError, match=words):
        any_search(mapped.resource_handle, users, "dot", 2, 5, ef, rounds, algorithm=algorithm, filter=filters)


def test_an_index_without_attributes_takes_only_empty_filters(tmp_path):
    ring = Layer(np.arange(6), (np.arange(5, dtype=np.int32) + 1) % 5)
    plain = write_index(tmp_path / "index", np.arange(5), np.ones([5, 2], np.float32), Graph(np.array([0]), [ring]), {})
    mapped, users = MappedIndex(plain), [tf.ones([1, 2])]
    found = any_search(mapped.resource_handle, users, "dot", 2, 5, [9, 9], [0], algorithm="best_first", filter=[" "])
    assert set(found.item_ids.numpy()[0]) == set(range(5)) and not found.exact.numpy().any()
    with pytest.raises(tf.errors.InvalidArgumentError, match="the index has no attributes; build it with"):
        mapped.passing("price < 3")
