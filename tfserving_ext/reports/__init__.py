"""Self-contained HTML pages with plots, which `nann evaluate` and `nann bench` share."""

from tfserving_ext.extras import require

__all__ = ["curves", "drawing", "page", "plots"]

require("reports")
