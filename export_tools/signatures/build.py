"""Builds the signatures that are exported, as TensorFlow functions."""

import inspect
from collections.abc import Callable, Container, Mapping
from typing import Any

import tensorflow as tf

from export_tools.signatures.answer import HIGHEST, LOWEST, answer, timed
from export_tools.signatures.coverage import coverage_at, expected_for
from export_tools.signatures.parameters import spec_of
from export_tools.signatures.request import BY_ATTRIBUTES, Defaults, Request, finite, read, shaped
from export_tools.sources import Source
from export_tools.sources.objectives import OBJECTIVES
from export_tools.sources.source import Sequence
from tfserving_ext.index.coverage_rule import CoverageRule
from tfserving_ext.index.resource import MappedIndex
from tfserving_ext.models import UserTensors
from tfserving_ext.ops import SearchResult, SurrogateStatistics
from tfserving_ext.retrieval import NeuralTopK, Surrogate

# level_topn of alibaba/nann: the beams of layers 2 and 1, the picks of three rounds at the ground layer, and k.
LEVEL_TOPN_LENGTH = 6
# The parameters of a walk that ends when a pool is expanded. By REST a request carries every input, so `retrieve` has
# these alone, whichever search it runs.
BEST_FIRST = ("frontier", "pool", "max_steps")

_Walk = Callable[[UserTensors, Request], tuple[SearchResult, SurrogateStatistics | None]]
_Reply = Callable[[Request], dict[str, tf.Tensor]]


def signatures(
    source: Source, search: NeuralTopK, defaults: Defaults, non_finite: Container[str] = ()
) -> dict[str, Any]:
    """Returns the functions to export, by signature name (docs/export.md).

    Args:
      source: the model.
      search: searches the index by the model's score.
      defaults: values for the parameters that a request may leave out.
      non_finite: features in which the model expects NaN or infinity; in all others they are refused.
    """
    once = {"budget": tf.constant(0, tf.int64), "deadline_ms": tf.constant(0)}

    def parameters(names: tuple[str, ...], values: Any) -> dict[str, tf.Tensor]:
        return {"k": tf.constant(defaults.k), **{name: tf.constant(getattr(values, name)) for name in names}, **once}

    inputs, walk = parameters(BEST_FIRST, defaults.best_first), _best_first(search)
    by_name = {
        "retrieve_rounds": (parameters(("ef", "rounds"), defaults.rounds), _rounds(source, search)),
        "retrieve_best_first": (inputs, _answering(source, search, walk)),
    }
    if defaults.surrogate is not None:
        by_name["retrieve_surrogate"] = _own_surrogate(source, search, defaults, parameters)
        if defaults.search == "surrogate":
            inputs, walk = parameters(BEST_FIRST, defaults.surrogate), _surrogate(search, defaults.surrogate)
    by_name["retrieve"] = inputs, _answering(source, search, walk)
    by_name["retrieve_trace"] = inputs, _tracing(source, search, walk)
    found = {
        name: _signature(name, source, inputs, reply, non_finite, search.index)
        for name, (inputs, reply) in sorted(by_name.items())
    }
    found["serving_default"] = found["retrieve"] if source.sequence is None else _deployed(source.sequence, search)
    return found


def _own_surrogate(
    source: Source, search: NeuralTopK, defaults: Defaults, parameters: Callable[..., dict[str, tf.Tensor]]
) -> tuple[dict[str, tf.Tensor], _Reply]:
    """Returns inputs and reply of `retrieve_surrogate`, which is asked for a coverage where the index has a rule."""
    known, rule = defaults.surrogate, defaults.rule
    assert known is not None
    if rule is None:
        inputs = parameters((*BEST_FIRST, "batch", "expected_coverage"), known)
        return inputs, _answering(source, search, _surrogate(search), _statistics)
    usual = defaults.coverage or min(max(float(rule.coverage_at(known.expected_coverage)), rule.coverage[0]), rule.most)
    inputs = {**parameters((*BEST_FIRST, "batch"), known), "coverage": tf.constant(usual)}
    walk = _surrogate(search)

    def asked(user: UserTensors, request: Request) -> tuple[SearchResult, SurrogateStatistics | None]:
        given = dict(request.parameters)
        given["expected_coverage"] = expected_for(rule, given.pop("coverage"))
        return walk(user, request._replace(parameters=given))

    return inputs, _answering(source, search, asked, lambda known: _statistics(known, rule))


def _statistics(known: SurrogateStatistics, rule: CoverageRule | None = None) -> dict[str, tf.Tensor]:
    """Returns what the surrogate search knows of itself, as the answer has it."""
    estimated = known.estimated_coverage
    if rule is not None:
        estimated = tf.where(known.fell_back, 0.0, coverage_at(rule, estimated))
    return known._replace(estimated_coverage=tf.clip_by_value(estimated, 0.0, 1.0))._asdict()


def _given(request: Request) -> dict[str, Any]:
    """Returns what a request says to the search."""
    return {"seeds": request.seeds, "exclude": request.exclude, **request.by_attributes, **request.parameters}


def _best_first(search: NeuralTopK) -> _Walk:
    def walk(user: UserTensors, request: Request) -> tuple[SearchResult, SurrogateStatistics | None]:
        return search.best_first(user, **_given(request)), None

    return walk


def _surrogate(search: NeuralTopK, fixed: Surrogate | None = None) -> _Walk:
    """Returns the surrogate search; with `fixed`, the parameters that are its own are those, not the request's."""
    own = {} if fixed is None else {"batch": fixed.batch, "expected_coverage": fixed.expected_coverage}

    def walk(user: UserTensors, request: Request) -> tuple[SearchResult, SurrogateStatistics | None]:
        return search.surrogate(user, **_given(request), **own)

    return walk


def _objectives(source: Source, search: NeuralTopK, user: UserTensors, found: SearchResult) -> dict[str, tf.Tensor]:
    """Returns the scores of the answered items by each objective, float32 [B, k, T], if the model has several."""
    if not source.objectives:
        return {}
    scores = []
    for place in range(len(source.objectives)):
        # The searches' own scorer tells the scores apart if only one has a weight.
        alone = tf.one_hot([place], len(source.objectives))
        scores.append(search.scores_of((*user[:-1], tf.broadcast_to(alone, tf.shape(user[-1]))), found.item_ids))
    return {OBJECTIVES: tf.clip_by_value(tf.stack(scores, axis=-1), LOWEST, HIGHEST)}


def _answering(
    source: Source,
    search: NeuralTopK,
    walk: _Walk,
    statistics: Callable[[SurrogateStatistics], dict[str, tf.Tensor]] | None = None,
) -> _Reply:
    def reply(request: Request) -> dict[str, tf.Tensor]:
        user = source.user_tensors(request.features)
        found, known = walk(user, request)
        more = statistics(known) if statistics is not None and known is not None else {}
        return {**answer(found, request), **_objectives(source, search, user, found), **more}

    return reply


def _tracing(source: Source, search: NeuralTopK, walk: _Walk) -> _Reply:
    def reply(request: Request) -> dict[str, tf.Tensor]:
        user, user_us = timed(source.user_tensors, request.features)
        found, _ = walk(user, request)
        return {
            **answer(found, request),
            **_objectives(source, search, user, found),
            "user_us": tf.fill(tf.shape(found.search_us), user_us),
            "walk_us": found.search_us - found.gather_us - found.scorer_us - found.merge_us,
            "gather_us": found.gather_us,
            "scorer_us": found.scorer_us,
            "merge_us": found.merge_us,
        }

    return reply


def _rounds(source: Source, search: NeuralTopK) -> _Reply:
    def reply(request: Request) -> dict[str, tf.Tensor]:
        # The paper's search starts at the entry points. Ids that the request gives as `seeds` join them; a history does
        # not.
        seeds = request.seeds if source.seeds is None else None
        user = source.user_tensors(request.features)
        found = search.rounds(user, **{**_given(request), "seeds": seeds})
        return {**answer(found, request), **_objectives(source, search, user, found)}

    return reply


def _signature(
    name: str,
    source: Source,
    parameters: Mapping[str, tf.Tensor],
    reply: _Reply,
    non_finite: Container[str],
    index: MappedIndex,
) -> Any:
    """Returns a signature that takes raw features; `parameters`, and features that have a default, may be left out."""
    ids, none = tf.TensorSpec([None, None], index.id_dtype), tf.zeros([0, 0], index.id_dtype)
    inputs = {key: (spec, source.defaults.get(key)) for key, spec in source.features.items()}
    # In Python, parameters with a default come last.
    inputs = dict(sorted(inputs.items(), key=lambda one: one[1][1] is not None))
    inputs.update({key: (spec_of(default), default) for key, default in parameters.items()})
    if source.seeds is None:
        inputs["seeds"] = ids, none
    inputs["exclude"] = ids, none
    for name, value in BY_ATTRIBUTES.items() if index.has_attributes else ():
        default = tf.constant(value)
        inputs[name] = spec_of(default), default

    def run(*arguments: tf.Tensor, **named: tf.Tensor) -> dict[str, tf.Tensor]:
        given = {**dict(zip(inputs, arguments, strict=False)), **named}
        return reply(read(source, parameters, non_finite, given, index.has_attributes))

    # TensorFlow takes the names and defaults of a signature from the Python function; here they come from the model.
    run.__name__ = name
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
    """Returns the signature of alibaba/nann."""

    @tf.function(
        input_signature=[
            tf.TensorSpec([1, sequence.width], tf.float16, "comm_seq"),
            tf.TensorSpec([LEVEL_TOPN_LENGTH], tf.int32, "level_topn"),
        ]
    )
    def serving_default(comm_seq: tf.Tensor, level_topn: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.control_dependencies([shaped("comm_seq", comm_seq, tf.TensorShape([1, sequence.width]))]):
            comm_seq = tf.identity(comm_seq)
        with tf.control_dependencies([finite("comm_seq", comm_seq)]):
            comm_seq = tf.identity(comm_seq)
        return {"top_k": search.deployed(sequence.user(comm_seq), level_topn).item_ids}

    return serving_default
