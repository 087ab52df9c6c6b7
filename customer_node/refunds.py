"""Money back: what was given back of an order is claimed in coins, without anyone being asked.

    OrderAnswer: more is given back than claimed --> ClaimRefund --> RefundIssued, coins in the wallet
    all of it claimed, and nothing left of the order --> refunded

Rule 1. A claim is an operation with an id of its own: its exact message is stored first, and repeated until
it is answered, also after payments were stopped. There is at most one open claim of an order.

Rule 2. An order may be given back in parts, over time: each part is claimed when it is heard of.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from common import codec, config, messages, slots
from common.errors import PaymentsStoppedError, RejectedError, UntrustedError
from common.store import Tx
from customer_node import issuers, old_copy, orders, wrong_content
from customer_node.change import refund_coins
from customer_node.context import Context
from customer_node.orders import Order
from customer_node.refusals import AlreadySignedError
from customer_node.schema import claims, operations
from customer_node.schema import orders as order_rows
from customer_node.shop import ShopSession

_CLAIM: Final[codec.Codec[messages.ClaimRefund]] = codec.Codec(messages.ClaimRefund)
_OPEN: Final = (
    sa.select(claims.c.operation, claims.c.amount, operations.c.request)
    .join(operations, operations.c.operation == claims.c.operation)
    .where(claims.c.order_id == sa.bindparam("of"), operations.c.state == "open")
)


class Refunds:
    """Shop scope: claims."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def collect(self, session: ShopSession, order_id: bytes) -> int:
        """Claim what was given back of an order and is not in the wallet; gives how much came.

        Raises `RejectedError`, `UntrustedError`, and what asking raises; after silence the next call, or
        `resume`, goes on.
        """
        context, collected, tries = self._context, 0, old_copy.Tries()
        context.broker(session.link)
        while True:
            with context.profile.store.immediate() as tx:
                order = orders.load(tx, order_id)
                asked_before = open_claim(tx, order_id)
                request = self._request(tx, session, order, tries.left_out)
            if request is None:
                # This may have been the end of it: nothing has to be shown any more.
                wrong_content.erase_ended(context.profile)
                return collected
            try:
                collected += self._claim(session, order, request)
                tries = old_copy.Tries()
            except PaymentsStoppedError:
                raise
            except AlreadySignedError:
                tries.count()
                if tries.over:
                    raise old_copy.made_too_often() from None
            except RejectedError:
                # One of before, whose coins' month is over: the next one asks for coins of this month.
                if not asked_before:
                    raise

    def _request(
        self, tx: Tx, session: ShopSession, order: Order, left_out: int
    ) -> messages.ClaimRefund | None:
        context = self._context
        present = tx.one(_OPEN, {"of": order.id})
        if present is not None:
            return _CLAIM.unpack(present["request"])
        due = order.refunded - order.claimed
        if due <= 0:
            _end(tx, order)
            return None
        month = slots.month_of(session.now)
        held = context.wallet.held(tx, context.clock())
        # What takes more coins than one claim may have is claimed in several, the largest coins first.
        chosen = sorted(refund_coins(due, held, issuers.top(tx, month)), reverse=True)
        values = chosen[: config.MAXIMUM_COINS]
        operation = context.random(16)
        context.wallet.leave_out(tx, month, left_out)
        blinded = context.wallet.draw(tx, operation, [("coin", value) for value in values], month)
        request = messages.ClaimRefund(
            operation=operation, order_id=order.id, claim_secret=order.secrets.claim, blinded=blinded
        )
        context.wallet.begin_operation(tx, operation, "refund", codec.pack(request), context.clock())
        row = {"operation": operation, "order_id": order.id, "amount": sum(values)}
        tx.execute(sa.insert(claims), row)
        return request

    def _claim(self, session: ShopSession, order: Order, request: messages.ClaimRefund) -> int:
        context = self._context
        try:
            answer = session.ask(request, messages.RefundIssued, context.timeout_ms)
        except PaymentsStoppedError:
            raise
        except RejectedError:
            # Refused for good: another claim asks for other coins.
            with context.profile.store.immediate() as tx:
                context.wallet.end_operation(tx, request.operation, "refused")
            raise
        try:
            with context.profile.store.immediate() as tx:
                amount: int = tx.scalar(
                    sa.select(claims.c.amount).where(claims.c.operation == request.operation)
                )
                context.wallet.issue(tx, request.operation, answer.signatures, context.clock())
                tx.execute(
                    sa.update(order_rows)
                    .where(order_rows.c.order_id == order.id)
                    .values(claimed=order_rows.c.claimed + amount)
                )
                _end(tx, orders.load(tx, order.id))
        except UntrustedError:
            context.profile.keep_evidence("refund", codec.pack(answer), context.clock())
            raise
        return amount


def _end(tx: Tx, order: Order) -> None:
    """Take an order of which nothing is left, and all is in the wallet, to its end."""
    if order.state != "refunded" and order.claimed == order.amount:
        orders.step(tx, order.id, "refunded", standing="refunded")


def open_claim(tx: Tx, order_id: bytes) -> bool:
    """Tell whether a claim of this order waits for its answer."""
    return tx.one(_OPEN, {"of": order_id}) is not None


def uncollected(tx: Tx) -> list[bytes]:
    """List the orders of which more was given back than is in the wallet, oldest first."""
    query = (
        sa.select(order_rows.c.order_id)
        .where(order_rows.c.refunded > order_rows.c.claimed)
        .order_by(order_rows.c.created)
    )
    return [row["order_id"] for row in tx.all(query)]
