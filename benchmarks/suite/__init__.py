"""`make bench`: runs all parts, and writes the pages that show their results."""
