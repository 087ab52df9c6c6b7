"""Figures of lines, as quotes, orders and receipts show them."""

from __future__ import annotations

from collections.abc import Iterable

from common import messages
from common.amounts import OrderAmounts
from customer_node.views import TaxView


def sums_of(sums: OrderAmounts) -> tuple[int, int, list[messages.Tax], int]:
    """Give an order's sums in the order in which quotes and receipts hold them."""
    return sums.subtotal, sums.discount, list(sums.taxes), sums.total


def tax_views(taxes: Iterable[messages.Tax]) -> tuple[TaxView, ...]:
    """Show taxes."""
    return tuple(TaxView(tax.rate, tax.base, tax.amount) for tax in taxes)
