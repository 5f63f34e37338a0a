"""`python -m nfc_gs` is `nfc-gs`."""

from __future__ import annotations

import sys

from nfc_gs.cli import main

if __name__ == "__main__":
    sys.exit(main())
