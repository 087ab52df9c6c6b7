"""Sessions in the profile: their keys lie here between commands, each at one place of one table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa

from common import config
from common.store import Row, Tx

EXPIRY_MARGIN_MS: Final = config.MINUTE_MS
NOTES: Final = 20
"""How many notes of its use a session gets at most in the time after which it would be idle."""


@dataclass(frozen=True)
class KeptSession:
    """What of a session lies in the profile. `offset` is the broker's clock less ours, in ms."""

    session: bytes
    keys: bytes = field(repr=False)
    offset: int
    expires: int
    idle_ms: int
    last_used: int

    def usable(self, now: int) -> bool:
        """Whether the broker still knows it, with a margin; `now` is our clock.

        Where that was set back since, `offset` is wrong, and every message would be stale.
        """
        if now < self.last_used - EXPIRY_MARGIN_MS:
            return False
        margin = min(EXPIRY_MARGIN_MS, self.idle_ms // 10) if self.idle_ms else EXPIRY_MARGIN_MS
        idle = bool(self.idle_ms) and now >= self.last_used + self.idle_ms - margin
        return not idle and now + self.offset < self.expires - margin


def keep(tx: Tx, table: sa.Table, place: str, kept: KeptSession, **more: object) -> None:
    """Store a session at its place, instead of the one that was there; `more` are columns of its table."""
    forget(tx, table, place)
    tx.execute(
        sa.insert(table),
        {
            "place": place,
            "session": kept.session,
            "keys": kept.keys,
            "offset": kept.offset,
            "expires": kept.expires,
            "idle_ms": kept.idle_ms,
            "last_used": kept.last_used,
            **more,
        },
    )


def usable(tx: Tx, table: sa.Table, now: int) -> list[KeptSession]:
    """Give the sessions of a table that can still be used, and change nothing."""
    found = (_read(row) for row in tx.all(sa.select(table)))
    return [kept for kept in found if kept.usable(now)]


def _read(row: Row) -> KeptSession:
    fields: dict[str, Any] = {name: row[name] for name in KeptSession.__dataclass_fields__}
    return KeptSession(**fields)


def find(tx: Tx, table: sa.Table, place: str, now: int) -> KeptSession | None:
    """Give the session at a place if it can still be used; one that cannot is erased."""
    row = tx.one(sa.select(table).where(table.c.place == place))
    if row is None:
        return None
    kept = _read(row)
    if not kept.usable(now):
        forget(tx, table, place)
        return None
    return kept


def touch(tx: Tx, table: sa.Table, session: bytes, now: int) -> None:
    """Note that a session was used at `now`, where the last note is not quite new.

    Each note waits for the disk; an older one only ends the session here a little before its time.
    """
    tx.execute(
        sa.update(table)
        .where(table.c.session == session, table.c.last_used + table.c.idle_ms // NOTES < now)
        .values(last_used=now)
    )


def forget(tx: Tx, table: sa.Table, place: str) -> None:
    """Erase a session."""
    tx.execute(sa.delete(table).where(table.c.place == place))


def sweep(tx: Tx, table: sa.Table, now: int) -> None:
    """Erase every session that can no longer be used: its keys have no business here."""
    for row in tx.all(sa.select(table.c.place)):
        find(tx, table, row["place"], now)
