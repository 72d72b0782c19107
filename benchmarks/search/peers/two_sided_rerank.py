"""The usual alternative: the top n of a two-sided model, found by Faiss and reranked by the neural model."""

import dataclasses
from collections.abc import Sequence

import faiss
import numpy as np
import tensorflow as tf

from benchmarks.search.peers.peer import Workload
from tfserving_ext.models import TwoSidedConfig
from tfserving_ext.models.checkpoint import TrainedModel, load_model
from tfserving_ext.retrieval.metrics import recall
from tfserving_ext.training import TrainingConfig, fit

# A step is cheap, so that it can have more negatives and a higher learning rate than the attention model. These are the
# best parameters of those tried on the validation households.
TRAINING = TrainingConfig(2000, batch_size=128, targets=8, negatives=500, learning_rate=1e-2, epsilon=0.0)
# Items scored in one call of the model. More would not be faster, as their activations do not fit into the cache.
ITEMS_PER_CALL = 2048


class TwoSidedRerank:
    """A two-sided model's candidates, reranked. The setting is n, how many candidates the neural model reranks.

    The candidates are exact: for 28,165 items of width 64, Faiss' flat index takes little time compared with reranking.
    """

    name = "rerank"
    settings: Sequence[int] = (250, 500, 1000, 2000, 4000, 8000)

    def __init__(self, workload: Workload, training: TrainingConfig = TRAINING) -> None:
        """Trains the two-sided model, or loads the one that an earlier run left in the scratch folder."""
        self._workload = workload
        two_sided = _trained(workload, training)
        index = workload.index
        self._item_ids = np.asarray(index.item_ids)
        known = np.searchsorted(two_sided.item_ids, self._item_ids)
        features = {
            "item_id": tf.constant(self._item_ids),
            "category_id": tf.constant(two_sided.item_categories[known]),
        }
        vectors = two_sided.model.item(features).numpy()
        self._flat = faiss.IndexFlatIP(vectors.shape[1])
        self._flat.add(vectors)
        self._queries = _user_vectors(two_sided, workload.histories)
        self._table = tf.constant(index.embeddings())
        self._rerank = tf.function(self._top, autograph=False, reduce_retracing=True)
        faiss.omp_set_num_threads(workload.threads)

    def _top(self, user: tuple[tf.Tensor, ...], candidates: tf.Tensor) -> tf.Tensor:
        scores = self._workload.trained.model.score(user, tf.gather(self._table, candidates))
        places = tf.math.top_k(scores, tf.minimum(self._workload.k, tf.shape(candidates)[1])).indices
        return tf.gather(candidates, places, batch_dims=1)

    def __call__(self, first: int, last: int, setting: int) -> np.ndarray:
        """See `Peer`."""
        n = min(setting, len(self._item_ids))
        _, candidates = self._flat.search(self._queries[first:last], n)
        at_once = max(1, ITEMS_PER_CALL // n)
        rows = np.full([last - first, self._workload.k], -1)
        for start in range(first, last, at_once):
            stop = min(start + at_once, last)
            user = tuple(tensor[start:stop] for tensor in self._workload.user)
            found = self._rerank(user, tf.constant(candidates[start - first : stop - first])).numpy()
            rows[start - first : stop - first, : found.shape[1]] = self._item_ids[found]
        return rows

    def recall_all(self) -> float:
        """Returns recall-all@k of the two-sided model by itself."""
        _, found = self._flat.search(self._queries, min(self._workload.k, len(self._item_ids)))
        return float(recall(self._item_ids[found], self._workload.targets).mean())


def _trained(workload: Workload, training: TrainingConfig) -> TrainedModel:
    """Trains a two-sided model on the workload's data, or loads an earlier one from the same data and training."""
    folder = workload.scratch / "two_sided"
    if (folder / "model.json").exists():
        trained = load_model(folder)
        wanted = dataclasses.asdict(training).items()
        same_items = np.array_equal(trained.item_ids, workload.trained.item_ids)
        if same_items and wanted <= trained.manifest["training"].items():
            return trained
    fit(workload.sequences.folder, folder, training, TwoSidedConfig())
    return load_model(folder)


def _user_vectors(two_sided: TrainedModel, histories: np.ndarray) -> np.ndarray:
    """Returns the user vectors of histories, float32 [N, d]."""
    rows = two_sided.model.items.rows(tf.constant(histories))
    categories = tf.gather(np.concatenate([[-1], two_sided.item_categories]), rows)
    (vectors,) = two_sided.model.user({"item_history": tf.constant(histories), "category_history": categories})
    return vectors.numpy()
