"""What the searches and brute force have in common: an index, and a model of queries in front of it."""

import contextlib
import os
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from tfserving_ext.errors import NannError
from tfserving_ext.index.build import HNSW, Hnsw, build_index
from tfserving_ext.index.format import Index
from tfserving_ext.index.resource import MappedIndex

K = 200
_Search = TypeVar("_Search", bound="TopK")


def inner_product(user: tuple[tf.Tensor, ...], items: tf.Tensor) -> tf.Tensor:
    """Returns the inner products, [B, N], of users [B, dim], the only user tensor, with items [B, N, dim]."""
    return tf.linalg.matvec(items, user[0])


class TopK(tf.Module):
    """The top-k of an index for queries; `NeuralTopK` and `BruteForce` say how they are found.

    Attributes:
      index: the mapped index; its files are assets of every SavedModel that tracks this object.
      query_model: computes user tensors from what a search is given; None if it is given user tensors.
      k: the number of items that a search returns if it is not told.
    """

    def __init__(self, index: Index, query_model: Callable[[Any], Any] | None, k: int) -> None:
        """Maps the index."""
        super().__init__()
        self.index = MappedIndex(index)
        self.query_model = query_model
        self.k = k

    @classmethod
    def from_dataset(
        cls: type[_Search],
        candidates: tf.data.Dataset,
        score: Callable[..., tf.Tensor] = inner_product,
        query_model: Callable[[Any], Any] | None = None,
        k: int = K,
        folder: str | os.PathLike[str] | None = None,
        hnsw: Hnsw = HNSW,
        **options: Any,
    ) -> _Search:
        """Builds an index of candidates and returns the search of it.

        It takes what `index_from_dataset` of TensorFlow Recommenders takes (docs/own_models.md).

        Args:
          candidates: batches of embeddings, float [b, dim], or of pairs of identifiers, integers or strings [b], and
            embeddings. Without identifiers, candidates are numbered from 0.
          score: the model's `score(user, items)`; by default the inner product of a user tensor [B, dim] with the
            embeddings.
          query_model: see the constructor.
          k: the number of items that a search returns if it is not told.
          folder: where the index is written; it replaces an earlier one. By default it is a temporary folder, which is
            deleted with the search.
          hnsw: how to build the graph.
          **options: more arguments of the constructor.

        Raises:
          NannError: `candidates` has other elements, or an identifier appears twice; see `build_index`.
        """
        identifiers, embeddings = _read(candidates)
        with contextlib.ExitStack() as stack:
            if folder is None:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nann_candidates_"))) / "index"
            index = build_index(identifiers, embeddings, folder, hnsw)
            made = cls(index, score, query_model=query_model, k=k, **options)  # type: ignore[misc]
            # The mapped index copies its files when a SavedModel with it is written, so they live as long as it does.
            weakref.finalize(made.index, stack.pop_all().close)
        return made

    def user(self, queries: Any) -> tuple[tf.Tensor, ...]:
        """Returns the user tensors, each [B, ...], of what a search was given."""
        made = queries if self.query_model is None else self.query_model(queries)
        return tuple(tf.convert_to_tensor(one) for one in tf.nest.flatten(made))

    def count(self, k: Any) -> Any:
        """Returns the number of items to return, if a search was given `k`."""
        return self.k if k is None else k

    def __call__(self, user: Any, k: Any = None) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the best items; see the subclasses."""
        raise NotImplementedError

    def query_with_exclusions(self, queries: Any, exclusions: Any, k: Any = None) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the best items but for some, by the name that TensorFlow Recommenders gives it.

        Args:
          queries: user tensors, each [B, ...], or what the query model takes.
          exclusions: identifiers [B, x] that are not returned.
          k: int32 [], number of items to return; by default `k` of the constructor.

        Returns:
          Scores float32 [B, k] and identifiers int64 or string [B, k], best first.
        """
        return self(queries, k, exclude=exclusions)  # type: ignore[call-arg]


def _read(candidates: tf.data.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Returns the identifiers, [n], and embeddings, [n, dim], of batches of candidates."""
    if not isinstance(candidates, tf.data.Dataset):
        raise NannError(
            f"candidates are a {type(candidates).__name__}, they must be a tf.data.Dataset of batches; for arrays, "
            "pass build_index(identifiers, embeddings, folder) to the constructor"
        )
    spec = candidates.element_spec
    specs = spec if isinstance(spec, tuple) else (spec,)
    ranks = [one.shape.rank if isinstance(one, tf.TensorSpec) else -1 for one in specs]
    if ranks not in ([2], [1, 2]):
        raise NannError(
            f"candidates have elements {spec}, allowed are batches of embeddings [b, dim], or of pairs of identifiers "
            "[b] and embeddings [b, dim]; of single ones, .batch(1024) makes batches"
        )
    if candidates.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise NannError("candidates have no end; leave out .repeat()")
    batches = list(candidates.as_numpy_iterator())
    if not batches:
        raise NannError("candidates have no batches; there must be at least one candidate")
    parts = [batch if isinstance(batch, tuple) else (batch,) for batch in batches]
    widths = sorted({part[-1].shape[1] for part in parts})
    if len(widths) > 1:
        raise NannError(f"candidates have embeddings of {widths[0]} and of {widths[1]} values; all must have as many")
    embeddings = np.concatenate([part[-1] for part in parts])
    identifiers = np.concatenate([part[0] for part in parts]) if len(specs) == 2 else np.arange(len(embeddings))
    return identifiers, embeddings
