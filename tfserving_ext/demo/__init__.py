"""The whole road on real purchases, `nann demo`."""

from tfserving_ext.demo.run import HOUSEHOLDS_HELD_OUT, run_demo

__all__ = ["HOUSEHOLDS_HELD_OUT", "run_demo"]
