"""Why an order came to nothing, or a quote was not given, told to a person."""

from __future__ import annotations

from typing import Final

from common import messages
from common.errors import (
    DiscountRefusedError,
    IdempotencyConflictError,
    NotFoundError,
    OutOfStockError,
    PriceChangedError,
    RejectedError,
    VeilmartError,
)
from common.money import format_amount
from customer_node.orders import Order

CANCELLED: Final = "cancelled"
_BACK: Final = " The money is back in the wallet."
_CODES: Final[dict[str, str]] = {
    "code_unknown": "knows no such discount code",
    "code_expired": "no longer takes this discount code: its time is over",
    "code_used_up": "no longer takes this discount code: it was used as often as it could be",
    "code_unfit": "takes this discount code for none of these products",
}


class CancelledError(RejectedError):
    """The order was called off by its customer."""


def rejection_error(order: Order) -> VeilmartError:
    """Give the error for a refunded order; the money is back."""
    if order.failure == CANCELLED:
        return CancelledError(f"The order was called off.{_BACK}")
    if order.failure is None:
        return RejectedError(f"All of this order was given back.{_BACK}")
    if order.failure in ("deadline", "unanswered"):
        return RejectedError(
            f"{order.merchant} did not accept before the deadline, or could not read the order.{_BACK}",
            "Buy again.",
        )
    return _error(
        order.merchant,
        order.failure,
        order.failure_sku or "",
        order.failure_value or 0,
        order.currency,
        _BACK,
        old_price=next((line.unit_price for line in order.lines if line.sku == order.failure_sku), None),
    )


def quote_error(merchant: str, refused: messages.OrderRejected, currency: str) -> VeilmartError:
    """Give the error for a quote that was not given."""
    return _error(merchant, refused.code, refused.sku, refused.price, currency, "")


def _error(
    merchant: str,
    reason: str | None,
    sku: str,
    value: int,
    currency: str,
    back: str,
    old_price: int | None = None,
) -> VeilmartError:
    if reason in _CODES or reason in ("code_minimum", "nothing_to_pay"):
        return _discount_error(merchant, reason, value, currency, back)
    match reason:
        case "price_changed":
            return PriceChangedError(
                f"{sku or 'What was ordered'} of {merchant} has changed; "
                f"it now costs {format_amount(value, currency)}.{back}",
                "Look at the cart again (`veilmart cart show`), then buy at the new price.",
                sku=sku or None,
                old_price=old_price,
                new_price=value,
            )
        case "out_of_stock":
            return OutOfStockError(
                f"{merchant} has only {value} of {sku}.{back}",
                "Change the quantity, then buy again.",
                available=value,
                sku=sku,
            )
        case "not_found":
            return NotFoundError(f"{merchant} no longer sells {sku}.{back}", "Take it out of the cart.")
        case "idempotency_conflict":
            return IdempotencyConflictError(f"{merchant} knows this order with other content.{back}")
        case _:
            return RejectedError(f"{merchant} refused the order ({reason}).{back}", "Buy again.")


def _discount_error(
    merchant: str, reason: str, minimum: int, currency: str, back: str
) -> DiscountRefusedError:
    hint = "Buy without the code."
    if reason == "nothing_to_pay":
        text, hint = "Nothing would be left to pay, and an order costs something", "Buy more with the code."
    elif reason == "code_minimum":
        text, hint = (
            f"{merchant} takes this discount code from {format_amount(minimum, currency)} on",
            "Buy more, or without the code.",
        )
    else:
        text = f"{merchant} {_CODES[reason]}"
    least = minimum if reason == "code_minimum" else None
    return DiscountRefusedError(f"{text}.{back}", hint, reason=reason, minimum=least)
