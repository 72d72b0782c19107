"""`nann judge` on models that are not ours, against the Keras model's own predictions and NumPy."""

import json

import keras
import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from export_tools import ExportOptions, SourceOptions, export
from export_tools.judge import judge
from export_tools.judgement import verdict
from export_tools.updates import delete
from tfserving_ext.cli import app
from tfserving_ext.errors import NannError
from tfserving_ext.index import Hnsw, build_index
from tfserving_ext.serving import LocalServer, ServerOptions

ITEMS, DIM, K, USERS = 300, 6, 20, 12
IDS = np.random.default_rng(0).permutation(10**6)[:ITEMS]
TABLE = np.random.default_rng(1).normal(size=[ITEMS, DIM]).astype(np.float32)
PRICES, SHELVES = np.random.default_rng(5).integers(0, 100, ITEMS), np.random.default_rng(6).integers(0, 20, ITEMS)
AGES = np.random.default_rng(2).normal(size=USERS).round(3)


@pytest.fixture(scope="module")
def ranker():
    keras.utils.set_random_seed(3)
    age, item = keras.Input([1], name="age"), keras.Input([DIM], name="item")
    hidden = keras.layers.Dense(12, activation="tanh")(keras.layers.Concatenate()([age, item]))
    return keras.Model([age, item], keras.layers.Dense(1, activation="sigmoid")(hidden))


@pytest.fixture(scope="module")
def exported(ranker, tmp_path_factory):
    root = tmp_path_factory.mktemp("judged")
    build_index(IDS, TABLE, root / "index", Hnsw(threads=1))
    ranker.save(root / "ranker.keras")
    return export(
        root / "ranker.keras",
        root / "index",
        root / "mine" / "1",
        source=SourceOptions(item_input="item"),
        options=ExportOptions(measure=False),
    )


@pytest.fixture(scope="module")
def scores(ranker):
    """The model's own scores of all items, [USERS, ITEMS]."""
    return np.stack([ranker.predict([np.full([ITEMS, 1], age), TABLE], verbose=0)[:, 0] for age in AGES])


@pytest.fixture(scope="module")
def requests():
    rng = np.random.default_rng(4)
    return [{"age": age, "next": rng.choice(IDS, 3, replace=False).tolist()} for age in AGES.tolist()]


def test_figures_are_those_of_numpy(exported, scores, requests):
    found = judge(exported, requests, K)
    order = IDS[np.argsort(-scores, axis=1)][:, :K]
    chosen = [request["next"] for request in requests]
    hits = np.array([[item in wanted for item in row] for row, wanted in zip(order, chosen, strict=True)])
    exact = found["answers"]["exact"]
    assert exact["coverage"] == 1 and exact["items_scored"] == ITEMS
    assert exact["recall"] == pytest.approx(hits.sum(axis=1).mean() / 3)
    assert exact["hit_rate"] == pytest.approx(hits.any(axis=1).mean())
    assert exact["mrr"] == pytest.approx(np.mean([1 / (1 + row.argmax()) if row.any() else 0 for row in hits]))
    gains = 1 / np.log2(np.arange(K) + 2)
    assert exact["ndcg"] == pytest.approx((hits * gains).sum(axis=1).mean() / gains[:3].sum())
    # A pool of 200 of 300 items misses hardly anything, and the intervals enclose the means.
    for one in found["answers"].values():
        assert one["coverage"] >= 0.99
        assert all(
            low <= one[name] + 1e-9 and one[name] - 1e-9 <= high for name, (low, high) in one["intervals"].items()
        )
    assert f"of the best {K} of 300 items" in verdict(found) and "12 requests" in verdict(found)


def test_excluded_items_are_not_missed(exported, requests, scores):
    """The exact answer leaves them out too."""
    best = IDS[np.argsort(-scores, axis=1)]
    excluding = [{**request, "exclude": row[:5].tolist()} for request, row in zip(requests, best, strict=True)]
    found = judge(exported, excluding, K)["answers"]
    assert found["retrieve"]["coverage"] >= 0.99
    hits = [[item in request["next"] for item in row[5 : K + 5]] for request, row in zip(requests, best, strict=True)]
    assert found["exact"]["recall"] == pytest.approx(np.sum(hits, axis=1).mean() / 3)


def test_segments_have_the_figures_of_their_requests(exported, requests):
    """By a name that is no input, which some requests lack; the figures of one segment are those of it alone."""
    countries = ["de", "fr", None, "de", "de", "fr", None, "de", "it", "de", "fr", "fr"]
    given = [
        request if at is None else {**request, "country": at} for request, at in zip(requests, countries, strict=True)
    ]
    found = judge(exported, given, K, by="country", signatures=["retrieve"])
    assert {name: one["requests"] for name, one in found["segments"].items()} == {
        "de": 5,
        "fr": 4,
        "(none)": 2,
        "it": 1,
    }
    assert list(found["segments"])[:2] == ["de", "fr"]
    assert found["answers"] == judge(exported, requests, K, signatures=["retrieve"])["answers"]
    french = [request for request, at in zip(requests, countries, strict=True) if at == "fr"]
    assert found["segments"]["fr"]["answers"] == judge(exported, french, K, signatures=["retrieve"])["answers"]


@pytest.mark.slow
def test_many_segments_are_told_together(exported, requests, monkeypatch):
    monkeypatch.setattr("export_tools.judgement.MOST_SEGMENTS", 3)
    found = judge(exported, requests, K, by="age", signatures=["retrieve"])["segments"]
    assert [one["requests"] for one in found.values()] == [1, 1, 1, USERS - 3]
    assert list(found)[-1] == "(others)"
    with pytest.raises(NannError, match="no request has 'country', by which segments are told; they have age"):
        judge(exported, requests, K, by="country")


@pytest.mark.slow
def test_a_server_is_judged_as_the_model_that_it_serves(exported, requests, tmp_path):
    with LocalServer({"mine": exported.parent}, ServerOptions(grpc_port=0, rest_port=0)) as server:
        target = f"127.0.0.1:{server.grpc_port}"
        found = judge(exported, requests, K, server=target)
        assert found["answers"] == judge(exported, requests, K)["answers"]
        assert judge(exported, requests, K, server=f"{target}/mine")["answers"] == found["answers"]
        with pytest.raises(NannError, match=r"request 1: .*NOT_FOUND"):
            judge(exported, requests, K, server=f"{target}/other")
        (tmp_path / "requests.json").write_text(json.dumps([{**request, "country": "de"} for request in requests]))
        ran = CliRunner().invoke(
            app, ["judge", str(exported), str(tmp_path / "requests.json"), "--server", target, "--by", "country"]
        )
        assert ran.exit_code == 0 and "by country" in ran.output, ran.output
    with pytest.raises(NannError, match=r"request 1: .*127\.0\.0\.1"):
        judge(exported, requests, K, server=target)


def test_answers_with_updates_are_told(exported, requests, tmp_path, capsys, monkeypatch):
    """The exact answers are those of the exported items, so that a lower coverage is none of the search's."""
    monkeypatch.setenv("NANN_DELTAS", str(tmp_path / "deltas"))
    assert delete(exported, tmp_path / "deltas", IDS[:2].tolist()).sequence == 1
    judge(exported, requests[:2], K, signatures=["retrieve"])
    assert "the answers hold updates up to number 1, the exact ones do not" in " ".join(capsys.readouterr().out.split())


@pytest.fixture(scope="module")
def filtered(ranker, tmp_path_factory):
    """An export whose index has attributes."""
    root = tmp_path_factory.mktemp("filtered")
    attributes = pl.DataFrame({"item_id": IDS, "price": PRICES, "shelf": SHELVES})
    build_index(IDS, TABLE, root / "index", Hnsw(threads=1), attributes=attributes)
    ranker.save(root / "ranker.keras")
    source = SourceOptions(item_input="item")
    options = ExportOptions(measure=False)
    return export(root / "ranker.keras", root / "index", root / "1", source=source, options=options)


def test_filtered_requests_are_judged_by_the_items_that_pass(filtered, scores, requests):
    """The exact answer is filtered too, or a search that answers rightly would seem to miss nearly everything."""
    found = judge(filtered, [{**request, "filter": "price < 40"} for request in requests], K)["answers"]
    passing = PRICES < 40
    best = IDS[passing][np.argsort(-scores[:, passing], axis=1)][:, :K]
    hits = [np.isin(row, request["next"]).sum() for row, request in zip(best, requests, strict=True)]
    assert found["exact"]["recall"] == pytest.approx(np.mean(hits) / 3)
    assert found["retrieve"]["coverage"] >= 0.99


@pytest.mark.slow
def test_capped_requests_are_judged_by_the_best_that_keep_to_the_cap(filtered, scores, requests):
    """With a filter and exclusions too, which are greedily left out before the cap counts."""
    exclude = IDS[np.argsort(-scores, axis=1)][:, :4]
    capped = [
        {**request, "filter": "price < 60", "cap_by": "shelf", "cap": 2, "exclude": some.tolist()}
        for request, some in zip(requests, exclude, strict=True)
    ]
    found = judge(filtered, capped, K)["answers"]
    hits = []
    for row, request, some in zip(scores, requests, exclude, strict=True):
        counts, best = np.zeros(20, int), []
        for item in np.argsort(-row):
            if PRICES[item] < 60 and IDS[item] not in some:
                counts[SHELVES[item]] += 1
                best += [IDS[item]] if counts[SHELVES[item]] <= 2 else []
        hits.append(np.isin(best[:K], request["next"]).sum())
    assert found["exact"]["recall"] == pytest.approx(np.mean(hits) / 3)
    assert found["retrieve"]["coverage"] >= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["json", "jsonl", "parquet"])
def test_the_command_reads_files_and_writes_figures(exported, requests, tmp_path, kind):
    path = tmp_path / f"requests.{kind}"
    if kind == "parquet":
        pl.DataFrame(requests).write_parquet(path)
    else:
        lines = [json.dumps(request) for request in requests]
        path.write_text(f"[{','.join(lines)}]" if kind == "json" else "\n".join(lines))
    out = tmp_path / "figures.json"
    ran = CliRunner().invoke(
        app, ["judge", str(exported), str(path), "-k", str(K), "-o", str(out), "--signature", "retrieve"]
    )
    assert ran.exit_code == 0, ran.output
    figures = json.loads(out.read_text())
    wanted = judge(exported, requests, K, signatures=["retrieve"])
    assert figures["answers"] == json.loads(json.dumps(wanted["answers"]))
    assert "retrieve finds" in " ".join(ran.output.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ([{"age": 1.0, "next": [1]}, {"age": 1.0}], "request 2 has no 'next', but others have"),
        ([{"age": 1.0, "next": []}], "'next' of request 1 is empty"),
        ([{"age": 1.0}, {"height": 1.0}], "request 2: the signature has no input 'height'; it has age"),
        ([{"age": "old"}], "request 1: age is 'old', which is not float32"),
        ([{"age": [[1.0], [2.0]]}], "request 1 is of 2 users; one is expected"),
        ([{}], "request 1: .*age"),
    ],
)
def test_requests_that_are_refused(exported, changed, words):
    with pytest.raises(NannError, match=words):
        judge(exported, changed, K)


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "at least one object"), ("[1]", "at least one object"), ("{", "neither JSON"), ("PAR1", "neither JSON")],
)
def test_files_that_are_refused(exported, tmp_path, text, words):
    (tmp_path / "requests.json").write_text(text)
    with pytest.raises(NannError, match=words):
        judge(exported, tmp_path / "requests.json")
    with pytest.raises(NannError, match="cannot read"):
        judge(exported, tmp_path / "missing.json")
