"""Disk: room where stores and downloads lie, and whether SQLite finds its files whole."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from common.config import KIB
from common.errors import VeilmartError
from veilmart.doctor.findings import Check, Finding
from veilmart.doctor.places import Places
from veilmart.doctor.stores import has_wal, read_only

GIB: Final = KIB * KIB * KIB
LITTLE: Final = GIB
"""Below it there is a warning: a download may be larger."""
TOO_LITTLE: Final = 64 * KIB * KIB
"""Below it a store may fail to write its WAL, and a node stops."""
STEPS: Final = 100_000
"""Of SQLite's machine, between two looks at the clock."""


def check_disk(places: Places, downloads: Path, patience_s: float) -> Iterator[Finding]:
    """Look at the disks of all homes and of the folder that downloads go to, and at every store."""
    looked_at: set[tuple[int, int]] = set()
    for name, path in [*((each.name, each.path) for each in places.homes), ("downloads", downloads)]:
        check = Check("disk", f"room, {name}")
        try:
            device, free = path.stat().st_dev, shutil.disk_usage(path).free
        except OSError as error:
            yield check.problem(f"{path}: {error.strerror}", "Check the path and its owner.")
            continue
        # One line for each disk, not for each folder on it.
        if (device, free // TOO_LITTLE) not in looked_at:
            looked_at.add((device, free // TOO_LITTLE))
            yield room(check, path, free)
    stores = [(home.name, path) for home in places.homes for path in sorted(home.path.glob("*.db"))]
    for name, path in stores:
        yield check_store(Check("disk", f"store, {name}"), path, patience_s)
    if not stores:
        yield Check("disk", "stores").not_applicable("there is none here")


def room(check: Check, path: Path, free: int) -> Finding:
    """Judge the bytes that are free where `path` lies."""
    detail = f"{free / GIB:.1f} GiB free at {path}"
    if free < TOO_LITTLE:
        return check.problem(detail, "Make room: stores cannot be written any more.")
    if free < LITTLE:
        return check.warning(detail, "Make room soon.")
    return check.ok(detail)


def check_store(check: Check, path: Path, patience_s: float) -> Finding:
    """Let SQLite look through a store, for no longer than `patience_s`."""
    advice = "Stop the node, keep a copy of the file, and put a backup in its place (docs/operating.md)."
    try:
        said = quick_check(path, patience_s)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
            return check.warning(
                f"{path.name} was not looked through within {patience_s:g} s", "Give more with --timeout."
            )
        return check.problem(f"{path.name} cannot be read: {error.sqlite_errorname}", advice)
    except sqlite3.DatabaseError as error:
        return check.problem(f"{path.name} is damaged: {error.sqlite_errorname}", advice)
    if said != ["ok"]:
        return check.problem(f"{path.name} is damaged: {len(said)} faults", advice, VeilmartError)
    return check.ok(f"{path.name} is whole")


def quick_check(path: Path, patience_s: float) -> list[str]:
    """Give what `PRAGMA quick_check` says. Raises `sqlite3.Error`."""
    used = has_wal(path)
    deadline = time.monotonic() + patience_s
    with closing(read_only(path, patience_s)) as connection:
        connection.set_progress_handler(lambda: time.monotonic() > deadline, STEPS)
        said = [str(row[0]) for row in connection.execute("PRAGMA quick_check")]
    if said != ["ok"] and not used and has_wal(path):
        # A node has opened it meanwhile: an immutable file it was not.
        return quick_check(path, patience_s)
    return said
