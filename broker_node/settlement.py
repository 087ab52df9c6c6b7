"""Settlement: captured money is pending until the customer has what it paid for, or long enough.

    captured --ConfirmDelivery-----> settled      the customer's machine says it when the digest is right
    captured --the settlement time-> settled      nobody has to say anything

Rule. What was given back before stays given back: what settles is what is left of an order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from broker_node import ledger, order_rows, schema
from broker_node.audit import Audit
from broker_node.sends import ToSession
from broker_node.telling import Send, Telling
from common import messages
from common.clock import Random
from common.config import Limits
from common.core import Arrival
from common.errors import RefusedError
from common.store import Row, Tx

AT_ONCE: Final = 500

_DUE: Final = (
    sa.select(schema.orders)
    .where(schema.orders.c.settle_at <= sa.bindparam("now"))
    .order_by(schema.orders.c.settle_at)
    .limit(AT_ONCE)
)
UNPAID: Final = frozenset({"held", "refundable"})


class Settlement:
    """Makes pending money available."""

    def __init__(self, telling: Telling, audit: Audit, limits: Limits) -> None:
        self._telling = telling
        self._audit = audit
        self._limits = limits

    def confirm(self, tx: Tx, arrivals: Sequence[Arrival], now: int, random: Random) -> list[Send]:
        """Settle what its customer has: a repetition is told where the order stands."""
        rows = order_rows.by_id(tx, [arrival.body.order_id for arrival in arrivals])
        ready: dict[bytes, Row] = {}
        sends: list[Send] = []
        told: list[tuple[bytes, bytes]] = []
        for arrival in arrivals:
            confirmed: messages.ConfirmDelivery = arrival.body
            try:
                row = _paid(rows.get(confirmed.order_id), confirmed.status_secret)
            except RefusedError as error:
                refusal = messages.Refused(reference=confirmed.order_id, code=error.code)  # type: ignore[arg-type] # codes of ours
                sends.append(ToSession(arrival.sender.sid, refusal))
                continue
            if row["state"] == "captured":
                ready[row["order_id"]] = row
            told.append((arrival.sender.sid, row["order_id"]))
        now_settled = {row["order_id"]: row for row in self.settle(tx, list(ready.values()), now, random)}
        for sid, order_id in told:
            sends.append(self._telling.status(sid, now_settled.get(order_id, rows[order_id]), b"", now))
        return sends

    def tick(self, tx: Tx, now: int, random: Random) -> list[Send]:
        """Settle what has been pending long enough, and tell whoever asked."""
        due = tx.rows(_DUE, {"now": now})
        return [
            send for row in self.settle(tx, due, now, random) for send in self._telling.tell(tx, row, now)
        ]

    def settle(self, tx: Tx, rows: Sequence[Row], now: int, random: Random) -> list[Row]:
        """Take orders to `settled`; gives their rows as they are then."""
        if not rows:
            return []
        order_rows.settle(tx, rows)
        ledger.settle(tx, rows, self._limits.commission_basis_points, now)
        for row in rows:
            self._audit.order_step(tx, "settled", row, now, random)
        return [{**row, "state": "settled", "settle_at": None} for row in rows]


def _paid(row: Row | None, secret: bytes) -> Row:
    opened = order_rows.check_status(row, secret)
    if opened["state"] in UNPAID:
        raise RefusedError("wrong_state")
    return opened
