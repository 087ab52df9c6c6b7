"""Checkout: a drafted order is sent, and taken to its answer.

    draft (drafts.py) --> PlaceOrder --> OrderAnswer
        captured:    receipt verified and stored, AnswerKept
        refundable:  the coins come back (refunds.py)
        held:        asked again with the status secret; or CancelOrder, to call it off

Rule 1. The order, its secrets and its coins are stored before the first byte is sent; what is sent is
exactly what is stored, however often. After any crash `resume` goes on from there.

Rule 2. That an order is called off is stored before it is said (`failure` is `cancelled`): whoever comes
first at the broker wins, the cancel or the merchant's accept.

Rule 3. A receipt that proves nothing leaves an order as it is, to be disputed; what its merchant gives back
of it is collected, and where that is all, the order is at its end.

Rule 4. Before the broker has been heard of, a refusal sets the coins free, and the order is kept as
refused while a copy of it may still arrive: where the broker turns out to know it (`recall`), it goes on.
Afterwards only `captured` and `refundable` end an order.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import sqlalchemy as sa

from common import config, messages
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
from common.references import reference_of
from common.store import Tx
from customer_node import cart, orders, receipts, standing
from customer_node.connection import POLL_MS
from customer_node.context import Context
from customer_node.funds import Funds
from customer_node.orders import Order
from customer_node.refunds import Refunds
from customer_node.refusals import DoubleSpendError, answer_error
from customer_node.rejections import CANCELLED, rejection_error
from customer_node.schema import orders as order_rows
from customer_node.schema import purchases
from customer_node.schema import receipts as receipt_rows
from customer_node.sessions import FRESHNESS_MS, REPEAT_FIRST_MS, REPEAT_LONGEST_MS
from customer_node.shop import PROBE_MS, ShopSession
from customer_node.timing import Countdown, Repeater

Question: TypeAlias = messages.AskOrder | messages.CancelOrder

_DOES_NOT_OPEN: Final = "The merchant's answer to the order does not open."
ACCEPTED: Final = frozenset({"captured", "disputed", "settled"})


class Checkout:
    """Shop scope: orders under way."""

    def __init__(self, context: Context, funds: Funds, refunds: Refunds) -> None:
        self._context = context
        self._funds = funds
        self._refunds = refunds

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
        if order.state == "refundable" or order.refunded > order.claimed:
            self._refunds.collect(session, order.id)
            order = self._load(order_id)
        if order.state == "refunded":
            raise rejection_error(order)

    def ask(self, session: ShopSession, order_id: bytes) -> None:
        """Ask once where an order stands, and take what came of it. Raises what asking raises."""
        order = self._load(order_id)
        question = messages.AskOrder(order_id=order.id, status_secret=order.secrets.status)
        answer = session.ask(question, messages.OrderAnswer, self._context.timeout_ms)
        if order.state in ("draft", "placed"):
            self._take(session, order, answer)
        else:
            with self._context.profile.store.immediate() as tx:
                standing.learn(tx, answer, self._context.clock())
        self._refunds.collect(session, order_id)

    def check_cancel(self, order_id: bytes) -> None:
        """Demand that an order can be called off, or was. Raises `RejectedError` where it is too late."""
        _is_called_off(self._load(order_id))

    def call_off(self, order_id: bytes) -> bool:
        """Note that an order is to be called off, which `settle` does; False where it was called off before.

        Raises `RejectedError` where it is too late for that.
        """
        with self._context.profile.store.immediate() as tx:
            if _is_called_off(orders.load(tx, order_id)):
                return False
            tx.execute(
                sa.update(order_rows).where(order_rows.c.order_id == order_id).values(failure=CANCELLED)
            )
        return True

    # --- refused orders --------------------------------------------------------------------------------

    def recall(self, session: ShopSession, order_id: bytes) -> bool:
        """Ask whether the broker knows a refused order after all; tell whether it does: then `settle` it.

        One that it does not know, and of which no copy can arrive any more, is erased, and its number is
        given again. Raises what
        asking raises.
        """
        order = self._load(order_id)
        question = messages.AskOrder(order_id=order.id, status_secret=order.secrets.status)
        try:
            answer = session.ask(question, messages.OrderAnswer, self._context.timeout_ms)
        except (NotFoundError, RejectedError):
            # It was never sent after its refusal: when no copy counts any more the answer stays as it is.
            last = min(order.deadline, order.heard or order.deadline)
            if session.now > last + 2 * FRESHNESS_MS:
                with self._context.profile.store.immediate() as tx:
                    orders.drop_draft(tx, order.id)
                    self._context.wallet.give_back(tx, "order", order.id, self._context.clock())
            return False
        with self._context.profile.store.immediate() as tx:
            self._context.wallet.retake(tx, order.id)
            orders.step(tx, order.id, "placed", audit=answer.audit)
        return True

    # --- answers ---------------------------------------------------------------------------------------

    def _load(self, order_id: bytes) -> Order:
        with self._context.profile.store.immediate() as tx:
            return orders.load(tx, order_id)

    def _await_answer(self, session: ShopSession, order: Order) -> None:
        context = self._context
        question = _question(order)
        countdown = Countdown(context.clock, context.timeout_ms)
        repeater = Repeater(context.clock, REPEAT_FIRST_MS, REPEAT_LONGEST_MS)
        heard: messages.OrderAnswer | None = None
        known = order.state == "placed" or isinstance(question, messages.CancelOrder)
        while not countdown.over:
            if repeater.due():
                session.post(question if known else order.place_order)
            for body in session.receive(countdown.slice_s(POLL_MS)):
                if reference_of(body) != order.id:
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

    def _last_word(self, session: ShopSession, question: Question) -> messages.OrderAnswer | None:
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
        if answer.state in ACCEPTED or _was_accepted(order, answer.answer):
            try:
                self._accept(order, answer.answer)
            except UntrustedError:
                if answer.state != "refunded":
                    # What was given back of it comes all the same.
                    self._refunds.collect(session, order.id)
                    raise
                with context.profile.store.immediate() as tx:
                    orders.step(tx, order.id, "refundable")
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
            said = error.message if isinstance(error, UntrustedError) else _DOES_NOT_OPEN
            raise UntrustedError(said, "`veilmart order dispute` asks for the money back.") from error
        with context.profile.store.immediate() as tx:
            orders.step(tx, order.id, "accepted", failure=None)
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
        try:
            verify_certificate(order.certificate, profile.ca_der, receipt.at, "merchant")
        except WireError as error:
            raise UntrustedError(
                f"The receipt of {order.merchant} has a time that its certificate does not cover."
            ) from error
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
                    orders.step(tx, order.id, "refused", heard=session.now)
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


def _question(order: Order) -> Question:
    if order.failure == CANCELLED:
        return messages.CancelOrder(order_id=order.id, claim_secret=order.secrets.claim)
    return messages.AskOrder(order_id=order.id, status_secret=order.secrets.status)


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


def _is_called_off(order: Order) -> bool:
    if order.state == "refunded" and order.failure == CANCELLED:
        return True
    if order.state not in ("draft", "placed"):
        raise RejectedError(
            f"Order {order.id.hex()} is {order.state}: it cannot be called off any more.",
            "`veilmart order dispute` is for what was paid and is not delivered or not right.",
        )
    return False


def _was_accepted(order: Order, answer: bytes) -> bool:
    """Tell whether the merchant had accepted what is given back by now."""
    try:
        return isinstance(order.answer_key.unseal(answer), messages.OrderAccepted) if answer else False
    except WireError:
        return False


def _open_rejection(order: Order, answer: bytes) -> dict[str, object]:
    """Read why; where nothing can be read, the deadline passed or the request could not be opened."""
    try:
        body = order.answer_key.unseal(answer) if answer else None
    except WireError:
        body = None
    if not answer and order.failure == CANCELLED:
        return {}
    if not isinstance(body, messages.OrderRejected):
        return {"failure": "unanswered" if not answer else "unexplained"}
    value = body.available if body.code == "out_of_stock" else body.price
    return {"failure": body.code, "failure_sku": body.sku, "failure_value": value}
