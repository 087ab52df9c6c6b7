"""A market around one merchant, in memory: its broker's side, its customers, and the merchant's own loop.

Everything goes through the codec and through frames, as on the bus; time is what the test says.
"""

from __future__ import annotations

import hashlib
import random as pseudo
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from common import cards, codec, config, frames, messages, sealing, topics
from common.config import Limits
from common.core import CellSource, Incoming, Outgoing
from common.grouping import pack_frames
from common.keys import IdentityKey, identity_fingerprint
from common.market_file import Address, MarketFile
from common.sealing import AnswerKey, XWingPrivateKey
from common.store import Store
from merchant_node.content import ContentFolder
from merchant_node.inventory import Inventory
from merchant_node.merchant import Merchant
from merchant_node.prekeys import Prekeys
from merchant_node.shop import Shop
from veilmart import ca

NOON = 1_800_014_400_000
"""A time that begins an hour and is in the middle of a day, UTC."""
MERCHANT = "sports"


def der(pem: bytes) -> bytes:
    return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)


@dataclass(frozen=True)
class Identities:
    """A market's CA and the keys and certificates that it has made."""

    market: MarketFile
    broker: IdentityKey
    broker_der: bytes
    merchant: IdentityKey
    merchant_der: bytes


def make_identities(folder: Path, key_type: Any = "ed25519") -> Identities:
    ca.create_ca(folder / "ca", key_type=key_type, now_ms=NOON - config.DAY_MS)
    broker = IdentityKey.generate(key_type)
    broker_pem = ca.certify_broker(folder / "ca", broker.public, now_ms=NOON - config.DAY_MS)
    request = ca.make_request(folder / "merchant", MERCHANT, key_type=key_type)
    merchant_pem = ca.sign_csr(folder / "ca", request, MERCHANT, now_ms=NOON - config.DAY_MS)
    market = MarketFile(
        veilmart_market=1,
        currency="EUR",
        ca_certificate=(folder / "ca" / ca.CA_CERTIFICATE_FILE).read_text(),
        public=Address(host="localhost", port=1),
        nodes=Address(host="localhost", port=2),
        broker_fingerprint=identity_fingerprint(broker.public).hex(),
        minimum_age_seconds=0,
    )
    merchant = IdentityKey.load(folder / "merchant" / ca.IDENTITY_KEY_FILE)
    return Identities(market, broker, der(broker_pem), merchant, der(merchant_pem))


@dataclass
class World:
    """One merchant, driven as `common.node.Loop` drives it, and the broker's side of its session."""

    home: Path
    identities: Identities
    now: int = NOON
    ahead: int = 0
    """How far the broker's clock is ahead of the merchant's."""
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        self.random = pseudo.Random(1).randbytes  # noqa: S311 - the same each time, so that failures repeat
        self.market = self.identities.market
        self.shop = Shop.in_market(
            self.market,
            MERCHANT,
            self.identities.merchant,
            self.identities.merchant_der,
            name="Sports",
            description="Plans and routes",
        )
        self.hello_key = XWingPrivateKey.generate()
        self.keys: frames.SessionKeys | None = None
        self.outbox: list[Outgoing] = []
        self.sources: list[CellSource] = []
        self.questions: list[Any] = []
        self.card: messages.MerchantCard | None = None
        self.store = Store.in_home(self.home, "merchant.db", "merchant_node.migrations")
        self.start()
        self.inventory = Inventory(self.shop, self.store, self.content, self.limits, lambda: self.now)

    def start(self) -> None:
        """Start the merchant's process, as it were: everything in memory is new."""
        self.prekeys = Prekeys.in_folder(self.home / "prekeys")
        self.content = ContentFolder(self.home)
        self.merchant = Merchant(
            self.shop, self.prekeys, self.content, self.limits, cell_clock=lambda: self.now
        )

    def close(self) -> None:
        self.store.close()

    # --- the loop --------------------------------------------------------------------------------------

    def receive(self, *incoming: Incoming) -> None:
        arrivals = [arrival for message in incoming for arrival in self.merchant.check(message, self.now)]
        with self.store.immediate() as tx:
            sends = self.merchant.receive_all(tx, arrivals, self.now, self.random)
        self.merchant.seen(arrivals, self.now)
        self._frame(sends)

    def tick(self, milliseconds: int = 0) -> None:
        self.now += milliseconds
        with self.store.immediate() as tx:
            sends = self.merchant.tick(tx, self.now, self.random)
        self.merchant.seen([], self.now)
        self._frame(sends)

    def _frame(self, sends: Sequence[Any]) -> None:
        for item in self.merchant.frame(sends, self.now, self.random):
            if isinstance(item, Outgoing):
                self.outbox.append(item)
            else:
                self.sources.append(item)

    def sent(self, topic: str) -> list[bytes]:
        """Take what was published on `topic`."""
        taken = [item.payload for item in self.outbox if item.topic == topic]
        self.outbox = [item for item in self.outbox if item.topic != topic]
        return taken

    # --- the broker's side -----------------------------------------------------------------------------

    @property
    def clock(self) -> int:
        return self.now + self.ahead

    def broker_card(self, **changes: Any) -> bytes:
        fields: dict[str, Any] = {
            "market": self.market.market_id,
            "issued": self.clock,
            "not_after": self.clock + config.DAY_MS,
            "currency": "EUR",
            "hello_keys": [
                messages.SlotKey(slot=self.clock - config.HOUR_MS, public=self.hello_key.public.raw)
            ],
            "issuer_keys": [],
            "log_key": bytes(32),
            "order_deadline_ms": config.DAY_MS,
            "commission_basis_points": 0,
            "totals_at": 0,
            "totals": [],
        }
        body = messages.BrokerCard(**(fields | changes))
        return cards.make_card(self.identities.broker, self.identities.broker_der, "broker", body)

    def show_card(self, **changes: Any) -> None:
        self.receive(Incoming(topics.broker_card(), self.broker_card(**changes), retained=True))

    def hellos(self) -> list[bytes]:
        return [f for f in self.sent(topics.merchant_out(MERCHANT)) if len(f) == frames.HELLO_SIZE]

    def answer_hello(self, frame: bytes, answer: messages.HelloAnswer) -> tuple[bytes, messages.Hello]:
        hello = frames.open_hello(self.hello_key, self.market.market_id, topics.merchant_out(MERCHANT), frame)
        welcome, keys = frames.make_welcome(
            frame, hello, topics.merchant_in(MERCHANT), answer, self.random(44)
        )
        if isinstance(answer, messages.Welcome):
            self.keys = keys
        return welcome, hello

    def welcome(self) -> messages.Welcome:
        return messages.Welcome(
            session=self.random(16),
            scope="merchant",
            clock=self.clock,
            expires=self.clock + self.limits.merchant_session_ms,
            idle_ms=0,
            byte_budget=0,
        )

    def open_session(self) -> None:
        self.show_card()
        self.tick()
        (frame,) = self.hellos()
        welcome, _ = self.answer_hello(frame, self.welcome())
        self.receive(Incoming(topics.merchant_in(MERCHANT), welcome))
        assert self.merchant.session.state == "open"
        self.tick()
        self.read_card()

    def read_card(self) -> messages.MerchantCard:
        payload = self.sent(topics.merchant_card(MERCHANT))[-1]
        card = cards.open_merchant_card(
            payload, self.market.ca_der, self.market.market_id, MERCHANT, self.now
        )
        self.card = card.body
        return card.body

    def frames_of(self, *bodies: messages.Message) -> list[Incoming]:
        assert self.keys is not None
        topic = topics.merchant_in(MERCHANT)
        return [
            Incoming(topic, frames.seal_frame(self.keys.down, topic, content, self.random(12)))
            for content in pack_frames(bodies, self.clock, self.random)
        ]

    def ask(self, *bodies: messages.Message) -> list[Any]:
        """Send messages in one round and give the answers, in no particular order."""
        self.receive(*self.frames_of(*bodies))
        return self.answers()

    def answers(self) -> list[Any]:
        assert self.keys is not None
        topic = topics.merchant_out(MERCHANT)
        bodies = [
            envelope.body
            for frame in self.sent(topic)
            for envelope in codec.FROM_MERCHANT.unpack(frames.open_frame(self.keys.up, topic, frame))
        ]
        # Asked by time, and no answer to anything.
        by_time = messages.GetStatement, messages.RequestPayout
        self.questions += [body for body in bodies if isinstance(body, by_time)]
        return [body for body in bodies if not isinstance(body, by_time)]

    def cells(self) -> list[bytes]:
        """Serve every source to its end, in turn, and give the cells of all frames."""
        return [cell for group in self.groups() for cell in group.cells]

    def groups(self) -> list[messages.Cells]:
        """Serve every source to its end, in turn, and open the frames."""
        assert self.keys is not None
        groups: list[Any] = []
        topic = topics.merchant_cells(MERCHANT)
        while self.sources:
            source = self.sources.pop(0)
            item = source.next_frame()
            if item is None:
                continue
            self.sources.append(source)
            assert item.topic == topic
            assert item.lane == "cells"
            assert len(item.payload) in {kib * config.KIB for kib in (65, 129, 258)}
            content = frames.open_frame(self.keys.up, topic, item.payload)
            groups += [envelope.body for envelope in codec.FROM_MERCHANT.unpack(content)]
        return groups

    # --- the customer's side ---------------------------------------------------------------------------

    def prekey(self, slots: Sequence[messages.SlotKey]) -> sealing.XWingPublicKey:
        (current,) = [key for key in slots[:1] if key.slot <= self.now]
        return sealing.load_public(current.public)

    def forward(self, body: messages.SealedBody) -> tuple[messages.Forward, AnswerKey]:
        assert self.card is not None
        prekey = self.prekey(self.card.browse_prekeys)
        sealed, key = sealing.seal_request(
            prekey, self.shop.binding("browse"), body, self.random(32), config.REQUEST_STEP
        )
        return messages.Forward(reference=self.random(16), token=self.random(76), sealed=sealed), key

    def browse(self, body: messages.SealedBody) -> Any:
        forward, key = self.forward(body)
        (answer,) = self.ask(forward)
        assert (answer.reference, answer.token) == (forward.reference, forward.token)
        return key.unseal(answer.answer)

    def product(self, sku: str) -> tuple[messages.ProductRecord, bytes]:
        detail = self.browse(messages.GetProduct(sku=sku))
        assert isinstance(detail, messages.ProductDetail)
        return codec.PRODUCT_RECORD.unpack(detail.record), hashlib.sha256(detail.record).digest()

    def quote(self, *cart: tuple[str, int], code: str = "") -> Any:
        lines = [messages.QuoteLine(sku=sku, quantity=quantity) for sku, quantity in cart]
        return self.browse(messages.GetQuote(lines=lines, code=code))

    def order(
        self, *cart: tuple[str, int], code: str = "", fetch_secret: bytes = bytes(32), **changes: Any
    ) -> tuple[messages.ForwardOrder, AnswerKey]:
        """Seal an order for what is on sale now; `changes` are to the outer fields, before sealing."""
        discounts = [0] * len(cart)
        if code:
            discounts = [line.discount for line in self.quote(*cart, code=code).lines]
        lines = []
        for (sku, quantity), discount in zip(cart, discounts, strict=True):
            record, digest = self.product(sku)
            lines.append(
                messages.OrderLine(
                    sku=sku, record=digest, quantity=quantity, unit_price=record.price, discount=discount
                )
            )
        return self.order_of(lines, code=code, fetch_secret=fetch_secret, **changes)

    def order_of(
        self,
        lines: Sequence[messages.OrderLine],
        code: str = "",
        fetch_secret: bytes = bytes(32),
        **changes: Any,
    ) -> tuple[messages.ForwardOrder, AnswerKey]:
        assert self.card is not None
        fields: dict[str, Any] = {
            "order_id": self.random(16),
            "amount": sum(line.quantity * line.unit_price - line.discount for line in lines),
            "currency": "EUR",
            "deadline": self.clock + config.DAY_MS,
            "claim_lock": self.random(32),
            "status_lock": self.random(32),
            "sealed": bytes(32),
        }
        outer = messages.ForwardOrder(**(fields | changes))
        sealed, key = sealing.seal_request(
            self.prekey(self.card.order_prekeys),
            self.shop.binding("order", sealing.order_outer(outer)),
            messages.OrderRequest(
                lines=list(lines), code=code, fetch_lock=hashlib.sha256(fetch_secret).digest()
            ),
            self.random(32),
            config.REQUEST_STEP,
        )
        return messages.ForwardOrder(**(fields | changes | {"sealed": sealed})), key

    def fetch(
        self, order_id: bytes, first: int, count: int, *, secret: bytes = bytes(32), cells: int | None = None
    ) -> tuple[messages.ForwardFetch, AnswerKey]:
        assert self.card is not None
        outer = cells or count
        sealed, key = sealing.seal_request(
            self.prekey(self.card.browse_prekeys),
            self.shop.binding("cells", codec.pack(outer)),
            messages.GetCells(order_id=order_id, fetch_secret=secret, first=first, count=count),
            self.random(32),
            config.REQUEST_STEP,
        )
        return (
            messages.ForwardFetch(
                reference=self.random(16), token=self.random(76), cells=outer, sealed=sealed
            ),
            key,
        )

    def captured(self, order: messages.ForwardOrder) -> None:
        assert self.ask(messages.OrderOutcome(order_id=order.order_id, outcome="captured"))

    def state(self, order_id: bytes) -> str:
        from merchant_node import schema  # noqa: PLC0415

        with self.store.immediate() as tx:
            rows = tx.all(schema.orders.select())
        return str(next(row["state"] for row in rows if row["order_id"] == order_id))
