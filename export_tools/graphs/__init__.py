"""Graphs of scorers for people to look at: read from a SavedModel, costed node by node, laid out and drawn."""

__all__ = ["costs", "draw", "explanation", "flat", "layout", "prune", "scorers", "tables"]
