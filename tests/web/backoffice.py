"""A merchant's dashboard that runs, beside the merchant's node."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from real_market import environment
from shopfront import Shopfront, WebMarket


@dataclass
class Backoffice(Shopfront):
    """`profile` is the market's folder; the merchant is named."""

    merchant: str = field(default="sports", kw_only=True)

    def start(self) -> None:
        words = ["merchant", "web", "--merchant", self.merchant, "--port", str(self.port)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "veilmart", *words],
            env=environment(VEILMART_HOME=str(self.market.home)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.read_link()
        self.port = int(self.link.split(":")[2].split("/")[0])


@pytest.fixture
def backoffice(web_market: WebMarket) -> Iterator[Backoffice]:
    office = Backoffice(web_market, web_market.home)
    office.start()
    try:
        yield office
    finally:
        office.end()
