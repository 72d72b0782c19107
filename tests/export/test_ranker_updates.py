"""Updates of a ranker's items by their raw features, against the scores that the ranker itself predicts."""

import shutil
import time
from types import SimpleNamespace

import keras
import numpy as np
import polars as pl
import pytest
from keras import layers

from export_tools import Defaults, ExportOptions, Items, SourceOptions, export
from export_tools.compact import compact
from export_tools.cut import ItemTower
from export_tools.manifest import read_manifest
from export_tools.updates import Updates, delete, upsert
from tfserving_ext.errors import NannError
from tfserving_ext.serving.models import load_servable

SERVED, ALL, K = 220, 300, 20
KEYS = [f"sku/{number}ß" for number in range(ALL)]
KINDS = ["book", "game", "tool"]
QUICK = ExportOptions(measure=False, fold_items=False)


def items(rows) -> pl.DataFrame:
    """Raw features of items; the price is of another size than all else."""
    rows = np.asarray(rows)
    rng = np.random.default_rng(1)
    prices, sizes = rng.gamma(2, 400, ALL).astype(np.float32), rng.normal(size=(ALL, 3)).astype(np.float32)
    return pl.DataFrame(
        {
            "sku": [KEYS[row] for row in rows],
            "kind": [KINDS[row % 3] for row in rows],
            "price": prices[rows],
            "size": pl.Series(sizes[rows]),
        }
    )


def ranker() -> keras.Model:
    """A ranker of text ids, one of text, a price and a vector."""
    keras.utils.set_random_seed(3)
    table, lookup = layers.Embedding(ALL + 2, 8), layers.StringLookup(vocabulary=KEYS, mask_token="")
    bought, item = keras.Input([None], dtype="string", name="bought"), keras.Input([], dtype="string", name="sku")
    kind, price = keras.Input([], dtype="string", name="kind"), keras.Input([], name="price")
    size = keras.Input([3], name="size")
    user = layers.GlobalAveragePooling1D()(table(lookup(bought)))
    kinds = layers.Embedding(4, 3)(layers.StringLookup(vocabulary=KINDS)(kind))
    priced = keras.ops.expand_dims(price, 1)
    both = layers.Concatenate()([user, table(lookup(item)), kinds, size, priced / 800.0])
    score = layers.Dense(1)(layers.Dense(24, "tanh")(both)) * 3.0
    return keras.Model([bought, item, kind, price, size], score)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """The ranker, and an export of the first of its items."""
    root = tmp_path_factory.mktemp("shop")
    model = ranker()
    model.save(root / "ranker.keras")
    made = Items(items(range(SERVED)), id_column="sku", filter_by=["price"])
    source = SourceOptions(seeds="bought")
    saved = export(root / "ranker.keras", made, root / "models" / "1", Defaults(k=K), source, QUICK)
    return SimpleNamespace(model=model, saved=saved, ranker=root / "ranker.keras")


@pytest.fixture
def live(shop, tmp_path, monkeypatch):
    monkeypatch.setenv("NANN_DELTAS", str(tmp_path / "deltas"))
    shutil.copytree(shop.saved, tmp_path / "models" / "1")
    return SimpleNamespace(base=tmp_path / "models", deltas=tmp_path / "deltas", **vars(shop))


def best(live, history, rows) -> list[str]:
    """Returns the ids of the best of some items by the ranker itself."""
    table = items(rows)
    inputs = {name: table[name].to_numpy() for name in ("sku", "kind", "price")}
    inputs |= {"size": np.stack(table["size"].to_list()), "bought": np.repeat([history], len(table), axis=0)}
    scores = live.model.predict({name: keras.ops.convert_to_tensor(one) for name, one in inputs.items()}, verbose=0)
    return [table["sku"][int(place)] for place in np.argsort(-scores[:, 0], kind="stable")[:K]]


def ask(servable, history, sequence: int) -> list[str]:
    for _ in range(500):
        answer = servable.signature("retrieve").run({"bought": np.array([history], object)})
        if answer["index_sequence"][0] >= sequence:
            return [one.decode() for one in answer["item_ids"][0]]
        time.sleep(0.02)
    raise AssertionError(f"update {sequence} was not read")


HISTORIES = [[KEYS[3], KEYS[77], KEYS[250]], [KEYS[12], "", KEYS[290]], [KEYS[140], KEYS[141], "never seen"]]


def test_new_items_are_ranked_as_the_ranker_does(live, tmp_path):
    gone, later = list(range(0, SERVED, 5)), list(range(SERVED, ALL))
    items(later).write_parquet(tmp_path / "new.parquet")
    assert upsert(live.base, live.deltas, tmp_path / "new.parquet", "sku", ranker=live.ranker).unindexed == len(later)
    assert delete(live.base, live.deltas, [KEYS[row] for row in gone]).sequence == 2
    present = sorted(set(range(ALL)) - set(gone))
    servable = load_servable(live.base / "1")
    for history in HISTORIES:
        assert ask(servable, history, 2) == best(live, history, present)
    # A new graph, on columns of which none decides alone who is a neighbour.
    made = compact(live.base, live.deltas, tmp_path / "index_2", threads=1)
    assert made.items == len(present)
    servable = load_servable(made.model)
    for history in HISTORIES:
        assert ask(servable, history, 0) == best(live, history, present)


def test_what_does_not_fit_is_refused(live, shop, tmp_path):
    new = items([SERVED])
    other = keras.models.load_model(shop.ranker)
    other.set_weights([2.0 * one for one in shop.model.get_weights()])
    other.save(tmp_path / "other.keras")
    for table, given, words in (
        (new, tmp_path / "other.keras", "was made from another model than .*other.keras"),
        (new, tmp_path / "none.keras", "is not a ranker that can be cut"),
        (new.drop("kind"), live.ranker, "no column 'kind'"),
        (new.with_columns(kind=None), live.ranker, "has 1 nulls, the first for item sku/220ß"),
        (new.with_columns(price=float("nan")), live.ranker, "NaN or infinity in the row of item sku/220ß"),
        (new.with_columns(embedding=pl.lit(0.0)), live.ranker, "a column 'embedding', which the ranker computes"),
    ):
        with pytest.raises(NannError, match=words):
            upsert(live.base, live.deltas, table, "sku", ranker=given)
    with Updates(live.base, live.deltas) as updates:
        assert updates.deltas.sequence == 0


@pytest.mark.slow
def test_numbers_that_the_scorer_has_no_place_for_are_refused(tmp_path):
    """A row holds whole numbers between those of the items that there were; beyond, they would be other numbers."""
    history, item = keras.Input([None], dtype="int64", name="history"), keras.Input([], dtype="int64", name="item_id")
    size = keras.Input([3], name="size")
    same = keras.ops.cast(keras.ops.equal(history, keras.ops.expand_dims(item, 1)), "float32")
    joined = layers.Concatenate()([keras.ops.sum(same, axis=1, keepdims=True), size])
    keras.Model([history, item, size], layers.Dense(1)(joined)).save(tmp_path / "ranker.keras")
    rng = np.random.default_rng(0)
    table = pl.DataFrame({"item_id": np.arange(50), "size": pl.Series(rng.normal(size=(50, 3)).astype(np.float32))})
    made = export(tmp_path / "ranker.keras", Items(table), tmp_path / "models" / "1", Defaults(k=5), options=QUICK)
    cut = read_manifest(made)["source"]["description"]["cut"]
    assert [(one["least"], one["most"]) for one in cut["row"] if one["most"]] == [(0, 49)]
    new = table[:1].with_columns(item_id=pl.lit(50))
    with pytest.raises(NannError, match=r"item 50 has \[50\] in .*; the exported scorer has places for 0 to 49"):
        upsert(made.parent, tmp_path / "deltas", new, ranker=tmp_path / "ranker.keras")
    upsert(made.parent, tmp_path / "deltas", table[:1], ranker=tmp_path / "ranker.keras")
    with pytest.raises(NannError, match=r"is built on .*, which its rows do not hold: export the ranker"):
        compact(made.parent, tmp_path / "deltas", tmp_path / "index_2")


def test_an_export_of_embeddings_has_no_ranker(world, live):
    manifest = read_manifest(world.saved_model)
    with pytest.raises(NannError, match="was not made from a ranker and a table of its items"):
        ItemTower(manifest, world.saved_model, live.ranker)
