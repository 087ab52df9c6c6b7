"""An invoice, and its words as both the PDF and the HTML page show them.

Rule. What strangers wrote is shown as letters alone: no control character, no mark that turns the
direction of what follows. Escaping is the renderers' part.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from common.errors import UsageError
from common.money import format_amount, format_rate
from customer_node.views import ReceiptView

LONGEST_NAME: Final = 200
LONGEST_ADDRESS: Final = 1000
MOST_ADDRESS_LINES: Final = 12
COLUMNS: Final = ("Item", "Quantity", "Price", "Discount", "Tax in it", "Amount")
_JOINERS: Final = frozenset("\u200c\u200d")
"""Format characters that Arabic, Indic scripts and emoji are spelled with."""


@dataclass(frozen=True)
class Buyer:
    """What the buyer wants to be called on an invoice. `address` may have several lines."""

    name: str = ""
    address: str = ""

    def __post_init__(self) -> None:
        """Raise `UsageError` for what would not fit on a page."""
        if len(self.name) > LONGEST_NAME or "\n" in self.name:
            raise UsageError(f"The name is one line of at most {LONGEST_NAME} letters.")
        if len(self.address) > LONGEST_ADDRESS or self.address.count("\n") >= MOST_ADDRESS_LINES:
            raise UsageError(
                f"The address has at most {MOST_ADDRESS_LINES} lines and {LONGEST_ADDRESS} letters."
            )


@dataclass(frozen=True)
class Invoice:
    """A verified receipt with what stands around it.

    `merchant_name` is what the merchant called itself when the order was placed, empty where that was not
    kept; `refunded` how much the broker says was given back since. `proof` is what the QR codes say: the
    signed receipt itself (`customer_node.proofs`).
    """

    receipt: ReceiptView
    merchant_name: str
    buyer: Buyer
    refunded: int
    proof: tuple[str, ...]


@dataclass(frozen=True)
class Item:
    """A line of an invoice, in words."""

    title: str
    sku: str
    quantity: str
    price: str
    discount: str
    tax: str
    amount: str


@dataclass(frozen=True)
class Sheet:
    """Everything that stands on an invoice, in words."""

    seller: tuple[str, ...]
    buyer: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    items: tuple[Item, ...]
    sums: tuple[tuple[str, str], ...]
    total: str
    taxes: tuple[tuple[str, str], ...]
    refunded: str


def sheet_of(invoice: Invoice) -> Sheet:
    """Put an invoice into words."""
    receipt, currency = invoice.receipt, invoice.receipt.currency

    def money(amount: int) -> str:
        return format_amount(amount, currency)

    name = _letters(invoice.merchant_name)
    seller = (name, f"Merchant {receipt.merchant}") if name else (f"Merchant {receipt.merchant}",)
    words = (invoice.buyer.name, *invoice.buyer.address.split("\n"))
    before = (("Subtotal", money(receipt.subtotal)), ("Discount", money(-receipt.discount)))
    return Sheet(
        seller=seller,
        buyer=tuple(line for line in (_letters(word) for word in words) if line),
        facts=(
            ("Order", receipt.order_id),
            ("Date", _minute(receipt.at)),
            ("Market", receipt.market_id),
            ("Signed with", receipt.fingerprint),
        ),
        items=tuple(
            Item(
                title=_letters(line.title),
                sku=line.sku,
                quantity=str(line.quantity),
                price=money(line.unit_price),
                discount=money(-line.discount) if line.discount else "",
                tax=f"{format_rate(line.tax.rate)}: {money(line.tax.amount)}",
                amount=money(line.amount),
            )
            for line in receipt.lines
        ),
        sums=before if receipt.discount else (),
        total=money(receipt.total),
        taxes=tuple(
            (f"Tax in it, {format_rate(tax.rate)}", f"{money(tax.amount)} on {money(tax.base)}")
            for tax in receipt.taxes
        ),
        refunded=money(invoice.refunded) if invoice.refunded else "",
    )


def _letters(text: str) -> str:
    visible = (letter if _shown(letter) else " " for letter in text)
    return " ".join("".join(visible).split())


def _shown(letter: str) -> bool:
    return letter in _JOINERS or unicodedata.category(letter)[0] != "C"


def _minute(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
