"""Updates of a model while it is searched, against the scores of the items as they are by NumPy's sort."""

import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import tensorflow as tf

from export_tools import Defaults, ExportOptions, export
from export_tools.compact import compact
from export_tools.manifest import read_manifest
from export_tools.updates import Updates
from export_tools.versions import newest_version
from tfserving_ext.errors import NannError
from tfserving_ext.index import Hnsw, Index, build_index
from tfserving_ext.index.deltas import segment_paths

K = 20
FILTER = "price < 6 AND tags HAS 'new'"


def attributes(ids: np.ndarray) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "item_id": ids,
            "price": ids % 17 / 2,
            "brand": [None if one % 7 == 0 else f"b{one % 5}" for one in ids],
            "in_stock": ids % 3 > 0,
            "tags": [["new", "x"][: one % 3] for one in ids],
        }
    )


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "folded"])
def exported(request, world, tmp_path_factory):
    """An export whose index has attributes, with and without a folded scorer."""
    root = tmp_path_factory.mktemp("live")
    opened = Index.open(world.index)
    ids = np.array(opened.item_ids)
    table = attributes(ids)
    index = build_index(ids, opened.embeddings(), root / "index", Hnsw(threads=1), attributes=table)
    options = ExportOptions(measure=False, fold_items=request.param)
    saved = export(world.model, index.folder, root / "models" / "1", Defaults(k=K), options=options)
    assert bool(read_manifest(saved)["scorer"]["folded"]) == request.param
    histories = world.sequences.ids_of(world.sequences.cases("test").histories[:16])
    return SimpleNamespace(root=root, index=index, saved=saved, table=table, histories=histories)


@pytest.fixture
def live(exported, tmp_path, monkeypatch):
    """A copy of the export, which follows a folder, and what its items are."""
    base = tmp_path / "models"
    shutil.copytree(exported.saved, base / "1")
    monkeypatch.setenv("NANN_DELTAS", str(tmp_path / "deltas"))
    vectors = dict(zip(exported.index.item_ids.tolist(), np.array(exported.index.embeddings()), strict=True))
    return SimpleNamespace(
        base=base,
        deltas=tmp_path / "deltas",
        loaded=tf.saved_model.load(str(base / "1")),
        vectors=vectors,
        table={row["item_id"]: row for row in exported.table.to_dicts()},
        histories=exported.histories,
        index=exported.index.folder,
    )


def passes(row: dict) -> bool:
    return row["price"] is not None and row["price"] < 6 and "new" in (row["tags"] or [])


def best(live, filtered: bool) -> list[list[int]]:
    """Returns the best ids of each user, of the items as they are."""
    ids = np.array([item for item in live.vectors if not filtered or passes(live.table[item])])
    items = tf.constant(np.array([live.vectors[item] for item in ids.tolist()])[None])
    found = []
    for history in live.histories:
        features = {"item_history": tf.constant(history[None]), "category_history": tf.zeros([1, 0], tf.int64)}
        scores = live.loaded.score(live.loaded.user(features), items)[0].numpy()
        found.append(ids[np.argsort(-scores, kind="stable")[:K]].tolist())
    return found


def ask(live, sequence: int, filter: str = "", model=None) -> list[list[int]]:
    """Returns the answer to each user, once the model has read the update `sequence`."""
    retrieve = (model or live.loaded).signatures["retrieve"]
    none = tf.zeros([len(live.histories), 0], tf.int64)
    numbers = {"k": K, "frontier": 16, "pool": 400, "max_steps": 1000, "deadline_ms": 0, "cap": 0}
    given = {name: tf.constant(value) for name, value in numbers.items()}
    given |= {"item_history": tf.constant(live.histories), "category_history": none, "exclude": none}
    given |= {"filter": tf.constant(filter), "cap_by": tf.constant(""), "budget": tf.constant(0, tf.int64)}
    for _ in range(500):
        answer = retrieve(**given)
        numbers = answer["index_sequence"].numpy()
        assert (numbers == numbers[0]).all()
        if numbers[0] >= sequence:
            assert numbers[0] == sequence
            return [row[row != -1].tolist() for row in answer["item_ids"].numpy()]
        time.sleep(0.02)
    raise AssertionError(f"update {sequence} was not read")


def coverage(found: list[list[int]], wanted: list[list[int]]) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, wanted, strict=True)]))


def change(live, updates: Updates, rng: np.random.Generator) -> int:
    """Deletes a fifth of the items, adds as many, and gives a fifth of the rest other attributes or another row."""
    ids = rng.permutation(list(live.vectors))
    fifth = len(ids) // 5
    updates.delete(ids[:fifth])
    for item in ids[:fifth].tolist():
        del live.vectors[item], live.table[item]
    new = np.arange(10**7, 10**7 + fifth)
    like = rng.choice(list(live.vectors), fifth)
    for item, other in zip(new.tolist(), like.tolist(), strict=True):
        live.vectors[item] = live.vectors[other] + rng.normal(0, 0.02, len(live.vectors[other])).astype(np.float32)
    moved = ids[fifth : 2 * fifth]
    for item in moved.tolist():
        live.vectors[item] = live.vectors[item] * np.float32(0.9)
    for some in (new, moved):
        table = attributes(some + 3).with_columns(pl.Series("item_id", some))
        vectors = [live.vectors[item].tolist() for item in some.tolist()]
        updates.upsert(table.with_columns(pl.Series("embedding", vectors, dtype=pl.List(pl.Float32))))
        live.table.update({row["item_id"]: row for row in table.to_dicts()})
    priced = ids[2 * fifth : 3 * fifth]
    for item in priced.tolist():
        live.table[item]["price"] = 1.0
    return updates.upsert(pl.DataFrame({"item_id": priced, "price": [1] * fifth}))


def test_the_answers_are_those_of_the_items_as_they_are(live):
    assert coverage(ask(live, 0), best(live, False)) >= 0.99
    with Updates(live.base, live.deltas) as updates:
        sequence = change(live, updates, np.random.default_rng(5))
        assert sequence == 4
        # A fifth is new and a fifth has another row; other attributes alone move nothing.
        assert updates.unindexed == 2 * (len(live.vectors) // 5)
    for filter, filtered in (("", False), (FILTER, True)):
        found = ask(live, sequence, filter)
        allowed = {item for item, row in live.table.items() if not filtered or passes(row)}
        assert all(set(row) <= allowed for row in found)
        assert coverage(found, best(live, filtered)) >= 0.99
    # A restart replays.
    again = tf.saved_model.load(str(live.base / "1"))
    assert ask(live, sequence, model=again) == ask(live, sequence)


@pytest.mark.slow
def test_compacting_keeps_the_items_and_carries_what_came_meanwhile(live, tmp_path, monkeypatch):
    rng = np.random.default_rng(6)
    with Updates(live.base, live.deltas) as updates:
        change(live, updates, rng)
        key = updates.deltas.folder
        gone = next(iter(live.vectors))

        def build(*arguments, **named):
            """Somebody updates while the graph is built."""
            updates.delete([gone])
            return build_index(*arguments, **named)

        monkeypatch.setattr("export_tools.compact.build_index", build)
        made = compact(live.base, live.deltas, tmp_path / "index_2", live.index, threads=1)
        assert made[2:] == (len(live.vectors), 4, 1, 0) and made.model == newest_version(live.base) == live.base / "2"
        del live.vectors[gone], live.table[gone]
        assert updates.delete([gone]) == 2 and updates.model == made.model, "the next update is for the new version"
    new = tf.saved_model.load(str(made.model))
    for filter, filtered in (("", False), (FILTER, True)):
        assert coverage(ask(live, 2, filter, new), best(live, filtered)) >= 0.99
    shutil.rmtree(live.base / "1")
    monkeypatch.undo()
    again = compact(live.base, live.deltas, tmp_path / "index_3", tmp_path / "index_2", threads=1)
    assert again.removed == 1 and not key.exists() and again.items == len(live.vectors)


def test_what_does_not_fit_is_refused(live):
    def table(**columns) -> pl.DataFrame:
        return pl.DataFrame({"item_id": [next(iter(live.vectors))], **columns})

    width = len(next(iter(live.vectors.values())))
    with Updates(live.base, live.deltas) as updates:
        for items, words in (
            (pl.DataFrame({"price": [1.0]}), "no column 'item_id'"),
            (pl.DataFrame({"item_id": [5, 5]}), "item id 5 appears 2 times"),
            (pl.DataFrame({"item_id": [10**12], "price": [1.0]}), "item 1000000000000 is new: it needs an embedding"),
            (table(colour=["red"]), "'colour' is not an attribute of the index, which has price, brand"),
            (table(price=["cheap"]), "column 'price' does not fit the index's attribute, float"),
            (table(in_stock=[1]), "column 'in_stock' does not fit the index's attribute, bool"),
            (table(embedding=[[1.0, 2.0]]), f"an embedding has 2 entries or a null, it must have {width} numbers"),
            (table(embedding=[[float("nan")] * width]), "an embedding is not finite"),
            (table(embedding=["x"]), "it must hold lists of floats"),
        ):
            with pytest.raises(NannError, match=words):
                updates.upsert(items)
        for ids in ([1.5], ["x"], [2**70]):
            with pytest.raises(NannError, match="integers of 64 bits"):
                updates.delete(ids)
        with pytest.raises(NannError, match="an id is -1"):
            updates.delete([-1])
        assert segment_paths(updates.deltas.folder) == []
    with pytest.raises(NannError, match="has no version, such as"):
        Updates(Path(os.devnull).parent / "nothing", live.deltas)
