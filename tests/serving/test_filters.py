"""An index with attributes from export to answers by every API, against NumPy's filtered sort by the exact scorer."""

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import tensorflow as tf

from export_tools import Defaults, ExportOptions, export, inspect, reuse
from export_tools.inspect import summary
from tfserving_ext.errors import NannError
from tfserving_ext.index import Hnsw, Index, build_index
from tfserving_ext.retrieval import BruteForce
from tfserving_ext.serving import Client, LocalServer, RestClient, smoke
from tfserving_ext.serving.models import load_servable

FILTERS = ["price < 3 AND NOT brand = 'b1'", "in_stock AND tags HAS 'rare'", ""]
OPTIONS = ExportOptions(measure=False)


def attributes(ids: np.ndarray) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "item_id": ids,
            "price": ids % 17 / 2,
            "brand": [f"b{one % 5}" for one in ids],
            "in_stock": ids % 3 > 0,
            "tags": [["rare"] if one % 11 == 0 else ["common"] for one in ids],
        }
    )


@pytest.fixture(scope="module")
def filtered(world, tmp_path_factory):
    """An export of the small world with attributes, on a server, and what its answers must be."""
    root = tmp_path_factory.mktemp("filtered")
    opened = Index.open(world.index)
    ids = np.array(opened.item_ids)
    index = build_index(ids, opened.embeddings(), root / "index", Hnsw(threads=1), attributes=attributes(ids))
    saved = export(world.model, index.folder, root / "models" / "1", Defaults(k=20), options=OPTIONS)
    history = world.sequences.ids_of(world.sequences.cases("test").histories[:3])
    loaded = tf.saved_model.load(str(saved))
    user = loaded.user({"item_history": tf.constant(history), "category_history": tf.zeros([1, 0], tf.int64)})
    score = lambda user, items: loaded.score(tuple(user), items)  # noqa: E731
    order = BruteForce(index, score)(user, len(ids))[1].numpy()
    passing = [(ids % 17 / 2 < 3) & (ids % 5 != 1), (ids % 3 > 0) & (ids % 11 == 0), ids >= 0]
    best = [row[np.isin(row, ids[some])] for row, some in zip(order, passing, strict=True)]
    with LocalServer({"nann": saved.parent}) as server:
        yield SimpleNamespace(index=index, saved=saved, history=history, best=best, server=server)


def inputs(world, **changes):
    """All inputs of `retrieve`, as REST wants them."""
    none = np.zeros([1, 0], np.int64)
    numbers = {"k": 20, "frontier": 16, "pool": 200, "max_steps": 1000, "deadline_ms": 0}
    made = {"item_history": world.history, "category_history": none, "exclude": none, "budget": np.int64(0)}
    return {
        **made,
        **{name: np.int32(value) for name, value in numbers.items()},
        "filter": FILTERS,
        "cap_by": "",
        "cap": np.int32(1),
        **changes,
    }


@pytest.mark.medium
def test_answers_are_the_best_of_the_passing_items_by_every_api(filtered):
    target, url = f"127.0.0.1:{filtered.server.grpc_port}", f"http://127.0.0.1:{filtered.server.rest_port}"
    with Client(target, "nann") as client:
        by_grpc = client.predict("retrieve", inputs(filtered))
        by_rest = RestClient(url, "nann").predict("retrieve", inputs(filtered))
        for name in ("item_ids", "scores", "exact", "num_results"):
            np.testing.assert_array_equal(by_rest[name].astype(by_grpc[name].dtype), by_grpc[name])
        for row in range(2):
            wanted = filtered.best[row][:20]
            np.testing.assert_array_equal(by_grpc["item_ids"][row, : len(wanted)], wanted)
            assert by_grpc["num_results"][row] == len(wanted)
        assert by_grpc["exact"].tolist() == [True, True, False]
        plain = client.predict("retrieve", {"item_history": filtered.history, "filter": ""})
        np.testing.assert_array_equal(plain["item_ids"][2], by_grpc["item_ids"][2])
        for name in ("retrieve_best_first", "retrieve_surrogate", "retrieve_trace", "retrieve_rounds"):
            one = client.predict(name, {"item_history": filtered.history, "filter": FILTERS[1]})
            np.testing.assert_array_equal(one["item_ids"][1, :5], filtered.best[1][:5])
            assert one["exact"].all(), name
        capped = {"cap_by": ["brand", "", "brand"], "cap": [4, 1, 2]}
        by_grpc = client.predict("retrieve", inputs(filtered, **capped))
        by_rest = RestClient(url, "nann").predict("retrieve", inputs(filtered, **capped))
        np.testing.assert_array_equal(by_rest["item_ids"], by_grpc["item_ids"])
        for row, cap in enumerate([4, 20, 2]):
            brands = filtered.best[row] % 5
            earlier = np.tril(brands[:, None] == brands, -1).sum(axis=1)  # Better items of the same brand.
            wanted = filtered.best[row][earlier < cap]
            np.testing.assert_array_equal(by_grpc["item_ids"][row, : len(wanted)], wanted[:20])
        with pytest.raises(
            NannError, match=r"INVALID_ARGUMENT: .*there is no column colour; the columns are price, brand"
        ):
            client.predict("retrieve", inputs(filtered, filter="colour = 3"))
        with pytest.raises(NannError, match="filter must be given once, or once for every user"):
            client.predict("retrieve", inputs(filtered, filter=FILTERS[:2]))
    found = smoke(target, "nann", filter="price < 1")
    assert found["exact"].all() and ((found["item_ids"] % 17 < 2) | (found["item_ids"] < 0)).all()


@pytest.mark.slow
def test_an_export_takes_an_index_with_other_attributes(world, filtered, tmp_path):
    ids = np.array(filtered.index.item_ids)[:400]
    rows = filtered.index.embeddings()[:400]
    table = pl.DataFrame({"item_id": ids, "colour": [["red", "blue"][one % 2] for one in ids]})
    other = build_index(ids, rows, tmp_path / "other", Hnsw(threads=1), attributes=table)
    saved = reuse(filtered.saved, other.folder, tmp_path / "2")
    run = load_servable(saved).signature("retrieve").run
    answered = run({"item_history": filtered.history, "filter": np.array("colour = 'red'", object)})["item_ids"]
    assert set(answered.ravel()) <= {*ids[ids % 2 == 0]}
    plain = build_index(ids, rows, tmp_path / "plain", Hnsw(threads=1))
    with pytest.raises(NannError, match="has no attributes, by which requests to the exported model filter"):
        reuse(filtered.saved, plain.folder, tmp_path / "3")


def test_inspect_shows_the_attributes_and_the_default(filtered):
    found = inspect(filtered.saved)
    assert found["signatures"]["retrieve"]["inputs"]["filter"] == {"type": "string of any shape", "default": ""}
    assert found["signatures"]["retrieve"]["outputs"]["exact"] == "bool [?]"
    assert "attributes price (float), brand (string), in_stock (bool), tags (strings)" in summary(found)


def test_an_export_without_attributes_has_no_filter(world):
    retrieve = inspect(world.saved_model)["signatures"]["retrieve"]
    assert "filter" not in retrieve["inputs"] and "exact" not in retrieve["outputs"]
