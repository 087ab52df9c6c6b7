"""Where an order stands at the broker, as it said last; and the word that a delivery is complete.

    download complete --> ConfirmDelivery --> OrderAnswer, settled: the merchant has its money

Rule. What the broker says is stored in the transaction that acts upon it. A confirmation that was not
answered is due again: by the next download of the order, or by `resume`.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from common import config, messages
from common.store import Tx
from customer_node import orders, refunds
from customer_node.context import Context
from customer_node.refunds import Refunds
from customer_node.schema import orders as order_rows
from customer_node.shop import ShopSession

CONFIRM_MS: Final = 5 * config.SECOND_MS
"""How long a finished download waits for the broker to take its word."""

ASKED_EVERY_MS: Final = config.DAY_MS
WATCHED_MS: Final = 30 * config.DAY_MS
"""How often `resume` asks about a delivered order, and for how long: each time may take a ticket."""


def learn(tx: Tx, answer: messages.OrderAnswer, now: int) -> None:
    """Store what the broker says of an order; `now` is this machine's time."""
    order = orders.load(tx, answer.order_id)
    # What another copy of this profile has claimed does not come again; an open claim of ours does.
    elsewhere = 0 if refunds.open_claim(tx, order.id) else answer.claimed
    tx.execute(
        sa.update(order_rows)
        .where(order_rows.c.order_id == order.id)
        .values(
            standing=answer.state,
            settles=answer.settles,
            decide_by=answer.decide_by,
            finding=answer.finding,
            decision=answer.decision,
            refunded=max(order.refunded, min(answer.refunded, order.amount)),
            claimed=max(order.claimed, min(elsewhere, order.amount)),
            heard=now,
        )
    )
    if order.state == "disputed" and answer.state == "settled":
        orders.step(tx, order.id, "complete")
    if order.state in orders.TO_DELIVER and answer.state == "disputed":
        # By another copy of this profile, or by a message whose answer was taken for a refusal.
        orders.step(tx, order.id, "disputed")


def unconfirmed(tx: Tx, order_id: bytes | None = None) -> list[bytes]:
    """List delivered orders, or tell of one, whose delivery the broker does not know of."""
    query = (
        sa.select(order_rows.c.order_id)
        .where(order_rows.c.state == "complete", order_rows.c.standing == "captured")
        .order_by(order_rows.c.created)
    )
    if order_id is not None:
        query = query.where(order_rows.c.order_id == order_id)
    return [row["order_id"] for row in tx.all(query)]


def unheard(tx: Tx, now: int) -> list[bytes]:
    """List delivered orders of which nothing was heard for a day: money may have been given back."""
    query = (
        sa.select(order_rows.c.order_id)
        .where(order_rows.c.state == "complete", order_rows.c.standing.is_not(None))
        .where(order_rows.c.heard < now - ASKED_EVERY_MS, order_rows.c.created > now - WATCHED_MS)
        .order_by(order_rows.c.created)
    )
    return [row["order_id"] for row in tx.all(query)]


class Standing:
    """Confirms deliveries."""

    def __init__(self, context: Context, claims: Refunds) -> None:
        self._context = context
        self._claims = claims

    def _heard(self, session: ShopSession, answer: messages.OrderAnswer) -> None:
        with self._context.profile.store.immediate() as tx:
            learn(tx, answer, self._context.clock())
        self._claims.collect(session, answer.order_id)

    def confirm(self, session: ShopSession, order_id: bytes, timeout_ms: int | None = None) -> None:
        """Tell the broker that an order is delivered. Raises what asking raises."""
        context = self._context
        with context.profile.store.immediate() as tx:
            if not unconfirmed(tx, order_id):
                return
            order = orders.load(tx, order_id)
        question = messages.ConfirmDelivery(order_id=order.id, status_secret=order.secrets.status)
        longest = timeout_ms if timeout_ms is not None else context.timeout_ms
        self._heard(session, session.ask(question, messages.OrderAnswer, min(longest, context.timeout_ms)))
