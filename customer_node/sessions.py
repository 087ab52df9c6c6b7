"""A session with the broker: opening one, asking in it, and keeping it for the next command.

    customer  -- Hello (secret, ephemeral key, credential) -->  broker
    customer  <-- Welcome (scope, clock, expiry) -------------  broker

Rule 1. Until it is answered, a `Hello` is repeated byte for byte; a session id gets one `Hello` only.
Rule 2. Times are on the broker's clock: `Welcome.clock`, and the time that has passed here since.
Rule 3. What the broker sends and what does not open, is stale or was seen before, is counted and dropped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

import sqlalchemy as sa

from common import codec, config, frames, grouping, messages, sealing, topics
from common.clock import Random
from common.errors import (
    AuthenticationError,
    BrokerUnreachableError,
    DeadlineError,
    MalformedError,
    UntrustedError,
    UsageError,
    VeilmartError,
    WireError,
)
from common.store import Tx
from customer_node.connection import POLL_MS, Link
from customer_node.directory import newest_key
from customer_node.refusals import SessionOverError, refusal_error
from customer_node.timing import Clock, Countdown, Repeater

FRESHNESS_MS: Final = config.Limits().freshness_ms
REPEAT_FIRST_MS: Final = 3 * config.SECOND_MS
REPEAT_LONGEST_MS: Final = 20 * config.SECOND_MS
EXPIRY_MARGIN_MS: Final = config.MINUTE_MS

Down = TypeVar("Down", messages.ToAccount, messages.ToShop)
Answer = TypeVar("Answer", bound=messages.Message)


@dataclass(frozen=True)
class KeptSession:
    """What of a session lies in the profile. `offset` is the broker's clock less ours, in ms."""

    session: bytes
    keys: bytes = field(repr=False)
    offset: int
    expires: int
    idle_ms: int
    last_used: int

    def usable(self, now: int) -> bool:
        """Whether the broker still knows it, with a margin; `now` is our clock."""
        margin = min(EXPIRY_MARGIN_MS, self.idle_ms // 10) if self.idle_ms else EXPIRY_MARGIN_MS
        idle = bool(self.idle_ms) and now >= self.last_used + self.idle_ms - margin
        return not idle and now + self.offset < self.expires - margin


class HelloRefusedError(Exception):
    """The broker opened no session. `retry_after_ms` is 0 where trying again is no use."""

    def __init__(self, refused: messages.HelloRefused) -> None:
        super().__init__(refused.code)
        self.code = refused.code
        self.retry_after_ms = refused.retry_after_ms

    def explained(self) -> VeilmartError:
        """Give the error that a person reads."""
        if self.code == "authentication" and self.retry_after_ms:
            seconds = -(-self.retry_after_ms // 1000)
            return AuthenticationError(
                "The name or the password is wrong.", f"The broker takes the next try in {seconds} s."
            )
        return refusal_error(self.code)


class Session(Generic[Down]):
    """An open session on its link."""

    def __init__(
        self,
        link: Link,
        kept: KeptSession,
        decoder: codec.Codec[list[messages.Envelope[Down]]],
        clock: Clock,
        random: Random,
    ) -> None:
        self.link = link
        self.kept = kept
        self.dropped: Counter[str] = Counter()
        """Frames and messages of the broker's that were not accepted, by reason."""
        self._keys = frames.SessionKeys.from_bytes(kept.keys)
        self._decoder: codec.Codec[list[messages.Envelope[Down]]] = decoder
        self._clock = clock
        self._random = random
        self._seen = grouping.SeenIds(FRESHNESS_MS)

    @property
    def now(self) -> int:
        """The time on the broker's clock."""
        return self._clock() + self.kept.offset

    def post(self, *bodies: messages.Message) -> None:
        """Send messages, grouped into frames; each call is a new send."""
        topic = topics.session_up(self.link.session)
        for content in grouping.pack_frames(bodies, self.now, self._random):
            self.link.send(frames.seal_frame(self._keys.up, topic, content, self._random(frames.NONCE)))

    def receive(self, timeout_s: float) -> list[Down]:
        """Give what has come, after waiting for it at most that long. Raises `SessionOverError`."""
        self.link.pump(timeout_s)
        bodies: list[Down] = []
        while self.link.inbox:
            bodies += self._open(self.link.inbox.popleft())
        for body in bodies:
            if isinstance(body, messages.SessionEnded):
                raise SessionOverError(body.code)
        return bodies

    def _open(self, frame: bytes) -> list[Down]:
        topic = topics.session_down(self.link.session)
        try:
            content = frames.open_frame(self._keys.down, topic, frame)
            envelopes = self._decoder.unpack(content)
        except WireError as error:
            self.dropped[error.reason] += 1
            return []
        bodies: list[Down] = []
        for envelope in envelopes:
            try:
                self._seen.check(envelope.id, envelope.at, self.now)
            except WireError as error:
                self.dropped[error.reason] += 1
                continue
            self._seen.add([envelope.id], self.now)
            bodies.append(envelope.body)
        return bodies

    def ask(self, question: messages.Message, kind: type[Answer], timeout_ms: int) -> Answer:
        """Send a question, again and again until its answer comes, and give that.

        Raises what `refusal_error` says for a refusal, `DeadlineError` or `BrokerUnreachableError` for
        silence, `SessionOverError`.
        """
        wanted = reference(question)
        countdown = Countdown(self._clock, timeout_ms)
        repeater = Repeater(self._clock, REPEAT_FIRST_MS, REPEAT_LONGEST_MS)
        while not countdown.over:
            if repeater.due():
                self.post(question)
            for body in self.receive(countdown.slice_s(POLL_MS)):
                if reference(body) != wanted:
                    continue
                if isinstance(body, kind):
                    return body
                if isinstance(body, messages.Refused) and body.code != "busy":
                    raise refusal_error(body.code)
        raise self.silence()

    def broker_answers(self, timeout_ms: int) -> bool:
        """Tell whose silence it is: ask the broker about an order that there is not, which it refuses."""
        probe = messages.AskOrder(order_id=self._random(16), status_secret=self._random(32))
        countdown = Countdown(self._clock, timeout_ms)
        self.post(probe)
        while not countdown.over:
            if any(reference(body) == probe.order_id for body in self.receive(countdown.slice_s(POLL_MS))):
                return True
        return False

    def silence(self) -> VeilmartError:
        """Give the error for a broker that does not answer in time."""
        return self.link.silence() or DeadlineError(
            "The broker did not answer in time.", "Try again, or allow more time (`--timeout`).", hop="broker"
        )


_BY_REQUEST: Final = (
    messages.GetBalance,
    messages.Balance,
    messages.LogOut,
    messages.LoggedOut,
    messages.AskMerchant,
    messages.MerchantAnswer,
    messages.FetchCells,
    messages.MerchantCell,
)
_BY_OPERATION: Final = (messages.Withdraw, messages.Withdrawn, messages.Swap, messages.Swapped)
_BY_ORDER: Final = (
    messages.PlaceOrder,
    messages.AskOrder,
    messages.AnswerKept,
    messages.OrderAnswer,
    messages.ClaimRefund,
    messages.RefundIssued,
)


def reference(body: messages.Message) -> bytes | None:
    """Give the id by which a question and its answer belong together."""
    if isinstance(body, _BY_REQUEST):
        return body.request
    if isinstance(body, _BY_OPERATION):
        return body.operation
    if isinstance(body, _BY_ORDER):
        return body.order_id
    return body.reference if isinstance(body, messages.Refused) else None


@dataclass(frozen=True)
class Opening:
    """What it takes to open a session on a link."""

    link: Link
    card: messages.BrokerCard
    market: bytes
    clock: Clock
    random: Random

    def open(
        self, credential: messages.Credential, scope: messages.Scope, timeout_ms: int
    ) -> tuple[KeptSession, frames.SessionKeys]:
        """Say `Hello` and wait for the `Welcome`.

        Raises `HelloRefusedError`, `BrokerUnreachableError`, `UntrustedError`, and `UsageError` for a
        credential that no broker could accept (too long, or empty).
        """
        ephemeral = sealing.XWingPrivateKey.generate()
        hello = messages.Hello(secret=self.random(32), ephemeral=ephemeral.public.raw, credential=credential)
        frame = self._seal(hello)
        countdown = Countdown(self.clock, timeout_ms)
        repeater = Repeater(self.clock, REPEAT_FIRST_MS, REPEAT_LONGEST_MS)
        while not countdown.over:
            if repeater.due():
                self.link.send(frame)
            self.link.pump(countdown.slice_s(POLL_MS))
            while self.link.inbox:
                opened = self._try_open(frame, hello.secret, ephemeral, self.link.inbox.popleft())
                if opened is not None:
                    return self._welcomed(*opened, scope)
        raise self.link.silence() or BrokerUnreachableError(
            "The broker does not answer.", "Is it running? Try again later."
        )

    def _seal(self, hello: messages.Hello) -> bytes:
        try:
            codec.HELLO.unpack(codec.pack(hello))
        except MalformedError:
            raise UsageError(
                "A name has 1 to 64 characters, a password 1 to 256.", "Choose others and try again."
            ) from None
        topic = topics.session_up(self.link.session)
        # Our clock may be a little behind: the slot that begins now is as good as the one that ends.
        key = newest_key(self.card.hello_keys, self.clock())
        return frames.seal_hello(key, self.market, topic, hello)

    def _try_open(
        self, frame: bytes, secret: bytes, ephemeral: sealing.XWingPrivateKey, answer: bytes
    ) -> tuple[messages.HelloAnswer, frames.SessionKeys] | None:
        topic = topics.session_down(self.link.session)
        try:
            return frames.open_welcome(frame, secret, ephemeral, topic, answer)
        except WireError:
            return None

    def _welcomed(
        self, answer: messages.HelloAnswer, keys: frames.SessionKeys, scope: messages.Scope
    ) -> tuple[KeptSession, frames.SessionKeys]:
        if isinstance(answer, messages.HelloRefused):
            raise HelloRefusedError(answer)
        if answer.scope != scope or answer.session != self.link.session:
            raise UntrustedError("The broker opened another session than the one asked for.")
        now = self.clock()
        kept = KeptSession(
            session=answer.session,
            keys=keys.to_bytes(),
            offset=answer.clock - now,
            expires=answer.expires,
            idle_ms=answer.idle_ms,
            last_used=now,
        )
        return kept, keys


# --- Sessions in the profile ---------------------------------------------------------------------------


def keep(tx: Tx, table: sa.Table, place: str, kept: KeptSession) -> None:
    """Store a session at its place, instead of the one that was there."""
    forget(tx, table, place)
    tx.execute(
        sa.insert(table),
        {
            "place": place,
            "session": kept.session,
            "keys": kept.keys,
            "offset": kept.offset,
            "expires": kept.expires,
            "idle_ms": kept.idle_ms,
            "last_used": kept.last_used,
        },
    )


def find(tx: Tx, table: sa.Table, place: str, now: int) -> KeptSession | None:
    """Give the session at a place if it can still be used; one that cannot is erased."""
    row = tx.one(sa.select(table).where(table.c.place == place))
    if row is None:
        return None
    fields: dict[str, Any] = {name: row[name] for name in KeptSession.__dataclass_fields__}
    kept = KeptSession(**fields)
    if not kept.usable(now):
        forget(tx, table, place)
        return None
    return kept


def touch(tx: Tx, table: sa.Table, session: bytes, now: int) -> None:
    """Note that a session was used at `now`."""
    tx.execute(sa.update(table).where(table.c.session == session).values(last_used=now))


def forget(tx: Tx, table: sa.Table, place: str) -> None:
    """Erase a session."""
    tx.execute(sa.delete(table).where(table.c.place == place))


def places(tx: Tx, table: sa.Table) -> Sequence[str]:
    """List the places that have a session."""
    return [row["place"] for row in tx.all(sa.select(table.c.place))]
