"""A market in memory for the customer's tests: two merchants, some products, customers with money."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from world import Publish, World

from customer_node import Market

PASSWORD = "a long enough password"
PRICES = {"PLAN": 1234, "ROUTE": 77, "EMPTY": 3}


@dataclass
class Bazaar:
    """The world, and what its merchants sell."""

    world: World
    contents: dict[str, bytes] = field(default_factory=dict)
    customers: int = 0

    def stock(self, merchant: str) -> None:
        node = self.world.add_merchant(merchant)
        for sku, price in PRICES.items():
            self.add(merchant, sku, price, content(f"{merchant} {sku}", 0 if sku == "EMPTY" else 150_000))
        assert node.merchant.session.usable

    def add(
        self, merchant: str, sku: str, price: int, data: bytes, name: str | None = None, **more: Any
    ) -> None:
        folder = self.world.root / "originals" / merchant / sku
        folder.mkdir(parents=True)
        path = folder / (name or f"{sku.lower()}.bin")
        path.write_bytes(data)
        self.contents[sku] = data
        self.world.merchants[merchant].inventory.add(
            path, sku, title=f"{sku} of {merchant}", price=price, category="things", **more
        )

    def profile(self, name: str) -> Path:
        return self.world.root / "customers" / name

    @contextmanager
    def customer(self, bundles: int = 2, **options: Any) -> Iterator[Market]:
        """A new customer with an account, and bundles in the wallet."""
        self.customers += 1
        name = f"customer{self.customers}"
        with self.world.customer(name, **options) as market:
            market.sign_up(name, PASSWORD)
            if bundles:
                self.world.fund(name, bundles * 2000)
                market.withdraw(bundles)
            yield market

    @contextmanager
    def again(self, market: Market, **options: Any) -> Iterator[Market]:
        """The same profile, in another process."""
        with Market(home(market), connect=self.world.connect, **options) as opened:
            yield opened

    @contextmanager
    def tampering(self, tamper: Any) -> Iterator[None]:
        """Do something to every publish for a while."""
        bus = self.world.bus
        before, bus.tamper = bus.tamper, tamper
        try:
            yield
        finally:
            bus.tamper = before


@contextmanager
def spoiled(bazaar: Bazaar, promised: bytes, delivered: bytes) -> Iterator[None]:
    """A merchant delivers something else of the same size than what it promised."""
    folder = bazaar.world.root / "merchants"
    stored = [path for path in folder.rglob("*") if path.is_file() and path.read_bytes() == promised]
    assert stored
    for path in stored:
        path.chmod(0o600)
        path.write_bytes(delivered)
    yield
    for path in stored:
        path.write_bytes(promised)


def build(root: Path, **options: Any) -> Bazaar:
    bazaar = Bazaar(World(root, **options))
    bazaar.stock("sports")
    bazaar.stock("maps")
    return bazaar


def home(market: Market) -> Path:
    return market._context.profile.home


def content(seed: str, size: int) -> bytes:
    return hashlib.shake_256(seed.encode()).digest(size)


def lose(leg: str) -> Any:
    """Lose everything on topics that end so."""

    def tamper(publish: Publish) -> list[Publish]:
        return [] if publish.topic.endswith(leg) else [publish]

    return tamper
