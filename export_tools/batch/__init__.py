"""Answers all users of a table by an exported model, on one machine or many."""

from export_tools.batch.run import BatchOptions, Retrieved, retrieve_all

__all__ = ["BatchOptions", "Retrieved", "retrieve_all"]
