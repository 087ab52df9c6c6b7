"""The merchant's money, for whoever looks at it or wants it: beside the running node, or without it.

Everything is read from the merchant's own store, as of the last statement. A payout is asked for by a row
that the running node sends; whoever waits for its answer reads the row again and again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa

from common.clock import Random
from common.errors import InsufficientFundsError, UsageError
from common.store import Row, Store, Tx
from merchant_node import money, schema

LONGEST_DESTINATION: Final = 200
LOOK_EVERY_S: Final = 0.1

_LINES: Final = sa.select(schema.statement_lines).order_by(schema.statement_lines.c.line)
_PAYOUTS: Final = sa.select(schema.payouts).order_by(schema.payouts.c.asked, schema.payouts.c.payout_id)


@dataclass(frozen=True)
class Balance:
    """What the broker owes the merchant, in minor units, as of `read` (0: never asked yet)."""

    pending: int
    available: int
    reserved: int
    commission_basis_points: int
    read: int


@dataclass(frozen=True)
class Line:
    """A line of the statement: what it changed, and the sums after it. A commission has its own.

    `reference` is the order's id or the payout's; `at` in milliseconds, cut to the minute.
    """

    line: int
    at: int
    kind: str
    reference: bytes
    amount: int
    pending: int
    available: int
    reserved: int


@dataclass(frozen=True)
class Payout:
    """A payout as its merchant sees it."""

    payout_id: bytes
    amount: int
    destination: str = field(repr=False)
    state: str
    code: str
    reason: str
    asked: int


class Treasury:
    """Reads and asks; each call is one transaction."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def refresh(self, timeout_s: float) -> bool:
        """Have the running node read the statement to its end; tells whether it did in time."""
        with self._store.immediate() as tx:
            before = _balance(tx).read
            money.ask_soon(tx)
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            time.sleep(LOOK_EVERY_S)
            with self._store.snapshot() as tx:
                if _balance(tx).read > before and money.is_read(tx):
                    return True
        return False

    def balance(self) -> Balance:
        """Give what is pending, available and reserved."""
        with self._store.snapshot() as tx:
            return _balance(tx)

    def statement(self, *, since: int = 0, until: int = 2**62) -> list[Line]:
        """Give the lines from `since` to before `until`, in milliseconds."""
        lines: list[Line] = []
        before = money.NOTHING
        with self._store.snapshot() as tx:
            for row in tx.all(_LINES.where(schema.statement_lines.c.at < until)):
                after = money.sums_of(row)
                if row["at"] >= since:
                    lines += _lines(row, before, after)
                before = after
        return lines

    def newest(self, before: int, limit: int) -> tuple[list[Line], int]:
        """Give the newest lines before line `before`, the newest first, and from where to go on (0: done)."""
        number = schema.statement_lines.c.line
        query = _LINES.order_by(None).where(number < before).order_by(number.desc()).limit(limit + 1)
        lines: list[Line] = []
        with self._store.snapshot() as tx:
            rows = tx.all(query)
        for index, row in enumerate(rows[:limit]):
            earlier = money.sums_of(rows[index + 1]) if index + 1 < len(rows) else money.NOTHING
            lines += reversed(_lines(row, earlier, money.sums_of(row)))
        return lines, rows[limit - 1]["line"] if len(rows) > limit else 0

    def payouts(self) -> list[Payout]:
        """Give every payout, the oldest first."""
        with self._store.snapshot() as tx:
            return [_payout(row) for row in tx.all(_PAYOUTS)]

    def payout(self, payout_id: bytes) -> Payout:
        """Give one."""
        with self._store.snapshot() as tx:
            return _payout(tx.all(_PAYOUTS.where(schema.payouts.c.payout_id == payout_id))[0])

    def ask(self, amount: int | None, destination: str | None, now: int, random: Random) -> Payout:
        """Store the wish for a payout; None is all that is available, and where the last one went.

        Raises `InsufficientFundsError` where less is available, as far as is known here, and `UsageError`.
        """
        with self._store.immediate() as tx:
            row = self._row(tx, amount, destination, now, random)
            tx.insert(sa.insert(schema.payouts), row)
            money.ask_soon(tx)
        return _payout(row)

    def rehearse(self, amount: int | None, destination: str | None, now: int, random: Random) -> Payout:
        """Give the payout that `ask` would store, and store none. Raises as `ask` does."""
        with self._store.snapshot() as tx:
            return _payout(self._row(tx, amount, destination, now, random))

    def _row(
        self, tx: Tx, amount: int | None, destination: str | None, now: int, random: Random
    ) -> dict[str, Any]:
        return {
            "payout_id": random(16),
            "amount": self._wanted(tx, amount),
            "destination": _destination(tx, destination),
            "state": "asked",
            "code": "",
            "reason": "",
            "asked": now,
            "due": now,
            "attempts": 0,
        }

    @staticmethod
    def _wanted(tx: Tx, amount: int | None) -> int:
        under_way = sa.select(sa.func.coalesce(sa.func.sum(schema.payouts.c.amount), 0)).where(
            schema.payouts.c.state == "asked"
        )
        left = _balance(tx).available - int(tx.scalar(under_way) or 0)
        wanted = left if amount is None else amount
        if wanted > left or left <= 0:
            raise InsufficientFundsError(
                "Less than that is available.",
                "`veilmart merchant balance` shows what is; pending money is settled later.",
                missing=wanted - left if wanted > left else None,
            )
        if wanted <= 0:
            raise UsageError("There is nothing to pay out.", "Give an amount above zero.")
        return wanted

    def wait(self, payout_id: bytes, timeout_s: float, *, until: Callable[[Payout], bool]) -> Payout:
        """Give the payout as soon as it is so, or as it is when the time is over."""
        deadline = time.monotonic() + timeout_s
        while True:
            found = self.payout(payout_id)
            if until(found) or time.monotonic() >= deadline:
                return found
            # Another process writes the row; a store has no way of telling us.
            time.sleep(LOOK_EVERY_S)


def _balance(tx: Tx) -> Balance:
    last = tx.one(_LINES.order_by(None).order_by(schema.statement_lines.c.line.desc()).limit(1))
    names = {row["name"]: row["value"] for row in tx.all(sa.select(schema.counters))}
    pending, available, reserved = money.NOTHING if last is None else money.sums_of(last)
    return Balance(pending, available, reserved, names["commission"], names["statement read"])


def _destination(tx: Tx, given: str | None) -> str:
    last = _PAYOUTS.order_by(None).order_by(schema.payouts.c.asked.desc()).limit(1)
    row = tx.one(last) if given is None else None
    destination = (given if row is None else str(row["destination"])) or ""
    if not 0 < len(destination.strip()) <= LONGEST_DESTINATION or not destination.isprintable():
        raise UsageError(
            f"A payout goes somewhere: one line of 1 to {LONGEST_DESTINATION} characters.",
            "Say where to with --to, an IBAN for example. The market's operator reads it.",
        )
    return destination.strip()


def _lines(row: Row, before: money.Sums, after: money.Sums) -> Sequence[Line]:
    pending, available, reserved = (new - old for old, new in zip(before, after, strict=True))
    common = (row["line"], row["at"], row["kind"], row["reference"])
    if row["kind"] != "settled":
        amount = {
            "captured": pending,
            "refunded": pending + available,
            "payout_requested": available,
            "payout_confirmed": reserved,
            "payout_rejected": available,
        }[row["kind"]]
        return [Line(*common, amount, *after)]
    settled, commission = -pending, pending + available
    gross = Line(*common, settled, after[0], after[1] - commission, after[2])
    if not commission:
        return [gross]
    return [gross, Line(row["line"], row["at"], "commission", row["reference"], commission, *after)]


def _payout(row: Row) -> Payout:
    names = ("payout_id", "amount", "destination", "state", "code", "reason", "asked")
    return Payout(**{name: row[name] for name in names})
