"""The searches against their peers, and the peers themselves."""
