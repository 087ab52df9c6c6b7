"""Drafts: one merchant's lines become an order, stored with its coins before anything is sent.

    products read anew --> coins made exact --> PlaceOrder sealed --> order, secrets and coins stored

Rule 1. What `checkout` sends is exactly what is stored here, however often.
Rule 2. A price or a total that differs from the one the customer saw ends the purchase before anything is
paid. What is paid is worked out here, from signed records and the discount that was quoted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from common import codec, config, messages, sealing, slots
from common.amounts import LineAmounts, line_amounts, total_of
from common.errors import OutOfStockError, PriceChangedError, RefusedError, RejectedError, UsageError
from common.money import format_amount
from common.store import Tx
from customer_node.cart import Wanted
from customer_node.context import Context
from customer_node.funds import Funds
from customer_node.numbers import order_secret
from customer_node.orders import Secrets, lock_of
from customer_node.products import Product, fetch_product
from customer_node.quotes import Terms, fetch_quote
from customer_node.schema import order_lines, order_secrets, records
from customer_node.schema import orders as order_rows
from customer_node.shop import Visit
from customer_node.views import QuoteView

NOTHING_SEALED: Final = bytes(32)


@dataclass(frozen=True)
class _Basket:
    """What one merchant's order is about."""

    wanted: Sequence[Wanted]
    products: Sequence[Product]
    figures: Sequence[LineAmounts]
    code: str

    def lines(self) -> Iterable[tuple[Wanted, Product, LineAmounts]]:
        return zip(self.wanted, self.products, self.figures, strict=True)


class Drafts:
    """Makes orders ready to be sent."""

    def __init__(self, context: Context, funds: Funds) -> None:
        self._context = context
        self._funds = funds

    def draft(
        self,
        visit: Visit,
        wanted: Sequence[Wanted],
        purchase: str,
        deadline_ms: int | None,
        terms: Terms,
        skipped: int | None = None,
    ) -> bytes:
        """Read the products anew, reserve the coins, store the order, and give its id.

        `skipped` is how many numbers are left out where the last one turned out to be used.
        Raises `PriceChangedError`, `OutOfStockError`, `DiscountRefusedError`, `InsufficientFundsError`,
        `RejectedError`, and what a visit raises. Nothing has been paid then.
        """
        products = [fetch_product(visit, line.sku) for line in wanted]
        for line, product in zip(wanted, products, strict=True):
            _check_offer(line, product)
        lines = _figures(visit, wanted, products, terms)
        amount = sum(line.amount for line in lines)
        limit = self._context.broker(visit.session.link).order_deadline_ms
        self._funds.make_exact(visit.session, amount)
        # Whatever the card says: an order that is not answered must not hold the money for longer.
        limit = min(limit, config.DAY_MS)
        deadline = visit.session.now + min(deadline_ms or limit, limit)
        month = slots.month_of(visit.session.now)
        with self._context.profile.store.immediate() as tx:
            order_id = self._new_id(tx, month, skipped)
            secret = order_secret(self._context.profile.seed, order_id)
            coins = self._funds.reserve(tx, order_id, amount)
            basket = _Basket(wanted, products, lines, terms.code)
            place, key = self._seal(visit, order_id, secret, amount, deadline, coins, basket)
            _store(tx, visit, place, key, secret, purchase, self._context.clock(), basket)
        return order_id

    def demand(self, quote: QuoteView) -> None:
        """Demand of what was quoted what an order of it would need. Asks nobody, and reserves nothing.

        Raises `UsageError` where there is nothing, `OutOfStockError`, `InsufficientFundsError`.
        """
        if not quote.lines:
            raise nothing_to_buy()
        for line in quote.lines:
            if line.stock == "out":
                raise _sold_out(line.title, line.sku)
        self._funds.demand(quote.total)

    def _new_id(self, tx: Tx, month: str, skipped: int | None) -> bytes:
        wallet = self._context.wallet
        if skipped is None:
            return wallet.new_id(tx, "order", month, self._context.clock())
        return wallet.other_id(tx, "order", month, skipped)

    def _seal(
        self,
        visit: Visit,
        order_id: bytes,
        secret: bytes,
        amount: int,
        deadline: int,
        coins: list[messages.Token],
        basket: _Basket,
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
                    discount=figures.discount,
                )
                for line, product, figures in basket.lines()
            ],
            code=basket.code,
            fetch_lock=lock_of(secrets.fetch),
        )
        # What is bound are the outer fields, and the sealed part is none of them.
        binding = visit.binding("order", sealing.order_outer(place(NOTHING_SEALED)))
        prekey = visit.prekey("order", visit.merchant.card.order_prekeys)
        answer_secret = self._context.random(32)
        sealed, key = sealing.seal_request(prekey, binding, body, answer_secret, config.REQUEST_STEP)
        return place(sealed), key


def _check_offer(line: Wanted, product: Product) -> None:
    record = product.record
    if line.unit_price is not None and record.price != line.unit_price:
        raise PriceChangedError(
            f"{record.title} now costs {format_amount(record.price, record.currency)} "
            f"instead of {format_amount(line.unit_price, record.currency)}.",
            "Look at the cart again (`veilmart cart show`), then buy at the new price.",
            sku=record.sku,
            old_price=line.unit_price,
            new_price=record.price,
        )
    if product.stock == "out":
        raise _sold_out(record.title, record.sku)


def _sold_out(title: str, sku: str) -> OutOfStockError:
    return OutOfStockError(f"{title} is out of stock.", "Take it out of the cart.", available=0, sku=sku)


def nothing_to_buy() -> UsageError:
    """Say that there is nothing to buy."""
    return UsageError("There is nothing to buy.", "Put something into the cart first.")


def _figures(
    visit: Visit, wanted: Sequence[Wanted], products: Sequence[Product], terms: Terms
) -> list[LineAmounts]:
    """Work out what each line costs, and that it is what was agreed to."""
    discounts = [0] * len(wanted)
    if terms.code:
        quote = fetch_quote(visit, [(line.sku, line.quantity) for line in wanted], terms.code)
        for quoted, product in zip(quote.lines, products, strict=True):
            if (quoted.record, quoted.unit_price) != (product.digest, product.record.price):
                raise PriceChangedError(
                    f"{product.record.title} is being changed.",
                    "Look at the cart again, then buy.",
                    sku=product.record.sku,
                    old_price=product.record.price,
                    new_price=quoted.unit_price,
                )
        discounts = [line.discount for line in quote.lines]
    try:
        lines = [
            line_amounts(product.record.price, line.quantity, discount, product.record.tax_rate)
            for line, product, discount in zip(wanted, products, discounts, strict=True)
        ]
        total = total_of(lines).total
    except RefusedError as error:
        raise RejectedError("An order cannot cost more than a market can handle.") from error
    if total == 0:
        raise RejectedError("An order has to cost something.")
    if terms.total not in (None, total):
        currency = products[0].record.currency
        raise PriceChangedError(
            f"It now costs {format_amount(total, currency)} "
            f"instead of {format_amount(terms.total or 0, currency)}.",
            "Look at the cart again (`veilmart cart show`), then buy at the new price.",
            old_price=terms.total,
            new_price=total,
        )
    return lines


def _store(
    tx: Tx,
    visit: Visit,
    place: messages.PlaceOrder,
    key: sealing.AnswerKey,
    secret: bytes,
    purchase: str,
    now: int,
    basket: _Basket,
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
            "code": basket.code,
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
            "merchant_name": visit.merchant.card.name,
        },
    )
    for position, (line, product, figures) in enumerate(basket.lines()):
        _store_line(tx, place.order_id, position, line, product, figures)


def _store_line(
    tx: Tx, order_id: bytes, position: int, line: Wanted, product: Product, figures: LineAmounts
) -> None:
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
            "discount": figures.discount,
            "tax_rate": figures.tax.rate,
        },
    )
