"""The one error type for mistakes a user can mend."""

from __future__ import annotations


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
