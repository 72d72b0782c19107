"""The rows of an index: what the scorer takes of an item, as floats, and the vectors that the graph is built on."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from export_tools.cut.choose import Cut
from export_tools.cut.graph import Graph, Tensor
from export_tools.cut.items import Catalogue
from tfserving_ext.errors import NannError
from tfserving_ext.progress import progress

ROWS_AT_ONCE = 4096
# Whole numbers up to this size are exact as float32; larger ones are split into digits of this base.
EXACT = 1 << 24
_BITS = 22
# Text of the items that meets the user's is a table in the graph of the scorer.
MOST_TEXTS, MOST_BYTES = 1 << 20, 1 << 25
# A column of vectors that spreads more than this, in medians of all columns, would alone decide who is a neighbour.
_SPREAD = 4.0


@dataclasses.dataclass(frozen=True)
class Part:
    """A tensor within a row.

    Attributes:
      tensor: its name.
      shape: its extents without the batch.
      dtype: its type.
      begin: its place in the row.
      digits: floats per value: 1, or 3 for whole numbers that float32 cannot hold.
      least: the least, and
      most: the largest of its whole numbers among all items; what a row of no item holds is brought between them.
      texts: all its values, ascending, if they are text; a row then holds their places here.
    """

    tensor: str
    shape: tuple[int, ...]
    dtype: tf.DType
    begin: int
    digits: int = 1
    least: int = 0
    most: int = 0
    texts: np.ndarray | None = None

    @classmethod
    def of_values(cls, tensor: str, known: Tensor, values: np.ndarray, begin: int) -> "Part":
        """Returns the part for a tensor with these values, [n, values]."""
        assert known.shape is not None
        part = cls(tensor, known.shape[1:], known.dtype, begin)
        if known.dtype.is_floating:
            return part
        if known.dtype == tf.string:
            texts = np.unique(values)
            if len(texts) > MOST_TEXTS or sum(map(len, texts)) > MOST_BYTES:
                raise NannError(
                    f"{tensor}, text of the items that meets the user's inputs, has {len(texts):,} different values in "
                    f"{sum(map(len, texts)):,} bytes; allowed are {MOST_TEXTS:,} in {MOST_BYTES:,}: encode it in the "
                    "model before it meets the user's"
                )
            return dataclasses.replace(part, texts=texts, most=len(texts) - 1)
        least, most = int(values.min()), int(values.max())
        exact = least >= -EXACT and most <= EXACT
        return dataclasses.replace(part, digits=1 if exact else 3, least=least, most=most)

    @classmethod
    def of_facts(cls, facts: Mapping[str, Any], dtype: tf.DType) -> "Part":
        """Returns the part that `facts` describe, of a tensor of a type; one of text has no texts."""
        numbers = {name: facts[name] for name in ("begin", "digits", "least", "most")}
        return cls(facts["tensor"], tuple(facts["shape"]), dtype, **numbers)

    def facts(self) -> dict[str, Any]:
        """Returns the manifest's entry: all but the texts, of which it has the number."""
        numbers = {"begin": self.begin, "digits": self.digits, "least": self.least, "most": self.most}
        texts = {} if self.texts is None else {"texts": len(self.texts)}
        return {"tensor": self.tensor, "shape": list(self.shape), "values": self.end - self.begin, **numbers, **texts}

    @property
    def end(self) -> int:
        """The place behind it in the row."""
        return self.begin + self.digits * int(np.prod(self.shape, dtype=np.int64))

    def encoded(self, values: np.ndarray) -> np.ndarray:
        """Returns rows of the tensor, [n, values], as floats, float32 [n, end - begin]."""
        if self.texts is not None:
            return np.searchsorted(self.texts, values).astype(np.float32)
        if self.digits == 1:
            return values.astype(np.float32)
        whole, low = values.astype(np.int64), (1 << _BITS) - 1
        digits = [whole & low, (whole >> _BITS) & low, whole >> (2 * _BITS)]
        return np.concatenate(digits, axis=1).astype(np.float32)

    def decoded(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns the tensor of rows of the index, float32 [n, dim], in its own type and shape."""
        values = rows[:, self.begin : self.end]
        if not self.dtype.is_floating:
            whole = tf.cast(values, tf.int64)
            if self.digits > 1:
                low, middle, high = tf.split(whole, self.digits, axis=1)
                whole = low + middle * (1 << _BITS) + high * (1 << (2 * _BITS))
            values = tf.clip_by_value(whole, self.least, self.most)
        if self.texts is not None:
            values = tf.gather(tf.constant(self.texts), values)
        return tf.reshape(tf.cast(values, self.dtype) if self.texts is None else values, [-1, *self.shape])


@dataclasses.dataclass(frozen=True)
class Rows:
    """What an index holds of the items.

    Attributes:
      parts: what a row consists of.
      rows: float32 [n, dim], what the scorer takes.
      vectors: float32 [n, width], what the graph is built on; the same array as `rows` if that is these.
      note: what was done to the vectors, in words; "" for nothing.
    """

    parts: Sequence[Part]
    rows: np.ndarray
    vectors: np.ndarray
    note: str


def compute_rows(graph: Graph, cut: Cut, catalogue: Catalogue, user: Mapping[str, np.ndarray]) -> Rows:
    """Runs the item tower for every item.

    Args:
      graph: the graph of the ranker.
      cut: where it is cut.
      catalogue: the items.
      user: the inputs of one made-up user, [1, ...], for vectors that are not computed from the item alone.

    Raises:
      NannError: it fails for some items, or gives NaN or infinity.
    """
    values = run_tower(graph, list(dict.fromkeys([*cut.items, *cut.vectors])), catalogue, user)
    parts: list[Part] = []
    for name in cut.items:
        parts.append(Part.of_values(name, graph.tensors[name], values[name], parts[-1].end if parts else 0))
    rows = checked_rows(parts, values, catalogue)
    vectors = rows
    if list(cut.vectors) != list(cut.items):
        vectors = np.concatenate([values[name].astype(np.float32) for name in cut.vectors], axis=1)
        varied = vectors.std(axis=0) > 0
        vectors = np.ascontiguousarray(vectors[:, varied]) if varied.any() else vectors[:, :1]
    _check_finite(vectors, "vector", catalogue)
    shrunk_vectors, shrunk = balanced(vectors)
    note = ""
    if shrunk:
        vectors = shrunk_vectors
        note = f"{shrunk} of {vectors.shape[1]} columns spread over {_SPREAD:g} times the median, and are shrunk to it"
    return Rows(parts, rows, vectors, note)


def checked_rows(parts: Sequence[Part], values: Mapping[str, np.ndarray], catalogue: Catalogue) -> np.ndarray:
    """Returns rows of the index, float32 [n, dim], of the tensors of items, each [n, values].

    Raises:
      NannError: a row holds NaN or infinity.
    """
    rows = np.concatenate([part.encoded(values[part.tensor]) for part in parts], axis=1)
    _check_finite(rows, "row", catalogue)
    return rows


def _check_finite(table: np.ndarray, what: str, catalogue: Catalogue) -> None:
    wrong = np.flatnonzero(~np.isfinite(table).all(axis=1))
    if len(wrong):
        raise NannError(
            f"the model computes NaN or infinity in the {what} of item {catalogue.ids[wrong[0]]}, and of "
            f"{len(wrong) - 1} others; fill the missing values in {catalogue.name}, or drop these items"
        )


def run_tower(
    graph: Graph, wanted: Sequence[str], catalogue: Catalogue, user: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Returns tensors, each [n, values], of all items of a catalogue.

    Args:
      graph: the graph of the ranker.
      wanted: the names of the tensors.
      catalogue: the items.
      user: the inputs of one made-up user, [1, ...].

    Raises:
      NannError: the model fails for some items.
    """

    @tf.function(autograph=False)
    def tower(given: dict[str, tf.Tensor]) -> list[tf.Tensor]:
        count = tf.shape(next(iter(given.values())))[0]
        users = {
            graph.inputs[name]: tf.repeat(tf.constant(one, graph.types[name]), count, 0) for name, one in user.items()
        }
        return [tf.reshape(one, [count, -1]) for one in graph.compute(wanted, {**given, **users}, count)]

    example, n = catalogue.example(1), len(catalogue.ids)
    specs = {
        graph.inputs[name]: tf.TensorSpec([None, *value.shape[1:]], graph.types[name])
        for name, value in example.items()
    }
    traced = tower.get_concrete_function(specs)
    found: dict[str, np.ndarray] = {}
    with progress("items of the ranker", n) as advance:
        for begin in range(0, n, ROWS_AT_ONCE):
            end = min(begin + ROWS_AT_ONCE, n)
            rows = catalogue.rows(begin, end)
            try:
                made = traced(
                    {graph.inputs[name]: tf.constant(value, graph.types[name]) for name, value in rows.items()}
                )
            except tf.errors.OpError as error:
                raise NannError(
                    f"the model fails for one of the items {catalogue.ids[begin]} to {catalogue.ids[end - 1]} of "
                    f"{catalogue.name}: {error.message.splitlines()[0]}"
                ) from error
            for name, one in zip(wanted, made, strict=True):
                part = one.numpy()
                part = part.astype(np.float32) if graph.tensors[name].dtype.is_floating else part
                found.setdefault(name, np.empty([n, part.shape[1]], part.dtype))[begin:end] = part
            advance(end - begin)
    return found


def balanced(vectors: np.ndarray) -> tuple[np.ndarray, int]:
    """Shrinks the columns that spread far more than others; returns the vectors and how many were shrunk."""
    spread = vectors.std(axis=0, dtype=np.float64)
    varied = spread[spread > 0]
    if not len(varied):
        return vectors, 0
    median = float(np.median(varied))
    large = spread > _SPREAD * median
    factors = np.where(large, median / np.where(large, spread, 1.0), 1.0).astype(np.float32)
    return vectors * factors, int(large.sum())


class Scorer:
    """The part of a ranker that depends on both sides, and that of the user alone."""

    def __init__(self, graph: Graph, cut: Cut, parts: Sequence[Part]) -> None:
        """Takes a cut and what rows of the index consist of."""
        self._graph, self._cut, self._parts = graph, cut, parts
        # Nodes can be added to the graph of a function only, and both are also called outside of one.
        self.user = tf.function(self._user, autograph=False)
        self.score = tf.function(self._score, autograph=False)

    def _user(self, features: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, ...]:
        """Computes the user tensors, each [B, ...], from the user's features."""
        given = {self._graph.inputs[name]: value for name, value in features.items()}
        count = tf.shape(next(iter(features.values())))[0]
        return tuple(self._graph.compute(self._cut.users, given, count))

    def _score(self, user: Sequence[tf.Tensor], items: tf.Tensor) -> tf.Tensor:
        """Computes scores [1, N] of one user, tensors [1, ...], for rows of the index, float32 [1, N, dim]."""
        count = tf.shape(items)[1]
        rows = tf.reshape(items, [-1, items.shape[-1]])
        given = {part.tensor: part.decoded(rows) for part in self._parts}
        given |= {name: tf.repeat(one, count, axis=0) for name, one in zip(self._cut.users, user, strict=True)}
        (found,) = self._graph.compute([self._graph.output], given, count)
        # [1, N], or with T objectives [1, N, T].
        objectives = found.shape[1:] if found.shape.rank == 2 and found.shape[1] != 1 else []
        return tf.cast(tf.reshape(found, [*tf.unstack(tf.shape(items)[:2]), *objectives]), tf.float32)
