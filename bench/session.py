"""Open sessions over `common.bus`, from the parts that do no I/O: what a customer is, and nothing more."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import bus, cards, clock, codec, config, frames, grouping, messages, sealing, topics
from common.market_file import MarketFile

PATIENCE_S = 20.0


class OpenSession:
    """An open session, in account or shop scope, with at most one merchant in view."""

    def __init__(
        self, market_path: Path, credential: messages.Credential, merchant: str | None = None
    ) -> None:
        self.market = MarketFile.load(market_path)
        self.sid = secrets.token_bytes(16)
        self._up, self._down = topics.session_up(self.sid), topics.session_down(self.sid)
        address = bus.Address(self.market.public.host, self.market.public.port, None)
        shown = [topics.broker_card(), *([topics.merchant_card(merchant)] if merchant else [])]
        self.connection = bus.Connection(bus.Settings(address, self.sid.hex(), (self._down, *shown)))
        self.connection.open()
        board: dict[str, bytes] = {}
        deadline = time.monotonic() + PATIENCE_S
        while not all(topic in board for topic in shown):
            if time.monotonic() > deadline:
                raise RuntimeError("a card is missing")
            self.connection.wait(0.1)
            board |= {delivery.topic: delivery.payload for delivery in self._take()}
        self.broker: messages.BrokerCard = self._broker_card(board[shown[0]])
        self._board = board
        self._codec: codec.Codec[Any] = codec.TO_SHOP
        if not isinstance(credential, messages.TicketCredential):
            self._codec = codec.TO_ACCOUNT
        self._keys = self._greet(credential)

    def _broker_card(self, card: bytes) -> messages.BrokerCard:
        return cards.open_broker_card(card, self.market.ca_der, self.market.market_id, clock.now_ms()).body

    def merchant_card(self, merchant: str) -> cards.Card[messages.MerchantCard]:
        """Give the card of the merchant in view."""
        card = self._board[topics.merchant_card(merchant)]
        ca_der, market = self.market.ca_der, self.market.market_id
        return cards.open_merchant_card(card, ca_der, market, merchant, clock.now_ms())

    def _greet(self, credential: messages.Credential) -> frames.SessionKeys:
        secret, ephemeral = secrets.token_bytes(32), sealing.XWingPrivateKey.generate()
        hello = messages.Hello(secret=secret, ephemeral=ephemeral.public.raw, credential=credential)
        key = sealing.load_public(self.broker.hello_keys[0].public)
        frame = frames.seal_hello(key, self.market.market_id, self._up, hello)
        self.connection.put(self._up, frame)
        self.connection.flush()
        answers: list[bus.Delivery] = []
        deadline = time.monotonic() + PATIENCE_S
        while not answers and time.monotonic() < deadline:
            self.connection.wait(0.1)
            answers = [delivery for delivery in self._take() if delivery.topic == self._down]
        answer, keys = frames.open_welcome(frame, secret, ephemeral, self._down, answers[0].payload)
        if not isinstance(answer, messages.Welcome):
            raise TypeError(f"no session: {answer.code}")
        return keys

    def _take(self) -> list[bus.Delivery]:
        deliveries = self.connection.take(512)
        self.connection.acknowledge(deliveries)
        return deliveries

    def post(self, bodies: Sequence[messages.Message]) -> None:
        """Send messages in as few frames as hold them."""
        for content in grouping.pack_frames(bodies, clock.now_ms(), clock.random_bytes):
            frame = frames.seal_frame(self._keys.up, self._up, content, clock.random_bytes(frames.NONCE))
            self.connection.put(self._up, frame, expiry_ms=config.Limits().freshness_ms)
        self.connection.flush()

    def receive(self, timeout_s: float) -> list[Any]:
        """Wait for frames and give what they bring."""
        self.connection.wait(timeout_s)
        return self.received()

    def received(self) -> list[Any]:
        """Give what has come; several sessions are waited for with `bus.wait`."""
        bodies: list[Any] = []
        for delivery in self._take():
            if delivery.topic == self._down:
                content = frames.open_frame(self._keys.down, self._down, delivery.payload)
                bodies += [envelope.body for envelope in self._codec.unpack(content)]
        return bodies


class ShopSession(OpenSession):
    """An open shop session with one merchant in view."""

    def __init__(self, market_path: Path, merchant: str, ticket: messages.Token) -> None:
        super().__init__(market_path, messages.TicketCredential(ticket=ticket), merchant)
        self.merchant = self.merchant_card(merchant)
