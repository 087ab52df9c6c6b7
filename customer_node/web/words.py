"""Errors of a customer in the words of the storefront, with the links that go on from them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from common.errors import (
    AuthenticationError,
    DeadlineError,
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

_NOT_KNOWN_YET: Final[dict[str, Any]] = {
    "title": "It is not known yet whether the card was charged",
    "kept": "It is charged once at most, and what is charged is credited.",
    "next": "Do not pay again before it is known: the wallet's page asks what became of it.",
    "links": (_WALLET,),
}


def explain(error: VeilmartError) -> Explained:
    """Give the words for an error."""
    if isinstance(error, DeadlineError) and error.hop == "gateway":
        return replace(explain_any(error), **_NOT_KNOWN_YET)
    own = next((words for kind, words in _WORDS if isinstance(error, kind)), {})
    return replace(explain_any(error), **own)
