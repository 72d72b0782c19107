"""Measures a Keras ranker trained with the auxiliary loss: its recall by exact search, and the coverage of each walk.

Made-up users and items have hidden vectors, and a user clicks by a function of both that is no inner product. The same
network is trained with several weights of the loss, saved, cut by its table of items as `nann export` does, and
searched:

    python -m benchmarks.search.adversarial
"""

import tempfile
from pathlib import Path
from typing import Annotated, Any

import keras
import numpy as np
import polars as pl
import tensorflow as tf
import typer

from benchmarks.command import Out, measuring, print_summary
from export_tools.cut import cut_and_indexed
from export_tools.cut.items import Items
from tfserving_ext.artifacts import write_json
from tfserving_ext.retrieval import BruteForce, NeuralTopK, coverage
from tfserving_ext.training.adversarial import adversarial
from tfserving_ext.training.recall import RecallAtK

HIDDEN, DIM, K = 6, 16, 100
WEIGHTS, EPSILON = (0.0, 0.1, 1.0, 10.0), 0.3
# The paper's walk with narrow and with its own beams, and the default walk.
WALKS: dict[str, dict[str, Any]] = {
    "rounds, narrow": {"ef": [50, 50, 100], "rounds": [1, 1, 3]},
    "rounds": {"ef": [100, 200, 400], "rounds": [1, 1, 3]},
    "best-first": {},
}


class World:
    """Users, items, and who clicks what."""

    def __init__(self, items: int, seed: int) -> None:
        """Draws the items' hidden vectors, and the function by which users click."""
        self._rng = np.random.default_rng(seed)
        self._items = self.drawn(items)
        self._inner, self._outer = self._rng.normal(size=[2 * HIDDEN, 32]) / 2, self._rng.normal(size=32)

    def drawn(self, count: int) -> np.ndarray:
        """Returns hidden vectors of users or items, float32 [count, HIDDEN]."""
        return self._rng.normal(size=[count, HIDDEN]).astype(np.float32)

    def pairs(self, count: int) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
        """Returns users and items of pairs, and whether the user clicked, float32 [count, 1]."""
        users, rows = self.drawn(count), self._rng.integers(0, len(self._items), count)
        clicked = self._rng.random(count) < 1 / (1 + np.exp(-self._logits(users, self._items[rows])))
        return (users, rows), clicked[:, None].astype(np.float32)

    def next_of(self, users: np.ndarray) -> np.ndarray:
        """Returns the item that each user clicks next, drawn by the softmax of its logits."""
        logits = np.stack([self._logits(np.broadcast_to(one, self._items.shape), self._items) for one in users])
        return np.argmax(logits + self._rng.gumbel(size=logits.shape), axis=1)

    def _logits(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        return np.tanh(np.concatenate([users, items * users + items], axis=1) @ self._inner) @ self._outer - 3


def network(items: int) -> keras.Model:
    """Returns a network over a user's vector and the embedding of an item."""
    user, item = keras.Input([HIDDEN], name="user"), keras.Input([], dtype="int64", name="item_id")
    hidden = keras.layers.Concatenate()([user, keras.layers.Embedding(items, DIM)(item)])
    for width in (64, 32):
        hidden = keras.layers.Dense(width, activation="relu")(hidden)
    return keras.Model([user, item], keras.layers.Dense(1)(hidden))


def bench_adversarial(items: int, users: int, pairs: int, seeds: int) -> list[dict[str, Any]]:
    """Trains and searches a network for every weight and seed.

    Args:
      items: how many items.
      users: how many held-out users.
      pairs: how many pairs of a user and an item to train with, four times.
      seeds: how many seeds.

    Returns:
      For each weight and seed `recall`, of `K` over all items, and by walk its `coverage` and `items_scored`.
    """
    table = Items(pl.DataFrame({"item_id": np.arange(items)}))
    found = []
    for seed in range(seeds):
        world = World(items, seed)
        (given, clicked), held = world.pairs(pairs), world.drawn(users)
        targets = world.next_of(held)
        for weight in WEIGHTS:
            keras.utils.set_random_seed(seed)
            model = adversarial(network(items), table, EPSILON, weight)
            model.compile(keras.optimizers.Adam(0.005), keras.losses.BinaryCrossentropy(from_logits=True))
            recall = RecallAtK({"user": held}, targets, table, K, every=4)
            logs = model.fit(given, clicked, batch_size=500, epochs=4, verbose=0, callbacks=[recall]).history
            found.append(
                {"weight": weight, "seed": seed, "recall": logs[recall.name][-1], **_walks(model, table, held)}
            )
    return found


def _walks(model: keras.Model, table: Items, held: np.ndarray) -> dict[str, Any]:
    """Saves and cuts a model, and returns what each walk finds of its best."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ranker.keras"
        model.save(path)
        with cut_and_indexed(path, table, "", None, {}) as (source, index):
            user = source.user_tensors({"user": tf.constant(held)})
            best, search = BruteForce(index, source.score)(user, K)[1].numpy(), NeuralTopK(index, source.score)
            answers = {
                name: (search.rounds if "ef" in given else search.best_first)(user, K, **given)
                for name, given in WALKS.items()
            }
    return {
        name: {
            "coverage": float(coverage(answer.item_ids.numpy(), best).mean()),
            "items_scored": float(answer.items_scored.numpy().mean()),
        }
        for name, answer in answers.items()
    }


def over_seeds(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the means over seeds for every weight."""
    means = []
    for weight in WEIGHTS:
        of_weight = [one for one in found if one["weight"] == weight]
        row: dict[str, Any] = {"weight": weight, "recall": float(np.mean([one["recall"] for one in of_weight]))}
        for name in WALKS:
            row[name] = {key: float(np.mean([one[name][key] for one in of_weight])) for key in of_weight[0][name]}
        means.append(row)
    return means


def main(
    out: Out = Path("benchmarks/out/adversarial.json"),
    items: Annotated[int, typer.Option(help="Items.", min=K)] = 5000,
    users: Annotated[int, typer.Option(help="Held-out users.", min=1)] = 300,
    pairs: Annotated[int, typer.Option(help="Pairs to train with.", min=500)] = 200_000,
    seeds: Annotated[int, typer.Option(help="Seeds.", min=1)] = 3,
) -> None:
    """Train a Keras ranker with and without the auxiliary loss, and search it."""
    with measuring(out):
        found = bench_adversarial(items, users, pairs, seeds)
    means = over_seeds(found)
    write_json(out, {"summary": means, "runs": found})
    print_summary({"weights": means}, out)


if __name__ == "__main__":
    typer.run(main)
