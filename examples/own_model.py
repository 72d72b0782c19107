"""Serve your own ranking model: any three TensorFlow functions, searched, exported and loaded again.

    python examples/own_model.py /tmp/own_model

The model here is a small network over random items. Yours brings `user`, `item` and `score` (tfserving_ext.models
says what they take and return); the rest of the file stays as it is. Then:

    nann serve /tmp/own_model
"""

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

from export_tools import Defaults, export, verify
from tfserving_ext.index import build_index
from tfserving_ext.retrieval import BestFirst, BruteForce, NeuralTopK, coverage
from tfserving_ext.serving.models import load_servable


class OwnModel(tf.Module):
    """Users and items are vectors; the score is a network over both, and no dot product.

    Attributes:
      features: what `user` takes, so what a request carries.
    """

    def __init__(self, dim: int) -> None:
        """Random weights; yours are restored from a checkpoint."""
        super().__init__()
        self.features = {"vector": tf.TensorSpec([None, dim], tf.float32)}
        rng = tf.random.Generator.from_seed(1)
        self.hidden = tf.Variable(rng.normal([2 * dim, 64]) * dim**-0.5)
        self.out = tf.Variable(rng.normal([64, 1]))

    def user(self, features: dict[str, tf.Tensor]) -> tuple[tf.Tensor, ...]:
        """What the score needs of the user, each [B, ...]."""
        return (features["vector"],)

    def item(self, features: dict[str, tf.Tensor]) -> tf.Tensor:
        """Item embeddings, float32 [n, dim]."""
        return features["vector"]

    def score(self, user: tuple[tf.Tensor, ...], items: tf.Tensor) -> tf.Tensor:
        """Scores, float32 [B, N], of items [B, N, dim]."""
        users = tf.broadcast_to(user[0][:, None, :], tf.shape(items))
        return (tf.nn.relu(tf.concat([users, items], axis=-1) @ self.hidden) @ self.out)[..., 0]


def main(base: Path, items: int = 5000, dim: int = 16, k: int = 50) -> float:
    """Builds, measures and exports; returns the coverage."""
    rng = np.random.default_rng(0)
    model = OwnModel(dim)

    # 1. Embed every item and build the graph.
    item_ids = np.arange(items) + 1_000_000
    vectors = model.item({"vector": tf.constant(rng.normal(size=(items, dim)), tf.float32)}).numpy()
    index = build_index(item_ids, vectors, base.with_name(f"{base.name}.index"))

    # 2. Search, and compare with scoring everything.
    search = NeuralTopK(index, model.score)
    users = model.user({"vector": tf.constant(rng.normal(size=(20, dim)), tf.float32)})
    # Users with a history would pass it as `seeds`; without, the walk enters from the graph's upper layers.
    found = search.best_first(users, k=k, pool=100)
    _, exact = BruteForce(index, model.score)(users, tf.constant(k))
    measured = float(coverage(found.item_ids.numpy(), exact.numpy()).mean())
    scored = found.items_scored.numpy().mean()
    print(f"coverage@{k} {measured:.3f} with {scored:.0f} of {items} items scored")

    # 3. Export. Requests carry the model's own features, and k, exclusions, a deadline where they want to.
    saved_model = export(model, index.folder, base / "1", Defaults(k=k, best_first=BestFirst(pool=100)))
    found = verify(saved_model)
    print(f"checked in a fresh process: {found['files']} files, coverage {found['coverage']:.3f} of brute force")

    # 4. Load it again and ask, as a server would.
    servable = load_servable(saved_model)
    answer = servable.signature("retrieve").run({"vector": users[0][:1].numpy(), "k": np.int32(5)})
    print("top 5 ids of the first user:", answer["item_ids"][0])
    return measured


if __name__ == "__main__":
    main(Path(sys.argv[1]))
