"""Keys: that nobody else can read them, and that each slot has its key while those that are over are gone.

Rule. Slot keys and the wallet's seed are looked at from outside: their names, which are times, their modes
and owners, and the kind of the seed's seal.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from common.config import DAY_MS
from common.errors import VeilmartError
from common.keyring import Schedule
from common.slots import slot_start
from customer_node.profile import SEED_FILE
from customer_node.seed_file import protection
from merchant_node.prekeys import BROWSE_SCHEDULE, ORDER_SCHEDULE
from veilmart.cli.times import day_of
from veilmart.doctor.certificates import check_certificate
from veilmart.doctor.findings import Check, Finding
from veilmart.doctor.places import Home, Places
from veilmart.doctor.running import running

OTHERS_MODES: Final = 0o077
SECRETS: Final = (
    *("*.key", "*.db", "*.db-wal", "client-id-*", "seed", "api-token", "mint/*.pem"),
    *("hello/*.key", "wrap/*.key", "relay/*.key", "prekeys/browse/*.key", "prekeys/order/*.key"),
)
BROKER_SCHEDULE: Final = Schedule(period_ms=DAY_MS, ahead=0, grace_ms=DAY_MS)
"""Of hello, relay and session keys: the longest grace that an operator can set."""
SLOT_KEYS: Final[dict[str, dict[str, Schedule]]] = {
    "broker": dict.fromkeys(("hello", "wrap", "relay"), BROKER_SCHEDULE),
    "merchant": {"prekeys/browse": BROWSE_SCHEDULE, "prekeys/order": ORDER_SCHEDULE},
}
_RUN: Final = {"broker": "`veilmart broker run`", "merchant": "`veilmart merchant run`"}
_NAMED: Final = 3
"""Files that a line names before it counts."""


def check_keys(places: Places, now: int) -> Iterator[Finding]:
    """Look at the keys of every home."""
    for home in places.homes:
        yield files_of(home)
        yield from check_certificate(home, now)
        yield from slots_of(home, now)
        if home.kind == "customer":
            yield from wallet_of(home)
    if not places.homes:
        yield Check("keys", "keys").not_applicable("there are none here")


def files_of(home: Home) -> Finding:
    """Look at modes and owners of what is secret."""
    check = Check("keys", f"files, {home.name}")
    files = sorted(path for pattern in SECRETS for path in home.path.glob(pattern))
    owner = home.path.stat().st_uid
    readable = [path for path in files if path.stat().st_mode & OTHERS_MODES]
    foreign = [path for path in files if path.stat().st_uid != owner]
    if home.path.stat().st_mode & stat.S_IWOTH:
        return check.problem(f"everybody may write into {home.path}", f"chmod 700 {home.path}")
    if readable:
        return check.problem(
            f"others can read {_listed(readable)}",
            f"chmod 600 {_listed(readable)}; a key that others may have read is best replaced.",
        )
    if foreign:
        return check.problem(
            f"{_listed(foreign)} belongs to another user than {home.path}", f"chown it to uid {owner}."
        )
    return check.ok(f"{len(files)} secret files, nobody else's to read")


def slots_of(home: Home, now: int) -> Iterator[Finding]:
    """Look whether the present slots have their keys, and whether those that are over are erased."""
    state = running(home)
    for folder, schedule in SLOT_KEYS.get(home.kind, {}).items():
        check = Check("keys", f"{folder.rpartition('/')[2]} keys, {home.name}")
        names = (home.path / folder).glob("*.key") if (home.path / folder).is_dir() else ()
        slots = {int(path.stem) for path in names if re.fullmatch(r"\d+", path.stem)}
        over = [slot for slot in slots if slot + schedule.period_ms + schedule.grace_ms <= now]
        if slot_start(now, schedule.period_ms) not in slots:
            detail = "the present slot has none"
            if state == "running":
                yield check.problem(f"{detail}, though the node runs", "Its log says why; start it anew.")
            else:
                yield check.warning(detail, f"{_RUN[home.kind]} makes it.")
        elif over:
            detail = f"{len(over)} that are over are still there, and open what was sealed to them"
            yield check.warning(detail, f"{_RUN[home.kind]} erases them.")
        else:
            yield check.ok(f"up to {day_of(max(slots))}, none that is over")


def wallet_of(home: Home) -> Iterator[Finding]:
    """Look at what opens the wallet, and whether somebody has it open."""
    check = Check("keys", f"wallet, {home.name}")
    try:
        kind = protection((home.path / SEED_FILE).read_bytes())
    except OSError as error:
        yield check.problem(
            f"{SEED_FILE}: {error.strerror}", "`veilmart wallet restore` brings it back from its words."
        )
    except VeilmartError as error:
        yield check.failed(error)
    else:
        used = ", in use by a process" if running(home) == "running" else ""
        if kind == "none":
            yield check.warning(
                f"open to whoever can read {home.path}{used}", "`veilmart wallet passphrase` seals it."
            )
        else:
            yield check.ok(f"opens with its {kind.replace('_', ' ')}{used}")


def _listed(paths: list[Path]) -> str:
    more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    return ", ".join(str(path) for path in paths[:_NAMED]) + more
