import json

import numpy as np
import polars as pl
import pytest

from tfserving_ext import extras
from tfserving_ext.data import complete_journey
from tfserving_ext.data.catalogue import Catalogue


def test_counts(journey_csv, journey):
    counts = json.loads((journey_csv / "manifest.json").read_text())["counts"]
    assert (counts["rows"], counts["users"], counts["items_bought"]) == (1_469_307, 2_469, 68_509)
    assert journey.counts["rows_read"] == 1_469_307
    assert journey.counts["items"] == 28_165
    assert len(journey.cases("test", positions_per_user=9)) >= 2_000


def test_the_csv_is_in_user_behavior_format_by_user_then_time(journey_csv):
    columns = ["user", "item", "category", "behavior", "time"]
    rows = pl.read_csv(journey_csv / "UserBehavior.csv", has_header=False, new_columns=columns)
    assert rows["behavior"].unique().to_list() == ["buy"]
    assert rows.equals(rows.sort(["user", "time"], maintain_order=True))
    assert rows["time"].min() == 1483271606  # 2017-01-01 11:53:26
    items = pl.read_csv(journey_csv / "items.csv")
    joined = rows.join(items, left_on="item", right_on="item_id", how="left")
    assert joined.filter(pl.col("category").ne_missing(pl.col("category_id"))).is_empty()
    assert items.null_count().sum_horizontal().item() == 0
    names = items.select("category_id", "category").unique().sort("category_id")
    assert names["category_id"].to_list() == list(range(1, names.height + 1))
    assert names["category"].to_list() == sorted(names["category"])


def test_answers_are_readable(journey_csv, journey):
    catalogue = Catalogue.open(journey_csv / "items.csv")
    best = journey.ids_of(np.argsort(-journey.popularity, kind="stable")[:3])
    assert catalogue.name(best[0]) == "BANANAS (TROPICAL FRUIT)"
    assert catalogue.name(best[2]) == "FLUID MILK WHITE ONLY, 1 GA (FLUID MILK PRODUCTS)"
    assert catalogue.name(981760) == "EGGS - X-LARGE, 1 DZ (EGGS)"


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(extras, "EXTRAS", {"demo": ("the demo", ["no_such_package"])})
    with pytest.raises(ImportError, match=r"pip install 'tfserving-ext\[demo\]'"):
        complete_journey.write_csv(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_an_interruption_writes_nothing(monkeypatch, journey_csv, tmp_path):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(complete_journey, "write_json", fail)
    with pytest.raises(KeyboardInterrupt):
        complete_journey.write_csv(tmp_path / "out")
    assert not list(tmp_path.iterdir())
