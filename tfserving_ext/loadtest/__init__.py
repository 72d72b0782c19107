"""`nann bench`: load on TensorFlow Serving, the local server or a SavedModel in process, and what came of it.

docs/bench.md has the options and the format of the result.
"""

from tfserving_ext.extras import require

require("bench")  # Before the modules that import its packages.

from tfserving_ext.loadtest.run import bench  # noqa: E402
from tfserving_ext.loadtest.scenario import InputSpec, ModelSpec, Scenario, SwapSpec  # noqa: E402

__all__ = ["InputSpec", "ModelSpec", "Scenario", "SwapSpec", "bench"]
