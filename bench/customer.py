"""A customer who buys and downloads through the product's own API, but for TLS.

python -m bench.customer PROFILE MARKET
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.market import MERCHANT
from bench.processes import serve
from common import bus
from customer_node import Market

NAME, PASSWORD = "bench", "a long enough password"


def connect(settings: bus.Settings) -> bus.Connection:
    """Connect as the product does, without TLS."""
    return bus.Connection(replace(settings, address=replace(settings.address, tls=None)))


class Customer:
    """One open profile."""

    def __init__(self, market: Market) -> None:
        self._market = market
        market.log_in(NAME, PASSWORD)
        market.withdraw()

    def handle(self, do: str, **command: str) -> Any:
        return self._buy(**command) if do == "buy" else self._download(**command)

    def _buy(self, sku: str) -> str:
        return self._market.buy_now(MERCHANT, sku).order_id

    def _download(self, order: str, folder: str) -> dict[str, Any]:
        begun = time.perf_counter()
        (file,) = self._market.download(order, Path(folder))
        return {"seconds": time.perf_counter() - begun, "path": str(file.path)}


if __name__ == "__main__":
    Market.join(Path(sys.argv[1]), Path(sys.argv[2]))
    with Market(Path(sys.argv[1]), connect=connect) as opened:
        serve(Customer(opened).handle)
