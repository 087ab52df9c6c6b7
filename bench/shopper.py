"""The load: one process, one shop session, a window of orders under way, every answer verified.

python -m bench.shopper SETUP     SETUP: a JSON file, see `Setup`
"""

from __future__ import annotations

import hashlib
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from bench.figures import Figures, figures
from bench.market import MERCHANT, SKU, TOKENS
from bench.processes import serve
from bench.session import ShopSession
from common import clock, codec, config, messages, sealing
from common.credentials import RECEIPT_LABEL
from common.keys import verify_identity

STALLED_S = 20.0
BURST = 16
"""Orders made before they are sent: a customer does not wait for its window to be full."""


class Setup(msgspec.Struct, frozen=True):
    """What the load needs to know. `record` is the product record's digest, `coins` per order."""

    market: str
    ticket: str
    price: int
    record: bytes
    coins: int


@dataclass(frozen=True, slots=True)
class Pending:
    """An order under way."""

    begun: float
    status_secret: bytes
    key: sealing.AnswerKey = field(repr=False)


class Shopper:
    """Places orders and verifies what comes back."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        (ticket,) = TOKENS.unpack(Path(setup.ticket).read_bytes())
        self._session = ShopSession(Path(setup.market), MERCHANT, ticket)
        card = self._session.merchant
        self._prekey = sealing.load_public(card.body.order_prekeys[0].public)
        self._market = self._session.market.market_id
        self._currency = self._session.market.currency
        self._merchant = card.certificate
        line = messages.OrderLine(
            sku=SKU, record=setup.record, quantity=1, unit_price=setup.price, discount=0
        )
        self._lines = [line]
        self._pending: dict[bytes, Pending] = {}
        self._kept: list[messages.Message] = []
        self._latencies: list[float] = []

    def run(self, window: int, coins: str) -> Figures:
        """Spend a file of coins, with `window` orders under way."""
        tokens = TOKENS.unpack(Path(coins).read_bytes())
        each = self._setup.coins
        purses = [tokens[n : n + each] for n in range(0, len(tokens), each)]
        count, placed = len(purses), 0
        self._latencies.clear()
        begun = heard = time.perf_counter()
        while len(self._latencies) < count:
            while placed < count and len(self._pending) < window:
                room = min(BURST, window - len(self._pending), count - placed)
                orders = [self._place(purse) for purse in purses[placed : placed + room]]
                placed += room
                self._send(orders)
            answers = self._session.receive(1.0)
            for answer in answers:
                self._take(answer)
            if answers:
                heard = time.perf_counter()
            elif time.perf_counter() - heard > STALLED_S:
                raise RuntimeError(f"{len(self._pending)} orders get no answer")
        seconds = time.perf_counter() - begun
        self._send([])
        return figures(count, seconds, self._latencies)

    def _send(self, orders: list[messages.Message]) -> None:
        bodies, self._kept = orders + self._kept, []
        self._session.post(bodies)

    def _place(self, purse: list[messages.Token]) -> messages.Message:
        begun, random = time.perf_counter(), clock.random_bytes
        status_secret = random(32)
        outer = messages.ForwardOrder(
            order_id=random(16),
            amount=self._setup.price,
            currency=self._currency,
            deadline=clock.now_ms() + config.HOUR_MS,
            claim_lock=hashlib.sha256(random(32)).digest(),
            status_lock=hashlib.sha256(status_secret).digest(),
            sealed=b"",
        )
        fetch_lock = hashlib.sha256(random(32)).digest()
        request = messages.OrderRequest(lines=self._lines, code="", fetch_lock=fetch_lock)
        binding = sealing.Binding(
            self._market, self._merchant.fingerprint, "order", sealing.order_outer(outer)
        )
        sealed, key = sealing.seal_request(self._prekey, binding, request, random(32), config.REQUEST_STEP)
        self._pending[outer.order_id] = Pending(begun, status_secret, key)
        return messages.PlaceOrder(
            order_id=outer.order_id,
            merchant=MERCHANT,
            amount=outer.amount,
            currency=outer.currency,
            deadline=outer.deadline,
            coins=purse,
            claim_lock=outer.claim_lock,
            status_lock=outer.status_lock,
            sealed=sealed,
        )

    def _take(self, answer: messages.ToShop) -> None:
        if not isinstance(answer, messages.OrderAnswer) or answer.state != "captured":
            raise TypeError(f"an order was not captured: {answer}")
        pending = self._pending.pop(answer.order_id)
        accepted = pending.key.unseal(answer.answer)
        if not isinstance(accepted, messages.OrderAccepted):
            raise TypeError("an order was not accepted")
        verify_identity(self._merchant.public_key, RECEIPT_LABEL, accepted.receipt, accepted.signature)
        receipt = codec.RECEIPT.unpack(accepted.receipt)
        assert (receipt.market, receipt.merchant) == (self._market, MERCHANT)
        assert (receipt.order_id, receipt.total) == (answer.order_id, self._setup.price)
        self._latencies.append(time.perf_counter() - pending.begun)
        self._kept.append(messages.AnswerKept(order_id=answer.order_id, status_secret=pending.status_secret))


if __name__ == "__main__":
    setup = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Setup)
    serve(Shopper(setup).run)
