"""Opening a session.

    customer  -- Hello (secret, ephemeral key, credential) -->  broker
    customer  <-- Welcome (scope, clock, expiry) -------------  broker

Rule 1. Until it is answered, a `Hello` is repeated byte for byte; a session id gets one `Hello` only.

Rule 2. How long a session lasts and what time it is are the broker's to say within bounds: a session that
never ended would link all visits, and a clock far off would call up keys that nobody else uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from common import codec, config, frames, messages, sealing, topics
from common.clock import Random
from common.errors import (
    AuthenticationError,
    BrokerUnreachableError,
    MalformedError,
    UntrustedError,
    UsageError,
    VeilmartError,
    WireError,
)
from customer_node import key_slots
from customer_node.connection import POLL_MS, Link
from customer_node.kept import KeptSession
from customer_node.refusals import refusal_error
from customer_node.sessions import REPEAT_FIRST_MS, REPEAT_LONGEST_MS
from customer_node.timing import Clock, Countdown, Repeater

LONGEST_MS: Final = config.DAY_MS
LONGEST_IDLE_MS: Final = config.HOUR_MS


class HelloRefusedError(Exception):
    """The broker opened no session. `retry_after_ms` is 0 where trying again is no use."""

    def __init__(self, refused: messages.HelloRefused) -> None:
        super().__init__(refused.code)
        self.code = refused.code
        self.retry_after_ms = refused.retry_after_ms

    def wait(self, link: Link, clock: Clock, countdown: Countdown) -> None:
        """Wait as long as a busy broker asks for; raises `explained` where there is not that much time."""
        pause_ms = max(self.retry_after_ms, POLL_MS)
        if self.code != "busy" or pause_ms > countdown.left_ms:
            raise self.explained(clock) from None
        pause = Countdown(clock, pause_ms)
        while not pause.over:
            link.pump(pause.slice_s(POLL_MS))

    def explained(self, clock: Clock) -> VeilmartError:
        """Give the error that a person reads."""
        if self.code == "authentication" and self.retry_after_ms:
            seconds = -(-self.retry_after_ms // 1000)
            return AuthenticationError(
                "The name, the password or the code is wrong.",
                f"The broker takes the next try in {seconds} s.",
                retry_at=clock() + self.retry_after_ms,
            )
        if self.code in {"byte_budget", "session_over"}:
            return BrokerUnreachableError("The broker opens no session.", "Try again later.")
        return refusal_error(self.code)


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
        key = key_slots.key_for("hello", self.card.hello_keys, self.clock())
        if key is None:
            raise UntrustedError("The broker shows no key for today.", "Check this machine's clock.")
        return frames.seal_hello(key, self.market, topic, hello)

    def _try_open(
        self, frame: bytes, secret: bytes, ephemeral: sealing.XWingPrivateKey, answer: bytes
    ) -> tuple[messages.HelloAnswer, frames.SessionKeys] | None:
        topic = topics.session_down(self.link.session)
        try:
            return frames.open_welcome(frame, secret, ephemeral, topic, answer)
        except WireError as error:
            self.link.dropped[error.reason] += 1
            return None

    def _welcomed(
        self, answer: messages.HelloAnswer, keys: frames.SessionKeys, scope: messages.Scope
    ) -> tuple[KeptSession, frames.SessionKeys]:
        if isinstance(answer, messages.HelloRefused):
            raise HelloRefusedError(answer)
        if answer.scope != scope or answer.session != self.link.session:
            raise UntrustedError("The broker opened another session than the one asked for.")
        now = self.clock()
        if abs(answer.clock - now) > key_slots.CLOCKS_APART_MS:
            raise UntrustedError(
                "The broker's clock is more than a day away from this machine's.",
                "Check this machine's clock.",
            )
        kept = KeptSession(
            session=answer.session,
            keys=keys.to_bytes(),
            offset=answer.clock - now,
            expires=min(answer.expires, answer.clock + LONGEST_MS),
            idle_ms=min(answer.idle_ms or LONGEST_IDLE_MS, LONGEST_IDLE_MS),
            last_used=now,
        )
        return kept, keys
