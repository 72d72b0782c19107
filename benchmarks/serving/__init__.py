"""The local server and the client of `nann bench`: speed, swaps, soak, damaged requests."""
