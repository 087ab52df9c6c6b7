"""Whether a process holds a home's lock, found out without taking it.

Trying the lock would keep a node away that starts at that very moment. Linux lists who holds which.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from customer_node.profile import LOCK_FILE
from veilmart.doctor.places import Home

LOCKS: Final = Path("/proc/locks")
FILES: Final = {"broker": ".broker.lock", "merchant": ".merchant.lock", "customer": LOCK_FILE}

Running = Literal["running", "not running", "unknown"]


def running(home: Home) -> Running:
    """Tell whether a process works in a home; `unknown` where the system does not say."""
    path = home.path / FILES.get(home.kind, "")
    if home.kind not in FILES or not path.exists():
        return "not running"
    try:
        lines = LOCKS.read_text().splitlines()
    except OSError:
        return "unknown"
    # "1: FLOCK  ADVISORY  WRITE 4321 08:01:131077 0 EOF": device and inode. Some file systems show another
    # device there than stat does, so the inode has to do.
    held = {line.split()[5].rpartition(":")[2] for line in lines if " FLOCK " in line and "->" not in line}
    return "running" if str(path.stat().st_ino) in held else "not running"
