"""Checkout: a drafted order is sent, and taken to its answer.

    draft (drafts.py) --> PlaceOrder --> OrderAnswer
        captured:    receipt verified and stored, AnswerKept
        refundable:  ClaimRefund, RefundIssued, coins back
        held:        asked again with the status secret

Rule 1. The order, its secrets and its coins are stored before the first byte is sent; what is sent is
exactly what is stored, however often. After any crash `resume` goes on from there.

Rule 2. Before the broker has been heard of, a refusal sets the coins free, and the order is kept as
refused until its deadline: where the broker turns out to know it (`recall`), it goes on. Afterwards only
`captured` and `refundable` end an order.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from common import codec, config, messages, slots
from common.errors import (
    BusUnreachableError,
    DeadlineError,
    IdempotencyConflictError,
    MerchantOfflineError,
    NotFoundError,
    RejectedError,
    UnreachableError,
    UntrustedError,
    VeilmartError,
    WireError,
)
from common.keys import verify_certificate
from common.store import Tx
from customer_node import cart, issuers, orders, receipts, standing
from customer_node.change import refund_coins
from customer_node.connection import POLL_MS
from customer_node.context import Context
from customer_node.funds import Funds
from customer_node.orders import Order
from customer_node.refusals import DoubleSpendError, answer_error
from customer_node.rejections import rejection_error
from customer_node.schema import orders as order_rows
from customer_node.schema import purchases
from customer_node.schema import receipts as receipt_rows
from customer_node.sessions import FRESHNESS_MS, REPEAT_FIRST_MS, REPEAT_LONGEST_MS, reference
from customer_node.shop import PROBE_MS, ShopSession
from customer_node.timing import Countdown, Repeater

_CLAIM: Final[codec.Codec[messages.ClaimRefund]] = codec.Codec(messages.ClaimRefund)


class Checkout:
    """Shop scope: orders under way."""

    def __init__(self, context: Context, funds: Funds) -> None:
        self._context = context
        self._funds = funds

    # --- refused orders --------------------------------------------------------------------------------

    def recall(self, session: ShopSession, order_id: bytes) -> bool:
        """Ask whether the broker knows a refused order after all; tell whether it does: then `settle` it.

        One that it does not know past its deadline is erased: it cannot be taken any more. Raises what
        asking raises.
        """
        order = self._load(order_id)
        question = messages.AskOrder(order_id=order.id, status_secret=order.secrets.status)
        try:
            answer = session.ask(question, messages.OrderAnswer, self._context.timeout_ms)
        except (NotFoundError, RejectedError):
            if session.now > order.deadline + FRESHNESS_MS:
                with self._context.profile.store.immediate() as tx:
                    orders.drop_draft(tx, order.id)
            return False
        with self._context.profile.store.immediate() as tx:
            self._context.wallet.retake(tx, order.id)
            orders.step(tx, order.id, "placed", audit=answer.audit)
        return True

    # --- answer ----------------------------------------------------------------------------------------

    def settle(self, session: ShopSession, order_id: bytes) -> None:
        """Take an order to its end: accepted, or refunded with the reason raised.

        Raises what `rejections` says for a refunded order, `UntrustedError`, `MerchantOfflineError` or
        `DeadlineError` while it stays open, and what asking raises.
        """
        with self._context.profile.store.immediate() as tx:
            tx.execute(
                sa.update(order_rows)
                .where(order_rows.c.order_id == order_id, order_rows.c.visit != session.kept.session)
                .values(visit=session.kept.session)
            )
            order = orders.load(tx, order_id)
        if order.state in ("draft", "placed"):
            self._await_answer(session, order)
            order = self._load(order_id)
        if order.state == "refundable":
            self._claim(session, order)
            order = self._load(order_id)
        if order.state == "refunded":
            raise rejection_error(order)

    def _load(self, order_id: bytes) -> Order:
        with self._context.profile.store.immediate() as tx:
            return orders.load(tx, order_id)

    def _await_answer(self, session: ShopSession, order: Order) -> None:
        context = self._context
        question = messages.AskOrder(order_id=order.id, status_secret=order.secrets.status)
        countdown = Countdown(context.clock, context.timeout_ms)
        repeater = Repeater(context.clock, REPEAT_FIRST_MS, REPEAT_LONGEST_MS)
        heard: messages.OrderAnswer | None = None
        known = order.state == "placed"
        while not countdown.over:
            if repeater.due():
                session.post(question if known else order.place_order)
            for body in session.receive(countdown.slice_s(POLL_MS)):
                if reference(body) != order.id:
                    continue
                error = answer_error(body)
                if error is not None:
                    self._refused(session, order, error)
                if isinstance(body, messages.OrderAnswer):
                    heard, known = body, True
                    if self._take(session, order, body):
                        return
        if heard is None and session.link.silence() is None:
            heard = self._last_word(session, question)
            if heard is not None and self._take(session, order, heard):
                return
        raise self._still_open(session, order, heard)

    def _last_word(self, session: ShopSession, question: messages.AskOrder) -> messages.OrderAnswer | None:
        """Ask for the order's state before giving up: a broker that waits for the merchant is silent too."""
        countdown = Countdown(self._context.clock, min(PROBE_MS, self._context.timeout_ms))
        session.post(question)
        while not countdown.over:
            for body in session.receive(countdown.slice_s(POLL_MS)):
                if isinstance(body, messages.OrderAnswer) and body.order_id == question.order_id:
                    return body
        return None

    def _take(self, session: ShopSession, order: Order, answer: messages.OrderAnswer) -> bool:
        """Store what the broker says; tell whether the merchant has answered."""
        context = self._context
        with context.profile.store.immediate() as tx:
            if orders.load(tx, order.id).state == "draft":
                context.wallet.spend(tx, order.id)
                orders.step(tx, order.id, "placed", audit=answer.audit)
            standing.learn(tx, answer, context.clock())
        if answer.state == "held":
            return False
        if answer.state in ("captured", "settled"):
            self._accept(order, answer.answer)
        else:
            rejected = _open_rejection(order, answer.answer)
            with context.profile.store.immediate() as tx:
                orders.step(tx, order.id, "refundable", **rejected)
        session.post(messages.AnswerKept(order_id=order.id, status_secret=order.secrets.status))
        return True

    def _accept(self, order: Order, answer: bytes) -> None:
        context = self._context
        try:
            body = self._open_acceptance(order, answer)
        except (WireError, UntrustedError) as error:
            context.profile.keep_evidence(f"answer to order {order.id.hex()}", answer, context.clock())
            if isinstance(error, UntrustedError):
                raise
            raise UntrustedError("The merchant's answer to the order does not open.") from error
        with context.profile.store.immediate() as tx:
            orders.step(tx, order.id, "accepted")
            tx.execute(
                sa.insert(receipt_rows),
                {"order_id": order.id, "receipt": body.receipt, "signature": body.signature},
            )
            if _origin(tx, order.id) == "cart":
                cart.remove_lines(tx, order.merchant, [line.sku for line in order.lines])

    def _open_acceptance(self, order: Order, answer: bytes) -> messages.OrderAccepted:
        profile = self._context.profile
        body = order.answer_key.unseal(answer)
        if not isinstance(body, messages.OrderAccepted):
            raise UntrustedError(
                f"The broker says that {order.merchant} accepted, {order.merchant} does not."
            )
        signer = verify_certificate(order.certificate, profile.ca_der, order.created, "merchant")
        receipt = receipts.check_accepted(order, body, signer.public_key, profile.market_id)
        # Whoever verifies it later goes by the time in it: one that the certificate does not cover is void.
        verify_certificate(order.certificate, profile.ca_der, receipt.at, "merchant")
        return body

    def _refused(self, session: ShopSession, order: Order, error: VeilmartError) -> None:
        """Set the coins of a draft that the broker refuses free; raises the reason."""
        context = self._context
        with context.profile.store.immediate() as tx:
            untouched = orders.load(tx, order.id).state == "draft"
        if untouched:
            if isinstance(error, DoubleSpendError):
                self._funds.sift(session, order.id)
            with context.profile.store.immediate() as tx:
                context.wallet.release(tx, order.id)
                if isinstance(error, IdempotencyConflictError):
                    # Another order has this id for ever, so that this one can never be taken.
                    orders.drop_draft(tx, order.id)
                else:
                    orders.step(tx, order.id, "refused")
        raise error

    def _still_open(
        self, session: ShopSession, order: Order, heard: messages.OrderAnswer | None
    ) -> VeilmartError:
        name = order.id.hex()
        left = max(0, order.deadline - session.now) // config.MINUTE_MS
        hint = (
            f"Order {name} stays open; without an answer within {left} min the money comes back. "
            "`veilmart resume` takes it up again."
        )
        if heard is not None and not heard.merchant_online:
            return MerchantOfflineError(f"{order.merchant} is away.", hint)
        if heard is not None:
            return DeadlineError(f"{order.merchant} did not answer in time.", hint, hop="merchant")
        silence = session.silence()
        if isinstance(silence, BusUnreachableError):
            return BusUnreachableError(silence.message, hint)
        if isinstance(silence, UnreachableError):
            return type(silence)(silence.message, hint)
        return DeadlineError("The broker did not answer in time.", hint, hop="broker")

    # --- refund ----------------------------------------------------------------------------------------

    def _claim(self, session: ShopSession, order: Order) -> None:
        context = self._context
        question = _CLAIM.unpack(self._claim_request(session, order))
        try:
            answer = session.ask(question, messages.RefundIssued, context.timeout_ms)
        except RejectedError:
            # Refused for good (its coins' month is over): the next try asks for other coins.
            with context.profile.store.immediate() as tx:
                context.wallet.end_operation(tx, order.id, "refused")
            raise
        try:
            with context.profile.store.immediate() as tx:
                context.wallet.issue(tx, order.id, answer.signatures, context.clock())
                orders.step(tx, order.id, "refunded", standing="refunded")
        except UntrustedError:
            context.profile.keep_evidence("refund", codec.pack(answer), context.clock())
            raise

    def _claim_request(self, session: ShopSession, order: Order) -> bytes:
        context = self._context
        context.broker(session.link)
        month = slots.month_of(session.now)
        with context.profile.store.immediate() as tx:
            present = context.wallet.operation(tx, order.id)
            if present is not None:
                return present.request
            held = context.wallet.held(tx, context.clock())
            values = refund_coins(order.amount, held, issuers.top(tx, month))
            blinded = context.wallet.draw(tx, order.id, [("coin", value) for value in values], month)
            request = codec.pack(
                messages.ClaimRefund(order_id=order.id, claim_secret=order.secrets.claim, blinded=blinded)
            )
            context.wallet.begin_operation(tx, order.id, "refund", request, context.clock())
        return request


def _origin(tx: Tx, order_id: bytes) -> str | None:
    origin: str | None = tx.scalar(
        sa.select(purchases.c.origin)
        .join(
            order_rows,
            sa.and_(order_rows.c.purchase == purchases.c.key, order_rows.c.merchant == purchases.c.merchant),
        )
        .where(order_rows.c.order_id == order_id)
    )
    return origin


def _open_rejection(order: Order, answer: bytes) -> dict[str, object]:
    """Read why; where nothing can be read, the deadline passed or the request could not be opened."""
    try:
        body = order.answer_key.unseal(answer) if answer else None
    except WireError:
        body = None
    if not isinstance(body, messages.OrderRejected):
        return {"failure": "unanswered" if not answer else "unexplained"}
    value = body.available if body.code == "out_of_stock" else body.price
    return {"failure": body.code, "failure_sku": body.sku, "failure_value": value}
