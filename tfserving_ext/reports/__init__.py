"""Self-contained HTML pages with plots, which `nann evaluate` and `nann bench` share."""
