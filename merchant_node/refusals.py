"""What an offer is refused for, told to the customer alone, inside the sealed answer."""

from __future__ import annotations

from common import messages


class OfferRefusedError(Exception):
    """A quote or an order cannot be given as it was asked for."""

    def __init__(
        self, code: messages.RejectionCode, sku: str = "", price: int = 0, available: int = 0
    ) -> None:
        super().__init__(code)
        self.answer = messages.OrderRejected(code=code, sku=sku, price=price, available=available)
