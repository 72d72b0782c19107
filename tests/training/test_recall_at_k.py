"""Recall of a Keras ranker in training, against the same by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfserving_ext as nann
from tests.training.small_ranker import ITEMS, TABLE, batch, data, parts, ranker
from tfserving_ext.errors import NannError


def recall_by_hand(whole, users, targets, k):
    hits = []
    for user, target in enumerate(targets):
        rows = {name: tf.repeat(value[user : user + 1], ITEMS, axis=0) for name, value in users.items()}
        rows |= {
            name: tf.constant(TABLE[name].to_numpy().astype(object if name == "kind" else int))
            for name in TABLE.columns
        }
        found = whole.predict(rows, verbose=0)[:, 0]
        best = TABLE["item_id"].to_numpy()[np.argsort(-found, kind="stable")[:k]]
        hits.append(target in best)
    return np.mean(hits)


@pytest.mark.parametrize("wrapped", [True, False])
def test_recall_is_that_of_scoring_every_item(wrapped, monkeypatch):
    monkeypatch.setattr("tfserving_ext.training.recall._ROWS", 13)
    whole = ranker(parts())
    rows, _, _ = batch(12, seed=3)
    users = {name: rows[name] for name in ("country", "age")}
    targets = rows["item_id"].numpy()
    model = nann.adversarial(whole, nann.Items(TABLE)) if wrapped else whole
    model.compile(keras.optimizers.Adam(0.05), keras.losses.BinaryCrossentropy(from_logits=True))
    wanted = []
    recall = nann.RecallAtK(users, targets, nann.Items(TABLE), k=6, every=2)
    by_hand = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: wanted.append(recall_by_hand(whole, users, targets, 6)) if epoch % 2 else None
    )
    stop = keras.callbacks.EarlyStopping("val_recall_at_6", mode="max", patience=99)
    logs = model.fit(data(), epochs=4, verbose=0, callbacks=[by_hand, recall, stop])
    assert logs.history["val_recall_at_6"] == wanted
    assert 0 < max(wanted) < 1


def test_bad_held_out_users_are_refused():
    users, items = {"country": np.array(["DE"]), "age": np.ones([1, 1])}, nann.Items(TABLE)
    for arguments, words in [
        ((users, [100], items, 0), "k is 0, allowed are numbers of at least 1"),
        ((users, [100, 101], items), "there are 2 of targets, 1 of country, 1 of age"),
        (({}, [], items), "at least one"),
    ]:
        with pytest.raises(NannError, match=words):
            nann.RecallAtK(*arguments)
    whole = ranker(parts())
    for arguments, words in [
        (({"age": users["age"]}, [100], items), "no input 'country'; the model takes age, country of a user"),
        ((users, [7], items), "the target 7 is no item of the table of items"),
    ]:
        with pytest.raises(NannError, match=words):
            nann.RecallAtK(*arguments).set_model(whole)
