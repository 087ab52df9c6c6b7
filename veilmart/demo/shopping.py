"""What the demo's two customers do: they open accounts, draw coins, and buy from both shops."""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from common import payment_cards
from common.errors import VeilmartError
from customer_node import Market
from customer_node.views import Progress
from veilmart.demo.market import DemoMarket

CARD: Final = payment_cards.card("4242 4242 4242 4242", "12/34", "123", "Robin Cardholder")
"""A test card of the sandbox gateway."""


@dataclass(frozen=True)
class Customer:
    """A customer of the demo, and what is in the cart: merchant -> SKU -> quantity."""

    name: str
    bundles: int
    wanted: dict[str, dict[str, int]]
    password: str = field(default_factory=lambda: secrets.token_urlsafe(12), repr=False)


@dataclass(frozen=True)
class Bought:
    """An order, delivered and compared with what the shop had put on sale."""

    order_id: str
    merchant: str
    state: str
    seconds: float
    total: int
    lines: list[dict[str, Any]]


def customers() -> list[Customer]:
    """Give the two customers; their passwords are new at each run."""
    return [
        Customer(
            "alice.demo",
            2,
            {"sports": {"PLAN-10K": 1, "GPX-RIDGE": 1}, "archive": {"WAV-BROOK": 1}},
        ),
        Customer("robert.demo", 1, {"sports": {"PHOTO-DAWN": 2}, "archive": {"WAV-GLACIER": 1}}),
    ]


def shop(market: DemoMarket, people: list[Customer], say: Callable[[str], None]) -> list[Bought]:
    """Let all of them buy at the same time; gives their orders. What ends one of them ends all."""
    enough = threading.Event()
    with ThreadPoolExecutor(len(people)) as pool:
        visits = [pool.submit(_visit, market, person, say, enough) for person in people]
        try:
            return [bought for visit in visits for bought in visit.result()]
        except BaseException:
            enough.set()
            raise


def _visit(
    market: DemoMarket, person: Customer, say: Callable[[str], None], enough: threading.Event
) -> list[Bought]:
    def go_on(_progress: Progress) -> None:
        if enough.is_set():
            raise VeilmartError("The demo was ended.")

    profile = market.profile(person.name)
    Market.join(profile, market.market_path)
    with Market(profile, timeout_s=60.0) as api:
        api.sign_up(person.name, person.password)
        api.top_up(person.bundles * 2000, CARD)
        api.withdraw(person.bundles)
        drawn = api.wallet().usable / 100
        say(f"{person.name}: signed up, paid in with a test card, drew {drawn:.2f} in blind-signed coins")
    # Another connection, another session, and no name in it.
    with Market(profile, timeout_s=60.0) as api:
        for merchant, lines in person.wanted.items():
            for sku, quantity in lines.items():
                api.cart.add(merchant, sku, quantity)
        begun = time.monotonic()
        orders = api.buy()
        ordered = time.monotonic() - begun
        folder = market.state / "bought" / person.name
        bought = []
        for order in orders:
            begun = time.monotonic()
            files = api.download(order.order_id, folder, go_on)
            api.export_receipt(order.order_id, folder / f"receipt-{order.order_id}.json")
            # The cart was ordered at once: that time is each order's, a download only its own.
            seconds = ordered + time.monotonic() - begun
            lines_of = [_line(market, line.sku, line.quantity, files) for line in order.lines]
            state = api.order(order.order_id).state
            bought.append(Bought(order.order_id, order.merchant, state, seconds, order.total, lines_of))
            say(f"{person.name}: {len(files)} file(s) from {order.merchant}, the same byte for byte")
    return bought


def _line(market: DemoMarket, sku: str, quantity: int, files: Any) -> dict[str, Any]:
    expected = sha256(market.files[sku])
    delivered = next(sha256(file.path) for file in files if file.sku == sku)
    if expected != delivered:
        raise VeilmartError(f"{sku} was delivered with other content than was put on sale.")
    return {
        "sku": sku,
        "quantity": quantity,
        "sha256_expected": expected,
        "sha256_delivered": delivered,
    }


def sha256(path: Path) -> str:
    """Hash a file on disk, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
