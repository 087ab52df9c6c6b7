"""Receipts of an earlier form: signed before there were discounts and taxes, and still a proof.

They are read as receipts whose lines have neither. A new order is never answered with one: what checks
an acceptance (`customer_node.receipts`) reads the present form alone.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

from common import codec, config, messages
from common.errors import MalformedError
from common.messages import Part


class _Line(Part, frozen=True):
    sku: messages.Sku
    title: messages.Title
    record: messages.Bytes32
    quantity: messages.Quantity
    unit_price: messages.Price
    amount: messages.Price
    file_name: Annotated[str, Meta(min_length=1, max_length=120)]
    size: Annotated[int, Meta(ge=0, le=2**44)]
    digest: messages.Bytes32
    first_cell: Annotated[int, Meta(ge=0, le=2**32)]
    cells: Annotated[int, Meta(ge=1, le=2**28)]


class _Receipt(Part, frozen=True):
    market: messages.Id
    merchant: messages.MerchantId
    order_id: messages.Id
    lines: Annotated[list[_Line], Meta(min_length=1, max_length=config.MAXIMUM_LINES)]
    total: messages.Amount
    currency: messages.Currency
    at: messages.Time


_EARLIER: Final[codec.Codec[_Receipt]] = codec.Codec(_Receipt)


def read_receipt(packed: bytes) -> messages.Receipt:
    """Read a stored receipt, of whichever form. Raises `MalformedError`."""
    try:
        return codec.RECEIPT.unpack(packed)
    except MalformedError:
        earlier = _EARLIER.unpack(packed)
    return messages.Receipt(
        market=earlier.market,
        merchant=earlier.merchant,
        order_id=earlier.order_id,
        lines=[_present(line) for line in earlier.lines],
        subtotal=earlier.total,
        discount=0,
        taxes=[messages.Tax(rate=0, base=earlier.total, amount=0)],
        total=earlier.total,
        currency=earlier.currency,
        at=earlier.at,
    )


def _present(line: _Line) -> messages.ReceiptLine:
    return messages.ReceiptLine(
        sku=line.sku,
        title=line.title,
        record=line.record,
        quantity=line.quantity,
        unit_price=line.unit_price,
        discount=0,
        amount=line.amount,
        tax=messages.Tax(rate=0, base=line.amount, amount=0),
        file_name=line.file_name,
        size=line.size,
        digest=line.digest,
        first_cell=line.first_cell,
        cells=line.cells,
    )
