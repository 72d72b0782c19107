"""A made-up shop: the table of items and the requests that all rankers of this folder take.

    python -m examples.rankers.shop din

writes items.parquet and ranker.keras, the ranker of din.py, into the current folder.
"""

import importlib
import sys

import numpy as np
import polars as pl

BRANDS = ("acme", "bolt", "core", "dyna", "edge")
CATEGORIES = ("shoes", "shirts", "books", "games", "tools", "garden", "music", "toys")
COUNTRIES = ("DE", "FR", "JP", "US")
WORDS = ("red", "blue", "small", "large", "light", "warm", "classic", "new", "soft", "fast", "steel", "paper")
HISTORY = 12


def items(count: int = 1000) -> pl.DataFrame:
    """Returns a row per item: item_id, category, brand, price, title."""
    rng = np.random.default_rng(1)
    category, brand = rng.choice(CATEGORIES, count), rng.choice(BRANDS, count)
    words = rng.choice(WORDS, [count, 3])
    return pl.DataFrame(
        {
            "item_id": np.arange(count) * 7 + 10_001,
            "category": category,
            "brand": brand,
            "price": rng.gamma(2.0, 30.0, count).round(2).astype(np.float32),
            "title": [" ".join([*words[row], brand[row], category[row]]) for row in range(count)],
        }
    )


def requests(table: pl.DataFrame, count: int = 4) -> dict[str, np.ndarray]:
    """Returns what the site knows of some users: user_id, country, age, hour, history (0 is padding), query."""
    rng = np.random.default_rng(2)
    history = rng.choice(table["item_id"].to_numpy(), [count, HISTORY])
    history[:, : HISTORY // 3] *= rng.integers(0, 2, [count, 1])
    return {
        "user_id": rng.integers(1, 500, count),
        "country": rng.choice(COUNTRIES, count),
        "age": rng.integers(18, 80, count).astype(np.float32),
        "hour": rng.integers(0, 24, count),
        "history": history,
        "query": np.array([" ".join(rng.choice(WORDS, 2)) for _ in range(count)]),
    }


if __name__ == "__main__":
    made = items()
    made.write_parquet("items.parquet")
    importlib.import_module(f"examples.rankers.{sys.argv[1]}").make(made).save("ranker.keras")
