"""Self-contained HTML pages with plots, for `nann evaluate` and `nann bench`."""

from tfserving_ext.extras import require

__all__ = ["curves", "drawing", "page", "plots"]

require("reports")
