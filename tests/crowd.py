"""Many customers in one process: each a thread with its own profile, wallet, sessions and connections."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from customer_node import Market

PASSWORD = "a long enough password"
MERCHANTS = ("maps", "sports")
PRODUCTS = 50
BUNDLES = 4
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Product:
    """One of fifty, each with a price, a size and a content of its own."""

    number: int

    @property
    def merchant(self) -> str:
        return MERCHANTS[self.number % len(MERCHANTS)]

    @property
    def sku(self) -> str:
        return f"FILE-{self.number}"

    @property
    def price(self) -> int:
        return 17 + 23 * self.number

    @property
    def content(self) -> bytes:
        return hashlib.shake_256(self.sku.encode()).digest(500 + 1200 * self.number)


@dataclass(frozen=True)
class Customer:
    """Who buys what. All customers together buy every product."""

    number: int
    profile: Path
    orders: int

    @property
    def name(self) -> str:
        return f"customer{self.number}"

    def wishes(self) -> list[Product]:
        wanted = [Product((7 * self.number + 11 * order) % PRODUCTS) for order in range(self.orders)]
        return sorted(wanted, key=lambda product: product.merchant)


def draw(customer: Customer) -> None:
    """Log in and fill the wallet."""
    with Market(customer.profile, timeout_s=TIMEOUT_S) as market:
        market.log_in(customer.name, PASSWORD)
        market.withdraw(BUNDLES)


def shop(customer: Customer) -> int:
    """Buy and download everything, and compare it; gives how many orders were right in every respect."""
    right = 0
    with Market(customer.profile, timeout_s=TIMEOUT_S) as market:
        for product in customer.wishes():
            order = market.buy_now(product.merchant, product.sku)
            (file,) = market.download(order.order_id, customer.profile / "bought")
            receipt = market.receipt(order.order_id)
            right += (
                market.order(order.order_id).state == "complete"
                and (order.total, receipt.total) == (product.price, product.price)
                and (receipt.merchant, receipt.order_id) == (product.merchant, order.order_id)
                and file.path.read_bytes() == product.content
            )
    return right


def crowd(customers: Sequence[Customer]) -> list[int]:
    """Let all of them fill their wallets and shop, each in a thread."""
    with ThreadPoolExecutor(len(customers)) as threads:
        list(threads.map(draw, customers))
        return list(threads.map(shop, customers))
