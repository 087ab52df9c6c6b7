"""A storefront over a market in memory, and a browser inside it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest
from asgi import Answer, Browser
from conftest import Time
from customer_shop import PASSWORD, Bazaar, build, home, lose
from dashboards import COMPILED

from common import clock
from common.web.door import Door
from common.web.server import Address
from common.web.site import Site
from customer_node import Market
from customer_node.web import storefront
from customer_node.web.desk import Desk
from customer_node.web.words import explain


@dataclass
class Front:
    """A storefront and a browser inside it; its customer is logged in and has coins."""

    bazaar: Bazaar
    profile: Path
    address: Address
    runner: asyncio.Runner
    desk: Desk
    browser: Browser

    def post(self, path: str, **fields: str) -> Answer:
        session = next(iter(self.door._sessions.values()))
        return self.browser.post(path, {"csrf": session.csrf, **fields})

    @property
    def door(self) -> Door:
        return self.desk.site._door

    @property
    def market(self) -> Market:
        assert self.desk.worker._owned is not None
        return self.desk.worker._owned

    def log_out(self) -> None:
        assert self.post("/account/logout", onward="/").status == 303

    def log_in(self) -> None:
        fields = {"login-name": self.profile.name, "password": PASSWORD}
        assert self.post("/account/login", **fields).status == 303

    def add(self, merchant: str = "sports", sku: str = "PLAN", quantity: int = 1) -> None:
        fields = {"merchant": merchant, "sku": sku, "quantity": str(quantity)}
        assert self.post("/cart/add", **fields).status == 303

    def review(self) -> str:
        """Look at the review; gives the key under which it can be paid."""
        page = self.browser.get("/review")
        found = re.search(r'name="key" value="([0-9a-f]+)"', page.text)
        assert found, page.text
        return found[1]

    def bought(self, sku: str = "PLAN", *, fetched: bool = True) -> str:
        """Buy something as a customer does; gives the order. Without `fetched` nothing of it comes."""
        self.log_out()
        self.add(sku=sku)
        before = {each.order_id for each in self.desk.reading.orders()}
        key = self.review()
        with self.bazaar.tampering(lose("sports/cells")) if not fetched else nullcontext():
            self.post("/pay", key=key)
            self.settled()
        (order,) = (each for each in self.desk.reading.orders() if each.order_id not in before)
        return order.order_id

    def settled(self) -> None:
        """Let every purchase and delivery come to its end."""
        self.runner.run(self.desk.stop())


@pytest.fixture
def bazaar(tmp_path: Path, time: Time) -> Iterator[Bazaar]:
    built = build(tmp_path)
    yield built
    built.world.close()


@pytest.fixture
def front(bazaar: Bazaar) -> Iterator[Front]:
    with bazaar.customer() as market:
        profile = home(market)
    yield from opened(bazaar, profile)


def opened(bazaar: Bazaar, profile: Path) -> Iterator[Front]:
    address, runner = Address.free(), asyncio.Runner()
    site = Site(
        name="shop",
        title="Veilmart",
        package="customer_node.web",
        door=Door(),
        address=address,
        explain=explain,
        layout="shop.html",
    )

    site.env.bytecode_cache = COMPILED

    def market() -> Market:
        return Market(profile, connect=bazaar.world.connect, timeout_s=2.0, clock=clock_now)

    desk = storefront.desk_of(site, market, profile)
    desk.start()
    browser = Browser(storefront.storefront(desk), f"127.0.0.1:{address.port}", runner=runner)
    browser.get(f"/enter?token={site._door.token()}")
    with address.socket, runner:
        yield Front(bazaar, profile, address, runner, desk, browser)
        runner.run(desk.stop())
        desk.worker.stop()


def clock_now() -> int:
    return clock.now_ms()


def gate(answer: Answer) -> str:
    found = re.search(r'data-gate="(\w+)"', answer.text)
    return found[1] if found else ""
