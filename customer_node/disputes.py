"""Disputes: what was paid for, and is not delivered or not what was signed.

    placed, accepted, downloading --OpenDispute--> disputed --> complete | refunded

Rule 1. A dispute can be opened until the order settles; from then on the money is the merchant's.

Rule 2. The exact message is stored first, and repeated until it is answered: by words about a dispute, not by
those that an earlier question of this order is answered with late. Who decides, and until when, stands in the
order from then on; where it ends with a refund `resume` brings the coins.

Rule 3. Evidence (receipt and signed records) shows the market's operator what was bought, and so does what
this profile says has arrived, which nothing proves (`wrong_content`). Both are sent only where the caller
says so: without them the operator has the words of both sides alone.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import sqlalchemy as sa

from common import codec, messages
from common.errors import PaymentsStoppedError, RejectedError, UsageError, WireError
from common.store import Tx
from customer_node import orders, standing, wrong_content
from customer_node.context import Context
from customer_node.orders import Order
from customer_node.refunds import Refunds
from customer_node.schema import disputes, order_lines, receipts, records
from customer_node.shop import ShopSession
from customer_node.views import DisputeView

Kind: TypeAlias = Literal["not_delivered", "wrong_content"]

DISPUTABLE: Final = frozenset({"placed", "accepted", "downloading"})
LONGEST_STATEMENT: Final = 1000

_REQUEST: Final[codec.Codec[messages.OpenDispute]] = codec.Codec(messages.OpenDispute)
_RECORDS: Final = (
    sa.select(records.c.record, records.c.signature)
    .join(order_lines, order_lines.c.record == records.c.digest)
    .where(order_lines.c.order_id == sa.bindparam("of"))
    .order_by(order_lines.c.position)
)


class Disputes:
    """Shop scope: opens disputes."""

    def __init__(self, context: Context, claims: Refunds) -> None:
        self._context = context
        self._claims = claims

    def open(
        self, session: ShopSession, order_id: bytes, kind: Kind, statement: str, *, reveal: bool
    ) -> None:
        """Freeze an order's money and have it decided.

        Raises `RejectedError` where it is too late or there is nothing to dispute, `UsageError` for too long
        a statement, and what asking raises; after silence `resume` goes on.
        """
        context = self._context
        order = self.disputable(order_id, statement)
        if order is not None:
            evidence = [self._evidence(session, order)] if reveal else []
            with context.profile.store.immediate() as tx:
                arrived = [wrong_content.arrived(tx, order)] if reveal else []
            request = messages.OpenDispute(
                order_id=order.id,
                attempt=context.random(16),
                claim_secret=order.secrets.claim,
                kind=kind,
                statement=statement.strip(),
                evidence=evidence,
                arrived=arrived,
            )
            with context.profile.store.immediate() as tx:
                row = {"order_id": order.id, "kind": kind, "request": codec.pack(request)}
                tx.execute(sa.insert(disputes), row | {"opened": context.clock()})
        self.carry_on(session, order_id)

    def disputable(self, order_id: bytes, statement: str) -> Order | None:
        """Give an order that can be disputed with this statement, None where it is disputed already.

        Raises `RejectedError` where there is nothing to dispute, `UsageError` for too long a statement.
        """
        if len(statement) > LONGEST_STATEMENT:
            raise UsageError(f"A statement has at most {LONGEST_STATEMENT} characters.")
        with self._context.profile.store.immediate() as tx:
            if _stored(tx, order_id) is not None:
                return None
            order = orders.load(tx, order_id)
        if order.state not in DISPUTABLE:
            raise RejectedError(
                f"Order {order_id.hex()} is {order.state}: there is nothing to dispute.",
                "Only what was paid for, and has not arrived whole, can be disputed.",
            )
        return order

    def carry_on(self, session: ShopSession, order_id: bytes) -> None:
        """Say a stored dispute until it is answered. Raises as `open` does."""
        context = self._context
        with context.profile.store.immediate() as tx:
            request = _stored(tx, order_id)
        if request is None:
            return
        try:
            answer = session.ask(request, messages.OrderAnswer, context.timeout_ms, until=_is_of_a_dispute)
        except PaymentsStoppedError:
            raise
        except RejectedError:
            # Nothing was frozen: it had settled before, or was called off.
            with context.profile.store.immediate() as tx:
                tx.execute(sa.delete(disputes).where(disputes.c.order_id == order_id))
            raise
        with context.profile.store.immediate() as tx:
            if orders.load(tx, order_id).state in DISPUTABLE:
                orders.step(tx, order_id, "disputed")
            standing.learn(tx, answer, context.clock())
        self._claims.collect(session, order_id)

    def _evidence(self, session: ShopSession, order: Order) -> messages.Evidence:
        with self._context.profile.store.immediate() as tx:
            row = tx.one(sa.select(receipts).where(receipts.c.order_id == order.id))
            shown = tx.all(_RECORDS, {"of": order.id})
        accepted = self._refused_receipt(session, order) if row is None else None
        if row is None and accepted is None:
            raise RejectedError(
                "There is no receipt to show.",
                "Open the dispute without evidence (`--withhold`); your statement is read all the same.",
            )
        signed = accepted or messages.OrderAccepted(receipt=row["receipt"], signature=row["signature"])  # type: ignore[index] # one of both is there
        return messages.Evidence(
            certificate=order.certificate,
            receipt=signed.receipt,
            signature=signed.signature,
            records=[
                messages.SignedRecord(record=each["record"], signature=each["signature"]) for each in shown
            ],
        )

    def _refused_receipt(self, session: ShopSession, order: Order) -> messages.OrderAccepted | None:
        """Give a receipt that this profile did not accept: it may prove the merchant wrong by itself."""
        question = messages.AskOrder(order_id=order.id, status_secret=order.secrets.status)
        answer = session.ask(question, messages.OrderAnswer, self._context.timeout_ms).answer
        try:
            body = order.answer_key.unseal(answer) if answer else None
        except WireError:
            return None
        return body if isinstance(body, messages.OrderAccepted) else None


def _is_of_a_dispute(answer: messages.OrderAnswer) -> bool:
    """Tell whether the broker has the dispute that it says this about: what it found is never nothing."""
    return answer.state == "disputed" or bool(answer.finding)


def _stored(tx: Tx, order_id: bytes) -> messages.OpenDispute | None:
    packed = tx.scalar(sa.select(disputes.c.request).where(disputes.c.order_id == order_id))
    return None if packed is None else _REQUEST.unpack(packed)


def dispute_view(tx: Tx, order_id: bytes) -> DisputeView | None:
    """Show what was said of an order, None where it was never disputed."""
    row = tx.one(sa.select(disputes).where(disputes.c.order_id == order_id))
    if row is None:
        return None
    request = _REQUEST.unpack(row["request"])
    return DisputeView(request.kind, request.statement, bool(request.evidence), row["opened"])


def unanswered(tx: Tx) -> list[bytes]:
    """List orders whose dispute is stored and was not answered."""
    query = sa.select(disputes.c.order_id).order_by(disputes.c.opened)
    ids = [row["order_id"] for row in tx.all(query)]
    return [order_id for order_id in ids if orders.load(tx, order_id).state in DISPUTABLE]
