"""`veilmart` and `python -m veilmart`."""

from __future__ import annotations

import sys

from veilmart.cli.app import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
