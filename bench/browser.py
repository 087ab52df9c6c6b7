"""Browsing at a steady rate: one process, one shop session, one sealed question under way at a time.

python -m bench.browser MARKET TICKET

    {"rate": 50.0, "seconds": 5.0}     read the catalog's first page that often; every answer is opened
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from bench.market import TOKENS
from bench.processes import serve
from bench.searcher import Searcher
from common import messages

FIRST_PAGE = messages.ListProducts(search="", category="", sort="title", offset=0)


class Browser:
    """Asks a merchant for a page of its catalog."""

    def __init__(self, market: Path, ticket: messages.Token) -> None:
        self._searcher = Searcher(market, ticket)

    def run(self, rate: float, seconds: float) -> list[float]:
        """Give the latencies in seconds."""
        latencies: list[float] = []
        start = time.perf_counter()
        for number in range(int(rate * seconds)):
            # One that took longer than its turn delays the next, and hides nothing: its own time counts.
            pause = start + number / rate - time.perf_counter()
            if pause > 0:
                time.sleep(pause)
            latencies.append(self._searcher.ask(FIRST_PAGE)[0])
        return latencies


if __name__ == "__main__":
    (token,) = TOKENS.unpack(Path(sys.argv[2]).read_bytes())
    serve(Browser(Path(sys.argv[1]), token).run)
