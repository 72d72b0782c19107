"""Values that a model is known to take: those of its warm-up records, which its export made from its own index."""

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfserving_ext.errors import NannError
from tfserving_ext.loadtest.scenario import ModelSpec

MAX_VALUES = 1 << 16  # Of one input; more would say no more.


def seen_values(model: ModelSpec) -> dict[str, np.ndarray]:
    """Distinct values by input, each [n], of the warm-up records that lie in the model's `path`; else nothing.

    Those of the model's signature come first; of inputs that its records leave out, those of the other signatures.
    """
    if model.path is None:
        return {}
    from tfserving_ext.serving.tensors import parse_tensor
    from tfserving_ext.serving.warm_up import predict_requests

    own: dict[str, list[np.ndarray]] = {}
    others: dict[str, list[np.ndarray]] = {}
    with contextlib.suppress(NannError, ValueError):  # A load test is not the place to judge a model's records.
        for request in predict_requests(model.path):
            known = own if request.model_spec.signature_name == model.signature else others
            for name, value in request.inputs.items():
                known.setdefault(name, []).append(parse_tensor(value).ravel())
    return {name: _distinct(parts) for name, parts in (others | own).items() if any(part.size for part in parts)}


def drawn(values: np.ndarray, shape: Any, random: np.random.Generator) -> np.ndarray:
    """An array of a shape, drawn from what was seen: whole numbers and words as they were, others between the ends."""
    if np.issubdtype(values.dtype, np.floating):
        return random.uniform(float(values.min()), float(values.max()), shape)
    return values[random.integers(0, len(values), shape)]


def usable(values: Mapping[str, np.ndarray], name: str, dtype: np.dtype) -> np.ndarray | None:
    """What was seen of an input, where something can be drawn from it."""
    found = values.get(name)
    if found is None or found.dtype.kind != dtype.kind:
        return None
    if dtype.kind == "f" and not (np.all(np.isfinite(found)) and found.min() < found.max()):
        return None  # Records of zeros say nothing of a range.
    return found


def _distinct(parts: list[np.ndarray]) -> np.ndarray:
    joined = np.concatenate(parts)
    if joined.dtype.hasobject:
        return np.array(sorted(set(joined.tolist())), object)[:MAX_VALUES]
    return np.unique(joined)[:MAX_VALUES]
