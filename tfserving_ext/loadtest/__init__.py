"""`nann bench`: load-tests TensorFlow Serving, the local server or a SavedModel in this process.

docs/bench.md describes the options and the format of the result.
"""

from tfserving_ext.extras import require

require("bench")  # Before importing the modules that need the extra's packages.

from tfserving_ext.loadtest.run import bench  # noqa: E402
from tfserving_ext.loadtest.scenario import InputSpec, ModelSpec, Scenario, SwapSpec  # noqa: E402

__all__ = ["InputSpec", "ModelSpec", "Scenario", "SwapSpec", "bench"]
