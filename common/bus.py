"""The edge to the bus: connections that come back by themselves, and the wait over all of them.

Rule 1. One `mqtt.Client` per connection, numbered by an epoch. An acknowledgement carries the epoch of its
delivery: a late one from an old connection would acknowledge somebody else's message.

Rule 2. Nothing is sent while disconnected: what must not be lost is a row in a store and is taken up
again from there. What was under way when a connection broke is forgotten with its client.

Rule 3. Deliveries are acknowledged by the caller, after its commit, in the order of their arrival.

Rule 4. A publish that the server refuses (PUBACK with a failure) is counted, never taken for sent.

No thread runs here: `wait` selects over all connections of a process, each then reads and writes what is
there.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from common import config
from common.bus_settings import Address, Settings, TlsFiles, Will
from common.mqtt import CONNECT_TIMEOUT_S, RECEIVE_MAXIMUM, Client, ConnectionLostError

__all__ = [
    "CONNECT_TIMEOUT_S",
    "RECEIVE_MAXIMUM",
    "Address",
    "Connection",
    "Delivery",
    "Settings",
    "TlsFiles",
    "Will",
    "wait",
]

CONTENT_TYPE: Final = "application/vnd.veilmart.v1"
RECONNECT_SHORTEST_S: Final = 0.1
RECONNECT_LONGEST_S: Final = 5.0
FAREWELL_S: Final = 1.0


@dataclass(frozen=True)
class Delivery:
    """One message as it arrived, and what its acknowledgement needs."""

    topic: str
    payload: bytes
    retained: bool
    epoch: int
    packet_id: int
    qos: int


class Connection:
    """A connection that comes back by itself, with growing delays, until `close`. One loop owns it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.epoch = 0
        self.rejected: Counter[str] = Counter()
        """Publishes that the server refused, by reason."""
        self._client: Client | None = None
        self.failure = ""
        """Why there is no connection, as far as an attempt has said; it names no client and no topic."""
        self._ready = False
        self._refusal = ""
        self._inbox: list[Delivery] = []
        self._delay = RECONNECT_SHORTEST_S
        self._next_attempt = 0.0

    # --- life ------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Connected and subscribed."""
        return self._ready

    def open(self, timeout_s: float = CONNECT_TIMEOUT_S) -> None:
        """Connect and wait until subscribed. Raises `BusUnreachableError`."""
        deadline = time.monotonic() + timeout_s
        while not self._ready:
            self._connect_when_due()
            if time.monotonic() > deadline:
                raise self.settings.address.unreachable(self.failure)
            wait([self], 0.05)

    def close(self) -> None:
        """Send what is queued, say DISCONNECT and drop the connection, once the server has closed it.

        A socket that is closed with something unread resets the connection, and a server that hears of it
        may not read on: what was sent last would be lost, and the last will published.
        """
        client, self._client, self._ready = self._client, None, False
        if client is None:
            return
        with contextlib.suppress(OSError, ValueError, ConnectionLostError):
            client.disconnect()
            opened: Any = client.socket()
            deadline = time.monotonic() + FAREWELL_S
            while client.want_write() and (left := deadline - time.monotonic()) > 0:
                select.select([], [opened], [], left)
                client.write()
            while opened is not None and (left := deadline - time.monotonic()) > 0:
                select.select([opened], [], [], left)
                client.read(RECEIVE_MAXIMUM)
        # What came meanwhile may have told of a connection that can be used.
        self._ready = False
        with contextlib.suppress(OSError):
            client.drop()

    def abandon(self) -> None:
        """Drop the connection without DISCONNECT, as a crash would: the last will is published."""
        client, self._client, self._ready = self._client, None, False
        if client is not None:
            with contextlib.suppress(OSError):
                client.drop()

    def _connect_when_due(self) -> None:
        if self._client is not None or time.monotonic() < self._next_attempt:
            return
        self.epoch += 1
        self._inbox.clear()
        self._refusal = ""
        self._client = Client(self.settings, self)
        self._next_attempt = time.monotonic() + self._delay
        self._delay = min(self._delay * 2, RECONNECT_LONGEST_S)
        try:
            self._client.open()
        except (OSError, ssl.SSLError, ValueError) as error:
            self._lost(_reason(error))

    def _lost(self, reason: str) -> None:
        self.failure = reason
        self.abandon()

    def wait(self, timeout_s: float) -> None:
        """Read and write what is there, after waiting for it at most that long."""
        wait([self], timeout_s)

    # --- what the client tells -------------------------------------------------------------------------

    def delivered(self, topic: bytes, payload: bytes, packet_id: int, qos: int, *, retained: bool) -> None:
        """Take a message."""
        # A topic that is not UTF-8 becomes one that nobody knows.
        known = topic.decode(errors="replace")
        self._inbox.append(Delivery(known, payload, retained, self.epoch, packet_id, qos))

    def subscribed(self) -> None:
        """Begin: connected and subscribed."""
        self._ready = True
        self.failure = ""
        self._delay = RECONNECT_SHORTEST_S

    def failed(self, reason: str) -> None:
        """Remember why the server does not let us in: it says more than the end that follows."""
        self._refusal = self.failure = reason

    def refused(self, reason: str) -> None:
        """Count a publish that the server refused."""
        self.rejected[reason] += 1

    # --- traffic ---------------------------------------------------------------------------------------

    @property
    def under_way(self) -> int:
        """Publishes that the server has not acknowledged yet."""
        return self._client.under_way if self._client is not None else 0

    def put(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        expiry_ms: int | None = None,
        content_type: str = CONTENT_TYPE,
    ) -> bool:
        """Queue a publish; `flush` sends it. Tells whether there was a connection to queue it on."""
        if len(payload) > config.MAXIMUM_FRAME:
            raise ValueError("a payload over the frame limit would disconnect us again and again")
        if self._client is None or not self._ready:
            return False
        expiry_s = None if expiry_ms is None else max(1, expiry_ms // 1000)
        self._client.put(topic, payload, retain=retain, content_type=content_type, expiry_s=expiry_s)
        return True

    def acknowledge(self, deliveries: Iterable[Delivery]) -> None:
        """Acknowledge after the commit; deliveries of an earlier connection are skipped."""
        if self._client is not None:
            self._client.acknowledge(
                [each.packet_id for each in deliveries if each.epoch == self.epoch and each.qos]
            )

    def flush(self) -> None:
        """Write as much as the socket takes."""
        if self._client is not None and self._client.want_write():
            self._pump(readable=False, writable=True)

    def take(self, limit: int) -> list[Delivery]:
        """Give up to `limit` deliveries that have arrived."""
        taken, self._inbox = self._inbox[:limit], self._inbox[limit:]
        return taken

    def _pump(self, *, readable: bool, writable: bool) -> None:
        client = self._client
        if client is None:
            return
        try:
            if readable:
                client.read(RECEIVE_MAXIMUM - len(self._inbox))
            if writable:
                client.write()
            client.look_after()
        except ConnectionLostError as error:
            self._lost(self._refusal or _reason(error))


def wait(connections: Sequence[Connection], timeout_s: float, *others: socket.socket) -> None:
    """Reconnect what is due, wait until something can be read or written, and read and write it.

    `others` are sockets whose readiness ends the wait (a job that finished, a signal).
    """
    for connection in connections:
        connection._connect_when_due()  # noqa: SLF001 - the loop over connections is part of this class
    clients = [(c, c._client) for c in connections if c._client is not None]  # noqa: SLF001
    sockets: dict[Any, tuple[Connection, Client]] = {}
    for connection, client in clients:
        opened = client.socket()
        if opened is not None:
            sockets[opened] = (connection, client)
    buffered = any(_pending(client) for _, client in clients)
    waiting = any(connection._inbox for connection in connections)  # noqa: SLF001
    writers = [opened for opened, (_, client) in sockets.items() if client.want_write()]
    timeout = 0.0 if buffered or waiting else min(timeout_s, _until_attempt(connections))
    readable, writable, _ = select.select([*sockets, *others], writers, [], timeout)
    for opened, (connection, client) in sockets.items():
        connection._pump(  # noqa: SLF001
            readable=opened in readable or _pending(client),
            writable=opened in writable,
        )


def _reason(error: Exception) -> str:
    cause = error.__cause__ or error
    said = (cause.reason or "") if isinstance(cause, ssl.SSLError) else ""
    # An alert is what the other side says, and only our certificate makes it speak of one (RFC 8446, 6.2).
    if "ALERT" in said and ("CERTIFICATE" in said or "UNKNOWN_CA" in said):
        return f"the bus does not take our certificate, which may be revoked or have expired ({said})"
    return str(error) or type(error).__name__


def _until_attempt(connections: Sequence[Connection]) -> float:
    waiting = [c._next_attempt for c in connections if c._client is None]  # noqa: SLF001
    return max(0.0, min(waiting) - time.monotonic()) if waiting else 60.0


def _pending(client: Client) -> bool:
    opened: Any = client.socket()
    return isinstance(opened, ssl.SSLSocket) and opened.pending() > 0
