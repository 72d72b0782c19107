"""Cuts a ranker as it is into a user tower, an item tower and a scorer, by a table of items."""

from export_tools.cut.items import Items
from export_tools.cut.later import ItemTower, cut_of, vectors_of
from export_tools.cut.source import cut_and_indexed, explain_cut

__all__ = ["ItemTower", "Items", "cut_and_indexed", "cut_of", "explain_cut", "vectors_of"]
