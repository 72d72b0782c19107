"""The module that is exported: user tower, search and scorer as TensorFlow functions with four signatures."""

from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

import tensorflow as tf

from export_tools.signatures import BY_ATTRIBUTES, Defaults, signatures
from export_tools.signatures.keys import spelled
from export_tools.sources import Source
from export_tools.variants import Variant
from tfserving_ext.errors import NannError
from tfserving_ext.index.format import Index
from tfserving_ext.models import UserTensors
from tfserving_ext.retrieval import NeuralTopK, ScorerOptions


def check_requests(source: Source, search: NeuralTopK, defaults: Defaults, non_finite: Collection[str]) -> None:
    """Checks what the signatures say of requests.

    Raises:
      NannError: default parameters do not fit the index, a name in `non_finite` is not a feature of floats, or a
        feature has the name of an input that is about the index's attributes.
    """
    for name in non_finite:
        if name not in source.features or not source.features[name].dtype.is_floating:
            floats = [key for key, spec in source.features.items() if spec.dtype.is_floating]
            raise NannError(
                f"non-finite values are allowed in {name!r}, which is not a feature of floats; the model has "
                f"{', '.join(floats) or 'none'}"
            )
    taken = [name for name in source.features if name.lower() in BY_ATTRIBUTES]
    if search.index.has_attributes and taken:
        raise NannError(
            f"a feature is called {taken[0]!r}, as an input is that is about the index's attributes; give the feature "
            f"another name in requests: --feature 'user_{taken[0]}={taken[0]}'"
        )
    if source.seeds is not None and source.features[source.seeds].dtype == tf.string and not search.index.has_keys:
        raise NannError(
            f"the seeds {source.seeds!r} are strings, but the ids of the index are integers; build it with the same "
            "strings in item_ids.npy, or with `nann index --keys`"
        )
    search.check(defaults.best_first, defaults.k)
    if defaults.surrogate is not None:
        search.check(defaults.surrogate, defaults.k)
    search.check(defaults.rounds)


class ServedModel(tf.Module):
    """A model that searches an index.

    Signatures (docs/signatures.md describes every input and output):
      retrieve: the best-first search from the model's raw features. The project's own models take `item_history` int64
        [B, L], oldest first, with any L and padding anywhere, and `category_history`, which may be left out.
      retrieve_trace: the same search, which also returns where its time went: `user_us`, `walk_us`, `gather_us`,
        `scorer_us` and `merge_us`, int64 [B], in microseconds (docs/searches.md).
      retrieve_rounds: the paper's search, with `ef` and `rounds` int32 [layers] in place of `frontier`, `pool` and
        `max_steps`.
      serving_default: the signature of alibaba/nann if the model can answer it: `comm_seq` float16 [1, width], the
        embedded behaviours, and `level_topn` int32 [6]; returns `top_k` int64 [1, level_topn[5]]. Otherwise `retrieve`.

    The functions `user` and `score` are saved beside the signatures, so that `tf.saved_model.load` gives the model
    back. If the search runs a scorer that the passes rewrote, it is saved too, as `score_rows`, and so is `fold`, which
    computes rows from item embeddings, if they folded it.
    """

    def __init__(
        self,
        source: Source,
        index: Index,
        defaults: Defaults,
        variant: Variant | None = None,
        non_finite: Collection[str] = (),
    ) -> None:
        """Puts the parts together.

        Args:
          source: the model.
          index: the index to search; it holds rows if the scorer was folded.
          defaults: values for the parameters that a request may leave out.
          variant: the scorer that the searches run; None leaves the rewriting to the op, at the first request.
          non_finite: features in which the model expects NaN or infinity; in all others they are refused.

        Raises:
          NannError: default parameters do not fit the index, or a name in `non_finite` is not a feature of floats.
        """
        super().__init__()
        if variant is None:
            self.search = NeuralTopK(index, source.score)
        else:
            self.search = NeuralTopK(index, source.score, scorer=variant.scorer, options=ScorerOptions(rewrite=False))
        rewritten = None if variant is None else variant.rewritten
        check_requests(source, self.search, defaults, non_finite)
        source = spelled(source, self.search.index)
        self._untracked = SimpleNamespace(source=source, defaults=defaults, non_finite=frozenset(non_finite))
        specs = {name: tf.TensorSpec(spec.shape, spec.dtype, name) for name, spec in source.features.items()}

        @tf.function(input_signature=[specs], autograph=False)
        def user(features: dict[str, tf.Tensor]) -> UserTensors:
            return source.user_tensors(features)

        tensors = user.get_concrete_function().structured_outputs
        one = tuple(tf.TensorSpec([1, *tensor.shape[1:]], tensor.dtype) for tensor in tensors)

        item_dim = index.dim if rewritten is None else rewritten.item_dim

        @tf.function(input_signature=[one, tf.TensorSpec([1, None, item_dim], tf.float32)], autograph=False)
        def score(user: UserTensors, items: tf.Tensor) -> tf.Tensor:
            return source.score(user, items)

        self.user, self.score = user, score
        if rewritten is None:
            return

        @tf.function(input_signature=[one, tf.TensorSpec([1, None, index.dim], tf.float32)], autograph=False)
        def score_rows(user: UserTensors, rows: tf.Tensor) -> tf.Tensor:
            return rewritten.scorer(user, rows)

        self.score_rows = score_rows
        if rewritten.fold is not None:
            self.fold = tf.function(
                rewritten.fold, input_signature=[tf.TensorSpec([1, None, item_dim], tf.float32)], autograph=False
            )

    @property
    def source(self) -> Source:
        """The model as requests see it: where the index has keys, its seeds are strings."""
        return self._untracked.source

    def functions(self) -> dict[str, Any]:
        """Returns the functions that are saved beside the signatures, by name."""
        held = {name: getattr(self, name, None) for name in ("user", "score", "score_rows", "fold")}
        return {name: function for name, function in held.items() if function is not None}

    def signatures(self) -> dict[str, Any]:
        """Returns the functions to export, by signature name."""
        held = self._untracked
        return signatures(held.source, self.search, held.defaults, held.non_finite)
