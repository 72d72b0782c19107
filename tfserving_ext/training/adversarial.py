"""The FGSM auxiliary loss for a Keras ranker of one's own (arXiv 2202.10226, section 3.3)."""

import math
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import keras
import tensorflow as tf

from export_tools.cut.items import Catalogue, Items
from export_tools.sources.functional import Functional
from tfserving_ext.errors import NannError
from tfserving_ext.training.config import TrainingConfig
from tfserving_ext.training.loss import moved, sigmoid_divergence
from tfserving_ext.training.ranker_split import RankerSplit

Divergence = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
_SCALES = ("relative", "absolute")
_KNOWN = "'binary_crossentropy', keras.losses.BinaryCrossentropy, with from_logits or without, and 'mean_squared_error'"


def adversarial(
    model: keras.Model,
    items: Items,
    epsilon: float = TrainingConfig.epsilon,
    weight: float = TrainingConfig.auxiliary_weight,
    epsilon_scale: str = TrainingConfig.epsilon_scale,
    divergence: Divergence | None = None,
) -> "AdversarialModel":
    """Returns a model that trains a ranker with the FGSM auxiliary loss; compile it and fit it as the ranker.

    Each step moves the item's vectors of a batch by `epsilon`, in the direction in which the loss grows, and adds
    `weight` times the divergence of the outputs there from the outputs before, which are taken as constant, to the
    loss. So the score becomes flat around the items, which is to let a graph over their vectors guide a search.

    Example:
      >>> import keras, polars
      >>> user, item = keras.Input([4], name="user"), keras.Input([], dtype="int64", name="item_id")
      >>> vector = keras.layers.Embedding(9, 4)(item)
      >>> ranker = keras.Model([user, item], keras.layers.Dense(1)(keras.layers.Multiply()([user, vector])))
      >>> model = nann.adversarial(ranker, nann.Items(polars.DataFrame({"item_id": range(9)})))
      >>> model.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True))
      >>> clicked = np.array([[1.0], [0.0]] * 4)
      >>> logs = model.fit({"user": np.ones([8, 4]), "item_id": np.arange(8)}, clicked, verbose=0)
      >>> sorted(logs.history)
      ['auxiliary_loss', 'loss']
      >>> model.save("adversarial_example.keras")
      >>> type(keras.saving.load_model("adversarial_example.keras")).__name__
      'Functional'

    Args:
      model: a functional model with a row per pair of a user and an item; it is trained in place.
      items: the table of items that `export` takes. It tells which inputs are the item's, and by `embedding` the layer
        whose output is the item's vector. Without, vectors are the fewest values through which the item reaches the
        user.
      epsilon: length of the step; 0 trains without the auxiliary loss.
      weight: weight of the auxiliary loss; 0 trains without it.
      epsilon_scale: whether `epsilon` is "relative" to the root mean square of the vectors in a batch, or "absolute".
      divergence: maps an output's values before and after the step, each [B, ...], to the divergence of each row, [B].
        By default the loss tells it: the Kullback-Leibler divergence of two clicks for binary cross-entropy, and the
        squared difference for mean squared error.

    Raises:
      NannError: the model is not functional, the table does not fit it, it computes no floats of the item alone before
        the user's are met, `items.embedding` is no layer of such floats, or a number is out of its range.
    """
    return AdversarialModel(model, items, epsilon, weight, epsilon_scale, divergence)


class AdversarialModel(keras.Model):
    """Trains a ranker with the FGSM auxiliary loss; see `adversarial`.

    Attributes:
      ranker: the ranker. All that saves or loads weights or models does so with it, so that nothing that is written
        needs this class.
      item_layers: the names of the layers whose outputs are moved.
    """

    def __init__(
        self,
        ranker: keras.Model,
        items: Items,
        epsilon: float,
        weight: float,
        epsilon_scale: str,
        divergence: Divergence | None,
    ) -> None:
        """Splits the ranker; see `adversarial`."""
        super().__init__(name=ranker.name)
        for what, value in (("epsilon", epsilon), ("weight", weight)):
            if not math.isfinite(value) or value < 0:
                raise NannError(f"{what} is {value}, allowed are finite numbers of at least 0")
        if epsilon_scale not in _SCALES:
            raise NannError(f"epsilon_scale is {epsilon_scale!r}, allowed are {' and '.join(map(repr, _SCALES))}")
        if not hasattr(ranker, "_nodes_by_depth"):
            raise NannError(
                f"the model is a {type(ranker).__name__}, it must be a functional model, keras.Model(inputs, outputs), "
                "made of layers: others do not tell where their items meet the user"
            )
        model = Functional(ranker, "the model")
        specs = {name: model.spec(name) for name in model.inputs}
        split = RankerSplit(model, Catalogue(items, specs).columns, items.embedding)
        self.ranker, self.item_layers = ranker, split.layers
        self._epsilon, self._weight, self._scale = epsilon, weight, epsilon_scale
        # Keras must neither count the layers twice nor list the mean among the metrics, which tests report too.
        mean = keras.metrics.Mean(name="auxiliary_loss")
        self._hidden = SimpleNamespace(
            split=split, outputs=list(model.outputs), mean=mean, divergence=divergence, divergences={}, weights={}
        )

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compiles as `keras.Model.compile` does, and reads from the loss what the divergence of an output is.

        Raises:
          NannError: a loss tells no divergence, and none was given; or no output has a loss.
        """
        super().compile(*args, **kwargs)
        if not self._moves:
            return
        given = dict(zip(("optimizer", "loss", "loss_weights"), args, strict=False)) | kwargs
        losses, weights = (self._by_output(given.get(each)) for each in ("loss", "loss_weights"))
        hidden = self._hidden
        hidden.divergences = {
            name: hidden.divergence or _divergence(loss) for name, loss in losses.items() if loss is not None
        }
        if not hidden.divergences:
            raise NannError(f"no output has a loss, from which to tell its divergence; allowed are {_KNOWN}")
        hidden.weights = {name: 1.0 if weight is None else weight for name, weight in weights.items()}

    @property
    def _moves(self) -> bool:
        return bool(self._epsilon and self._weight)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Returns the ranker's outputs."""
        return self.ranker(inputs, training=training)

    def train_step(self, data: Any) -> Mapping[str, Any]:
        """Takes one step of the optimizer; returns the metrics and `auxiliary_loss`, its mean without the weight."""
        if not self._moves:
            return super().train_step(data)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        split, replicas = self._hidden.split, tf.distribute.get_strategy().num_replicas_in_sync
        with tf.GradientTape() as tape:
            values, items = split.before(x)
            with tf.GradientTape() as of_items:
                of_items.watch(items)
                y_pred = split.outputs(values, items)
                main = self.compute_loss(x, y, y_pred, sample_weight, training=True)
            gradient = of_items.gradient(main, items, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            there = split.outputs(values, moved(items, gradient, self._epsilon, self._scale))
            auxiliary = self._auxiliary(y_pred, there, sample_weight)
            # Keras has divided the main loss by the number of replicas, whose gradients are summed.
            loss = main + self._weight * auxiliary / replicas
            scaled = self.optimizer.scale_loss(loss)
        variables = self.trainable_weights
        self.optimizer.apply_gradients(zip(tape.gradient(scaled, variables), variables, strict=True))
        rows = tf.shape(items)[0]
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss * replicas, sample_weight=rows)
        self._hidden.mean.update_state(auxiliary, sample_weight=rows)
        logs = self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)
        return {**logs, "auxiliary_loss": self._hidden.mean.result()}

    def reset_metrics(self) -> None:
        """Begins the means anew, as at the start of an epoch."""
        super().reset_metrics()
        self._hidden.mean.reset_state()

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Saves the ranker, as `keras.Model.save` does."""
        self.ranker.save(*args, **kwargs)

    def export(self, *args: Any, **kwargs: Any) -> None:
        """Exports the ranker, as `keras.Model.export` does."""
        self.ranker.export(*args, **kwargs)

    def save_weights(self, *args: Any, **kwargs: Any) -> None:
        """Saves the ranker's weights, as `keras.Model.save_weights` does."""
        self.ranker.save_weights(*args, **kwargs)

    def load_weights(self, *args: Any, **kwargs: Any) -> None:
        """Loads the ranker's weights, as `keras.Model.load_weights` does."""
        self.ranker.load_weights(*args, **kwargs)

    def _auxiliary(self, before: Any, there: Any, sample_weight: Any) -> tf.Tensor:
        """Returns the mean divergence of a batch, summed over outputs by the weights of their losses."""
        of_rows = self._by_output(sample_weight)
        befores, theres = self._by_output(before), self._by_output(there)
        total = tf.zeros([])
        for name, divergence in self._hidden.divergences.items():
            rows = divergence(tf.stop_gradient(tf.cast(befores[name], tf.float32)), tf.cast(theres[name], tf.float32))
            if of_rows[name] is not None:
                rows *= tf.reshape(tf.cast(of_rows[name], rows.dtype), tf.shape(rows))
            total += self._hidden.weights[name] * tf.reduce_mean(rows)
        return total

    def _by_output(self, given: Any) -> dict[str, Any]:
        """Returns something that is given for all outputs, or for each in the ways of Keras, by the output's name."""
        names = self._hidden.outputs
        if isinstance(given, Mapping):
            layers = dict(zip(names, self.ranker.output_names, strict=True))
            return {name: given.get(name, given.get(layers[name])) for name in names}
        if isinstance(given, (list, tuple)):
            return dict(zip(names, given, strict=True))
        return dict.fromkeys(names, given)


def _divergence(loss: Any) -> Divergence:
    """Returns the divergence that belongs to a loss."""
    found = keras.losses.get(loss)
    if found is keras.losses.binary_crossentropy or isinstance(found, keras.losses.BinaryCrossentropy):
        return _of_logits if getattr(found, "from_logits", False) else _of_probabilities
    if found is keras.losses.mean_squared_error or isinstance(found, keras.losses.MeanSquaredError):
        return _of_values
    name = getattr(found, "__name__", type(found).__name__)
    raise NannError(f"the loss is {name}, for which no divergence is known; allowed are {_KNOWN}, or give `divergence`")


def _rows(values: tf.Tensor) -> tf.Tensor:
    return tf.reshape(values, [tf.shape(values)[0], -1])


def _of_logits(before: tf.Tensor, there: tf.Tensor) -> tf.Tensor:
    return sigmoid_divergence(_rows(before), _rows(there))


def _of_probabilities(before: tf.Tensor, there: tf.Tensor) -> tf.Tensor:
    least = keras.config.epsilon()  # As the cross-entropy of Keras bounds probabilities.
    bounded: Sequence[tf.Tensor] = [tf.clip_by_value(each, least, 1 - least) for each in (before, there)]
    logits = [tf.math.log(each) - tf.math.log1p(-each) for each in bounded]
    return _of_logits(*logits)


def _of_values(before: tf.Tensor, there: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.square(_rows(there) - _rows(before)), axis=1)
