"""Reading a store of SQLite's without leaving a trace.

Rule. A store without a WAL is open nowhere at the moment, and is read as an immutable file: nothing comes
to lie beside it. One with a WAL is read as every other reader does.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path


def has_wal(path: Path) -> bool:
    """Tell whether somebody has the store open, or had it at a crash."""
    return path.with_name(path.name + "-wal").exists()


def read_only(path: Path, timeout_s: float = 5.0) -> sqlite3.Connection:
    """Open a store for reading. Raises `sqlite3.Error`."""
    uri = f"{path.resolve().as_uri()}?mode=ro" + ("" if has_wal(path) else "&immutable=1")
    return sqlite3.connect(uri, uri=True, timeout=timeout_s)
