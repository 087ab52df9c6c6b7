"""Browsing at a steady rate: one process, one shop session, one sealed question under way at a time.

python -m bench.browser MARKET TICKET

    {"rate": 50.0, "seconds": 5.0}     read the catalog's first page that often; every answer is opened
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from bench.market import MERCHANT, TOKENS
from bench.processes import serve
from bench.session import ShopSession
from common import config, messages, sealing

STALLED_S = 20.0


class Browser:
    """Asks a merchant for a page of its catalog."""

    def __init__(self, market: Path, ticket: messages.Token) -> None:
        self._session = ShopSession(market, MERCHANT, ticket)
        card = self._session.merchant
        self._prekey = sealing.load_public(card.body.browse_prekeys[0].public)
        fingerprint = card.certificate.fingerprint
        self._binding = sealing.Binding(self._session.market.market_id, fingerprint, "browse", b"")

    def run(self, rate: float, seconds: float) -> list[float]:
        """Give the latencies in seconds."""
        latencies: list[float] = []
        start = time.perf_counter()
        for number in range(int(rate * seconds)):
            # One that took longer than its turn delays the next, and hides nothing: its own time counts.
            pause = start + number / rate - time.perf_counter()
            if pause > 0:
                time.sleep(pause)
            latencies.append(self._browse())
        return latencies

    def _browse(self) -> float:
        begun = time.perf_counter()
        body = messages.ListProducts(search="", category="", sort="title", offset=0)
        sealed, key = sealing.seal_request(
            self._prekey, self._binding, body, os.urandom(32), config.REQUEST_STEP
        )
        question = messages.AskMerchant(request=os.urandom(16), merchant=MERCHANT, sealed=sealed)
        self._session.post([question])
        while time.perf_counter() - begun < STALLED_S:
            for answer in self._session.receive(1.0):
                if isinstance(answer, messages.MerchantAnswer) and answer.request == question.request:
                    if not isinstance(key.unseal(answer.answer), messages.ProductPage):
                        raise TypeError("the merchant answered something else")
                    return time.perf_counter() - begun
        raise RuntimeError("a browse gets no answer")


if __name__ == "__main__":
    (token,) = TOKENS.unpack(Path(sys.argv[2]).read_bytes())
    serve(Browser(Path(sys.argv[1]), token).run)
