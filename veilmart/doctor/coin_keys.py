"""The blind-signature keys of coins and tickets: this month's, and the next one's in time.

Wallets take a month's key only if it was announced a day before (the market's first month excepted), so
the broker makes them in the last two days of the month before, while it runs.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Final

from common import slots
from common.config import DAY_MS
from veilmart.doctor.findings import Check, Finding
from veilmart.doctor.places import Home, Places
from veilmart.doctor.stores import read_only

STORE: Final = "broker.db"
ANNOUNCED_MS: Final = DAY_MS
"""How long before its month a key has to be shown."""
_MADE: Final = "SELECT month, key_id FROM issuer_keys"


def check_coin_keys(places: Places, announced: Iterable[str] | None, now: int) -> Iterator[Finding]:
    """Look at the months of the keys on the broker's card, and at the key files of a broker's home.

    `announced` is None where there is no card to look at.
    """
    check = Check("keys", "coin keys, announced")
    if announced is None:
        yield check.not_applicable("there is no card of the broker's to look at")
    else:
        yield months(check, set(announced), now)
    for home in places.of("broker"):
        yield _files(home, now)


def months(check: Check, present: set[str], now: int) -> Finding:
    """Say whether this month has its keys, and the next one where it begins within a day."""
    this, following = slots.month_of(now), slots.next_month(slots.month_of(now))
    if this not in present:
        return check.problem(
            f"there are none for {this}: no coin can be drawn",
            "`veilmart broker run` makes them; if it runs, its log says why not.",
        )
    if following in present:
        return check.ok(f"{this} and {following}")
    if slots.month_start(following) - now <= ANNOUNCED_MS:
        return check.warning(
            f"{following} begins within a day and has none: wallets will not take keys announced so late",
            "Let `veilmart broker run` run through the last two days of each month.",
        )
    return check.ok(f"{this}; {following} gets its own two days before it begins")


def _files(home: Home, now: int) -> Finding:
    check, store = Check("keys", f"coin keys, {home.name}"), home.path / STORE
    if not store.exists():
        return check.not_applicable("there are none yet", "`veilmart broker run` makes them.")
    try:
        with closing(read_only(store)) as connection:
            made = connection.execute(_MADE).fetchall()
    except sqlite3.Error as error:
        return check.not_applicable(f"{STORE} cannot be read ({type(error).__name__}): see disk")
    oldest = slots.previous_month(slots.month_of(now))
    lost = [key for month, key in made if month >= oldest and not _has_file(home, key)]
    if lost:
        return check.problem(
            f"{len(lost)} keys that count have no file in {home.path / 'mint'}",
            "Put `mint/` back from the backup that `broker.db` is of: the coins are signed by these keys.",
        )
    return months(check, {month for month, _ in made}, now)


def _has_file(home: Home, key_id: bytes) -> bool:
    return (home.path / "mint" / f"{key_id.hex()}.pem").exists()
