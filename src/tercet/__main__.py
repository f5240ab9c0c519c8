"""`python -m tercet`: the command `tercet`, for launchers that start a module."""

from __future__ import annotations

import sys

from tercet.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
