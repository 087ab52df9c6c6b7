"""Errors of a customer in the words of the storefront, with the links that go on from them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from common.errors import (
    AuthenticationError,
    DiscountRefusedError,
    InsufficientFundsError,
    OutOfStockError,
    OutOfTicketsError,
    PriceChangedError,
    VeilmartError,
)
from common.web.explained import Explained
from common.web.explained import explain as explain_any

_REVIEW: Final = ("/review", "Look at the order again")
_CART: Final = ("/cart", "Go to the cart")
_TOP_UP: Final = ("/wallet/top-up", "Top up by card")
_WALLET: Final = ("/wallet", "Open the wallet")


_WORDS: Final[tuple[tuple[type[VeilmartError], dict[str, Any]], ...]] = (
    (
        OutOfTicketsError,
        {
            "title": "No ticket is left",
            "kept": "The cart and your orders are as they were.",
            "next": "Each visit takes a ticket. Draw new ones from your account, with the next money that "
            "you move into the wallet; young ones become usable by themselves.",
            "links": (_WALLET,),
        },
    ),
    (
        InsufficientFundsError,
        {
            "title": "There is too little money",
            "kept": "The cart is as it was, and nothing was paid.",
            "next": "Top up, or take something out of the cart.",
            "links": (_TOP_UP, _CART),
        },
    ),
    (
        PriceChangedError,
        {
            "title": "A price has changed",
            "kept": "Nothing was paid for this one; the money is in the wallet.",
            "next": "Look at the new price, then decide.",
            "links": (_REVIEW,),
        },
    ),
    (
        OutOfStockError,
        {
            "title": "Not enough is left",
            "kept": "Nothing was paid for this one; the money is in the wallet.",
            "next": "Take fewer, or take it out of the cart.",
            "links": (_CART,),
        },
    ),
    (DiscountRefusedError, {"title": "This discount code is not taken", "links": (_REVIEW,)}),
    (AuthenticationError, {"links": (("/account", "Log in"),)}),
)


def explain(error: VeilmartError) -> Explained:
    """Give the words for an error."""
    own = next((words for kind, words in _WORDS if isinstance(error, kind)), {})
    return replace(explain_any(error), **own)
