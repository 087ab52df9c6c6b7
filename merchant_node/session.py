"""The merchant's session with the broker: greet, be welcomed, renew in time, greet again when it ends.

    waiting_for_card -> greeting -> open -> renewing -> open -> ...
    greeting | renewing -> refused -> greeting
    open | renewing -> ended -> greeting

Rule 1. Nothing changes before the commit: `check` only reads, and the steps are taken by `seen` (for what
has arrived) and by `greet` and `repeat` (for what is sent), which the loop calls after its transaction.
One batch may hold a `Welcome` and what was sent under its keys right behind it, such as every order that
waited: `check` opens those with the keys that it has just read, which are in force once they are seen.

Rule 2. Keys live in memory alone. After a restart a new `Hello` opens a new session, and the broker
forwards again what is open.

Rule 3. An unanswered `Hello` is repeated byte for byte, then replaced: its `Welcome` tells the broker's
time, and a repeated one tells the time of the first answer. So none is used for longer than
`HELLO_LIFE_MS`, which must stay well inside the freshness window.

Rule 4. A renewed session's old keys open what was under way for one freshness window more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

import structlog

from common import codec, config, frames, messages, sealing, topics
from common.cards import Card
from common.clock import Random
from common.config import MINUTE_MS, SECOND_MS, Limits
from common.core import Arrival, Outgoing
from common.credentials import MERCHANT_HELLO_LABEL, merchant_hello_statement
from common.errors import ForgedError, StaleError
from common.frames import SessionKeys
from common.grouping import SeenIds, pack_frames
from common.states import Table, step
from merchant_node.shop import Shop

SESSION: Final[Table] = {
    "waiting_for_card": frozenset({"greeting"}),
    "greeting": frozenset({"open", "refused"}),
    "open": frozenset({"renewing", "ended"}),
    "renewing": frozenset({"open", "refused", "ended"}),
    "refused": frozenset({"greeting"}),
    "ended": frozenset({"greeting"}),
}

HELLO_FIRST_MS: Final = 2 * SECOND_MS
HELLO_LONGEST_MS: Final = 15 * SECOND_MS
HELLO_LIFE_MS: Final = MINUTE_MS
REFUSED_RETRY_MS: Final = 10 * MINUTE_MS
"""How long to wait after a refusal that trying again will not change, such as a revocation."""

Due: TypeAlias = Literal["greet", "repeat", "nothing"]


@dataclass(frozen=True)
class HelloAnswered:
    """The broker's answer to our `Hello`, and the keys that it confirms."""

    answer: messages.HelloAnswer
    keys: SessionKeys = field(repr=False)


@dataclass(frozen=True)
class PendingHello:
    """A `Hello` that waits for its answer. Times are ours, in milliseconds."""

    frame: bytes = field(repr=False)
    secret: bytes = field(repr=False)
    ephemeral: sealing.XWingPrivateKey = field(repr=False)
    made: int
    next_send: int
    delay: int


@dataclass(frozen=True)
class Opened:
    """An open session. `ahead` is how far the broker's clock is ahead of ours; times are ours."""

    keys: SessionKeys
    ahead: int
    renew_at: int
    ends_at: int


class Session:
    """At most one session in force, one before it, and one `Hello` under way."""

    def __init__(self, shop: Shop, limits: Limits) -> None:
        self._shop = shop
        self._limits = limits
        self._log = structlog.get_logger("veilmart.merchant")
        self._in = topics.merchant_in(shop.merchant)
        self._out = topics.merchant_out(shop.merchant)
        self._cells = topics.merchant_cells(shop.merchant)
        self._seen = SeenIds(limits.freshness_ms)
        self._card: messages.BrokerCard | None = None
        self._hello: PendingHello | None = None
        self._welcomed: Opened | None = None
        self._current: Opened | None = None
        self._previous: Opened | None = None
        self._greeted = 0
        self._retry_at = 0
        self._unknown_key_seen = False
        self.state = "waiting_for_card"

    @property
    def usable(self) -> bool:
        """Whether there are keys to send under."""
        return self._current is not None

    def broker_clock(self, now: int) -> int:
        """Give the broker's time: what `Welcome` said, and what has passed since."""
        opened = self._welcomed or self._current
        return now + (opened.ahead if opened is not None else 0)

    def _step(self, new: str) -> None:
        self.state = step(SESSION, self.state, new)

    # --- what arrives ----------------------------------------------------------------------------------

    def check(self, frame: bytes, now: int) -> Sequence[Arrival]:
        """Open a frame from the broker. Raises `WireError`."""
        if frames.frame_type(frame) == frames.WELCOME_TYPE:
            return [self._check_welcome(frame, now)]
        opened = self._by_key_id(frames.frame_key_id(frame))
        envelopes = codec.TO_MERCHANT.unpack(frames.open_frame(opened.keys.down, self._in, frame))
        for envelope in envelopes:
            self._seen.check(envelope.id, envelope.at, now + opened.ahead)
        return [Arrival(opened.keys.key_id, envelope.id, envelope.body) for envelope in envelopes]

    def _check_welcome(self, frame: bytes, now: int) -> Arrival:
        if self._hello is None:
            raise StaleError("no hello is under way")
        hello = self._hello
        answer, keys = frames.open_welcome(hello.frame, hello.secret, hello.ephemeral, self._in, frame)
        if isinstance(answer, messages.Welcome):
            if answer.scope != "merchant":
                raise ForgedError("welcomed as somebody else")
            self._welcomed = _opened(answer, keys, now)
        return Arrival(keys.key_id, b"", HelloAnswered(answer, keys))

    def _by_key_id(self, key_id: bytes) -> Opened:
        for opened in (self._welcomed, self._current, self._previous):
            if opened is not None and opened.keys.key_id == key_id:
                return opened
        # Not a step, only a hint for `due`: a broker that speaks under keys that we lack needs a Hello.
        self._unknown_key_seen = True
        raise ForgedError("a frame of another session")

    def seen(self, arrivals: Sequence[Arrival], now: int) -> None:
        """Take the steps that committed arrivals call for."""
        identifiers = [arrival.id for arrival in arrivals if arrival.id]
        if identifiers:
            self._seen.add(identifiers, self.broker_clock(now))
        for arrival in arrivals:
            match arrival.body:
                case Card(body=messages.BrokerCard() as card):
                    self._card_arrived(card, now)
                case HelloAnswered(answer=answer, keys=keys):
                    self._answered(answer, keys, now)
                case messages.SessionEnded(code=code):
                    self._ended(arrival.sender, code)
                case _:
                    pass

    def _card_arrived(self, card: messages.BrokerCard, now: int) -> None:
        self._card = card
        if self._hello is not None:
            # A broker that announces itself is there now; what it missed is said again at once.
            hello = self._hello
            known = frames.hello_key_id(hello.frame) in {_key_id(key.public) for key in card.hello_keys}
            self._hello = _due_at(hello, now) if known else None

    def _answered(self, answer: messages.HelloAnswer, keys: SessionKeys, now: int) -> None:
        if self._hello is None:
            return  # the same answer twice in one batch
        self._hello = self._welcomed = None
        if isinstance(answer, messages.HelloRefused):
            self._step("refused")
            self._retry_at = now + max(HELLO_FIRST_MS, answer.retry_after_ms or REFUSED_RETRY_MS)
            self._log.error("the broker refuses this merchant", code=answer.code)
            return
        self._step("open")
        self._unknown_key_seen = False
        if self._current is not None:
            until = min(self._current.ends_at, now + self._limits.freshness_ms)
            self._previous = Opened(self._current.keys, self._current.ahead, until, until)
        self._current = _opened(answer, keys, now)
        self._log.info("session open")

    def _ended(self, key_id: bytes, code: str) -> None:
        if self._previous is not None and self._previous.keys.key_id == key_id:
            self._previous = None
        if self._current is not None and self._current.keys.key_id == key_id:
            self._end()
            self._log.warning("session ended by the broker", code=code)

    def _end(self) -> None:
        self._current = None
        self._hello = None
        if self.state in ("open", "renewing"):
            self._step("ended")

    # --- what is due -----------------------------------------------------------------------------------

    def due(self, now: int) -> Due:
        """Tell what time asks for. Changes nothing."""
        if self._card is None or self._card.not_after <= now:
            return "nothing"
        if self.state in ("greeting", "renewing"):
            return self._due_while_greeting(now)
        if self.state == "refused":
            return "greet" if now >= self._retry_at else "nothing"
        if self.state == "open" and self._current is not None:
            lost = self._unknown_key_seen and now >= self._greeted + MINUTE_MS
            return "greet" if lost or now >= self._current.renew_at else "nothing"
        return "greet"

    def _due_while_greeting(self, now: int) -> Due:
        hello = self._hello
        if hello is None or now >= hello.made + HELLO_LIFE_MS:
            return "greet"
        return "repeat" if now >= hello.next_send else "nothing"

    def expire(self, now: int) -> None:
        """Drop keys whose time is over."""
        if self._previous is not None and now >= self._previous.ends_at:
            self._previous = None
        if self._current is not None and now >= self._current.ends_at:
            self._end()

    def greet(self, counter: int, now: int, random: Random) -> list[Outgoing]:
        """Make a new `Hello`, signed with `counter`, which is stored and was never used."""
        if self._card is None:
            return []
        hello_key = sealing.load_public(_newest(self._card.hello_keys, now).public)
        secret, ephemeral = random(32), sealing.XWingPrivateKey.generate()
        statement = merchant_hello_statement(
            self._shop.market, hello_key.key_id, secret, ephemeral.public.raw, counter
        )
        hello = messages.Hello(
            secret=secret,
            ephemeral=ephemeral.public.raw,
            credential=messages.MerchantCredential(
                certificate=self._shop.certificate_der,
                counter=counter,
                signature=self._shop.identity.sign(MERCHANT_HELLO_LABEL, statement),
            ),
        )
        frame = frames.seal_hello(hello_key, self._shop.market, self._out, hello)
        if self.state not in ("greeting", "renewing"):
            self._step("renewing" if self.state == "open" else "greeting")
        self._greeted = now
        self._welcomed = None
        self._hello = PendingHello(frame, secret, ephemeral, now, now + HELLO_FIRST_MS, HELLO_FIRST_MS)
        return [self._hello_frame(frame)]

    def repeat(self, now: int) -> list[Outgoing]:
        """Send the same bytes again, a little later each time."""
        hello = self._hello
        if hello is None:
            return []
        delay = min(2 * hello.delay, HELLO_LONGEST_MS)
        self._hello = PendingHello(hello.frame, hello.secret, hello.ephemeral, hello.made, now + delay, delay)
        return [self._hello_frame(hello.frame)]

    def _hello_frame(self, frame: bytes) -> Outgoing:
        # Without an expiry an absent broker would find a pile of them.
        return Outgoing(self._out, frame, expiry_ms=HELLO_LIFE_MS)

    # --- what is sent ----------------------------------------------------------------------------------

    def seal(self, bodies: Sequence[messages.Message], now: int, random: Random) -> list[Outgoing]:
        """Group, shuffle and frame messages to the broker; without a session they are dropped.

        Nothing is lost by that: the broker forwards an order, and a customer asks, until answered.
        """
        if self._current is None or not bodies:
            return []
        keys = self._current.keys.up
        return [
            Outgoing(
                self._out,
                frames.seal_frame(keys, self._out, content, random(frames.NONCE)),
                expiry_ms=self._limits.freshness_ms,
            )
            for content in pack_frames(bodies, self.broker_clock(now), random)
        ]

    def seal_cells(self, cells: messages.Cells, now: int, random: Random) -> Outgoing | None:
        """Frame cells for the cell connection, or give None without a session."""
        if self._current is None:
            return None
        (content,) = pack_frames([cells], self.broker_clock(now), random)
        frame = frames.seal_frame(self._current.keys.up, self._cells, content, random(frames.NONCE))
        return Outgoing(self._cells, frame, lane="cells", expiry_ms=self._limits.freshness_ms)


def _opened(welcome: messages.Welcome, keys: SessionKeys, now: int) -> Opened:
    life = max(0, welcome.expires - welcome.clock)
    return Opened(keys, welcome.clock - now, renew_at=now + life // 2, ends_at=now + life)


def _key_id(public: bytes) -> bytes:
    return sealing.load_public(public).key_id


def _due_at(hello: PendingHello, now: int) -> PendingHello:
    return PendingHello(hello.frame, hello.secret, hello.ephemeral, hello.made, now, HELLO_FIRST_MS)


def _newest(keys: Sequence[messages.SlotKey], now: int) -> messages.SlotKey:
    begun = [key for key in keys if key.slot <= now + config.MINUTE_MS]
    return max(begun or keys, key=lambda key: key.slot)
