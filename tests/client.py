"""Scripted parties for the world in memory: they speak the protocol message by message, and nothing for them.

customer = Customer(world)                      # an account with coins and tickets in hand
keeper = Shopkeeper(world)                      # a merchant that answers what the test says
session = customer.shop()
order = customer.order(amount=100)
session.say(order.place)
keeper.say(accept(keeper.hear(messages.ForwardOrder)))
assert session.hear(messages.OrderAnswer).state == "captured"
"""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from world import World

from broker_node import schema
from common import bus, cards, clock, codec, coins, config, frames, grouping, messages, sealing, slots, topics
from common.credentials import MERCHANT_HELLO_LABEL, merchant_hello_statement
from common.keys import IdentityKey
from common.presence import presence
from veilmart import ca

Heard = TypeVar("Heard")
PATIENCE_S = 10.0
CODECS: dict[str, codec.Codec[Any]] = {
    "account": codec.TO_ACCOUNT,
    "shop": codec.TO_SHOP,
    "merchant": codec.TO_MERCHANT,
}
SEALED = b"only the merchant could open this, and here nobody tries to"


def fresh() -> bytes:
    return secrets.token_bytes(16)


def log_in(name: str, password: str, *, device: bytes = b"", code: str = "") -> messages.LogIn:
    """A login from a device, or from one that nobody knows."""
    return messages.LogIn(name=name, password=password, device=device or secrets.token_bytes(32), code=code)


def sign_up(name: str, password: str, *, device: bytes = b"", invite: bytes = b"") -> messages.SignUp:
    return messages.SignUp(
        name=name, password=password, device=device or secrets.token_bytes(32), invite=invite
    )


def broker_card(world: World) -> messages.BrokerCard:
    market, payload = world.market, world.bus.retained[topics.broker_card()]
    return _opened(payload, market.ca_der, market.market_id, clock.now_ms() // config.MINUTE_MS + 1)


@lru_cache(maxsize=8)
def _opened(payload: bytes, ca_der: bytes, market: bytes, minute: int) -> messages.BrokerCard:
    return cards.open_broker_card(payload, ca_der, market, minute * config.MINUTE_MS).body


def altered(frame: bytes, bits: int = 8) -> Iterator[bytes]:
    """Give a frame with every bit changed in turn, and every truncation of it.

    With fewer `bits`, so many of each byte, other ones from byte to byte.
    """
    for place in range(len(frame)):
        for bit in ((place + number) % 8 for number in range(bits)):
            changed = bytearray(frame)
            changed[place] ^= 1 << bit
            yield bytes(changed)
    for length in range(len(frame)):
        yield frame[:length]


def settle(world: World) -> None:
    """Let all work that needs no pool be done."""
    for _ in range(4):
        world.pump(lambda: False, 0.0)


class Peer:
    """One end of a session with the broker."""

    def __init__(
        self, world: World, client_id: str, up: str, down: str, will: bus.Will | None = None
    ) -> None:
        self.world = world
        self.up, self.down = up, down
        settings = bus.Settings(bus.Address("bus", 1, None), client_id, (down,), will=will)
        self.connection = world.connect(settings)
        self.connection.open()
        self.keys: frames.SessionKeys | None = None
        self.welcome: messages.Welcome | None = None
        self.inbox: list[Any] = []
        self.hello_frame = b""
        self.ephemeral = sealing.XWingPrivateKey.generate()

    # --- opening ---------------------------------------------------------------------------------------

    def hello(self, credential: Any, **changes: Any) -> messages.Hello:
        fields = {"secret": secrets.token_bytes(32), "ephemeral": self.ephemeral.public.raw}
        return messages.Hello(**(fields | changes), credential=credential)

    def greet(self, credential: Any, **changes: Any) -> messages.HelloAnswer:
        """Say `Hello` and give what is answered."""
        self.put_hello(credential, **changes)
        return self.answer()

    def put_hello(self, credential: Any, **changes: Any) -> None:
        hello = self.hello(credential, **changes)
        self.hello_secret = hello.secret
        key = sealing.load_public(broker_card(self.world).hello_keys[0].public)
        self.hello_frame = frames.seal_hello(key, self.world.market.market_id, self.up, hello)
        self.put(self.hello_frame)

    def answer(self) -> messages.HelloAnswer:
        (payload,) = self.payloads(1)
        answer, keys = frames.open_welcome(
            self.hello_frame, self.hello_secret, self.ephemeral, self.down, payload
        )
        if isinstance(answer, messages.Welcome):
            self.welcome, self.keys = answer, keys
        return answer

    # --- bytes -----------------------------------------------------------------------------------------

    def put(self, payload: bytes) -> None:
        self.connection.put(self.up, payload)

    def payloads(self, count: int) -> list[bytes]:
        """Wait for so many payloads."""
        taken: list[bytes] = []
        if not self.world.pump(lambda: len(self.connection.inbox) >= count, PATIENCE_S):
            raise AssertionError(f"{len(self.connection.inbox)} of {count} payloads came")
        taken += [delivery.payload for delivery in self.connection.take(count)]
        return taken

    # --- messages --------------------------------------------------------------------------------------

    def seal(self, *bodies: Any, at: int | None = None, topic: str = "") -> bytes:
        """Make one data frame."""
        assert self.keys is not None
        now = clock.now_ms() if at is None else at
        (content,) = grouping.pack_frames(bodies, now, clock.random_bytes)
        return frames.seal_frame(self.keys.up, topic or self.up, content, secrets.token_bytes(12))

    def say(self, *bodies: Any) -> bytes:
        """Send messages in one frame, and give it."""
        frame = self.seal(*bodies)
        self.put(frame)
        return frame

    def collect(self) -> list[Any]:
        """Let the world settle, and give every message heard and not yet taken."""
        settle(self.world)
        self._read()
        heard, self.inbox = self.inbox, []
        return heard

    def _read(self) -> None:
        assert self.keys is not None
        assert self.welcome is not None
        for delivery in self.connection.take(1000):
            content = frames.open_frame(self.keys.down, self.down, delivery.payload)
            self.inbox += [envelope.body for envelope in CODECS[self.welcome.scope].unpack(content)]

    def hear(self, kind: type[Heard]) -> Heard:
        """Wait for a message of this kind; others stay."""

        def there() -> bool:
            self._read()
            return any(isinstance(body, kind) for body in self.inbox)

        if not self.world.pump(there, PATIENCE_S):
            raise AssertionError(f"no {kind.__name__}, but {self.inbox}")
        body = next(body for body in self.inbox if isinstance(body, kind))
        self.inbox.remove(body)
        return body

    def ask(self, body: Any, kind: type[Heard]) -> Heard:
        self.say(body)
        return self.hear(kind)

    def refused(self, body: Any) -> str:
        """Send what shall be refused, and give the code."""
        self.say(body)
        answer = self.hear(messages.Refused | messages.KeyRetired)
        return answer.code if isinstance(answer, messages.Refused) else "key_retired"


class Session(Peer):
    """A customer's session, or an attempt at one."""

    def __init__(self, world: World, sid: bytes | None = None) -> None:
        self.sid = sid or fresh()
        super().__init__(world, self.sid.hex(), topics.session_up(self.sid), topics.session_down(self.sid))


class Shopkeeper(Peer):
    """A merchant with a real certificate and no shop behind it."""

    def __init__(
        self, world: World, merchant: str = "sports", *, key_type: Any = "ed25519", counter: int = 1
    ) -> None:
        self.merchant = merchant
        self.counter = counter - 1
        self.home = world.root / "merchants" / merchant
        request = ca.make_request(self.home, merchant, key_type=key_type)
        pem = ca.sign_csr(world.ca_home, request, merchant, now_ms=clock.now_ms())
        self.identity = IdentityKey.load(self.home / ca.IDENTITY_KEY_FILE)
        self.certificate = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
        super().__init__(
            world, f"{merchant}-{fresh().hex()}", topics.merchant_out(merchant), topics.merchant_in(merchant)
        )
        self.cells = topics.merchant_cells(merchant)
        self.open()

    def open(self) -> None:
        self.connection.put(topics.merchant_status(self.merchant), presence("online"), retain=True)
        assert isinstance(self.log_in(), messages.Welcome)

    def log_in(self) -> messages.HelloAnswer:
        self.counter += 1
        secret = secrets.token_bytes(32)
        return self.greet(self.credential(secret, self.counter), secret=secret)

    def credential(self, secret: bytes, counter: int, **changes: Any) -> messages.MerchantCredential:
        key_id = sealing.load_public(broker_card(self.world).hello_keys[0].public).key_id
        statement = merchant_hello_statement(
            self.world.market.market_id, key_id, secret, self.ephemeral.public.raw, counter
        )
        fields = {
            "certificate": self.certificate,
            "counter": counter,
            "signature": self.identity.sign(MERCHANT_HELLO_LABEL, statement),
        }
        return messages.MerchantCredential(**(fields | changes))

    def go(self) -> None:
        """Be away, as its last will would say."""
        self.connection.put(topics.merchant_status(self.merchant), presence("offline"), retain=True)
        settle(self.world)

    def say_cell(self, *bodies: Any) -> None:
        self.connection.put(self.cells, self.seal(*bodies, topic=self.cells))


# --- money ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Blinded:
    """Tokens asked for, and what turns the answer into tokens."""

    issuers: Sequence[messages.IssuerKey]
    seed: bytes
    tokens: list[messages.BlindedToken]

    def unblind(self, signatures: Sequence[bytes]) -> list[messages.Token]:
        assert len(signatures) == len(self.issuers)
        return [
            coins.unblind(issuer, self.seed, n, signature)
            for n, (issuer, signature) in enumerate(zip(self.issuers, signatures, strict=True))
        ]


def blinded(world: World, values: Sequence[int]) -> Blinded:
    """Blind coins of these values; a value of 0 is a ticket."""
    month = slots.month_of(clock.now_ms())
    issuers = {issuer.value: issuer for issuer in broker_card(world).issuer_keys if issuer.month == month}
    wanted, seed = [issuers[value] for value in values], secrets.token_bytes(32)
    return Blinded(wanted, seed, [coins.blind_token(issuer, seed, n) for n, issuer in enumerate(wanted)])


@dataclass(frozen=True)
class Order:
    """An order and the secrets behind its locks."""

    place: messages.PlaceOrder
    claim_secret: bytes
    status_secret: bytes

    @property
    def id(self) -> bytes:
        return self.place.order_id

    @property
    def asked(self) -> messages.AskOrder:
        return messages.AskOrder(order_id=self.id, status_secret=self.status_secret)

    @property
    def kept(self) -> messages.AnswerKept:
        return messages.AnswerKept(order_id=self.id, status_secret=self.status_secret)

    @property
    def confirmed(self) -> messages.ConfirmDelivery:
        return messages.ConfirmDelivery(order_id=self.id, status_secret=self.status_secret)

    def find(self, after: int = 0) -> messages.FindOrder:
        return messages.FindOrder(order_id=self.id, claim_secret=self.claim_secret, after=after)

    @property
    def cancelled(self) -> messages.CancelOrder:
        return messages.CancelOrder(order_id=self.id, claim_secret=self.claim_secret)

    def dispute(self, **changes: Any) -> messages.OpenDispute:
        """Dispute it; always in the same attempt, unless the test names another."""
        fields = {"order_id": self.id, "attempt": self.id, "claim_secret": self.claim_secret}
        said = {"kind": "not_delivered", "statement": "nothing came", "evidence": []}
        return messages.OpenDispute(**(fields | said | changes))

    def claim(self, tokens: Blinded, **changes: Any) -> messages.ClaimRefund:
        """Ask for a refund; always in the same operation, unless the test names another."""
        fields = {
            "operation": self.id,
            "order_id": self.id,
            "claim_secret": self.claim_secret,
            "blinded": tokens.tokens,
        }
        return messages.ClaimRefund(**(fields | changes))


@dataclass
class Customer:
    """Somebody with an account, who has drawn coins and tickets already."""

    world: World
    name: str = "alice"
    password: str = "correct horse"
    values: Sequence[int] = coins.BUNDLE
    tickets_wanted: int = 4
    extra: int = 0
    coins: list[messages.Token] = field(init=False)
    tickets: list[messages.Token] = field(init=False)
    values_of: dict[bytes, int] = field(init=False)

    def __post_init__(self) -> None:
        self.world.account(self.name, self.password, sum(self.values) + self.extra)
        self.values_of = {issuer.key_id: issuer.value for issuer in broker_card(self.world).issuer_keys}
        account = self.account()
        self.coins, self.tickets = self.withdraw(account, self.values, self.tickets_wanted)
        account.ask(messages.LogOut(request=fresh()), messages.LoggedOut)

    @property
    def credential(self) -> messages.LogIn:
        return log_in(self.name, self.password, device=self.device)

    @property
    def device(self) -> bytes:
        return hashlib.sha256(self.name.encode()).digest()

    def account(self) -> Session:
        session = Session(self.world)
        answer = session.greet(self.credential)
        assert isinstance(answer, messages.Welcome), answer
        return session

    def withdraw(
        self, account: Session, values: Sequence[int], tickets: int = 0
    ) -> tuple[list[messages.Token], list[messages.Token]]:
        money, entry = blinded(self.world, values), blinded(self.world, [0] * tickets)
        request = messages.Withdraw(operation=fresh(), coins=money.tokens, tickets=entry.tokens)
        answer = account.ask(request, messages.Withdrawn)
        return money.unblind(answer.coins), entry.unblind(answer.tickets)

    def shop(self, sid: bytes | None = None) -> Session:
        session = Session(self.world, sid)
        answer = session.greet(messages.TicketCredential(ticket=self.tickets.pop()))
        assert isinstance(answer, messages.Welcome), answer
        return session

    def pay(self, amount: int) -> list[messages.Token]:
        """Take coins of this sum out of the purse."""
        held = Counter(self.values_of[token.key_id] for token in self.coins)
        chosen: list[messages.Token] = []
        for value in coins.exact(held, amount) or ():
            token = next(token for token in self.coins if self.values_of[token.key_id] == value)
            self.coins.remove(token)
            chosen.append(token)
        assert sum(self.values_of[token.key_id] for token in chosen) == amount
        return chosen

    def order(self, amount: int = 100, merchant: str = "sports", **changes: Any) -> Order:
        claim, status = secrets.token_bytes(32), secrets.token_bytes(32)
        fields: Mapping[str, Any] = {
            "order_id": fresh(),
            "merchant": merchant,
            "amount": amount,
            "currency": "EUR",
            "deadline": clock.now_ms() + config.HOUR_MS,
            "claim_lock": hashlib.sha256(claim).digest(),
            "status_lock": hashlib.sha256(status).digest(),
            "sealed": SEALED,
        }
        tokens = changes.pop("coins", None) or self.pay(amount)
        return Order(messages.PlaceOrder(**{**fields, **changes}, coins=tokens), claim, status)


# --- the merchant's answers ----------------------------------------------------------------------------


def accept(order: messages.ForwardOrder, answer: bytes = b"sealed: yes") -> messages.AnswerOrder:
    return messages.AnswerOrder(order_id=order.order_id, verdict="accepted", answer=answer)


def reject(order: messages.ForwardOrder, answer: bytes = b"sealed: no") -> messages.AnswerOrder:
    return messages.AnswerOrder(order_id=order.order_id, verdict="rejected", answer=answer)


# --- looking -------------------------------------------------------------------------------------------


def dump(world: World) -> dict[str, list[tuple[Any, ...]]]:
    """Give every row of the broker's store.

    But for what was published, checked and refused, and sessions' use.
    """
    found = {}
    left_out = {schema.unpublished, schema.checkpoints, schema.checked_books, schema.refusals}
    with world.broker.store.immediate() as tx:
        for table in set(schema.metadata.sorted_tables) - left_out:
            columns = [c for c in table.columns if c.name not in {"last_seen", "bytes_used"}]
            found[table.name] = sorted(tuple(row.values()) for row in tx.all(sa.select(*columns)))
    return found


def order_state(world: World, order_id: bytes) -> str:
    with world.broker.store.immediate() as tx:
        return str(tx.scalar(sa.select(schema.orders.c.state).where(schema.orders.c.order_id == order_id)))
