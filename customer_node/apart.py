"""Account and shop apart in time: when each was last used, and until when the other one waits.

    account    a session of the account is opened or used    what is done in shop sessions waits
    shop       a session is opened with a ticket, or used     what is drawn from the account waits

Whoever runs the market sees both, and what the sessions do not say the times would: the market's minimum
age lies between them, and a visit counts as used until it is over.

Rule 1. A use is noted before its first byte is sent: one that was cut short counts too. Every session of
its side counts, whatever was done in it.

Rule 2. Who logs in, asks for the balance or tops up next to a visit is warned and not kept from it: nothing
is drawn by that, and it may be urgent.

Rule 3. In a market without a minimum age nothing waits.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import sqlalchemy as sa

from common import config
from common.errors import TooSoonError
from common.store import Tx
from customer_node import kept
from customer_node.schema import tending, visits

Side: TypeAlias = Literal["account", "shop"]
"""Whose sessions: also the row of `tending` that says when one was last used."""

NOTED_EVERY_MS: Final = config.MINUTE_MS
"""Each note waits for the disk: of uses that come closer together than this, the first is noted."""


def note_use(tx: Tx, side: Side, now: int) -> None:
    """Note that a session of this side is used."""
    if not 0 <= now - last_used(tx, side) <= NOTED_EVERY_MS:
        tx.execute(sa.delete(tending).where(tending.c.what == side))
        tx.execute(sa.insert(tending), {"what": side, "at": now})


def last_used(tx: Tx, side: Side) -> int:
    """Give the time at which such a session was last used, by at most a minute too early; 0 for never."""
    return int(tx.scalar(sa.select(tending.c.at).where(tending.c.what == side)) or 0)


def visit_until(tx: Tx, now: int) -> int:
    """Give the time at which the last open visit will have been idle for too long; 0 where none is open."""
    return max((each.last_used + each.idle_ms for each in kept.usable(tx, visits, now)), default=0)


def account_free_at(tx: Tx, age_ms: int, now: int) -> int:
    """Give the moment from which on nothing is drawn next to a shop session; 0 where nothing waits."""
    shopped = last_used(tx, "shop")
    return max(visit_until(tx, now), shopped + age_ms if shopped else 0) if age_ms else 0


def shops_free_at(tx: Tx, age_ms: int) -> int:
    """Give the moment from which on no shop session comes next to the account; 0 where nothing waits."""
    used = last_used(tx, "account")
    return used + age_ms if used and age_ms else 0


def too_near_a_visit(tx: Tx, age_ms: int, now: int, command: str) -> TooSoonError | None:
    """Give what is wrong with using the account by `command` now; None where no visit is near."""
    free_at = account_free_at(tx, age_ms, now)
    if free_at <= now:
        return None
    return TooSoonError(
        "A shop was visited a moment ago: what is done in the account next to that could be tied to it.",
        f"`veilmart {command}` in {minutes(free_at - now)} min, or with `--now` at once.",
        retry_at=free_at,
    )


def demand_apart_from_shops(tx: Tx, age_ms: int, now: int, command: str) -> None:
    """Raise `TooSoonError` where a shop session was used a moment ago: nothing is drawn next to that."""
    near = too_near_a_visit(tx, age_ms, now, command)
    if near is not None:
        raise near


def minutes(milliseconds: int) -> int:
    """Give a time in whole minutes, rounded up."""
    return -(-milliseconds // config.MINUTE_MS)
