"""Why an order came to nothing, told to a person. The money is back in every case."""

from __future__ import annotations

from common.errors import (
    IdempotencyConflictError,
    NotFoundError,
    OutOfStockError,
    PriceChangedError,
    RejectedError,
    VeilmartError,
)
from common.money import format_amount
from customer_node.orders import Order

_BACK = "The money is back in the wallet."


def rejection_error(order: Order) -> VeilmartError:
    """Give the error for a refunded order."""
    sku, value = order.failure_sku, order.failure_value
    match order.failure:
        case "price_changed":
            return PriceChangedError(
                f"{sku} of {order.merchant} has changed; "
                f"it now costs {format_amount(value or 0, order.currency)}. {_BACK}",
                "Look at the cart again (`veilmart cart show`), then buy at the new price.",
            )
        case "out_of_stock":
            return OutOfStockError(
                f"{order.merchant} has only {value} of {sku}. {_BACK}",
                "Change the quantity, then buy again.",
                available=value,
            )
        case "not_found":
            return NotFoundError(
                f"{order.merchant} no longer sells {sku}. {_BACK}", "Take it out of the cart."
            )
        case "deadline" | "unanswered":
            return RejectedError(
                f"{order.merchant} did not accept before the deadline, or could not read the order. {_BACK}",
                "Buy again.",
            )
        case "idempotency_conflict":
            return IdempotencyConflictError(f"{order.merchant} knows this order with other content. {_BACK}")
        case _:
            return RejectedError(
                f"{order.merchant} refused the order ({order.failure}). {_BACK}", "Buy again."
            )
