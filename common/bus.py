"""The edge to MQTT 5: the only file that imports paho.

Rule 1. One paho `Client` object per connection, numbered by an epoch. An acknowledgement carries the
epoch of its delivery: a late one from an old connection would acknowledge somebody else's message.

Rule 2. Nothing is sent while disconnected: what must not be lost is a row in a store and is taken up
again from there. What was under way when a connection broke is forgotten with its client.

Rule 3. Deliveries are acknowledged by the caller, after its commit, in the order of their arrival.

Rule 4. A publish that the server refuses (PUBACK with a failure) is counted, never taken for sent.

No thread of paho's runs: `wait` selects over all connections of a process, each then reads and writes
what is there. A `Connection` comes back by itself, with growing delays, until `close`.
"""

from __future__ import annotations

import contextlib
import hashlib
import select
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.exception import MalformedPacket
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from common import config
from common.errors import BusUnreachableError, UsageError

CONTENT_TYPE: Final = "application/vnd.veilmart.v1"
MAXIMUM_PACKET: Final = config.MAXIMUM_FRAME + 4 * config.KIB
RECEIVE_MAXIMUM: Final = 1024
SESSION_EXPIRY_S: Final = 24 * 3600
RECONNECT_LONGEST_S: Final = 5.0
CONNECT_TIMEOUT_S: Final = 5.0
FIXED_HEADER_LONGEST: Final = 5
PLAIN_PUBACK: Final = 2
"""A PUBACK of two bytes, its packet id, is plain success (MQTT 5.0, §3.4.2.1)."""
BULK_READ: Final = 256 * config.KIB
BULK_WRITE: Final = 160 * config.KIB


Receiver: TypeAlias = Callable[[bytes, bytes, bool, int, int], None]
"""Gets topic, payload, retained, packet id and QoS of a delivery."""


@dataclass(frozen=True)
class Will:
    """What the server publishes, retained, when the connection breaks."""

    topic: str
    payload: bytes


@dataclass(frozen=True)
class TlsFiles:
    """PEM files: the market's CA, and for nodes their own certificate and key."""

    ca: Path
    certificate: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """TLS 1.3, the market's CA alone, host names checked."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(self.ca)
        if self.certificate is not None:
            context.load_cert_chain(self.certificate, self.key)
        return context


@dataclass(frozen=True)
class Address:
    """Where Mosquitto listens. `proxy` is `socks5://host:port`; each client id has credentials of its own."""

    host: str
    port: int
    tls: ssl.SSLContext | None = field(repr=False)
    proxy: str | None = None


@dataclass(frozen=True)
class Delivery:
    """One message as it arrived, and what its acknowledgement needs."""

    topic: str
    payload: bytes
    retained: bool
    epoch: int
    packet_id: int
    qos: int


@dataclass(frozen=True)
class Settings:
    """One connection's identity. A durable one keeps its queue at the server while it is away."""

    address: Address
    client_id: str = field(repr=False)
    subscriptions: Sequence[str]
    live_subscriptions: Sequence[str] = ()
    """Filters whose retained messages are not wanted: anybody may leave one on a topic of his own."""
    durable: bool = False
    will: Will | None = None
    greeting: Sequence[tuple[str, bytes]] = ()
    """Retained publishes made on every connection, before anything else: presence."""


class _PublishProperties(Properties):
    """The properties of a publish, packed once: paho packs them again for each."""

    def __init__(self, content_type: str, expiry_s: int | None) -> None:
        super().__init__(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho leaves it untyped
        self.ContentType = content_type
        if expiry_s is not None:
            self.MessageExpiryInterval = expiry_s
        # paho's own `__setattr__` takes no other names than MQTT's.
        object.__setattr__(self, "_packed", super().pack())  # type: ignore[no-untyped-call]  # as above

    def pack(self) -> bytes:
        return vars(self)["_packed"]  # type: ignore[no-any-return]  # put there above


_publish_properties = lru_cache(maxsize=64)(_PublishProperties)


class _Client(mqtt.Client):
    """paho's client, reading and writing in bulk: its own reads take single bytes off the socket."""

    def __init__(self, client_id: str, receiver: Receiver) -> None:
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=mqtt.MQTTv5,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        self._unread = b""
        self.receiver = receiver
        # With this callback set paho queues packets instead of writing each one at once.
        self.on_socket_register_write = lambda *_: None
        self.on_socket_unregister_write = lambda *_: None

    def _ssl_wrap_socket(self, tcp_sock: socket.socket) -> ssl.SSLSocket:
        # paho's own leaves the socket open when the handshake fails, as it does while Mosquitto restarts.
        context = self._ssl_context
        if context is None:
            raise ValueError("no TLS context")
        wrapped = context.wrap_socket(tcp_sock, server_hostname=self._host, do_handshake_on_connect=False)
        try:
            wrapped.settimeout(CONNECT_TIMEOUT_S)
            wrapped.do_handshake()
        except OSError:
            wrapped.close()
            raise
        return wrapped

    def read(self, room: int) -> MQTTErrorCode:
        """Take what the socket holds, in large pieces, until about `room` deliveries have come of it."""
        while room > 0:
            try:
                data = self._sock_recv(BULK_READ)
            except BlockingIOError:
                return MQTTErrorCode.MQTT_ERR_SUCCESS
            except OSError:
                return MQTTErrorCode.MQTT_ERR_CONN_LOST
            if not data:
                return MQTTErrorCode.MQTT_ERR_CONN_LOST
            self._last_bytes_received = time.monotonic()
            self._unread = self._unread + data if self._unread else data
            handled, code = self._handle_packets()
            if code != MQTTErrorCode.MQTT_ERR_SUCCESS or self._sock is None:
                return code
            if len(data) < BULK_READ and not isinstance(self._sock, ssl.SSLSocket):
                return code
            room -= handled
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _handle_packets(self) -> tuple[int, MQTTErrorCode]:
        """Handle every whole packet; tells how many there were."""
        view, place, handled = memoryview(self._unread), 0, 0
        code = MQTTErrorCode.MQTT_ERR_SUCCESS
        while code == MQTTErrorCode.MQTT_ERR_SUCCESS and place + 2 <= len(view):
            length, start = _variable_length(view, place + 1)
            if start == 0:
                if len(view) - place > FIXED_HEADER_LONGEST:
                    return handled, MQTTErrorCode.MQTT_ERR_PROTOCOL
                break
            if length > MAXIMUM_PACKET:
                return handled, MQTTErrorCode.MQTT_ERR_PROTOCOL
            if start + length > len(view):
                break
            command, packet = view[place], view[start : start + length]
            place, handled = start + length, handled + 1
            code = self._handle_packet(command, packet)
        self._unread = bytes(view[place:])
        return handled, code

    def _handle_packet(self, command: int, packet: memoryview) -> MQTTErrorCode:
        if command & 0xF0 == mqtt.PUBLISH:
            return self._deliver(command, packet)
        if command == mqtt.PUBACK and len(packet) == PLAIN_PUBACK:
            packet_id = int.from_bytes(packet, "big")
            if packet_id in self._out_messages:
                return self._do_on_publish(packet_id, _SUCCESS, _NO_PROPERTIES)
        self._in_packet["command"], self._in_packet["packet"] = command, bytearray(packet)
        try:
            return self._packet_handle()
        except MalformedPacket:
            return MQTTErrorCode.MQTT_ERR_PROTOCOL

    def _packet_write(self) -> MQTTErrorCode:
        # What is queued leaves in few sends. Packets of QoS 1 (and acknowledgements, which paho counts as
        # such) need nothing done when they are written, so to paho several of them may be one long packet.
        runs: list[list[Any]] = []
        room = 0
        for packet in self._out_packet:
            size = packet["to_process"]
            if runs and size <= room and packet["qos"] == runs[-1][0]["qos"] == 1:
                runs[-1].append(packet)
                room -= size
            else:
                runs.append([packet])
                room = BULK_WRITE - size
        self._out_packet.clear()
        self._out_packet.extend(run[0] if len(run) == 1 else _one_packet(run) for run in runs)
        return super()._packet_write()

    def _deliver(self, command: int, packet: memoryview) -> MQTTErrorCode:
        # What paho does, but for the properties, which nobody here reads, and for five copies of the payload
        # on the way. MQTT 5.0, §3.3.2: topic, packet id (QoS 1), properties and their length, payload.
        qos = command >> 1 & 3
        if qos > 1:
            return MQTTErrorCode.MQTT_ERR_PROTOCOL  # nobody here subscribes with QoS 2
        topic_end = 2 + int.from_bytes(packet[:2], "big")
        length, start = _variable_length(packet, topic_end + 2 * qos)
        if start == 0 or start + length > len(packet):
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        packet_id = int.from_bytes(packet[topic_end : topic_end + 2], "big") if qos else 0
        payload = bytes(packet[start + length :])
        self.receiver(bytes(packet[2:topic_end]), payload, bool(command & 1), packet_id, qos)
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def allow_in_flight(self, count: int) -> None:
        """Set what the server's CONNACK allows; paho's own setter works before a connection only."""
        self._max_inflight_messages = count


def _one_packet(packets: Sequence[Any]) -> Any:
    first = packets[0]
    whole = b"".join([memoryview(first["packet"])[first["pos"] :], *(each["packet"] for each in packets[1:])])
    return {**first, "packet": whole, "pos": 0, "to_process": len(whole)}


_SUCCESS: Final = ReasonCode(PacketTypes.PUBACK)
_NO_PROPERTIES: Final = Properties(PacketTypes.PUBACK)  # type: ignore[no-untyped-call]  # paho leaves it untyped


def _variable_length(packet: memoryview, start: int) -> tuple[int, int]:
    """Read a variable byte integer (MQTT 5.0, §1.5.5); gives it and where it ends, 0 where it does not."""
    value = 0
    for place in range(start, min(start + 4, len(packet))):
        byte = packet[place]
        value |= (byte & 0x7F) << 7 * (place - start)
        if not byte & 0x80:
            return value, place + 1
    return 0, 0


class Connection:
    """A connection that comes back by itself. Not thread-safe: one loop owns it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.epoch = 0
        self.refused: Counter[str] = Counter()
        """Publishes that the server refused, by reason."""
        self._client: _Client | None = None
        self._ready = False
        self._failure = ""
        self._inbox: list[Delivery] = []
        self._unacknowledged = 0
        self._delay = 0.1
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
                raise self._unreachable()
            wait([self], 0.05)

    def _unreachable(self) -> BusUnreachableError:
        address = self.settings.address
        where = f"{address.host}:{address.port}"
        hint = "Start it with `veilmart bus run`, or check the address in the market file."
        if address.proxy is not None:
            where += " through the proxy {}:{}".format(*_proxy_address(address.proxy))
            hint = "The proxy has to run, take any user name and password, and reach the bus by its name."
        failure = f" ({self._failure})" if self._failure else ""
        return BusUnreachableError(f"No answer from the bus at {where}{failure}", hint)

    def close(self) -> None:
        """Send what is queued, say DISCONNECT and drop the connection."""
        client, self._client, self._ready = self._client, None, False
        if client is None:
            return
        with contextlib.suppress(OSError, ValueError):
            deadline = time.monotonic() + 1.0
            while client.want_write() and client.socket() and time.monotonic() < deadline:
                client.loop_write()
            client.disconnect()
            client.loop_write()
        _close_socket(client)

    def abandon(self) -> None:
        """Drop the connection without DISCONNECT, as a crash would: the last will is published."""
        client, self._client, self._ready = self._client, None, False
        if client is not None:
            _close_socket(client)

    def _connect_when_due(self) -> None:
        if self._client is not None or time.monotonic() < self._next_attempt:
            return
        self.epoch += 1
        self._inbox.clear()
        self._unacknowledged = 0
        client = self._new_client()
        self._client = client
        self._next_attempt = time.monotonic() + self._delay
        self._delay = min(self._delay * 2, RECONNECT_LONGEST_S)
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho leaves it untyped
        properties.ReceiveMaximum = RECEIVE_MAXIMUM
        properties.MaximumPacketSize = MAXIMUM_PACKET
        properties.SessionExpiryInterval = SESSION_EXPIRY_S if self.settings.durable else 0
        try:
            client.connect(
                self.settings.address.host,
                self.settings.address.port,
                keepalive=30,
                clean_start=not self.settings.durable,
                properties=properties,
            )
        except (OSError, ssl.SSLError, ValueError) as error:
            self._lost(str(error) or type(error).__name__)

    def _new_client(self) -> _Client:
        settings, client = self.settings, _Client(self.settings.client_id, self._on_delivery)
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.on_socket_open = _set_nodelay
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_publish = self._on_publish
        if settings.address.tls is not None:
            client.tls_set_context(settings.address.tls)
        if settings.address.proxy is not None:
            client.proxy_set(**proxy_arguments(settings.address.proxy, settings.client_id))
        if settings.will is not None:
            client.will_set(settings.will.topic, settings.will.payload, qos=1, retain=True)
        return client

    def _lost(self, reason: str) -> None:
        self._failure = reason
        self.abandon()

    def wait(self, timeout_s: float) -> None:
        """Read and write what is there, after waiting for it at most that long."""
        wait([self], timeout_s)

    # --- paho's callbacks ------------------------------------------------------------------------------

    def _on_connect(
        self, client: mqtt.Client, _data: object, _flags: object, code: ReasonCode, granted: Properties | None
    ) -> None:
        if code.is_failure:
            self._failure = str(code)
            return
        allowed = getattr(granted, "ReceiveMaximum", None) if granted is not None else None
        if isinstance(client, _Client):
            client.allow_in_flight(min(int(allowed or 65535), RECEIVE_MAXIMUM))
        for topic, payload in self.settings.greeting:
            client.publish(topic, payload, qos=1, retain=True)
            self._unacknowledged += 1
        wanted = [(topic, SubscribeOptions(qos=1)) for topic in self.settings.subscriptions]
        never = SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
        wanted += [(topic, never) for topic in self.settings.live_subscriptions]
        if wanted:
            client.subscribe(wanted)
        else:
            self._become_ready()

    def _on_subscribe(
        self, _client: mqtt.Client, _data: object, _mid: int, codes: list[ReasonCode], _granted: object
    ) -> None:
        refused = [str(code) for code in codes if code.is_failure]
        if refused:
            self._failure = f"subscription refused: {refused[0]}"
            return
        self._become_ready()

    def _become_ready(self) -> None:
        self._ready = True
        self._delay = 0.1

    def _on_delivery(
        self,
        topic: bytes,
        payload: bytes,
        retained: bool,  # noqa: FBT001 - in the order of the packet
        packet_id: int,
        qos: int,
    ) -> None:
        # A topic that is not UTF-8 becomes one that nobody knows.
        known = topic.decode(errors="replace")
        self._inbox.append(Delivery(known, payload, retained, self.epoch, packet_id, qos))

    def _on_publish(
        self, _client: mqtt.Client, _data: object, _mid: int, code: ReasonCode, _granted: object
    ) -> None:
        self._unacknowledged -= 1
        if code.is_failure:
            self.refused[str(code)] += 1

    # --- traffic ---------------------------------------------------------------------------------------

    @property
    def under_way(self) -> int:
        """Publishes that the server has not acknowledged yet."""
        return self._unacknowledged

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
        properties = _publish_properties(content_type, expiry_s)
        self._client.publish(topic, payload, qos=1, retain=retain, properties=properties)
        self._unacknowledged += 1
        return True

    def acknowledge(self, deliveries: Iterable[Delivery]) -> None:
        """Acknowledge after the commit; deliveries of an earlier connection are skipped."""
        for delivery in deliveries:
            if self._client is not None and delivery.epoch == self.epoch:
                self._client.ack(delivery.packet_id, delivery.qos)

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
        code = MQTTErrorCode.MQTT_ERR_SUCCESS
        if readable:
            code = client.read(RECEIVE_MAXIMUM - len(self._inbox))
        if writable and code == MQTTErrorCode.MQTT_ERR_SUCCESS and client.want_write():
            code = client.loop_write()
        if code == MQTTErrorCode.MQTT_ERR_SUCCESS:
            code = client.loop_misc()
        if code != MQTTErrorCode.MQTT_ERR_SUCCESS or client.socket() is None:
            self._lost(self._failure or mqtt.error_string(code))


def wait(connections: Sequence[Connection], timeout_s: float, *others: socket.socket) -> None:
    """Reconnect what is due, wait until something can be read or written, and read and write it.

    `others` are sockets whose readiness ends the wait (a job that finished, a signal).
    """
    for connection in connections:
        connection._connect_when_due()  # noqa: SLF001 - the loop over connections is part of this class
    clients = [(c, c._client) for c in connections if c._client is not None]  # noqa: SLF001
    sockets: dict[Any, tuple[Connection, _Client]] = {}
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


def _until_attempt(connections: Sequence[Connection]) -> float:
    waiting = [c._next_attempt for c in connections if c._client is None]  # noqa: SLF001
    return max(0.0, min(waiting) - time.monotonic()) if waiting else 60.0


def _pending(client: _Client) -> bool:
    opened: Any = client.socket()
    return isinstance(opened, ssl.SSLSocket) and opened.pending() > 0


def _set_nodelay(_client: mqtt.Client, _data: object, opened: Any) -> None:
    # Without it small frames wait for the delayed acknowledgement of the ones before: p99 45 ms, not 1 ms.
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _close_socket(client: _Client) -> None:
    opened: Any = client.socket()
    if opened is not None:
        with contextlib.suppress(OSError):
            opened.close()
    # paho would otherwise try to close what it still holds, when it is collected.
    client._sock = None  # noqa: SLF001


def proxy_arguments(proxy: str, isolation: str) -> dict[str, Any]:
    """Translate `socks5://host:port` for paho. Raises `UsageError`.

    `isolation` becomes the credentials, so circuits differ. The bus's name is resolved by the proxy, so
    that whoever answers our name queries does not learn it.
    """
    import socks  # noqa: PLC0415 - only with --proxy

    host, port = _proxy_address(proxy)
    # Not the client id itself: whoever knows that may connect under it.
    credential = hashlib.sha256(b"veilmart v1 circuit\0" + isolation.encode()).hexdigest()[:32]
    return {
        "proxy_type": socks.SOCKS5,
        "proxy_addr": host,
        "proxy_port": port,
        "proxy_rdns": True,
        "proxy_username": credential,
        "proxy_password": credential,
    }


def _proxy_address(proxy: str) -> tuple[str, int]:
    with contextlib.suppress(ValueError):  # a port that is none
        parts = urlsplit(proxy)
        if parts.scheme in {"socks5", "socks5h"} and parts.hostname and parts.port and "@" not in proxy:
            return parts.hostname, parts.port
    # What was typed may hold a password.
    raise UsageError(
        "That is not the address of a SOCKS5 proxy.",
        "Write socks5://HOST:PORT; each session makes credentials of its own.",
    )
