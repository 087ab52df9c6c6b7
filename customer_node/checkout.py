"""Checkout: one merchant's lines become an order, and the order is taken to its answer.

    products read anew --> coins made exact --> draft stored --> PlaceOrder --> OrderAnswer
        captured:    receipt verified and stored, AnswerKept
        refundable:  ClaimRefund, RefundIssued, coins back
        held:        asked again with the status secret

Rule 1. The order, its secrets and its coins are stored before the first byte is sent; what is sent is
exactly what is stored, however often. After any crash `resume` goes on from there.

Rule 2. Before the broker has been heard of, a refusal means that nothing happened: the draft is erased
and its coins are free. Afterwards only `captured` and `refundable` end an order.

Rule 3. A price that differs from the one the customer saw ends the purchase before anything is paid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from common import codec, config, messages, sealing, slots
from common.errors import (
    BusUnreachableError,
    DeadlineError,
    MerchantOfflineError,
    OutOfStockError,
    PriceChangedError,
    RejectedError,
    UnreachableError,
    UntrustedError,
    VeilmartError,
    WireError,
)
from common.keys import verify_certificate
from common.store import Tx
from customer_node import cart, orders, receipts
from customer_node.cart import Wanted
from customer_node.connection import POLL_MS
from customer_node.context import Context
from customer_node.directory import newest_key
from customer_node.funds import Funds
from customer_node.orders import Order, Secrets, lock_of
from customer_node.products import Product, fetch_product
from customer_node.refusals import DoubleSpendError, refusal_error
from customer_node.rejections import rejection_error
from customer_node.schema import order_lines, order_secrets, purchases, records
from customer_node.schema import orders as order_rows
from customer_node.schema import receipts as receipt_rows
from customer_node.sessions import REPEAT_FIRST_MS, REPEAT_LONGEST_MS, reference
from customer_node.shop import ShopSession, Visit
from customer_node.timing import Countdown, Repeater
from customer_node.wallet import refund_coins

NOTHING_SEALED: Final = bytes(32)
_CLAIM: Final[codec.Codec[messages.ClaimRefund]] = codec.Codec(messages.ClaimRefund)


class Checkout:
    """Shop scope: orders."""

    def __init__(self, context: Context, funds: Funds) -> None:
        self._context = context
        self._funds = funds

    # --- draft -----------------------------------------------------------------------------------------

    def draft(self, visit: Visit, wanted: Sequence[Wanted], purchase: str, deadline_ms: int | None) -> bytes:
        """Read the products anew, reserve the coins, store the order, and give its id.

        Raises `PriceChangedError`, `OutOfStockError`, `InsufficientFundsError`, `RejectedError`, and what
        a visit raises. Nothing has been paid then.
        """
        products = [fetch_product(visit, line.sku) for line in wanted]
        for line, product in zip(wanted, products, strict=True):
            _check_offer(line, product)
        amount = sum(
            line.quantity * product.record.price for line, product in zip(wanted, products, strict=True)
        )
        if not 0 < amount <= config.MAXIMUM_AMOUNT:
            raise RejectedError("An order has to cost something, and not more than a market can handle.")
        limit = self._context.broker(visit.session.link).order_deadline_ms
        self._funds.make_exact(visit.session, amount)
        order_id, secret = self._context.random(16), self._context.random(32)
        deadline = visit.session.now + min(deadline_ms or limit, limit)
        with self._context.profile.store.immediate() as tx:
            coins = self._funds.reserve(tx, order_id, amount)
            place, key = self._seal(visit, order_id, secret, amount, deadline, coins, wanted, products)
            _store(tx, visit, place, key, secret, purchase, self._context.clock(), wanted, products)
        return order_id

    def _seal(
        self,
        visit: Visit,
        order_id: bytes,
        secret: bytes,
        amount: int,
        deadline: int,
        coins: list[messages.Token],
        wanted: Sequence[Wanted],
        products: Sequence[Product],
    ) -> tuple[messages.PlaceOrder, sealing.AnswerKey]:
        secrets = Secrets.of(secret)

        def place(sealed: bytes) -> messages.PlaceOrder:
            return messages.PlaceOrder(
                order_id=order_id,
                merchant=visit.merchant.id,
                amount=amount,
                currency=self._context.profile.market.currency,
                deadline=deadline,
                coins=coins,
                claim_lock=lock_of(secrets.claim),
                status_lock=lock_of(secrets.status),
                sealed=sealed,
            )

        body = messages.OrderRequest(
            lines=[
                messages.OrderLine(
                    sku=line.sku,
                    record=product.digest,
                    quantity=line.quantity,
                    unit_price=product.record.price,
                )
                for line, product in zip(wanted, products, strict=True)
            ],
            fetch_lock=lock_of(secrets.fetch),
        )
        # What is bound are the outer fields, and the sealed part is none of them.
        binding = visit.binding("order", sealing.order_outer(place(NOTHING_SEALED)))
        prekey = newest_key(visit.merchant.card.order_prekeys, visit.session.now)
        answer_secret = self._context.random(32)
        sealed, key = sealing.seal_request(prekey, binding, body, answer_secret, config.REQUEST_STEP)
        return place(sealed), key

    # --- answer ----------------------------------------------------------------------------------------

    def settle(self, session: ShopSession, order_id: bytes) -> None:
        """Take an order to its end: accepted, or refunded with the reason raised.

        Raises what `rejections` says for a refunded order, `UntrustedError`, `MerchantOfflineError` or
        `DeadlineError` while it stays open, and what asking raises.
        """
        with self._context.profile.store.immediate() as tx:
            tx.execute(
                sa.update(order_rows)
                .where(order_rows.c.order_id == order_id)
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
                if isinstance(body, messages.Refused) and body.code != "busy":
                    self._refused(session, order, body.code)
                if isinstance(body, messages.OrderAnswer):
                    heard, known = body, True
                    if self._take(session, order, body):
                        return
        raise self._still_open(session, order, heard)

    def _take(self, session: ShopSession, order: Order, answer: messages.OrderAnswer) -> bool:
        """Store what the broker says; tell whether the merchant has answered."""
        context = self._context
        with context.profile.store.immediate() as tx:
            if orders.load(tx, order.id).state == "draft":
                context.wallet.spend(tx, order.id)
                orders.step(tx, order.id, "placed", audit=answer.audit)
        if answer.state == "held":
            return False
        if answer.state == "captured":
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
        receipts.check_accepted(order, body, signer.public_key, profile.market_id)
        return body

    def _refused(self, session: ShopSession, order: Order, code: str) -> None:
        """End a draft that the broker refuses; raises the reason."""
        context = self._context
        error = refusal_error(code)
        with context.profile.store.immediate() as tx:
            untouched = orders.load(tx, order.id).state == "draft"
        if untouched:
            if isinstance(error, DoubleSpendError):
                self._funds.sift(session, order.id)
            with context.profile.store.immediate() as tx:
                context.wallet.release(tx, order.id)
                orders.drop_draft(tx, order.id)
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
                orders.step(tx, order.id, "refunded")
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
            values = refund_coins(order.amount, held, context.wallet.top(tx, month))
            blinded = context.wallet.draw(tx, order.id, [("coin", value) for value in values], month)
            request = codec.pack(
                messages.ClaimRefund(order_id=order.id, claim_secret=order.secrets.claim, blinded=blinded)
            )
            context.wallet.begin_operation(tx, order.id, "refund", request, context.clock())
        return request


def _check_offer(line: Wanted, product: Product) -> None:
    record = product.record
    if line.unit_price is not None and record.price != line.unit_price:
        raise PriceChangedError(
            f"{record.title} now costs {record.price} instead of {line.unit_price} minor units.",
            "Look at the cart again (`veilmart cart show`), then buy at the new price.",
        )
    if product.stock == "out":
        raise OutOfStockError(f"{record.title} is out of stock.", "Take it out of the cart.", available=0)


def _store(
    tx: Tx,
    visit: Visit,
    place: messages.PlaceOrder,
    key: sealing.AnswerKey,
    secret: bytes,
    purchase: str,
    now: int,
    wanted: Sequence[Wanted],
    products: Sequence[Product],
) -> None:
    tx.execute(
        sa.insert(order_rows),
        {
            "order_id": place.order_id,
            "merchant": place.merchant,
            "purchase": purchase,
            "state": "draft",
            "amount": place.amount,
            "currency": place.currency,
            "created": now,
            "deadline": place.deadline,
            "visit": visit.session.kept.session,
        },
    )
    tx.execute(
        sa.insert(order_secrets),
        {
            "order_id": place.order_id,
            "secret": secret,
            "answer_secret": key.secret,
            "request_hash": key.request_hash,
            "place_order": codec.pack(place),
            "merchant_certificate": visit.merchant.certificate,
        },
    )
    for position, (line, product) in enumerate(zip(wanted, products, strict=True)):
        _store_line(tx, place.order_id, position, line, product)


def _store_line(tx: Tx, order_id: bytes, position: int, line: Wanted, product: Product) -> None:
    if tx.one(sa.select(records.c.digest).where(records.c.digest == product.digest)) is None:
        row = {
            "digest": product.digest,
            "merchant": product.record.merchant,
            "record": product.packed,
            "signature": product.signature,
        }
        tx.execute(sa.insert(records), row)
    tx.execute(
        sa.insert(order_lines),
        {
            "order_id": order_id,
            "position": position,
            "sku": line.sku,
            "title": product.record.title,
            "record": product.digest,
            "quantity": line.quantity,
            "unit_price": product.record.price,
        },
    )


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
