"""Conversion and index building, at scale."""
