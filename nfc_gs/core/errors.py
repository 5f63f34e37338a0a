"""The one error type for mistakes a user can mend."""

from __future__ import annotations

import errno


class UserError(Exception):
    """Something the user gave is wrong or missing.

    The message is one sentence that says what is wrong, where (file, frame, field) and what to do.
    The command line prints it without a traceback and exits with code 2.

    >>> try:
    ...     scene = nfc_gs.load_scene("captures/gardne")
    ... except nfc_gs.UserError as error:
    ...     print(error)
    There is no captures/gardne; give the folder of a capture.
    """


def system_cause(error: OSError) -> str:
    """Why the system refused, and what to do about it where that is known; without a full stop."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "too many files are open at once; close other programs or raise the limit with 'ulimit -n'"
    return error.strerror or str(error)
