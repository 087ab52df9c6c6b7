"""One bus connection: the frames of one session, and the public cards that came with it.

Rule 1. A connection belongs to one session: its MQTT client id is the session's id. It is anonymous, has
its own TCP and TLS connection, and leaves nothing behind at the server.

Rule 2. `Uplink` keeps one connection open at most, so those of an account and of a shop session never
overlap.

Rule 3. Cards are read from the retained deliveries of this very connection; whoever shops subscribes to
every merchant's, never to one's.
"""

from __future__ import annotations

import ssl
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, TypeAlias

from common import bus, grouping, messages, topics
from common.config import Limits
from common.errors import BrokerUnreachableError, BusUnreachableError, MalformedError
from common.presence import State, read_presence
from customer_node.pace import LARGEST_WINDOW, WINDOWS_UNDER_WAY
from customer_node.profile import CA_FILE, Profile
from customer_node.timing import Clock, Countdown

Audience: TypeAlias = Literal["account", "shop", "spent"]
"""Whose connection it is; `spent` is nobody's: it reads the public spent set."""

POLL_MS: Final = 250
SETTLE_ROUNDS: Final = 4
SETTLE_MS: Final = 50
SETTLE_LONGEST_MS: Final = 10_000
TAKE: Final = 256
MOST_CELL_FRAMES: Final = WINDOWS_UNDER_WAY * LARGEST_WINDOW
"""Frames that are kept for the delivery that asked for them, while something else is done in its session: a
merchant may send each of their cells in a frame of its own."""

_PUBLIC: Final[dict[Audience, tuple[str, ...]]] = {
    "account": (topics.broker_card(), topics.broker_status()),
    "shop": (
        topics.broker_card(),
        topics.broker_status(),
        topics.ALL_MERCHANT_CARDS,
        topics.ALL_MERCHANT_STATUSES,
    ),
    "spent": (topics.broker_card(), topics.broker_status(), topics.ALL_SPENT),
}


class BusConnection(Protocol):
    """What this package needs of `common.bus.Connection`."""

    @property
    def ready(self) -> bool:
        """Connected and subscribed."""

    def open(self, timeout_s: float = ...) -> None:
        """Connect. Raises `BusUnreachableError`."""

    def put(self, topic: str, payload: bytes, *, retain: bool = ..., expiry_ms: int | None = ...) -> bool:
        """Queue a publish; False while disconnected."""

    def take(self, limit: int) -> list[bus.Delivery]:
        """Give what has arrived."""

    def acknowledge(self, deliveries: list[bus.Delivery]) -> None:
        """Acknowledge deliveries."""

    def flush(self) -> None:
        """Write what is queued."""

    def wait(self, timeout_s: float) -> None:
        """Wait for something to arrive."""

    def close(self) -> None:
        """Disconnect."""


Connect: TypeAlias = Callable[[bus.Settings], BusConnection]


@dataclass
class Link:
    """A connection, its session's id, and what came in: session frames and the latest public payloads."""

    session: bytes
    connection: BusConnection = field(repr=False)
    board: dict[str, bytes] = field(default_factory=dict, repr=False)
    inbox: deque[bytes] = field(default_factory=deque, repr=False)
    cells: deque[messages.MerchantCells] = field(
        default_factory=lambda: deque(maxlen=MOST_CELL_FRAMES), repr=False
    )
    verified: dict[str, tuple[bytes, Any]] = field(default_factory=dict, repr=False)
    """What was read off a card and the payload it was read from; it ends with the connection."""
    seen: grouping.SeenIds = field(
        default_factory=lambda: grouping.SeenIds(Limits().freshness_ms), repr=False
    )
    """The replay filter: as old as the connection, since many an action is done in one session."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Frames and messages of the broker's that were not accepted, by reason."""
    _quiet_rounds: int = field(default=0, repr=False)

    def pump(self, timeout_s: float) -> bool:
        """Wait for traffic, sort it, and tell whether there was any."""
        if not self.inbox:
            self.connection.wait(timeout_s)
        deliveries = self.connection.take(TAKE)
        down = topics.session_down(self.session)
        for delivery in deliveries:
            if delivery.topic == down:
                self.inbox.append(delivery.payload)
            else:
                self.board[delivery.topic] = delivery.payload
        # They leave with what is sent next, or else with the next wait.
        self.connection.acknowledge(deliveries)
        return bool(deliveries)

    def send(self, frame: bytes, expiry_ms: int = Limits().freshness_ms) -> None:
        """Publish a frame of this session; while disconnected it is lost, and repeated by whoever sent it."""
        self.connection.put(topics.session_up(self.session), frame, expiry_ms=expiry_ms)
        self.connection.flush()

    def settle(self, clock: Clock, wanted: str | None = None) -> None:
        """Wait until the retained messages are in, or the one on the topic `wanted` is.

        They are in when a few rounds in a row brought nothing; that is waited for once in a connection,
        and not for ever where a bus never falls silent.
        """
        countdown = Countdown(clock, SETTLE_LONGEST_MS)
        self.pump(0)
        while self._quiet_rounds < SETTLE_ROUNDS and not (wanted and self.board.get(wanted)):
            if countdown.over:
                return
            self._quiet_rounds = 0 if self.pump(SETTLE_MS / 1000) else self._quiet_rounds + 1

    def wait_for(self, topic: str, clock: Clock, timeout_ms: int) -> bytes | None:
        """Give the latest payload of a public topic, or None if none comes."""
        countdown = Countdown(clock, timeout_ms)
        while not self.board.get(topic) and not countdown.over:
            self.pump(countdown.slice_s(POLL_MS))
        return self.board.get(topic) or None

    @property
    def broker_offline(self) -> bool:
        """Whether the broker's presence says that it is away."""
        return _presence(self.board.get(topics.broker_status())) == "offline"

    def merchant_online(self, merchant: str) -> bool | None:
        """Whether the merchant is there, as its presence says; None where it has none."""
        state = _presence(self.board.get(topics.merchant_status(merchant)))
        return None if state is None else state == "online"

    def silence(self) -> BrokerUnreachableError | BusUnreachableError | None:
        """Give the error that explains why nothing comes, where the bus knows it."""
        if not self.connection.ready:
            return BusUnreachableError("The connection to the bus was lost.", "Try again in a moment.")
        if self.broker_offline:
            return BrokerUnreachableError("The broker is away.", "Try again later.")
        return None


def _presence(payload: bytes | None) -> State | None:
    try:
        return read_presence(payload).state if payload else None
    except MalformedError:
        return None


class Uplink:
    """Opens connections, one at a time."""

    def __init__(self, profile: Profile, connect: Connect, proxy: str | None, timeout_s: float) -> None:
        self._profile = profile
        self._connect = connect
        self._proxy = proxy
        self._timeout_s = timeout_s
        self._tls: ssl.SSLContext | None = None
        self._open: tuple[Audience, Link] | None = None

    def current(self, audience: Audience) -> Link | None:
        """Give the open connection, if there is one for this audience."""
        return self._open[1] if self._open and self._open[0] == audience else None

    def link(self, session: bytes, audience: Audience) -> Link:
        """Give the connection of a session: the open one, or a new one after closing that of another.

        Raises `BusUnreachableError`.
        """
        present = self.current(audience)
        if present is not None and present.session == session:
            # What came meanwhile counts: a card, a presence, the connection's end.
            present.pump(0)
            if present.connection.ready:
                return present
        self.close()
        connection = self._connect(self._settings(session, audience))
        try:
            connection.open(min(self._timeout_s, bus.CONNECT_TIMEOUT_S))
        except BaseException:
            connection.close()
            raise
        link = Link(session, connection)
        self._open = (audience, link)
        return link

    def _settings(self, session: bytes, audience: Audience) -> bus.Settings:
        public = self._profile.market.public
        if self._tls is None:
            self._tls = bus.TlsFiles(self._profile.home / CA_FILE).context()
        return bus.Settings(
            address=bus.Address(public.host, public.port, self._tls, self._proxy),
            client_id=session.hex(),
            subscriptions=[topics.session_down(session), *_PUBLIC[audience]],
        )

    def close(self) -> None:
        """Close the open connection, if there is one."""
        if self._open is not None:
            link, self._open = self._open[1], None
            link.connection.close()
