"""Reference models, before and after the passes over scorers."""
