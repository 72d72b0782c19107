"""The exception for errors that a user can act on.

Raise `NannError` for anything that bad input or a full disk can cause; the command line prints only its message and
exits with status 1. Any other exception is a bug in this package and keeps its traceback.
"""


class NannError(Exception):
    """Bad input or a failed precondition; the message has the value that was given, those allowed and what to do."""
