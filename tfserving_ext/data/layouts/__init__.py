"""Behaviours in the layouts of other people: which column is what, known layouts, and reading them."""

__all__ = ["files", "layout", "presets", "recognition", "times", "translation"]
