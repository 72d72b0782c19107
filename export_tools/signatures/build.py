"""The signatures that are exported, as TensorFlow functions."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from export_tools.signatures.answer import answer, timed
from export_tools.signatures.request import Defaults, read
from export_tools.sources import Source
from export_tools.sources.contract import Sequence
from tfserving_ext.models import UserTensors
from tfserving_ext.ops import SearchResult
from tfserving_ext.retrieval import NeuralTopK

# level_topn of the original: beams of layers 2 and 1, picks of three ground rounds, k.
LEVEL_TOPN_LENGTH = 6


def signatures(source: Source, search: NeuralTopK, defaults: Defaults) -> dict[str, Any]:
    """The functions to export, by signature name (docs/export.md).

    Args:
      source: the model.
      search: what searches the index under the model's score.
      defaults: what a request may leave out.
    """
    number, numbers = tf.TensorSpec([], tf.int32), tf.TensorSpec([None], tf.int32)
    best_first = {
        "frontier": (number, tf.constant(defaults.best_first.frontier)),
        "pool": (number, tf.constant(defaults.best_first.pool)),
        "max_steps": (number, tf.constant(defaults.best_first.max_steps)),
    }
    paper = {
        "ef": (numbers, tf.constant(defaults.rounds.ef)),
        "rounds": (numbers, tf.constant(defaults.rounds.rounds)),
    }

    def walk(user: UserTensors, request: dict[str, tf.Tensor], seeds: tf.Tensor, limits: Any) -> SearchResult:
        parameters = {name: request[name] for name in best_first}
        return search.best_first(user, request["k"], seeds, **parameters, **limits)

    def retrieve(request: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        features, seeds, limits = read(source, request)
        return answer(walk(source.user_tensors(features), request, seeds, limits))

    def retrieve_trace(request: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        features, seeds, limits = read(source, request)
        user, user_us = timed(source.user_tensors, features)
        found = walk(user, request, seeds, limits)
        return {
            **answer(found),
            "user_us": tf.fill(tf.shape(found.search_us), user_us),
            "walk_us": found.search_us - found.gather_us - found.scorer_us - found.merge_us,
            "gather_us": found.gather_us,
            "scorer_us": found.scorer_us,
            "merge_us": found.merge_us,
        }

    def retrieve_rounds(request: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        # The paper's search starts at the entry points; `seeds` of the request's own join, a history does not.
        features, seeds, limits = read(source, request)
        if source.seeds is None:
            limits["seeds"] = seeds
        user = source.user_tensors(features)
        return answer(search.rounds(user, request["k"], request["ef"], request["rounds"], **limits))

    found = {
        "retrieve": _signature(source, defaults, best_first, retrieve),
        "retrieve_trace": _signature(source, defaults, best_first, retrieve_trace),
        "retrieve_rounds": _signature(source, defaults, paper, retrieve_rounds),
    }
    found["serving_default"] = found["retrieve"] if source.sequence is None else _deployed(source.sequence, search)
    return found


def _signature(
    source: Source,
    defaults: Defaults,
    parameters: Mapping[str, tuple[tf.TensorSpec, tf.Tensor]],
    reply: Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]],
) -> Any:
    """A signature from raw features, with what may be left out as its defaults."""
    ids, none = tf.TensorSpec([None, None], tf.int64), tf.zeros([0, 0], tf.int64)
    inputs = {key: (spec, source.defaults.get(key)) for key, spec in source.features.items()}
    # Python wants parameters with a default last.
    inputs = dict(sorted(inputs.items(), key=lambda one: one[1][1] is not None))
    inputs["k"] = tf.TensorSpec([], tf.int32), tf.constant(defaults.k)
    inputs.update(parameters)
    if source.seeds is None:
        inputs["seeds"] = ids, none
    inputs["exclude"] = ids, none
    inputs["budget"] = tf.TensorSpec([], tf.int64), tf.constant(0, tf.int64)
    inputs["deadline_ms"] = tf.TensorSpec([], tf.int32), tf.constant(0)

    def run(*arguments: tf.Tensor, **named: tf.Tensor) -> dict[str, tf.Tensor]:
        return reply({**dict(zip(inputs, arguments, strict=False)), **named})

    # TensorFlow reads names and defaults of a signature from the Python function; here they are the model's.
    run.__name__ = reply.__name__
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(
                key,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=inspect.Parameter.empty if default is None else default,
            )
            for key, (_, default) in inputs.items()
        ]
    )
    return tf.function(run, input_signature=[spec for spec, _ in inputs.values()], autograph=False)


def _deployed(sequence: Sequence, search: NeuralTopK) -> Any:
    """The original's signature."""

    @tf.function(
        input_signature=[
            tf.TensorSpec([1, sequence.width], tf.float16, "comm_seq"),
            tf.TensorSpec([LEVEL_TOPN_LENGTH], tf.int32, "level_topn"),
        ]
    )
    def serving_default(comm_seq: tf.Tensor, level_topn: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"top_k": search.deployed(sequence.user(comm_seq), level_topn).item_ids}

    return serving_default
