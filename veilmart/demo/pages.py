"""The pages that the demo leaves open: a shop with a wallet that has coins, and a merchant's dashboard."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from common import clock
from customer_node import Market
from veilmart.demo.market import DemoMarket
from veilmart.processes import NodeProcess

VISITOR: Final = "visitor"
BUNDLES: Final = 2
SHOP: Final = "sports"
"""Whose dashboard is opened."""
READ_AT_ONCE: Final = 4096
READY: Final = "ready "
"""What a line with a link begins with; others are for programs."""


@dataclass(frozen=True)
class Pages:
    """Two servers that run, and the link that each has printed. A link lets one browser in, once."""

    shop: str
    dashboard: str
    servers: tuple[NodeProcess, ...]

    def relay(self, say: Callable[[str], None]) -> None:
        """Say each new link that the servers print for who has used one up, until interrupted."""
        outputs = [server.process.stdout for server in self.servers if server.process is not None]
        waiting = {output.fileno() for output in outputs if output is not None}
        while waiting:
            for descriptor in select.select(list(waiting), [], [])[0]:
                said = os.read(descriptor, READ_AT_ONCE)
                if not said:
                    waiting.discard(descriptor)
                for line in said.decode().splitlines():
                    if line.startswith(READY):
                        say(line)


@contextmanager
def open_pages(market: DemoMarket) -> Iterator[Pages]:
    """Serve both, each from a home of its own, until the end of the block."""
    profile, logs = market.profile(VISITOR), market.state / "logs"
    _prepare(market)
    shop = NodeProcess("shop", ["customer", "web", "--profile", str(profile)], logs / "shop.log")
    home = str(market.merchant_home(SHOP))
    dashboard = NodeProcess("dashboard", ["merchant", "web", "--home", home], logs / "dashboard.log")
    try:
        links = [page.start().removeprefix(READY) for page in (shop, dashboard)]
        yield Pages(links[0], links[1], (shop, dashboard))
    finally:
        for page in (dashboard, shop):
            page.stop()


def _prepare(market: DemoMarket) -> None:
    """Make an account and draw coins from it, so that whoever opens the shop can buy at once."""
    profile = market.profile(VISITOR)
    Market.join(profile, market.market_path)
    with Market(profile, timeout_s=60.0) as api:
        api.sign_up(VISITOR, clock.random_bytes(12).hex())
        market.fund(VISITOR, BUNDLES * 2000)
        api.withdraw(BUNDLES)
        api.log_out()
