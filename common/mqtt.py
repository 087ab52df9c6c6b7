"""One connection in MQTT 5: the only file that imports paho.

paho connects, subscribes and keeps alive. The traffic itself, PUBLISH and PUBACK both ways, is read and
written here, in bulk: paho takes single bytes off the socket, and several locks for each publish.

Rule 1. A client lives for one connection. What was under way when it broke is forgotten with it.

Rule 2. No more publishes are under way than the server's receive maximum; the others wait in order.

No thread of paho's runs: the owner calls `read`, `write` and `look_after` when it is time.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import Any, Final, Protocol

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.exception import MalformedPacket
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from common import config
from common.bus_settings import Settings, proxy_arguments
from common.mqtt_packets import pubacks, publish_header, publish_properties, variable_length

MAXIMUM_PACKET: Final = config.MAXIMUM_FRAME + 4 * config.KIB
RECEIVE_MAXIMUM: Final = 1024
SESSION_EXPIRY_S: Final = 24 * 3600
CONNECT_TIMEOUT_S: Final = 5.0
KEEPALIVE_S: Final = 30
FIXED_HEADER_LONGEST: Final = 5
PLAIN_PUBACK: Final = 2
"""A PUBACK of two bytes, its packet id, is plain success (MQTT 5.0, §3.4.2.1)."""
FAILURE: Final = 0x80
"""Reason codes from here on are failures (MQTT 5.0, §2.4)."""
BULK_READ: Final = 256 * config.KIB
BULK_WRITE: Final = 160 * config.KIB
BUFFERS_AT_ONCE: Final = 512


class ConnectionLostError(Exception):
    """The connection is over; says why."""


class Listener(Protocol):
    """Who owns a client, and hears from it."""

    def delivered(self, topic: bytes, payload: bytes, packet_id: int, qos: int, *, retained: bool) -> None:
        """Take a message."""

    def subscribed(self) -> None:
        """Hear that the connection can be used."""

    def failed(self, reason: str) -> None:
        """Hear that the server refuses the connection or a subscription."""

    def refused(self, reason: str) -> None:
        """Hear that the server has refused a publish."""


class Client(paho.Client):
    """One connection: open it, then read, write and look after it until `ConnectionLostError`."""

    def __init__(self, settings: Settings, listener: Listener) -> None:
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=settings.client_id,
            protocol=paho.MQTTv5,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        self._settings = settings
        self._listener = listener
        self._unread = b""
        self._unsent: deque[bytes | memoryview] = deque()
        self._waiting: deque[tuple[bytes, bytes, bytes, bytes]] = deque()
        """Publishes beyond the receive maximum: first byte, topic, properties and payload."""
        self._in_flight: set[int] = set()
        self._allowed = RECEIVE_MAXIMUM
        self.connect_timeout = CONNECT_TIMEOUT_S
        self.on_socket_open = _set_nodelay
        self.on_connect = self._connected
        self.on_subscribe = self._subscription_answered
        address = settings.address
        if address.tls is not None:
            self.tls_set_context(address.tls)
        if address.proxy is not None:
            self.proxy_set(**proxy_arguments(address.proxy, settings.client_id))
        if settings.will is not None:
            self.will_set(settings.will.topic, settings.will.payload, qos=1, retain=True)

    # --- life ------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Connect the socket and queue CONNECT. Raises `OSError` (`ssl.SSLError` too) or `ValueError`."""
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho leaves it untyped
        properties.ReceiveMaximum = RECEIVE_MAXIMUM
        properties.MaximumPacketSize = MAXIMUM_PACKET
        properties.SessionExpiryInterval = SESSION_EXPIRY_S if self._settings.durable else 0
        address = self._settings.address
        clean = not self._settings.durable
        self.connect(address.host, address.port, KEEPALIVE_S, clean_start=clean, properties=properties)

    def drop(self) -> None:
        """Close the socket, saying nothing."""
        opened: Any = self._sock
        # paho would otherwise try to close what it still holds, when it is collected.
        self._sock = None
        if opened is not None:
            opened.close()

    def look_after(self) -> None:
        """Keep the connection alive. Raises `ConnectionLostError`."""
        self._check(self.loop_misc())

    def _check(self, code: MQTTErrorCode) -> None:
        if code != MQTTErrorCode.MQTT_ERR_SUCCESS or self._sock is None:
            raise ConnectionLostError(paho.error_string(code))

    def _get_proxy(self) -> dict[str, Any] | None:
        # paho's own also obeys the environment: a proxy that nobody asked for would see who connects when.
        return self._proxy or None

    def _ssl_wrap_socket(self, tcp_sock: socket.socket) -> ssl.SSLSocket:
        # paho's own leaves the socket open when the handshake fails, as it does while Mosquitto restarts.
        context = self._ssl_context
        if context is None:
            raise ValueError("no TLS context")
        # A peer that is gone already would make `wrap_socket` itself leave a socket open.
        tcp_sock.getpeername()
        wrapped = context.wrap_socket(tcp_sock, server_hostname=self._host, do_handshake_on_connect=False)
        try:
            wrapped.settimeout(CONNECT_TIMEOUT_S)
            wrapped.do_handshake()
        except OSError:
            wrapped.close()
            raise
        return wrapped

    def _connected(
        self, _client: object, _data: object, _flags: object, code: ReasonCode, granted: Properties | None
    ) -> None:
        if code.is_failure:
            self._listener.failed(str(code))
            return
        allowed = getattr(granted, "ReceiveMaximum", None) if granted is not None else None
        self._allowed = min(int(allowed or 65535), RECEIVE_MAXIMUM)
        settings = self._settings
        for topic, payload in settings.greeting:
            self.put(topic, payload, retain=True)
        wanted = [(topic, SubscribeOptions(qos=1)) for topic in settings.subscriptions]
        never = SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
        wanted += [(topic, never) for topic in settings.live_subscriptions]
        if wanted:
            self.subscribe(wanted)
        else:
            self._listener.subscribed()

    def _subscription_answered(
        self, _client: object, _data: object, _mid: int, codes: list[ReasonCode], _granted: object
    ) -> None:
        refused = [str(code) for code in codes if code.is_failure]
        if refused:
            self._listener.failed(f"subscription refused: {refused[0]}")
        else:
            self._listener.subscribed()

    # --- reading ---------------------------------------------------------------------------------------

    def read(self, room: int) -> None:
        """Take what the socket holds, in large pieces, until about `room` packets have come of it.

        Raises `ConnectionLostError`.
        """
        while room > 0:
            try:
                data = self._sock_recv(BULK_READ)
            except BlockingIOError:
                return
            except OSError as error:
                raise ConnectionLostError(str(error)) from error
            if not data:
                raise ConnectionLostError("the server closed the connection")
            self._last_bytes_received = time.monotonic()
            self._unread = self._unread + data if self._unread else data
            room -= self._handle_packets()
            if len(data) < BULK_READ and not isinstance(self._sock, ssl.SSLSocket):
                return

    def _handle_packets(self) -> int:
        """Handle every whole packet; tells how many there were."""
        view, place, handled = memoryview(self._unread), 0, 0
        while place + 2 <= len(view):
            length, start = variable_length(view, place + 1)
            if (start == 0 and len(view) - place > FIXED_HEADER_LONGEST) or length > MAXIMUM_PACKET:
                raise ConnectionLostError("the server sent a packet that is too long")
            if start == 0 or start + length > len(view):
                break
            command, packet = view[place], view[start : start + length]
            place, handled = start + length, handled + 1
            self._handle_packet(command, packet)
        self._unread = bytes(view[place:])
        return handled

    def _handle_packet(self, command: int, packet: memoryview) -> None:
        if command & 0xF0 == paho.PUBLISH:
            self.handle_publish(command, packet)
        elif command == paho.PUBACK:
            self._acknowledged(packet)
        else:
            self._in_packet["command"], self._in_packet["packet"] = command, bytearray(packet)
            try:
                self._check(self._packet_handle())
            except MalformedPacket as error:
                raise ConnectionLostError("the server sent a malformed packet") from error

    def handle_publish(self, command: int, packet: memoryview) -> None:
        """Deliver a PUBLISH: topic, packet id (QoS 1), properties, which nobody here reads, and payload.

        MQTT 5.0, §3.3.2. Raises `ConnectionLostError` for what is none.
        """
        qos = command >> 1 & 3
        topic_end = 2 + int.from_bytes(packet[:2], "big")
        length, start = variable_length(packet, topic_end + 2 * qos)
        # Nobody here subscribes with QoS 2.
        if qos > 1 or start == 0 or start + length > len(packet):
            raise ConnectionLostError("the server sent a malformed packet")
        packet_id = int.from_bytes(packet[topic_end : topic_end + 2], "big") if qos else 0
        payload = bytes(packet[start + length :])
        retained = bool(command & 1)
        self._listener.delivered(bytes(packet[2:topic_end]), payload, packet_id, qos, retained=retained)

    def _acknowledged(self, packet: memoryview) -> None:
        if len(packet) < PLAIN_PUBACK:
            raise ConnectionLostError("the server sent a malformed packet")
        packet_id = int.from_bytes(packet[:2], "big")
        if packet_id not in self._in_flight:
            return
        self._in_flight.discard(packet_id)
        if len(packet) > PLAIN_PUBACK and packet[2] >= FAILURE:
            self._listener.refused(str(ReasonCode(PacketTypes.PUBACK, identifier=packet[2])))
        while self._waiting and len(self._in_flight) < self._allowed:
            self._send_now(*self._waiting.popleft())

    # --- writing ---------------------------------------------------------------------------------------

    @property
    def under_way(self) -> int:
        """Publishes that the server has not acknowledged yet."""
        return len(self._in_flight) + len(self._waiting)

    def put(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        content_type: str | None = None,
        expiry_s: int | None = None,
    ) -> None:
        """Queue a publish with QoS 1."""
        first = bytes([paho.PUBLISH | 1 << 1 | retain])
        publish = first, topic.encode(), publish_properties(content_type, expiry_s), payload
        if len(self._in_flight) < self._allowed:
            self._send_now(*publish)
        else:
            self._waiting.append(publish)

    def _send_now(self, first: bytes, topic: bytes, properties: bytes, payload: bytes) -> None:
        packet_id = self._mid_generate()
        while packet_id in self._in_flight:
            packet_id = self._mid_generate()
        self._in_flight.add(packet_id)
        self._unsent.append(publish_header(first, topic, packet_id, properties, len(payload)))
        if payload:
            self._unsent.append(payload)

    def acknowledge(self, packet_ids: Iterable[int]) -> None:
        """Queue a PUBACK for each."""
        if acknowledgements := pubacks(packet_ids):
            self._unsent.append(acknowledgements)

    def _packet_queue(
        self, command: int, packet: bytes | bytearray, mid: int, qos: int, info: object = None
    ) -> MQTTErrorCode:
        # paho's own packets (CONNECT, SUBSCRIBE, PINGREQ, DISCONNECT) take their place among ours.
        del command, mid, qos, info
        self._unsent.append(bytes(packet))
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def want_write(self) -> bool:
        """Whether something is queued."""
        return bool(self._unsent)

    def write(self) -> None:
        """Write as much as the socket takes. Raises `ConnectionLostError`."""
        while self._unsent:
            try:
                sent = self._send(self._sock)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except OSError as error:
                raise ConnectionLostError(str(error)) from error
            self._last_msg_out = time.monotonic()
            self._forget(sent)

    def _send(self, opened: Any) -> int:
        if opened is None:
            raise ConnectionLostError("there is no connection")
        if isinstance(opened, socket.socket) and not isinstance(opened, ssl.SSLSocket):
            return opened.sendmsg(islice(self._unsent, BUFFERS_AT_ONCE))
        # TLS takes one buffer: few long ones are worth a copy.
        run: list[bytes | memoryview] = []
        size = 0
        for piece in self._unsent:
            run.append(piece)
            size += len(piece)
            if size >= BULK_WRITE:
                break
        return int(opened.send(b"".join(run)))

    def _forget(self, sent: int) -> None:
        while self._unsent and sent >= len(self._unsent[0]):
            sent -= len(self._unsent.popleft())
        if sent:
            self._unsent[0] = memoryview(self._unsent[0])[sent:]


def _set_nodelay(_client: object, _data: object, opened: Any) -> None:
    # Without it small frames wait for the delayed acknowledgement of the ones before: p99 45 ms, not 1 ms.
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
