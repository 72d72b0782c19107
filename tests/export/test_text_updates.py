"""Updates of an export whose ids are text answer as the same updates of its twin whose ids are numbers."""

import dataclasses
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from export_tools import Defaults, ExportOptions, export
from export_tools.compact import compact
from export_tools.updates import Updates, delete, upsert
from tests.text_ids import spell
from tfserving_ext.errors import NannError
from tfserving_ext.index import Hnsw, Index, KeyedIds, build_index
from tfserving_ext.index.deltas import segment_paths
from tfserving_ext.index.item_keys import MAX_KEY_BYTES
from tfserving_ext.index.segments import Segment, encode_segment
from tfserving_ext.serving.models import load_servable

QUICK = ExportOptions(measure=False)
NEW = 10**7  # The number of the first new item by number; by text it is whatever the index gives it.
# The model knows so many items from histories, which are in the index only after an update.
KNOWN = 5


@pytest.fixture(scope="module")
def exports(world, tmp_path_factory):
    """Our own model with the same items, graph and prices by number and by text."""
    root, whole = tmp_path_factory.mktemp("exports"), Index.open(world.index)
    ids, embeddings = np.asarray(whole.item_ids), whole.embeddings()
    table = pl.DataFrame({"item_id": ids[KNOWN:], "price": ids[KNOWN:] % 17})
    keyed = KeyedIds(np.roll(ids, -KNOWN), spell(np.roll(ids, -KNOWN)), len(ids) - KNOWN)
    made = SimpleNamespace(ids=ids, embeddings=embeddings, saved={}, index={})
    for name, given in (("numbers", ids[KNOWN:]), ("texts", keyed)):
        index = build_index(given, embeddings[KNOWN:], root / name, Hnsw(threads=1), attributes=table)
        made.index[name] = index.folder
        made.saved[name] = export(world.model, index.folder, root / f"{name}_1", Defaults(k=12), options=QUICK)
    return made


@pytest.fixture
def live(exports, tmp_path, monkeypatch):
    """Copies of both exports, which follow a folder."""
    monkeypatch.setenv("NANN_DELTAS", str(tmp_path / "deltas"))
    made = SimpleNamespace(deltas=tmp_path / "deltas", servable={}, base={}, **vars(exports))
    for name, saved in exports.saved.items():
        made.base[name] = tmp_path / name
        shutil.copytree(saved, made.base[name] / "1")
        made.servable[name] = load_servable(made.base[name] / "1")
    return made


def named(numbers: np.ndarray) -> np.ndarray:
    """The texts of ids: of new ones, which the model has no number for, and of all others."""
    new = np.vectorize(lambda one: f"new/{one - NEW}ü".encode() if one >= NEW else b"", otypes=[object])(numbers)
    return np.where(numbers >= NEW, new, spell(numbers))


def text(numbers: np.ndarray) -> list[str]:
    return [one.decode() for one in named(np.asarray(numbers))]


def ask(servable, sequence: int, **inputs) -> dict[str, np.ndarray]:
    for _ in range(500):
        answer = servable.signature("retrieve").run(inputs)
        if (answer["index_sequence"] >= sequence).all():
            return answer
        time.sleep(0.02)
    raise AssertionError(f"update {sequence} was not read")


def change(live, name: str) -> int:
    """Deletes, adds and changes items by their ids of one kind; returns the last update's number."""
    spelled = text if name == "texts" else (lambda numbers: np.asarray(numbers).tolist())
    ids, rng = live.ids, np.random.default_rng(3)

    def table(numbers: np.ndarray, near: np.ndarray | None, price: int) -> pl.DataFrame:
        columns = {"item_id": spelled(numbers), "price": [price] * len(numbers)}
        if near is not None:
            columns["embedding"] = (live.embeddings[near] + rng.normal(0, 0.01, live.embeddings[near].shape)).tolist()
        return pl.DataFrame(columns)

    with Updates(live.base[name], live.deltas) as updates:
        updates.delete(spelled(ids[100:150]))
        updates.upsert(table(NEW + rng.permutation(40), np.arange(200, 240), 3))
        updates.upsert(table(ids[:KNOWN], np.arange(300, 300 + KNOWN), 3))  # Known to the model alone so far.
        updates.delete(spelled([NEW + 7, NEW + 8]))
        updates.upsert(table(np.array([NEW + 7, NEW + 30]), np.array([310, 311]), 4))  # One comes again, one moves.
        return updates.upsert(table(np.array([NEW + 31, *ids[400:420]]), None, 3))


def requests(live) -> list[dict[str, np.ndarray]]:
    history = np.random.default_rng(4).choice(live.ids[200:320], [6, 5])
    history[0, :2] = NEW + 1, live.ids[2]
    new = np.tile(np.array([[NEW + 2, NEW + 9, NEW + 7]]), [6, 1])
    return [
        {"item_history": history},
        {"item_history": history, "exclude": new},
        {"item_history": history, "filter": np.array(["price = 3"])},
    ]


def check_alike(live, servables, sequence: int) -> None:
    for given in requests(live):
        ids = {name: given[name] for name in ("item_history", "exclude") if name in given}
        by_number = ask(servables["numbers"], sequence, **given)
        by_text = ask(servables["texts"], sequence, **{**given, **{name: named(one) for name, one in ids.items()}})
        np.testing.assert_array_equal(by_text["item_ids"], named(by_number["item_ids"]))
        np.testing.assert_array_equal(by_text["scores"], by_number["scores"])
        assert (by_number["item_ids"] >= NEW).any(), "no new item is among the best"


def test_the_answers_are_those_of_numbers(live):
    sequences = {name: change(live, name) for name in ("numbers", "texts")}
    assert set(sequences.values()) == {6}
    check_alike(live, live.servable, 6)
    again = {name: load_servable(base / "1") for name, base in live.base.items()}  # A restart replays.
    check_alike(live, again, 6)


@pytest.mark.slow
def test_compacting_keeps_the_texts(live, tmp_path, monkeypatch):
    for name in ("numbers", "texts"):
        change(live, name)
        late = {"item_id": text([NEW + 2]) if name == "texts" else [NEW + 2], "price": [5]}

        def build(*arguments, late=late, name=name, **options):
            """Somebody changes a new item while the graph is built, which has its text then."""
            upsert(live.base[name], live.deltas, pl.DataFrame(late))
            return build_index(*arguments, **options)

        monkeypatch.setattr("export_tools.compact.build_index", build)
        made = compact(live.base[name], live.deltas, tmp_path / f"{name}_2", live.index[name], threads=1)
        assert (made.items, made.updates, made.carried) == (len(live.ids) - 50 + 39, 6, 1)
    opened = Index.open(tmp_path / "texts_2", checksums=True)
    # The texts of items that are gone stay, because a history may have them.
    assert opened.manifest["keys"]["others"] == 50
    after = {name: load_servable(base / "2") for name, base in live.base.items()}
    check_alike(live, after, 1)
    with Updates(live.base["texts"], live.deltas) as updates:
        assert updates.delete(text([NEW + 2, live.ids[100]])) == 2 and updates.model.name == "2"


def test_ids_of_another_kind_are_refused(live):
    row = live.embeddings[0].tolist()
    with Updates(live.base["texts"], live.deltas) as updates:
        for item_ids, words in (
            ([5], "the ids of attributes are Int64 with 0 nulls, they must be strings"),
            (["a", None], "String with 1 nulls, they must be strings without nulls"),
            (["a", "a"], "item id a appears 2 times"),
            (["a", ""], "item id 1 has 0 bytes, allowed are 1 to"),
            (["x" * (MAX_KEY_BYTES + 1)], f"has {MAX_KEY_BYTES + 1} bytes, allowed are 1 to {MAX_KEY_BYTES}"),
        ):
            with pytest.raises(NannError, match=words):
                updates.upsert(pl.DataFrame({"item_id": item_ids, "embedding": [row] * len(item_ids)}))
        with pytest.raises(NannError, match="item 'brand new' is new: it needs an embedding"):
            updates.upsert(pl.DataFrame({"item_id": ["brand new"], "price": [1]}))
        with pytest.raises(NannError, match="item_ids has 5, but the item ids of the model are strings"):
            updates.delete([5])
        assert segment_paths(updates.deltas.folder) == []
    made = delete(live.base["texts"], live.deltas, [*text(live.ids[10:12]), "never heard of"])
    assert (made.sequence, made.items) == (1, 3)
    assert delete(live.base["numbers"], live.deltas, [str(live.ids[10])]).sequence == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"new": b""}, "has no text, and the index has none for it"),
        ({"new": b"x", "old": b"y"}, "has a text, but the index has one for it"),
        ({"new": "of an item"}, "has the text of id"),
    ],
)
def test_a_segment_with_wrong_texts_is_not_taken(live, keys, words, capfd):
    """The server goes on with what came before it."""
    with Updates(live.base["texts"], live.deltas) as updates:
        updates.upsert(pl.DataFrame({"item_id": ["new/a"], "embedding": [live.embeddings[0].tolist()]}))
        deltas, first = updates.deltas, updates.deltas.changed[updates.deltas.added[b"new/a"]].rows
        number = int(first.item_ids[0]) + 1
        item_ids = np.array([int(live.ids[20]), number])
        new = spell(live.ids[21:22])[0] if isinstance(keys["new"], str) else keys["new"]
        rows = dataclasses.replace(
            first,
            item_ids=item_ids,
            values=np.repeat(first.values, 2, axis=0),
            embeddings=None if first.embeddings is None else np.repeat(first.embeddings, 2, axis=0),
            attributes=updates._attributes(item_ids, pl.DataFrame({"item_id": item_ids, "price": [1, 1]})),
            keys=[keys.get("old", b""), new],
        )
        path = Path(deltas.folder) / f"{2:012d}.seg"
        path.write_bytes(encode_segment(Segment(2, rows, np.zeros(0, np.int64)), deltas.key))
    again = load_servable(live.base["texts"] / "1")
    answer = again.signature("retrieve").run({"item_history": named(live.ids[None, :3])})
    assert answer["index_sequence"].tolist() == [1]
    assert words in capfd.readouterr().err


def test_a_second_text_of_a_number_ends_the_updates_there(live, capfd):
    with Updates(live.base["texts"], live.deltas) as updates:
        for name in ("new/a", "new/b"):
            updates.upsert(pl.DataFrame({"item_id": [name], "embedding": [live.embeddings[0].tolist()]}))
        rows = updates.deltas.changed[updates.deltas.added[b"new/b"]].rows
        rows = dataclasses.replace(rows, keys=[b"new/a"])
        path = Path(updates.deltas.folder) / f"{3:012d}.seg"
        path.write_bytes(encode_segment(Segment(3, rows, np.zeros(0, np.int64)), updates.deltas.key))
    again = load_servable(live.base["texts"] / "1")
    answer = again.signature("retrieve").run({"item_history": named(live.ids[None, :3])})
    assert answer["index_sequence"].tolist() == [2]
    assert "'new/a' is the text of item" in capfd.readouterr().err
