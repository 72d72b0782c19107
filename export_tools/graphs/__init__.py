"""Graphs of scorers for people to look at: read from a SavedModel, costed node by node, laid out and drawn."""

__all__ = ["draw", "explanation", "layout", "report", "scorers", "tables"]
