"""Searching like a hurried customer: one process, one shop session, one sealed question after the other.

python -m bench.searcher MARKET TICKET

    {"questions": [{"search": …, "category": …, "sort": …, "offset": …}, …]}

gives for each the seconds that it took and how many products it found.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from bench.market import MERCHANT, TOKENS
from bench.processes import serve
from bench.session import ShopSession
from common import config, messages, sealing

STALLED_S = 60.0
"""The first answer waits until the merchant has read its catalog."""


class Searcher:
    """Asks a merchant for pages of its catalog."""

    def __init__(self, market: Path, ticket: messages.Token) -> None:
        self._session = ShopSession(market, MERCHANT, ticket)
        card = self._session.merchant
        self._prekey = sealing.load_public(card.body.browse_prekeys[0].public)
        fingerprint = card.certificate.fingerprint
        self._binding = sealing.Binding(self._session.market.market_id, fingerprint, "browse", b"")

    def run(self, questions: list[dict[str, Any]]) -> list[tuple[float, int]]:
        """Give for each question how long it took, in seconds, and how many products it found."""
        return [self.ask(messages.ListProducts(**question)) for question in questions]

    def ask(self, body: messages.ListProducts) -> tuple[float, int]:
        """Ask one question and open its answer: the time is a customer's, sealing and opening too."""
        begun = time.perf_counter()
        sealed, key = sealing.seal_request(
            self._prekey, self._binding, body, os.urandom(32), config.REQUEST_STEP
        )
        question = messages.AskMerchant(request=os.urandom(16), merchant=MERCHANT, sealed=sealed)
        self._session.post([question])
        while time.perf_counter() - begun < STALLED_S:
            for answer in self._session.receive(1.0):
                if isinstance(answer, messages.MerchantAnswer) and answer.request == question.request:
                    page = key.unseal(answer.answer)
                    if not isinstance(page, messages.ProductPage):
                        raise TypeError("the merchant answered something else")
                    return time.perf_counter() - begun, page.total
        raise RuntimeError("a search gets no answer")


if __name__ == "__main__":
    (token,) = TOKENS.unpack(Path(sys.argv[2]).read_bytes())
    serve(Searcher(Path(sys.argv[1]), token).run)
