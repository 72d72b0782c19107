"""All stages on real purchases: `nann demo`."""

from tfserving_ext.extras import require

require("demo")  # Before importing the modules that need the extra's packages.

from tfserving_ext.demo.run import HOUSEHOLDS_HELD_OUT, run_demo  # noqa: E402

__all__ = ["HOUSEHOLDS_HELD_OUT", "run_demo"]
