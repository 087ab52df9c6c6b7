"""An open session with the broker: sending, receiving, asking until there is an answer.

Rule 1. Times are on the broker's clock: `Welcome.clock`, and the time that has passed here since.
Rule 2. What the broker sends and what does not open, is stale or was seen before, is counted and dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, TypeVar

from common import codec, config, frames, grouping, messages, topics
from common.clock import Random
from common.errors import (
    DeadlineError,
    VeilmartError,
    WireError,
)
from common.references import reference_of
from customer_node.connection import POLL_MS, Link
from customer_node.kept import KeptSession
from customer_node.refusals import SessionOverError, answer_error
from customer_node.timing import Clock, Countdown, Repeater

FRESHNESS_MS: Final = config.Limits().freshness_ms
REPEAT_FIRST_MS: Final = 3 * config.SECOND_MS
REPEAT_LONGEST_MS: Final = 20 * config.SECOND_MS

Down = TypeVar("Down", messages.ToAccount, messages.ToShop)
Answer = TypeVar("Answer", bound=messages.Message)


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
        self.dropped = link.dropped
        self._keys = frames.SessionKeys.from_bytes(kept.keys)
        self._decoder: codec.Codec[list[messages.Envelope[Down]]] = decoder
        self._clock = clock
        self._random = random

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
        """Give what has come, after waiting for it at most that long. Raises `SessionOverError`.

        Cells wait on the link until they are taken (`take_cells`): whatever asks meanwhile loses none.
        """
        self.link.pump(timeout_s)
        bodies: list[Down] = []
        while self.link.inbox:
            bodies += self._open(self.link.inbox.popleft())
        for body in bodies:
            if isinstance(body, messages.SessionEnded):
                raise SessionOverError(body.code)
            if isinstance(body, messages.MerchantCells):
                self.link.cells.append(body)
        return [body for body in bodies if not isinstance(body, messages.MerchantCells)]

    def take_cells(self) -> list[messages.MerchantCells]:
        """Give the cells that have come."""
        cells = list(self.link.cells)
        self.link.cells.clear()
        return cells

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
                self.link.seen.check(envelope.id, envelope.at, self.now)
            except WireError as error:
                self.dropped[error.reason] += 1
                continue
            self.link.seen.add([envelope.id], self.now)
            bodies.append(envelope.body)
        return bodies

    def ask(
        self,
        question: messages.Message,
        kind: type[Answer],
        timeout_ms: int,
        until: Callable[[Answer], bool] = lambda _: True,
    ) -> Answer:
        """Send a question, again and again until its answer comes, and give that; one that `until` accepts.

        Raises what `refusal_error` says for a refusal, `DeadlineError` or `BrokerUnreachableError` for
        silence, `SessionOverError`.
        """
        wanted = reference_of(question)
        countdown = Countdown(self._clock, timeout_ms)
        repeater = Repeater(self._clock, REPEAT_FIRST_MS, REPEAT_LONGEST_MS)
        while not countdown.over:
            if repeater.due():
                self.post(question)
            for body in self.receive(countdown.slice_s(POLL_MS)):
                if reference_of(body) != wanted:
                    continue
                if isinstance(body, kind) and until(body):
                    return body
                error = answer_error(body)
                if error is not None:
                    raise error
        raise self.silence()

    def broker_answers(self, timeout_ms: int) -> bool:
        """Tell whose silence it is: ask the broker about an order that there is not, which it refuses."""
        probe = messages.AskOrder(order_id=self._random(16), status_secret=self._random(32))
        countdown = Countdown(self._clock, timeout_ms)
        self.post(probe)
        while not countdown.over:
            if any(reference_of(body) == probe.order_id for body in self.receive(countdown.slice_s(POLL_MS))):
                return True
        return False

    def silence(self) -> VeilmartError:
        """Give the error for a broker that does not answer in time."""
        return self.link.silence() or DeadlineError(
            "The broker did not answer in time.", "Try again, or allow more time (`--timeout`).", hop="broker"
        )
