"""Refunds: asked for once for each idempotency key, and sent by the running node until it has an answer."""

from __future__ import annotations

import hashlib
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from common import messages
from common.errors import IdempotencyConflictError
from common.web.endpoints import Endpoint, IdempotencyKey, OrderId
from common.web.forms import FieldErrors
from merchant_node.refunds import EVERYTHING, LONGEST_REASON, RefundReport
from merchant_node.web.desk import ID_BYTES, Books, Desk, id_of
from merchant_node.web.refunds import left_of

LABEL: Final = b"refund by key\0"


class Wish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much of an order goes back, and why; `amount` null is all that is left."""

    reason: Annotated[str, Meta(min_length=1, max_length=LONGEST_REASON)]
    amount: messages.Amount | None
    currency: messages.Currency


class Refund(msgspec.Struct, frozen=True):
    """A refund. `amount` null asked for all that was left; `given` is what was given back, `code` why not."""

    refund: str
    order: str
    state: str
    amount: int | None
    given: int
    currency: str
    reason: str
    code: str | None
    at: int


class Refunds(msgspec.Struct, frozen=True):
    """An order's refunds, the newest first, and how much of it can still be given back."""

    refunds: tuple[Refund, ...]
    left: int
    currency: str


class RefundEndpoints:
    """`/orders/ORDER/refunds`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def endpoints(self) -> list[Endpoint]:
        """Give the endpoints."""
        return [
            Endpoint("GET", "/orders/{order}/refunds", self.refunds),
            Endpoint("POST", "/orders/{order}/refunds", self.refund, status=201),
        ]

    async def refunds(self, order: OrderId) -> Refunds:
        """List an order's refunds."""

        def look(books: Books) -> Refunds:
            report = books.reports.order(id_of(order))
            listed = books.refunds.listing(report.order_id)
            currency = books.shop.currency
            shown = tuple(_shown(each, currency) for each in listed)
            return Refunds(shown, left_of(report, listed), currency)

        return await self._desk.ask(look)

    async def refund(self, order: OrderId, key: IdempotencyKey, body: Wish) -> Refund:
        """Give an order's money back, all that is left or a part.

        The running node asks the broker until it has answered. The same key again is the same refund.
        """
        order_id = id_of(order)
        if body.currency != self._desk.currency:
            raise FieldErrors({"currency": f"This shop's currency is {self._desk.currency}."})
        refund = hashlib.sha256(LABEL + order_id + key.encode()).digest()[:ID_BYTES]

        def ask(books: Books) -> RefundReport:
            books.reports.order(order_id)
            for present in books.refunds.listing(order_id):
                if present.refund == refund:
                    return _same(present, key, body)
            return books.refunds.ask(order_id, body.amount, body.reason, self._desk.now(), lambda _: refund)

        return _shown(await self._desk.ask(ask), self._desk.currency)


def _same(present: RefundReport, key: str, wish: Wish) -> RefundReport:
    """Demand that a key stands for what it stood for before."""
    if (present.amount, present.reason) != (wish.amount or EVERYTHING, wish.reason.strip()):
        raise IdempotencyConflictError("This key stands for another refund.", "Use a new key.", key=key)
    return present


def _shown(refund: RefundReport, currency: str) -> Refund:
    return Refund(
        refund.refund.hex(),
        refund.order_id.hex(),
        refund.state,
        refund.amount or None,
        refund.given,
        currency,
        refund.reason,
        refund.code,
        refund.at,
    )
