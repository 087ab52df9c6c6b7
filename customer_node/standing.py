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
from customer_node import orders
from customer_node.context import Context
from customer_node.schema import orders as order_rows
from customer_node.shop import ShopSession

CONFIRM_MS: Final = 5 * config.SECOND_MS
"""How long a finished download waits for the broker to take its word."""


def learn(tx: Tx, answer: messages.OrderAnswer, now: int) -> None:
    """Store what the broker says of an order; `now` is this machine's time."""
    tx.execute(
        sa.update(order_rows)
        .where(order_rows.c.order_id == answer.order_id)
        .values(standing=answer.state, settles=answer.settles, heard=now)
    )


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


class Standing:
    """Asks about orders that are answered, and confirms their delivery."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def confirm(self, session: ShopSession, order_id: bytes, timeout_ms: int | None = None) -> None:
        """Tell the broker that an order is delivered. Raises what asking raises."""
        context = self._context
        with context.profile.store.immediate() as tx:
            if not unconfirmed(tx, order_id):
                return
            order = orders.load(tx, order_id)
        question = messages.ConfirmDelivery(order_id=order.id, status_secret=order.secrets.status)
        longest = timeout_ms if timeout_ms is not None else context.timeout_ms
        answer = session.ask(question, messages.OrderAnswer, min(longest, context.timeout_ms))
        with context.profile.store.immediate() as tx:
            learn(tx, answer, context.clock())
