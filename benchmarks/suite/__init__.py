"""`make bench`: all parts in one run, and the pages that are written from their figures."""
