"""Self-contained HTML pages with plots, which `nann evaluate` and `nann bench` share."""

__all__ = ["curves", "drawing", "page", "plots"]
