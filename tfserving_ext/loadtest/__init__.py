"""`nann bench`: load on TensorFlow Serving, the local server or a SavedModel in process, and what came of it.

docs/bench.md has the options and the format of the result.
"""

from tfserving_ext.loadtest.run import bench
from tfserving_ext.loadtest.scenario import InputSpec, ModelSpec, Scenario, SwapSpec

__all__ = ["InputSpec", "ModelSpec", "Scenario", "SwapSpec", "bench"]
