"""The error that a user can act on.

Raise `NannError` for anything that bad input or a full disk can cause; the command line prints its message alone and
exits with status 1. Any other exception is a defect of ours and keeps its traceback.
"""


class NannError(Exception):
    """Bad input or a failed precondition; the message names what was got, what is allowed and what to do."""
