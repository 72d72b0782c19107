"""Measures a request's time by stage, for models with the signature `retrieve_trace` (docs/searches.md)."""

import time
from typing import Any

import numpy as np

from tfserving_ext.loadtest.inputs import Inputs
from tfserving_ext.loadtest.scenario import ModelSpec
from tfserving_ext.loadtest.targets.target import Target, TargetError

SIGNATURE = "retrieve_trace"
STAGES = {"user": "user tower", "walk": "walk", "gather": "gather", "scorer": "scorer", "merge": "merge"}
# The names of the time that is not spent in the op.
REST, REST_IN_PROCESS = "server and network", "TensorFlow around the op"


async def trace(
    target: Target, model: ModelSpec, inputs: list[Inputs], count: int, timeout: float
) -> dict[str, Any] | None:
    """Sends traced requests, one after another so that none waits for another.

    Args:
      target: where to send; must be open.
      model: the model, which must have the signature `retrieve_trace`.
      inputs: the requests, which are sent in turn.
      count: how many requests to send.
      timeout: seconds after which a request fails.

    Returns:
      The `model`; the number of `requests`; `total_ms`, the mean time of a request as the client sees it; and
      `stages_ms`, the mean times by stage, which add up to the total: the time outside the op is a stage of its own.
      None if a request fails.
    """
    asked = model.model_copy(update={"signature": SIGNATURE})
    totals, stages = [], []
    for number in range(count):
        begin = time.perf_counter()
        try:
            outputs = await target.ask(asked, inputs[number % len(inputs)], timeout)
        except TargetError:
            return None
        totals.append(1000 * (time.perf_counter() - begin))
        stages.append([float(np.max(outputs[f"{name}_us"])) / 1000 for name in STAGES])
    means = np.mean(stages, axis=0).tolist()
    total = float(np.mean(totals))
    rest = REST_IN_PROCESS if target.shared_process else REST
    found = dict(zip(STAGES.values(), means, strict=True)) | {rest: max(total - sum(means), 0.0)}
    return {"model": model.name, "requests": count, "total_ms": total, "stages_ms": found}
