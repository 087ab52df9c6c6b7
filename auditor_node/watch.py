"""Public events as they happen: CloudEvents 1.0 (JSON format) on `veilmart/v1/audit/event/<type>`.

Rule 1. A payload is one event, or an array of several (CloudEvents JSON format, section 4, batch).

Rule 2. What is no event of this market, or stands under another type's topic, is counted and left out.
A bus that may deliver twice (QoS 1) does not make two events of one: each has an id.

Rule 3. Whoever watches is told of what happens from then on. Nothing is kept for the absent; the broker's
store has every event.

    for seen in watch(MarketFile.load(Path("market.json"))):
        print(seen.event["type"], seen.event["data"])
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, Protocol, TypeAlias

import msgspec
from msgspec import Meta

from common import bus, topics
from common.errors import MalformedError, UsageError
from common.market_file import MarketFile
from common.public import public_connection

TYPE_PREFIX: Final = "veilmart."
ALL_EVENTS: Final = f"{topics.PREFIX}/audit/event/#"
REMEMBERED: Final = 65536
MAXIMUM_CHECKPOINT: Final = 16 * 1024
POLL_S: Final = 0.5

_Text: TypeAlias = Annotated[str, Meta(min_length=1, max_length=256)]


class CloudEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event with the attributes that this market sets; `data` depends on the type."""

    specversion: Literal["1.0"]
    id: _Text
    source: _Text
    type: _Text
    time: _Text
    datacontenttype: Literal["application/json"]
    data: dict[str, Any]


_PAYLOAD: Final = msgspec.json.Decoder(CloudEvent | list[CloudEvent])


@dataclass(frozen=True)
class Checkpoint:
    """The retained checkpoint of the event log: a signed note (C2SP), not verified here."""

    text: str


Seen: TypeAlias = CloudEvent | Checkpoint


class Listening(Protocol):
    """What is needed of `common.bus.Connection`."""

    def open(self, timeout_s: float = ...) -> None:
        """Connect. Raises `BusUnreachableError`."""

    def wait(self, timeout_s: float) -> None:
        """Wait for something to arrive."""

    def take(self, limit: int) -> list[bus.Delivery]:
        """Give what has arrived."""

    def acknowledge(self, deliveries: list[bus.Delivery]) -> None:
        """Acknowledge."""

    def close(self) -> None:
        """Disconnect."""


Connect: TypeAlias = Callable[[MarketFile, Sequence[str]], Listening]


@dataclass
class Reader:
    """Turns deliveries into events. `refused` counts what was left out."""

    market: MarketFile
    refused: int = 0
    _ids: OrderedDict[str, None] = field(default_factory=OrderedDict)
    _source: str = field(init=False)

    def __post_init__(self) -> None:
        self._source = f"urn:veilmart:market:{self.market.market_id.hex()}"

    def read(self, topic: str, payload: bytes) -> list[Seen]:
        """Give what is new in one payload."""
        try:
            match topics.parse(topic):
                case topics.AuditCheckpoint():
                    return [_checkpoint(payload)]
                case topics.AuditEvent(event_type=kind):
                    return [event for event in self._events(kind, payload) if self._is_new(event)]
        except MalformedError:
            pass
        self.refused += 1
        return []

    def _events(self, kind: str, payload: bytes) -> list[CloudEvent]:
        try:
            decoded = _PAYLOAD.decode(payload)
        except msgspec.MsgspecError as error:
            raise MalformedError("not a CloudEvent") from error
        events = decoded if isinstance(decoded, list) else [decoded]
        if any(event.source != self._source or event.type != TYPE_PREFIX + kind for event in events):
            raise MalformedError("another market's or another type's event")
        return events

    def _is_new(self, event: CloudEvent) -> bool:
        if event.id in self._ids:
            return False
        self._ids[event.id] = None
        if len(self._ids) > REMEMBERED:
            self._ids.popitem(last=False)
        return True


def subscriptions(types: Iterable[str]) -> tuple[str, ...]:
    """Give the topics for these types of event, with or without `veilmart.` in front; for none, everything.

    Raises `UsageError`.
    """
    wanted = []
    for kind in types:
        try:
            wanted.append(topics.audit_event(kind.removeprefix(TYPE_PREFIX)))
        except MalformedError as error:
            raise UsageError(f"{kind!r} is not a type of event: {error}") from error
    return tuple(wanted) or (ALL_EVENTS, topics.audit_checkpoint())


def watch(
    market: MarketFile,
    *,
    types: Iterable[str] = (),
    timeout_s: float | None = None,
    connect: Connect = public_connection,
    on_ready: Callable[[], None] = lambda: None,
) -> Generator[Seen, None, None]:
    """Give events as they come, for `timeout_s` seconds or without end.

    `on_ready` is called once everything from then on will be seen. A connection that breaks comes back by
    itself; what happened meanwhile is not seen. Raises `BusUnreachableError` where there is no first
    connection, `UsageError` for a type that cannot be.
    """
    reader = Reader(market)
    connection = connect(market, subscriptions(types))
    try:
        connection.open()
        on_ready()
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while end is None or time.monotonic() < end:
            connection.wait(POLL_S if end is None else max(0.0, min(POLL_S, end - time.monotonic())))
            deliveries = connection.take(bus.RECEIVE_MAXIMUM)
            connection.acknowledge(deliveries)
            for delivery in deliveries:
                yield from reader.read(delivery.topic, delivery.payload)
    finally:
        connection.close()


def _checkpoint(payload: bytes) -> Checkpoint:
    if not payload or len(payload) > MAXIMUM_CHECKPOINT:
        raise MalformedError("not a checkpoint")
    try:
        return Checkpoint(payload.decode())
    except UnicodeDecodeError as error:
        raise MalformedError("not a checkpoint") from error
