import gzip
from unittest import mock

import numpy as np
import polars as pl
import pytest

from tfserving_ext.data import synth as made_up
from tfserving_ext.data.behavior_csv import BEHAVIORS, COLUMNS, parse_lines
from tfserving_ext.data.synth import FIRST_TIME, ITEMS, LAST_TIME, SynthConfig, synth
from tfserving_ext.errors import NannError


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> pl.DataFrame:
    path = tmp_path_factory.mktemp("synth") / "a.csv"
    users = synth(path, SynthConfig(rows=400_000, items=20_000, categories=300))
    frame = parse_lines(path.read_bytes())
    assert frame["user_id"].n_unique() == users
    return frame


def test_has_the_size_that_was_asked_for_and_the_shape_of_userbehavior(made):
    assert made.height == 400_000
    assert made["item_id"].is_between(1, 20_000).all()
    assert made["category_id"].is_between(1, 300).all()
    assert made["user_id"].is_sorted()
    lengths = made.group_by("user_id").len()["len"]
    assert lengths.mean() == pytest.approx(101.4, rel=0.1)
    assert lengths.median() == pytest.approx(2 / 3 * 101.4, rel=0.1)
    shares = made["behavior_type"].value_counts(normalize=True).sort("proportion", descending=True)
    assert shares["behavior_type"].to_list() == ["pv", "cart", "fav", "buy"]
    assert set(shares["behavior_type"]) == set(BEHAVIORS)
    inside = made["timestamp"].is_between(FIRST_TIME, LAST_TIME).mean()
    assert 0.999 < inside < 1


def test_popularity_is_zipfs_and_says_nothing_of_ids(made):
    """In the largest category, counts fall with rank by an exponent near one."""
    largest = made["category_id"].mode()[0]
    counts = made.filter(pl.col("category_id") == largest)["item_id"].value_counts().sort("count", descending=True)
    ranks = np.arange(1, 51)
    slope = np.polyfit(np.log(ranks), np.log(counts["count"].to_numpy()[:50]), 1)[0]
    assert -1.3 < slope < -0.7
    assert abs(np.corrcoef(counts["item_id"].to_numpy()[:200], np.arange(200))[0, 1]) < 0.25


def test_interests_last_and_drift(made):
    """A behaviour is mostly in the category of the one before it, rarely in that of the hundredth before it."""
    users, categories = made["user_id"].to_numpy(), made["category_id"].to_numpy()

    def same(distance: int) -> float:
        of_one = users[distance:] == users[:-distance]
        return float(np.mean(categories[distance:][of_one] == categories[:-distance][of_one]))

    assert same(1) > 0.55
    assert same(100) < 0.5 * same(1)


def test_a_few_rows_are_garbage_as_in_the_real_file(made):
    spread = made.group_by("item_id").agg(pl.col("category_id").n_unique())["category_id"]
    assert 0 < (spread > 1).mean() < 0.05
    by_user = made.filter(pl.col("timestamp").is_between(FIRST_TIME, LAST_TIME)).group_by(
        "user_id", maintain_order=True
    )
    assert by_user.agg(pl.col("timestamp").diff().min())["timestamp"].fill_null(0).min() >= 0


def test_the_same_file_on_any_number_of_cores_and_another_by_another_seed(tmp_path):
    config = SynthConfig(rows=30_000, items=500)
    with mock.patch.object(made_up, "_USERS_AT_ONCE", 50):
        synth(tmp_path / "a.csv", config)
        with mock.patch.object(made_up, "cores", lambda: 1):
            synth(tmp_path / "b.csv", config)
        synth(tmp_path / "c.csv", SynthConfig(rows=30_000, items=500, seed=1))
    text = (tmp_path / "a.csv").read_bytes()
    assert (tmp_path / "b.csv").read_bytes() == text != (tmp_path / "c.csv").read_bytes()
    assert text.count(b"\n") == 30_000
    assert not text.startswith(COLUMNS[0].encode())


@pytest.mark.medium
def test_gzip(tmp_path):
    synth(tmp_path / "a.csv.gz", SynthConfig(rows=1000, items=50))
    assert gzip.decompress((tmp_path / "a.csv.gz").read_bytes()).count(b"\n") == 1000


def test_the_items_of_the_standard_corpus_are_userbehaviors():
    assert SynthConfig().sizes()[0] == ITEMS
    assert SynthConfig(rows=1).sizes() == (round(ITEMS * (1 / 100_150_807) ** 0.5), 1)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"rows": 0}, "rows is 0, allowed are 1 to"),
        ({"items": -1}, "items is -1, allowed are 1 to"),
        ({"users": 2**31}, "users is 2147483648"),
        ({"seed": -1}, "seed is -1"),
        ({"items": 3, "categories": 4}, "categories is 4, allowed are at most as many as there are items, 3"),
    ],
)
def test_refuses_sizes_out_of_range(config, words):
    with pytest.raises(NannError, match=words):
        SynthConfig(**config)


@pytest.mark.medium
def test_few_users_of_many_rows_are_made_a_few_at_a_time(tmp_path):
    corpus = made_up._Corpus(SynthConfig(rows=1_000_000, users=100))
    assert 1 <= corpus.users_at_once < 1000
    assert corpus.chunk(0)[0].height < 20 * 2_100_000
    assert made_up._Corpus(SynthConfig()).users_at_once == 20_000
    with pytest.raises(NannError, match="at most 1000000 rows a user"):
        SynthConfig(rows=2**39, users=1)


@pytest.mark.medium
def test_gzip_has_the_same_bytes_at_any_time(tmp_path):
    for name, now in (("a.csv.gz", 1e9), ("b.csv.gz", 1.1e9)):
        with mock.patch("time.time", return_value=now):
            synth(tmp_path / name, SynthConfig(rows=1000, items=100, categories=10))
    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()
