"""Input values that a model is known to accept: of its own tables, and of its warm-up records, made from the index."""

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfserving_ext.errors import NannError
from tfserving_ext.loadtest.scenario import ModelSpec

MAX_VALUES = 1 << 16  # Of one input; more values would make no difference.


def seen_values(model: ModelSpec) -> dict[str, np.ndarray]:
    """Collects the distinct values of each input from the export in the model's `path`.

    What the export says of the model's tables takes precedence, then the records of the model's signature; for inputs
    that these lack, those of other signatures are used.

    Returns:
      The values, [n], by input name; empty if there is no `path`, or nothing in it.
    """
    if model.path is None:
        return {}
    from tfserving_ext.serving.known_values import known_values
    from tfserving_ext.serving.tensors import parse_tensor
    from tfserving_ext.serving.warm_up import predict_requests

    own: dict[str, list[np.ndarray]] = {}
    others: dict[str, list[np.ndarray]] = {}
    with contextlib.suppress(NannError, ValueError):  # A load test need not report damaged records.
        for request in predict_requests(model.path):
            known = own if request.model_spec.signature_name == model.signature else others
            for name, value in request.inputs.items():
                known.setdefault(name, []).append(parse_tensor(value).ravel())
    tables: dict[str, np.ndarray] = {}
    with contextlib.suppress(NannError, KeyError, TypeError, ValueError):  # Nor damaged manifests.
        tables = {name: known.values for name, known in known_values(model.path).items()}
    seen = {name: _distinct(parts) for name, parts in (others | own).items() if any(part.size for part in parts)}
    return seen | tables


def drawn(values: np.ndarray, shape: Any, random: np.random.Generator) -> np.ndarray:
    """Draws an array from known values: integers and strings from the values, floats from between their extremes."""
    if np.issubdtype(values.dtype, np.floating):
        return random.uniform(float(values.min()), float(values.max()), shape)
    return values[random.integers(0, len(values), shape)]


def usable(values: Mapping[str, np.ndarray], name: str, dtype: np.dtype) -> np.ndarray | None:
    """Returns the known values of an input if an array of type `dtype` can be drawn from them, else None."""
    found = values.get(name)
    if found is None or found.dtype.kind != dtype.kind:
        return None
    if dtype.kind == "f" and not (np.all(np.isfinite(found)) and found.min() < found.max()):
        return None  # Equal values, such as only zeros, give no range.
    return found


def _distinct(parts: list[np.ndarray]) -> np.ndarray:
    joined = np.concatenate(parts)
    if joined.dtype.hasobject:
        return np.array(sorted(set(joined.tolist())), object)[:MAX_VALUES]
    return np.unique(joined)[:MAX_VALUES]
