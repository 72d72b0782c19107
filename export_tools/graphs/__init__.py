"""Graphs of scorers: read from a SavedModel, with the cost of every node, laid out and drawn."""

__all__ = ["draw", "explanation", "layout", "report", "scorers", "tables"]
