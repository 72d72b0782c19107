"""The auxiliary loss for a Keras ranker of one's own, against the same written by hand."""

import keras
import numpy as np
import polars as pl
import pytest
import tensorflow as tf
from keras import layers

import tfserving_ext as nann
from examples.rankers import din, mmoe, shop, text, two_tower
from export_tools.cut.source import cut_ranker
from tests.training.small_ranker import TABLE, batch, data, parts, ranker, scores, vectors
from tfserving_ext.errors import NannError


def click_divergence(before, there):
    """KL of two clicks by their probabilities, [B]."""
    yes, no = before * tf.math.log(before / there), (1 - before) * tf.math.log((1 - before) / (1 - there))
    return tf.reduce_sum(yes + no, axis=1)


LOSSES = {
    "logits": (None, lambda: keras.losses.BinaryCrossentropy(from_logits=True), tf.sigmoid, click_divergence),
    "probabilities": ("sigmoid", lambda: "binary_crossentropy", lambda one: one, click_divergence),
    "values": (None, lambda: "mse", lambda one: one, lambda one, other: tf.reduce_sum((one - other) ** 2, 1)),
}


@pytest.mark.parametrize("epsilon_scale", ["relative", "absolute"])
@pytest.mark.parametrize("name", LOSSES)
def test_a_step_is_that_of_the_loss_written_by_hand(name, epsilon_scale):
    activation, loss, shown, divergence = LOSSES[name]
    rows, clicked, weights = batch()
    made = parts(activation)
    model = nann.adversarial(ranker(made), nann.Items(TABLE), 0.3, 2.0, epsilon_scale)
    assert model.item_layers == ["item_vector"]
    model.compile(keras.optimizers.SGD(1.0), loss())
    before = [np.array(each) for each in model.ranker.get_weights()]

    by_hand = {
        "logits": keras.losses.BinaryCrossentropy(from_logits=True),
        "probabilities": keras.losses.BinaryCrossentropy(),
        "values": keras.losses.MeanSquaredError(),
    }[name]

    def main_of(predicted):
        return by_hand(clicked, predicted, weights) + 0.01 * tf.reduce_sum(made["hidden"].kernel ** 2)

    with tf.GradientTape() as tape:
        items = vectors(made, rows)
        with tf.GradientTape() as inner:
            inner.watch(items)
            main = main_of(scores(made, rows, items))
        step = 0.3 * (1.0 if epsilon_scale == "absolute" else np.sqrt(np.mean(items.numpy() ** 2)))
        there = items + step * np.sign(inner.gradient(main, items).numpy())
        clean = tf.constant(shown(scores(made, rows, items)).numpy())
        auxiliary = tf.reduce_mean(weights * divergence(clean, shown(scores(made, rows, there))))
        total = main_of(scores(made, rows, items)) + 2.0 * auxiliary
    wanted = tape.gradient(total, model.trainable_weights)

    logs = model.train_on_batch(rows, clicked, sample_weight=weights, return_dict=True)
    np.testing.assert_allclose(logs["loss"], total, rtol=1e-5)
    np.testing.assert_allclose(logs["auxiliary_loss"], auxiliary, rtol=1e-4)
    assert auxiliary > 1e-4
    moved = dict(zip([each.path for each in model.ranker.weights], before, strict=True))
    for weight, gradient in zip(model.trainable_weights, wanted, strict=True):
        dense = tf.convert_to_tensor(gradient)
        np.testing.assert_allclose(weight.numpy(), moved[weight.path] - dense, rtol=1e-4, atol=1e-6)


def trained(wrap):
    made = parts()
    dropping = ranker(made)
    hidden = layers.BatchNormalization()(layers.Dropout(0.3, seed=4)(dropping.output))
    whole = keras.Model(dropping.input, layers.Dense(1)(hidden))
    keras.utils.set_random_seed(2)
    model = wrap(whole)
    model.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True), weighted_metrics=["auc"])
    logs = model.fit(data(), epochs=2, validation_data=data(16), verbose=0)
    return whole.get_weights(), logs.history


@pytest.mark.slow
@pytest.mark.parametrize("numbers", [(0.0, 1.0), (0.3, 0.0)])
def test_without_the_loss_it_trains_as_the_model_itself(numbers):
    alone, history = trained(lambda whole: whole)
    weights, same = trained(lambda whole: nann.adversarial(whole, nann.Items(TABLE), *numbers))
    for one, other in zip(alone, weights, strict=True):
        np.testing.assert_array_equal(one, other)
    assert history == same
    changed, logged = trained(lambda whole: nann.adversarial(whole, nann.Items(TABLE)))
    assert any((one != other).any() for one, other in zip(alone, changed, strict=True))
    assert set(logged) == {*history, "auxiliary_loss"}
    assert min(logged["auxiliary_loss"]) > 0


def test_the_score_becomes_flatter():
    def flatness(weight):
        made = parts()
        model = nann.adversarial(ranker(made), nann.Items(TABLE), 0.5, weight)
        model.compile(keras.optimizers.Adam(0.02), keras.losses.BinaryCrossentropy(from_logits=True))
        model.fit(data(), epochs=20, verbose=0)
        rows, _, _ = batch(200, seed=9)
        items = vectors(made, rows)
        with tf.GradientTape() as tape:
            tape.watch(items)
            score = scores(made, rows, items)
        return float(tf.reduce_mean(tf.norm(tape.gradient(score, items), axis=1) * tf.norm(items, axis=1)))

    assert flatness(3.0) < 0.7 * flatness(0.0)


def test_what_is_saved_is_the_ranker_alone(tmp_path):
    model = nann.adversarial(ranker(parts()), nann.Items(TABLE))
    model.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True))
    best = keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", monitor="loss")
    model.fit(data(), verbose=0, callbacks=[best])
    model.save(tmp_path / "ranker.keras")
    model.save_weights(tmp_path / "ranker.weights.h5")
    rows, _, _ = batch()
    wanted = model.predict(rows, verbose=0)
    for name in ("best.keras", "ranker.keras"):
        loaded = keras.saving.load_model(tmp_path / name)
        assert type(loaded).__module__.startswith("keras.")
        np.testing.assert_array_equal(loaded.predict(rows, verbose=0), wanted)
        assert [each.name for each in loaded.layers] == [each.name for each in model.ranker.layers]
    other = nann.adversarial(ranker(parts(seed=5)), nann.Items(TABLE))
    other.load_weights(tmp_path / "ranker.weights.h5")
    np.testing.assert_array_equal(other.predict(rows, verbose=0), wanted)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "embedding", "found"),
    [
        (din, "", 4),  # The candidate, before it is repeated along the history, category, brand and price.
        (two_tower, "", 1),
        (two_tower, "item_tower", 1),
        (mmoe, "", None),
    ],
)
def test_rankers_of_many_kinds_train(module, embedding, found):
    """Strings, a shared table, masks, nested models, several outputs."""
    table = shop.items(50)
    users = shop.requests(table, 50)
    whole = module.make(table)
    model = nann.adversarial(whole, nann.Items(table, embedding=embedding))
    assert found is None or len(model.item_layers) == found
    assert not embedding or model.item_layers == [embedding]
    taken = [each.name for each in whole.inputs]
    given = {name: users[name] if name in users else table[name].to_numpy() for name in taken}
    given = {name: tf.constant(v.astype(object) if v.dtype.kind in "OU" else v) for name, v in given.items()}
    given = given if isinstance(whole.input, dict) else [given[name] for name in taken]
    clicked = np.random.default_rng(0).integers(0, 2, [50, 1]).astype(np.float32)
    target = dict.fromkeys(whole.output, clicked) if isinstance(whole.output, dict) else clicked
    split = model._hidden.split
    values, items = split.before(given)
    for one, other in zip(
        keras.tree.flatten(split.outputs(values, items)), keras.tree.flatten(whole(given, training=True)), strict=True
    ):
        if not any(isinstance(layer, layers.Dropout) for layer in whole.layers):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    loss = "binary_crossentropy" if module is din else keras.losses.BinaryCrossentropy(from_logits=True)
    loss = dict.fromkeys(target, "binary_crossentropy") if isinstance(target, dict) else loss
    model.compile("adam", loss, loss_weights=dict.fromkeys(target, 0.5) if isinstance(target, dict) else None)
    logs = model.fit(given if isinstance(given, dict) else tuple(given), target, verbose=0).history
    assert logs["auxiliary_loss"][0] > 0


@pytest.mark.parametrize(("module", "width"), [(din, 29), (two_tower, 24), (text, 17)])
def test_it_moves_what_the_export_builds_the_graph_on(module, width, tmp_path):
    table = shop.items(50)
    model = nann.adversarial(module.make(table), nann.Items(table))
    model.save(tmp_path / "ranker.keras")
    cut = cut_ranker(tmp_path / "ranker.keras", nann.Items(table))
    assert sum(cut.graph.tensors[name].width for name in cut.cut.vectors) == width

    def filled(tensor):
        shape = [2, *(3 if size is None else size for size in tensor.shape[1:])]
        return tf.fill(shape, "x") if tensor.dtype == "string" else tf.zeros(shape, tensor.dtype)

    given = keras.tree.map_structure(filled, model.ranker.input)
    assert model._hidden.split.before(given)[1].shape == (2, width)


def test_masks_are_kept_where_the_vectors_have_one():
    """Words of a title are embedded, and those that are not there are masked out behind the vectors."""
    table = shop.items(50)
    whole = text.make(table)
    (words,) = (each.name for each in whole.layers if isinstance(each, layers.Embedding) and each.mask_zero)
    model = nann.adversarial(whole, nann.Items(table, embedding=words))
    given = shop.requests(table, 3) | table[:3].to_dict(as_series=False)
    given = {name: tf.constant(list(given[name])) for name in whole.input}
    given["price"] = tf.reshape(given["price"], [3, 1])
    split = model._hidden.split
    np.testing.assert_allclose(split.outputs(*split.before(given)), whole(given, training=True), rtol=1e-5)


def test_outputs_are_weighed_as_their_losses():
    def auxiliary(loss, weights):
        made = parts()
        inputs = ranker(made).input
        items = vectors(made, inputs)
        both = {
            "click": scores(made, inputs, items),
            "stay": layers.Dense(1)(layers.concatenate([items, inputs["age"]])),
        }
        model = nann.adversarial(keras.Model(inputs, both), nann.Items(TABLE), 0.01, 1e-6, "absolute")
        model.compile(keras.optimizers.SGD(0.0), loss, loss_weights=weights)
        rows, clicked, _ = batch()
        return model.train_on_batch(rows, dict.fromkeys(loss, clicked), return_dict=True)["auxiliary_loss"]

    click = keras.losses.BinaryCrossentropy(from_logits=True)
    one = auxiliary({"click": click, "stay": None}, None)
    assert one > 0
    np.testing.assert_allclose(
        auxiliary({"click": click, "stay": None}, {"click": 3.0, "stay": 1.0}), 3 * one, rtol=1e-4
    )
    assert auxiliary({"click": click, "stay": "mse"}, {"click": 1.0, "stay": 5.0}) > 1.1 * one


def test_what_cannot_be_trained_so_is_refused():
    items, made = nann.Items(TABLE), parts()
    whole = ranker(made)

    class Own(keras.Model):
        pass

    for model, given, options, words in [
        (Own(), items, {}, "the model is a Own, it must be a functional model"),
        (whole, items, {"epsilon": -1.0}, "epsilon is -1.0, allowed are finite numbers of at least 0"),
        (whole, items, {"weight": float("nan")}, "weight is nan"),
        (whole, items, {"epsilon_scale": "large"}, "epsilon_scale is 'large', allowed are 'relative' and 'absolute'"),
        (
            whole,
            nann.Items(TABLE, embedding="score"),
            {},
            "'score', which computes no floats of the item alone; allowed",
        ),
        (whole, nann.Items(TABLE.select("item_id").with_columns(x=1), id_column="x"), {}, "twice|times"),
    ]:
        with pytest.raises(NannError, match=words):
            nann.adversarial(model, given, **options)
    age, item = keras.Input([1], name="age"), keras.Input([1], name="price")
    raw = keras.Model([age, item], layers.Dense(1)(layers.concatenate([age, item])))
    priced = nann.Items(TABLE.with_columns(price=pl.lit(1.0)))
    with pytest.raises(NannError, match="computes no floats of the item alone"):
        nann.adversarial(raw, priced)
    with pytest.raises(NannError, match="the loss is CategoricalHinge, for which no divergence is known; allowed are"):
        nann.adversarial(whole, items).compile("adam", keras.losses.CategoricalHinge())
    nann.adversarial(whole, items, weight=0.0).compile("adam", keras.losses.CategoricalHinge())
    with pytest.raises(NannError, match="no output has a loss"):
        nann.adversarial(whole, items).compile("adam")
    model = nann.adversarial(whole, items, divergence=lambda one, other: tf.reduce_sum(tf.abs(one - other), 1))
    model.compile("adam", keras.losses.CategoricalHinge())
    rows, clicked, _ = batch()
    assert model.train_on_batch(rows, clicked, return_dict=True)["auxiliary_loss"] > 0
