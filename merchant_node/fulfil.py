"""Orders: opened, checked against what is on sale, reserved, signed, committed. `settle` does the rest.

Rule 1. An order is an id and a SHA-256 over everything that came with it. Both are looked up before
anything is opened: the same bytes get the same answer, byte for byte; other bytes under a known id are
dropped, since the broker is the only sender and binds an order's content itself.

Rule 2. What the customer saw is what it gets: each line names the signed record by its digest and what the
code takes off it, and the lines make up the amount that the broker holds. Anything else is a reject, with
the reason inside. A use of the code counts with the acceptance, in the same transaction.

Rule 3. An order that cannot be opened is a reject without a reason: the money goes back.

Rule 4. Licence keys are taken with the acceptance, in the same transaction; its receipt names their digest.

Rule 5. Nothing is remembered of sealed requests beyond this: one that is played under another order id,
amount or deadline does not open, since all of them are bound into it.

Everything works on a whole batch: one look-up, one look at the stock, bulk inserts.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from common import codec, config, messages
from common.clock import Random
from common.credentials import RECEIPT_LABEL
from common.errors import ForgedError
from common.messages import AnswerOrder, ForwardOrder, ReceiptLine
from common.sealing import AnswerKey, open_request, order_outer
from common.slots import minute_of
from common.states import MERCHANT_ORDER, step
from common.store import Tx
from merchant_node import licence_keys, schema, stock
from merchant_node.catalog import Catalog
from merchant_node.discounts import Discount, Redemptions
from merchant_node.prekeys import Prekeys
from merchant_node.pricing import Bill, find_products, make_bill
from merchant_node.refusals import OfferRefusedError
from merchant_node.shop import Shop

_KNOWN = (
    sa.select(
        schema.orders.c.order_id,
        schema.orders.c.content_hash,
        schema.order_answers.c.verdict,
        schema.order_answers.c.answer,
    )
    .join(schema.order_answers, schema.order_answers.c.order_number == schema.orders.c.number)
    .where(schema.orders.c.order_id.in_(sa.bindparam("ids", expanding=True)))
)
_LAST = sa.select(sa.func.coalesce(sa.func.max(schema.orders.c.number), 0).label("number"))
_ADD_ORDER = sa.insert(schema.orders)
_ADD_ANSWER = sa.insert(schema.order_answers)
_ADD_LINE = sa.insert(schema.order_lines)


@dataclass(frozen=True)
class _Opened:
    """A new order, and the number to store it under. `request` and `key` are None where it did not open."""

    number: int
    order: ForwardOrder
    content_hash: bytes
    request: messages.OrderRequest | None = None
    key: AnswerKey | None = None


@dataclass(frozen=True)
class _Taken:
    """What a batch takes of stock, of discount codes and of licence keys."""

    reservations: stock.Reservations
    redemptions: Redemptions
    keys: licence_keys.Handout


class Fulfilment:
    """Decides about orders."""

    def __init__(self, shop: Shop, prekeys: Prekeys, catalog: Catalog) -> None:
        self._shop = shop
        self._prekeys = prekeys
        self._catalog = catalog

    def answer_all(
        self, tx: Tx, orders: Sequence[ForwardOrder], now: int, random: Random, refused: Counter[str]
    ) -> list[messages.Message]:
        """Answer a batch of orders; `now` is the broker's time, `refused` counts what was dropped."""
        if not orders:
            return []
        self._catalog.refresh(tx)
        hashes = [hashlib.sha256(codec.pack(order)).digest() for order in orders]
        answers = _known_answers(tx, orders)
        new: dict[bytes, _Opened] = {}
        numbers = _free_numbers(tx)
        for order, content_hash in zip(orders, hashes, strict=True):
            if order.order_id not in answers and order.order_id not in new:
                new[order.order_id] = self._open(next(numbers), order, content_hash)
        requests = [opened.request for opened in new.values() if opened.request is not None]
        taken = _Taken(
            stock.Reservations(tx, (line.sku for request in requests for line in request.lines)),
            Redemptions(tx, (request.code for request in requests)),
            licence_keys.Handout(tx),
        )
        for order_id, opened in new.items():
            answer = self._decide(tx, opened, taken, now, random)
            answers[order_id] = (opened.content_hash, answer)
        taken.reservations.write()
        taken.redemptions.write()
        taken.keys.write(taken.reservations.left)
        sends: list[messages.Message] = []
        for order, content_hash in zip(orders, hashes, strict=True):
            stored_hash, answer = answers[order.order_id]
            if stored_hash == content_hash:
                sends.append(answer)
            else:
                refused["conflict"] += 1
        return sends

    def _open(self, number: int, order: ForwardOrder, content_hash: bytes) -> _Opened:
        binding = self._shop.binding("order", order_outer(order))
        try:
            body, key = open_request(self._prekeys.order.by_id, binding, order.sealed)
        except ForgedError:
            return _Opened(number, order, content_hash)
        if not isinstance(body, messages.OrderRequest):
            return _Opened(number, order, content_hash)
        return _Opened(number, order, content_hash, body, key)

    def _decide(self, tx: Tx, opened: _Opened, taken: _Taken, now: int, random: Random) -> AnswerOrder:
        request, key, order = opened.request, opened.key, opened.order
        if request is None or key is None:
            return _store(
                tx, opened, AnswerOrder(order_id=order.order_id, verdict="rejected", answer=b""), now
            )
        body: messages.SealedAnswer
        verdict: messages.Verdict
        try:
            bill, discount = self._check(order, request, taken, now)
        except OfferRefusedError as rejection:
            body, verdict, lines = rejection.answer, "rejected", []
        else:
            lines = _receipt_lines(order.order_id, request, bill, taken.keys, key)
            body, verdict = self._sign_receipt(order, lines, bill, now), "accepted"
            _store_lines(tx, opened.number, lines, bill, taken.reservations)
            if discount is not None:
                taken.redemptions.use(discount, order.order_id)
        sealed = key.seal(body, random(32), step=config.ORDER_ANSWER_STEP)
        answer = AnswerOrder(order_id=order.order_id, verdict=verdict, answer=sealed)
        return _store(tx, opened, answer, now, cells=sum(line.cells for line in lines))

    def _check(
        self, order: ForwardOrder, request: messages.OrderRequest, taken: _Taken, now: int
    ) -> tuple[Bill, Discount | None]:
        if now >= order.deadline:
            raise OfferRefusedError("deadline")
        if order.currency != self._shop.currency:
            raise OfferRefusedError("wrong_currency")
        products = find_products(self._catalog, [line.sku for line in request.lines])
        wanted: Counter[str] = Counter()
        for line, product in zip(request.lines, products, strict=True):
            price = product.record.price
            if line.record != product.record_digest or line.unit_price != price:
                raise OfferRefusedError("price_changed", line.sku, price=price)
            wanted[line.sku] += line.quantity
            left = taken.reservations.left(line.sku)
            if left is not None and wanted[line.sku] > left:
                raise OfferRefusedError("out_of_stock", line.sku, price=price, available=left)
            if product.record.keys:
                before = wanted[line.sku] - line.quantity
                fitting = taken.keys.fitting(line.sku, before, line.quantity)
                if fitting < line.quantity:
                    raise OfferRefusedError("out_of_stock", line.sku, price=price, available=fitting)
        discount = taken.redemptions.find(request.code, now)
        bill = make_bill(products, [line.quantity for line in request.lines], discount)
        if [line.discount for line in request.lines] != [line.discount for line in bill.lines]:
            raise OfferRefusedError("price_changed", price=bill.sums.total)
        if bill.sums.total != order.amount:
            raise OfferRefusedError("wrong_amount", price=bill.sums.total)
        return bill, discount

    def _sign_receipt(
        self, order: ForwardOrder, lines: list[ReceiptLine], bill: Bill, now: int
    ) -> messages.OrderAccepted:
        receipt = codec.pack(
            messages.Receipt(
                market=self._shop.market,
                merchant=self._shop.merchant,
                order_id=order.order_id,
                lines=lines,
                subtotal=bill.sums.subtotal,
                discount=bill.sums.discount,
                taxes=list(bill.sums.taxes),
                total=bill.sums.total,
                currency=order.currency,
                at=minute_of(now),
            )
        )
        return messages.OrderAccepted(
            receipt=receipt, signature=self._shop.identity.sign(RECEIPT_LABEL, receipt)
        )


def _free_numbers(tx: Tx) -> Iterator[int]:
    # Nobody else takes one meanwhile: this transaction has been a writing one from its beginning.
    (last,) = tx.rows(_LAST)
    return itertools.count(last["number"] + 1)


def _known_answers(tx: Tx, orders: Sequence[ForwardOrder]) -> dict[bytes, tuple[bytes, AnswerOrder]]:
    return {
        row["order_id"]: (
            row["content_hash"],
            AnswerOrder(order_id=row["order_id"], verdict=row["verdict"], answer=row["answer"]),
        )
        for row in tx.among(_KNOWN, (order.order_id for order in orders))
    }


def _receipt_lines(
    order_id: bytes, request: messages.OrderRequest, bill: Bill, keys: licence_keys.Handout, key: AnswerKey
) -> list[ReceiptLine]:
    result: list[ReceiptLine] = []
    first_cell = 0
    for position, line in enumerate(request.lines):
        record, figures = bill.products[position].record, bill.lines[position]
        given = keys.take(order_id, position, line.sku, line.quantity) if record.keys else b""
        result.append(
            ReceiptLine(
                sku=record.sku,
                title=record.title,
                record=bill.products[position].record_digest,
                quantity=line.quantity,
                unit_price=record.price,
                discount=figures.discount,
                amount=figures.amount,
                tax=figures.tax,
                file_name=record.file_name,
                size=record.size,
                digest=record.digest,
                first_cell=first_cell,
                cells=record.cells,
                keys_size=len(given),
                keys_digest=hashlib.sha256(key.salt("keys") + given).digest() if given else b"",
            )
        )
        first_cell += record.cells
    return result


def _store(tx: Tx, opened: _Opened, answer: AnswerOrder, now: int, *, cells: int = 0) -> AnswerOrder:
    order = opened.order
    tx.insert(
        _ADD_ORDER,
        {
            "number": opened.number,
            "order_id": order.order_id,
            "content_hash": opened.content_hash,
            "state": step(MERCHANT_ORDER, "received", answer.verdict),
            "amount": order.amount,
            "fetch_lock": opened.request.fetch_lock if opened.request is not None else b"",
            "cells": cells,
            "at": minute_of(now),
        },
    )
    stored = {"order_number": opened.number, "verdict": answer.verdict, "answer": answer.answer}
    tx.insert(_ADD_ANSWER, stored)
    return answer


def _store_lines(
    tx: Tx,
    number: int,
    lines: Sequence[ReceiptLine],
    bill: Bill,
    reservations: stock.Reservations,
) -> None:
    for position, (line, product) in enumerate(zip(lines, bill.products, strict=True)):
        tx.insert(
            _ADD_LINE,
            {
                "order_number": number,
                "position": position,
                "version": product.version_id,
                "sku": line.sku,
                "quantity": line.quantity,
                "reserved": reservations.take(line.sku, line.quantity),
                "unit_price": line.unit_price,
                "discount": line.discount,
                "tax_rate": line.tax.rate,
                "first_cell": line.first_cell,
                "cells": line.cells,
                "size": line.size,
                "digest": line.digest,
                "key_count": line.quantity if line.keys_size else 0,
            },
        )
