"""An export ships the fastest variant of the scorer, and only one that gives the model's own scores."""

import json
import math
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from export_tools import Defaults, ExportOptions, explain, export, inspect, reuse, verify
from export_tools import measure as measuring
from export_tools import scorer as choosing
from export_tools import variants as making
from export_tools.graphs.tables import summary
from export_tools.inspect import summary as inspected
from export_tools.manifest import FILE, read_manifest
from export_tools.variants import NAMES
from tfserving_ext import ops
from tfserving_ext.errors import NannError
from tfserving_ext.index import Hnsw, build_index
from tfserving_ext.retrieval import BestFirst
from tfserving_ext.serving.models import load_servable

DIM, ITEMS = 16, 200
IDS = np.arange(ITEMS) * 5 + 2
EMBEDDINGS = np.random.default_rng(0).normal(size=(ITEMS, DIM)).astype(np.float32)
WIDE = Defaults(k=12, best_first=BestFirst(pool=ITEMS))
USERS = np.random.default_rng(8).normal(size=(3, DIM)).astype(np.float32)


def weights(seed, *shape):
    return tf.Variable(np.random.default_rng(seed).normal(size=shape).astype(np.float32) * shape[0] ** -0.5)


class Towers(tf.Module):
    """A network over the user and a tower of the item, which depends on the item alone and is narrower than it."""

    features = {"vector": tf.TensorSpec([None, DIM])}  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.first, self.second = weights(1, DIM, 256), weights(2, 256, 8)
        self.hidden, self.out = weights(3, DIM + 8, 12), weights(4, 12, 1)

    def user(self, features):
        return (features["vector"],)

    def score(self, user, items):
        tower = tf.tanh(items @ self.first) @ self.second
        users = tf.broadcast_to(user[0][:, None], [1, tf.shape(items)[1], DIM])
        return (tf.tanh(tf.concat([users, tower], axis=-1) @ self.hidden) @ self.out)[..., 0]

    def numpy(self, users):
        """Returns the scores of all items, float64 [B, ITEMS], from the weights alone."""
        first, second, hidden, out = (
            one.numpy().astype(np.float64) for one in (self.first, self.second, self.hidden, self.out)
        )
        tower = np.tanh(EMBEDDINGS.astype(np.float64) @ first) @ second
        by_user = users.astype(np.float64) @ hidden[:DIM]
        return (np.tanh(by_user[:, None] + (tower @ hidden[DIM:])[None]) @ out)[..., 0]


class Pooled(Towers):
    """The user has one tensor of any length, which requests decide."""

    features = {"vector": tf.TensorSpec([None, None, DIM])}  # noqa: RUF012

    def score(self, user, items):
        return super().score((tf.reduce_mean(user[0], axis=1),), items)


class Strings(Towers):
    """XLA cannot compile this."""

    def score(self, user, items):
        return tf.strings.to_number(tf.as_string(super().score(user, items), precision=9))


def _one_is_fast(values, fast):
    """Returns the values with all but one among the slow tests: each of them exports a model."""
    return [value if value == fast else pytest.param(value, marks=pytest.mark.slow) for value in values]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return build_index(IDS, EMBEDDINGS, tmp_path_factory.mktemp("variants") / "index", Hnsw(threads=1)).folder


@pytest.fixture(scope="module")
def assumed(index, tmp_path_factory):
    """An export whose scorer was not measured."""
    target = tmp_path_factory.mktemp("assumed") / "1"
    return export(Towers(), index, target, WIDE, options=ExportOptions(assume="passes"))


def clock(monkeypatch, fastest, noise=0.0):
    """Has the measurement say that `fastest` takes half as long as all others; returns what was measured."""
    seen = {}

    def measure(made, user, items, dtype):
        seen.update({one.name: one for one in made})
        us = {
            one.name: {size: size * (0.5 if one.name == fastest else 1.0) for size in measuring.SIZES} for one in made
        }
        return measuring.Measured(us, noise)

    monkeypatch.setattr(choosing, "measure", measure)
    return seen


def searches(saved_model):
    """Returns the attributes of all searches in a SavedModel."""
    (meta,) = saved_model_pb2.SavedModel.FromString((saved_model / "saved_model.pb").read_bytes()).meta_graphs
    nodes = [node for function in meta.graph_def.library.function for node in function.node_def]
    return [node.attr for node in (*meta.graph_def.node, *nodes) if node.op.endswith("Search")]


def shape_of(saved_model):
    """Returns what the graph and the index say about the scorer: rewritten, folded, compiled."""
    found = searches(saved_model)
    assert found
    assert not any(one["rewrite"].b for one in found)  # What was chosen stays when a server loads it.
    rewritten, compiled = ({len(one[name].list.func) for one in found} for name in ("prepare", "compiled_scorer"))
    assert len(rewritten) == len(compiled) == 1
    return bool(rewritten.pop()), read_manifest(saved_model)["index"]["dim"] != DIM, bool(compiled.pop())


def check_answers(saved_model, model, users=USERS):
    """Checks the answers against brute force in NumPy."""
    answer = load_servable(saved_model).signature("retrieve").run({"vector": users})
    wanted = model.numpy(users)
    best = np.argsort(-wanted, axis=1)[:, : WIDE.k]
    np.testing.assert_array_equal(answer["item_ids"], IDS[best])
    np.testing.assert_allclose(answer["scores"], np.take_along_axis(wanted, best, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", _one_is_fast(NAMES, "passes+fold"))
def test_each_variant_ships_when_it_is_the_fastest(measured, monkeypatch, index, tmp_path, name):
    seen = clock(monkeypatch, name)
    model = Towers()
    target = export(model, index, tmp_path / "1", WIDE)
    assert list(seen) == list(NAMES)
    assert shape_of(target) == (not name.startswith("plain"), "fold" in name, "xla" in name)
    check_answers(target, model)
    entry = read_manifest(target)["scorer_variants"]
    assert (entry["chosen"], entry["how"]) == (name, "measured")
    assert entry["ns_per_item"] == {one: 500.0 if one == name else 1000.0 for one in NAMES}
    assert entry["refused"] == {}
    assert (read_manifest(target)["scorer"] is None) == name.startswith("plain")
    (line,) = [line for line in inspected(inspect(target)).splitlines() if line.startswith("scorer ")]
    assert f" {name}, measured" in line
    found = explain(target)
    assert (found.after is None) == name.startswith("plain")
    (row,) = [line for line in summary(found).splitlines() if line.endswith("ships")]
    assert row.split() == [name, "32", "64", "128", "500", "ships"]
    assert found.facts()["variants"]["us_per_batch"][name] == {"64": 32.0, "128": 64.0, "256": 128.0}


@pytest.mark.slow
@pytest.mark.medium
def test_what_is_measured_ships(measured, monkeypatch, index, tmp_path):
    """Without a made-up clock: every variant has a time for every size, and the one that ships is as the rule says."""
    monkeypatch.setattr(measuring, "SECONDS", 0.1)
    monkeypatch.setattr(choosing, "MOST_NOISE", math.inf)
    model = Towers()
    target = export(model, index, tmp_path / "1", WIDE)
    entry = read_manifest(target)["scorer_variants"]
    assert list(entry["us_per_batch"]) == list(NAMES)
    assert all(
        list(sizes) == [str(size) for size in measuring.SIZES] and min(sizes.values()) > 0
        for sizes in entry["us_per_batch"].values()
    )
    for name, cost in entry["ns_per_item"].items():
        us = entry["us_per_batch"][name]
        assert cost == pytest.approx(1000 * (us["64"] / 64 + us["128"] / 128 + 2 * us["256"] / 256) / 4, rel=0.05)
    assert entry["chosen"] == choosing.fastest(entry["ns_per_item"], entry["noise"])[0]
    assert entry["processor"]
    assert entry["reason"] in summary(explain(target))
    check_answers(target, model)
    assert verify(target)["coverage"] > 0.9


def wrong(monkeypatch, names):
    """Has the making of the variants in `names` go wrong: they score as another model does."""
    trace, rewrite = ops.trace_scorer, ops.rewrite_scorer

    def rewrite_wrongly(scorer, user, dim, fold_items=False):
        if ("passes+fold" if fold_items else "passes") in names:
            other = Towers()
            other.out.assign(other.out * 1.001)
            scorer = trace(lambda vector, items: other.score((vector,), items), user, dim, scorer.compiled is not None)
        return rewrite(scorer, user, dim, fold_items=fold_items)

    def trace_wrongly(score, user, dim, xla=False):
        made = trace(score, user, dim, xla)
        if not xla or "plain+xla" not in names:
            return made
        return made._replace(compiled=trace(lambda *tensors: score(*tensors) * 1.001, user, dim, xla=True).compiled)

    monkeypatch.setattr(making, "ops", SimpleNamespace(**{**vars(ops), "rewrite_scorer": rewrite_wrongly}))
    monkeypatch.setattr(making.ops, "trace_scorer", trace_wrongly)


@pytest.mark.medium
@pytest.mark.parametrize("name", _one_is_fast(["passes", "passes+fold", "plain+xla"], "passes"))
def test_a_variant_with_wrong_scores_does_not_ship(measured, monkeypatch, index, tmp_path, capsys, name):
    """Though it is the fastest by far."""
    wrong(monkeypatch, [name])
    seen = clock(monkeypatch, name)
    model = Towers()
    target = export(model, index, tmp_path / "1", WIDE)
    entry = read_manifest(target)["scorer_variants"]
    assert name not in seen
    assert entry["chosen"] == "plain"
    assert re.match(r"its scores differ from the model's by \d\.\de-0\d of the largest score", entry["refused"][name])
    check_answers(target, model)
    assert ("left out: its scores differ" in summary(explain(target))) and entry["chosen"] in summary(explain(target))
    assert ("xla" in name) != (f"not exported as {name}: its scores differ" in capsys.readouterr().out)


@pytest.mark.slow
def test_the_rule_ships_no_wrong_scores_either(monkeypatch, index, tmp_path):
    """Nor does a server then run the passes when it loads the model, which would give the same wrong scores."""
    wrong(monkeypatch, ["passes", "passes+fold"])
    model = Towers()
    target = export(model, index, tmp_path / "1", WIDE, options=ExportOptions(measure=False))
    assert shape_of(target) == (False, False, False)
    assert set(read_manifest(target)["scorer_variants"]["refused"]) == {"passes", "passes+fold"}
    check_answers(target, model)


@pytest.mark.slow
@pytest.mark.parametrize("fold_items", _one_is_fast([True, False], True))
def test_nothing_follows_from_the_times_of_a_busy_machine(measured, monkeypatch, index, tmp_path, fold_items):
    clock(monkeypatch, "plain", noise=0.4)
    target = export(Towers(), index, tmp_path / "1", WIDE, options=ExportOptions(fold_items=fold_items))
    entry = read_manifest(target)["scorer_variants"]
    assert (entry["chosen"], entry["how"]) == ("passes+fold" if fold_items else "passes", "rule")
    assert "the same measurement again differs by 40%" in entry["reason"]


@pytest.mark.parametrize(
    ("cost", "wanted"),
    [
        ({"plain": 100, "passes": 98}, "plain"),
        ({"plain": 100, "passes": 96}, "passes"),
        ({"plain": 100, "passes": 60, "passes+fold": 59}, "passes"),
        ({"plain": 100, "passes": 60, "passes+fold": 50}, "passes+fold"),
        ({"plain": 100, "passes": 130, "passes+fold": 120}, "plain"),
        ({"plain": 100, "plain+xla": 95}, "plain"),
        ({"plain": 100, "plain+xla": 89}, "plain+xla"),
        ({"plain": 100, "passes": 50, "plain+xla": 47, "passes+xla": 46}, "passes"),
        ({"plain": 100, "passes": 50, "plain+xla": 47, "passes+xla": 40, "passes+fold+xla": 39.5}, "passes+xla"),
    ],
)
def test_a_simpler_variant_ships_unless_another_is_faster_by_more_than_the_noise(cost, wanted):
    assert choosing.fastest(cost)[0] == wanted


def test_more_noise_needs_a_larger_difference():
    cost = {"plain": 100, "passes": 92, "passes+xla": 82}
    assert choosing.fastest({"plain": 100, "passes": 92}, 0.09)[0] == "plain"
    assert choosing.fastest(cost, 0.09)[0] == "passes+xla"
    assert choosing.fastest(cost, 0.19)[0] == "plain"


@pytest.mark.medium
@pytest.mark.parametrize("name", _one_is_fast(["plain", "passes", "passes+fold+xla"], "passes"))
def test_a_variant_that_is_assumed_ships_unmeasured(measured, monkeypatch, index, tmp_path, name):
    monkeypatch.setattr(choosing, "measure", None)
    model = Towers()
    target = export(model, index, tmp_path / "1", WIDE, options=ExportOptions(assume=name))
    assert shape_of(target) == (not name.startswith("plain"), "fold" in name, "xla" in name)
    check_answers(target, model)
    entry = read_manifest(target)["scorer_variants"]
    assert (entry["chosen"], entry["how"], entry["us_per_batch"]) == (name, "assumed", {})


class Dot(Towers):
    """Nothing can be folded."""

    def score(self, user, items):
        return tf.einsum("bd,bnd->bn", user[0], items)


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        (
            Towers,
            {"assume": "folded"},
            "assume is 'folded', allowed are plain, passes, passes+fold, plain+xla, passes+xla, passes+fold+xla",
        ),
        (
            Towers,
            {"assume": "passes+fold", "fold_items": False},
            "assume is 'passes+fold', allowed without fold_items are plain, passes, plain+xla, passes+xla",
        ),
        (Towers, {"assume": "passes", "rewrite": False}, "without rewrite no variant is chosen at export"),
        (Dot, {"assume": "passes+fold"}, "cannot be exported as 'passes+fold': nothing is folded"),
        (Strings, {"assume": "plain+xla"}, "cannot be exported as 'plain+xla'"),
    ],
)
def test_what_cannot_be_assumed_is_refused(index, tmp_path, model, options, words):
    with pytest.raises(NannError, match=re.escape(words)):
        export(model(), index, tmp_path / "1", WIDE, options=ExportOptions(**options))
    assert not (tmp_path / "1").exists()


@pytest.mark.medium
@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(Pooled, "for every new extent of a user tensor", id="extents"),
        pytest.param(Strings, "", id="strings", marks=pytest.mark.slow),
    ],
)
def test_what_xla_should_not_compile_is_left_out(measured, monkeypatch, index, tmp_path, make, words):
    seen = clock(monkeypatch, "passes")
    model = make()
    target = export(model, index, tmp_path / "1", WIDE)
    assert {name for name in seen if "xla" in name} == set()
    entry = read_manifest(target)["scorer_variants"]
    assert entry["chosen"] == "passes"
    assert {name for name in NAMES if "xla" in name} <= set(entry["refused"])
    assert words in entry["refused"]["plain+xla"]
    if make is Strings:
        check_answers(target, model)


@pytest.mark.slow
@pytest.mark.medium
def test_a_new_index_keeps_the_variant(measured, monkeypatch, index, tmp_path):
    """It is not measured again, as the graph is the same."""
    clock(monkeypatch, "passes+fold+xla")
    model = Towers()
    old = export(model, index, tmp_path / "1", WIDE)
    monkeypatch.setattr(choosing, "measure", None)
    order = np.random.default_rng(3).permutation(ITEMS)
    fresh = build_index(IDS[order], EMBEDDINGS[order], tmp_path / "index", Hnsw(threads=1)).folder
    new = reuse(old, fresh, tmp_path / "2")
    assert read_manifest(new)["scorer_variants"] == read_manifest(old)["scorer_variants"]
    assert shape_of(new) == (True, True, True)
    check_answers(new, model)


@pytest.mark.parametrize(
    "broken",
    [[], {}, {"chosen": 3}, {"us_per_batch": [1]}, {"us_per_batch": {"plain": {"64": "x"}}}, {"ns_per_item": {"a": 1}}],
)
def test_a_strange_entry_in_the_manifest_is_refused(assumed, tmp_path, broken):
    target = shutil.copytree(assumed, tmp_path / "1")
    manifest = json.loads((target / FILE).read_text())
    entry = manifest["scorer_variants"]
    manifest["scorer_variants"] = {**entry, **broken} if broken else broken
    (target / FILE).write_text(json.dumps(manifest))
    for run in (explain, lambda path: inspected(inspect(path))):
        with pytest.raises(NannError, match="`scorer_variants` is not in the form"):
            run(target)
