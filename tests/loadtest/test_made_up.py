"""Made-up requests, requests that are refused, and claims that a report must not make."""

import asyncio
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
from typer.testing import CliRunner

from tests.loadtest import results
from tfserving_ext.cli import app
from tfserving_ext.loadtest import InputSpec, ModelSpec, Scenario, bench, trace
from tfserving_ext.loadtest import report_plots as plots
from tfserving_ext.loadtest.inputs import make_inputs
from tfserving_ext.serving.warm_up import FILE

IDS, WORDS, PRICES = [70_001, 70_004, 90_002], [b"tea", b"milk"], [250.0, 900.0]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A SavedModel that fails for values outside its vocabularies, with warm-up records inside them."""

    class Shop(tf.Module):
        @tf.function(
            input_signature=[
                tf.TensorSpec([None, None], tf.int64, "item"),
                tf.TensorSpec([None], tf.string, "word"),
                tf.TensorSpec([None], tf.float32, "price"),
                tf.TensorSpec([None], tf.float32, "zero"),
            ]
        )
        def run(self, item, word, price, zero):
            known = tf.reduce_all(tf.reduce_any(item[..., None] == tf.constant(IDS, tf.int64), -1))
            spelled = tf.reduce_all(tf.reduce_any(word[..., None] == tf.constant(WORDS), -1))
            priced = tf.reduce_all((price >= PRICES[0]) & (price <= PRICES[1]))
            with tf.control_dependencies([tf.debugging.Assert(known & spelled & priced, ["not in the vocabulary"])]):
                return {"y": tf.identity(price) + zero}

    module = Shop()
    folder = tmp_path_factory.mktemp("shop") / "1"
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.run})
    (folder / FILE).parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(folder / FILE)) as writer:
        for place in range(3):
            request = predict_pb2.PredictRequest()
            request.model_spec.signature_name = "serving_default"
            for name, value in {
                "item": np.array([IDS[: place + 1]]),
                "word": np.array([WORDS[place % 2]], object),
                "price": np.array([PRICES[place % 2]], np.float32),
                "zero": np.zeros([1], np.float32),
            }.items():
                request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
            log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
            writer.write(log.SerializeToString())
    return folder


def signatures_of(folder):
    from tfserving_ext.serving.models import load_servable

    servable = load_servable(folder)
    try:
        return servable.signature_defs
    finally:
        servable.close()


def test_what_is_made_up_is_in_the_vocabularies_of_the_warm_up_records(shop):
    """A model with vocabularies would refuse most values from 0 to 99 and random words. First contact, line 26."""
    signatures = signatures_of(shop)
    made = make_inputs(ModelSpec(path=shop), signatures, 0)
    assert len(made) == 64
    assert {int(each) for one in made for each in one["item"].ravel()} == set(IDS)
    assert {each for one in made for each in one["word"].ravel()} == set(WORDS)
    prices = np.concatenate([one["price"] for one in made])
    assert PRICES[0] <= prices.min() < prices.max() <= PRICES[1]
    assert np.ptp(np.concatenate([one["zero"] for one in made])) > 0  # Zeros give no range.
    ranged = make_inputs(ModelSpec(path=shop, inputs={"item": InputSpec(low=5, high=6)}), signatures, 0)
    assert {int(each) for one in ranged for each in one["item"].ravel()} == {5, 6}
    blind = make_inputs(ModelSpec(), signatures, 0)
    assert max(int(one["item"].max()) for one in blind) <= 99
    found = bench(Scenario(target="session", models=[ModelSpec(path=shop)], warm_up=0, seconds=1))["levels"][0]
    assert found["answered"] and not found["errors"]


def test_damaged_records_leave_a_load_test_alone(shop, tmp_path):
    (tmp_path / FILE).parent.mkdir(parents=True)
    (tmp_path / FILE).write_bytes(b"no record")
    made = make_inputs(ModelSpec(path=tmp_path), signatures_of(shop), 0)
    assert max(int(one["item"].max()) for one in made) <= 99


@pytest.mark.medium
@pytest.mark.parametrize(
    ("code", "errors", "words"),
    [
        ("INVALID_ARGUMENT", 1, "1 of 1,200 requests at 100/s were refused as wrong, INVALID_ARGUMENT: told to fail"),
        ("HTTP 400", 30, "refused as wrong, HTTP 400"),
        ("InvalidArgumentError", 67, "refused as wrong"),
        ("RESOURCE_EXHAUSTED", 67, "67 % of the requests at 100/s failed: RESOURCE_EXHAUSTED"),
        ("RESOURCE_EXHAUSTED", 100, "no request was answered successfully at 100/s"),
        ("RESOURCE_EXHAUSTED", 30, None),
        ("HTTP 503", 0, None),
    ],
)
def test_failures_decide_the_exit_status(monkeypatch, tmp_path, code, errors, words):
    """A level on which most requests fail, or any is refused as wrong, makes the exit status 1.

    First contact, line 26.
    """
    level = results.level(errors=errors, code=code)
    if errors == 1:
        level["errors"] = {code: 1}
    result = results.result(level, failure=None)
    monkeypatch.setattr(sys.modules["tfserving_ext.loadtest.run"], "bench", lambda *_: result)
    ran = CliRunner().invoke(app, ["bench", "--rate", "100", "-o", str(tmp_path / "result.json")])
    assert (tmp_path / "result.html").exists()  # The report is written in any case.
    if words is None:
        assert ran.exit_code == 0, ran.exception
    else:
        assert ran.exit_code == 1
        assert words in str(ran.exception)
    assert ("--path" in str(ran.exception)) == (words is not None and "wrong" in words)


@pytest.mark.parametrize("shared_process", [True, False])
def test_the_time_outside_the_op_is_named_after_its_cause(shared_process):
    """For a model in this process, that cause cannot be "server and network". First contact, line 26."""

    async def ask(*_):
        await asyncio.sleep(0.002)
        return {f"{name}_us": np.array([100]) for name in trace.STAGES}

    target = SimpleNamespace(shared_process=shared_process, ask=ask)
    found = asyncio.run(trace.trace(target, ModelSpec(), [{}], 3, 1.0))
    *_, last = found["stages_ms"]
    assert last == ("TensorFlow around the op" if shared_process else "server and network")
    assert sum(found["stages_ms"].values()) == pytest.approx(found["total_ms"])


def test_levels_are_not_joined_where_throughput_fell(monkeypatch):
    """A line would suggest that the points between two levels can be reached. First contact, line 26."""
    series = []
    monkeypatch.setattr(plots, "curve_plot", lambda name, title, lines, *rest, **more: series.extend(lines))
    rates = {1: 100.0, 2: 180.0, 4: 150.0, 8: 170.0, 16: 120.0}
    levels = [results.level(clients, "closed", per_second=rate) for clients, rate in rates.items()]
    plots.load_curve(levels)
    for line, key in zip(series, ("p50", "p99"), strict=True):
        parts = [[]]
        for x, y in zip(line.x, line.y, strict=True):
            if y is None:
                parts.append([])
            else:
                parts[-1].append((x, y))
        at = {rate: level["latency_ms"][key] for rate, level in zip(rates.values(), levels, strict=True)}
        assert parts == [[(rate, at[rate]) for rate in part] for part in ([100, 180], [150, 170], [120])]
    assert len(series[1].notes) == len(series[1].x)
    monkeypatch.undo()
    drawn = plots.load_curve(levels)
    assert [row[0] for row in drawn.rows] == ["100.0", "120.0", "150.0", "170.0", "180.0"]
    assert all(all(cell for cell in row) for row in drawn.rows)
