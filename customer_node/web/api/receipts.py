"""Receipts: what the merchant signed, verified, as figures and as the file that anybody can verify."""

from __future__ import annotations

from typing import Annotated

import msgspec

from common.errors import UntrustedError, UsageError
from common.web.endpoints import OCTETS, Endpoint, File, OrderId, Raw, Takes
from common.web.statuses import JSON
from customer_node.market import Market
from customer_node.receipts import MAXIMUM_BUNDLE
from customer_node.views import ReceiptView
from customer_node.web.api.sides import Sides


class Verified(msgspec.Struct, frozen=True):
    """Whether a receipt proves what it claims; `receipt` is what it proves, `reason` why it does not."""

    valid: bool
    receipt: ReceiptView | None
    reason: str


class ReceiptEndpoints:
    """`/orders/ORDER/receipt` and `/receipts/verify`."""

    def __init__(self, sides: Sides) -> None:
        self._sides = sides

    def endpoints(self) -> list[Endpoint]:
        """Give the endpoints."""
        return [
            Endpoint("GET", "/orders/{order}/receipt", self.receipt),
            Endpoint("GET", "/orders/{order}/receipt.json", self.bundle),
            Endpoint("POST", "/receipts/verify", self.verify),
        ]

    async def receipt(self, order: OrderId) -> ReceiptView:
        """Verify and show an order's receipt."""
        self._sides.reading.order(order)
        return await self._sides.here(lambda market: market.receipt(order))

    async def bundle(self, order: OrderId) -> Annotated[File, JSON]:
        """Give the signed receipt as the file that `veilmart receipt verify` takes."""
        self._sides.reading.order(order)
        content = await self._sides.here(lambda market: market.receipt_bundle(order))
        return File(content, JSON, f"receipt-{order[:12]}.json")

    async def verify(
        self, body: Annotated[Raw, Takes((JSON, "text/plain", OCTETS), MAXIMUM_BUNDLE)]
    ) -> Verified:
        """Verify a receipt of this market: such a file, or the text of an invoice's QR codes."""
        data = body.file.read()

        def verify(market: Market) -> Verified:
            try:
                return Verified(valid=True, receipt=market.verify_receipt(data), reason="")
            except (UntrustedError, UsageError) as error:
                return Verified(valid=False, receipt=None, reason=error.message)

        return await self._sides.here(verify)
