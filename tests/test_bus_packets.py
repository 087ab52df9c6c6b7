"""What the bus reads without paho: the same as paho would, and nothing out of a packet that is cut short."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import Client as Paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from common import bus, bus_settings, mqtt
from common.mqtt_packets import packed_length, pubacks, publish_header, publish_properties

CONNACK, DISCONNECT = b"\x20\x03\x00\x00\x00", b"\xe0\x00"


def packet(topic: bytes, payload: bytes, packet_id: int, properties: Properties, qos: int) -> bytes:
    """A PUBLISH without its fixed header, as paho writes it."""
    client = Paho(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    written: list[bytes] = []
    client._packet_queue = lambda _c, data, *_: written.append(bytes(data)) or MQTTErrorCode.MQTT_ERR_SUCCESS
    client._sock = object()
    client._send_publish(packet_id, topic, payload, qos, False, False, None, properties)
    client._sock = None
    data = written[0]
    end = next(n for n in range(1, 5) if not data[n] & 0x80)
    return data[end + 1 :]


class Listener:
    def __init__(self) -> None:
        self.got: list[Any] = []
        self.refusals: list[str] = []

    def delivered(self, *delivery: Any, retained: bool) -> None:
        self.got.append((*delivery, retained))

    def subscribed(self) -> None: ...

    def failed(self, reason: str) -> None: ...

    def refused(self, reason: str) -> None:
        self.refusals.append(reason)


def a_client(listener: Listener) -> mqtt.Client:
    address = bus_settings.Address("localhost", 1, None)
    return mqtt.Client(bus_settings.Settings(address, "id", ()), listener)


def read(data: bytes, qos: int = 1, *, retained: int = 0) -> list[Any]:
    listener = Listener()
    a_client(listener).handle_publish(0x30 | qos << 1 | retained, memoryview(data))
    return listener.got


def some_properties(text: str, count: int) -> Properties:
    properties = Properties(PacketTypes.PUBLISH)
    properties.ContentType = text
    properties.UserProperty = [("key", "value" * count)]
    return properties


@given(
    st.text(max_size=40),
    st.binary(max_size=300),
    st.integers(1, 65535),
    st.integers(0, 80),
    st.integers(0, 1),
)
def test_a_publish_is_read_as_it_was_written(
    topic: str, payload: bytes, packet_id: int, count: int, retained: int
) -> None:
    properties = some_properties("type", count)
    for qos in (0, 1):
        data = packet(topic.encode(), payload, packet_id, properties, qos)
        got = read(data, qos, retained=retained)
        assert got == [(topic.encode(), payload, packet_id * qos, qos, bool(retained))]


def test_a_publish_cut_short_before_its_payload_is_an_error() -> None:
    data = packet(b"a/topic", b"", 7, some_properties("type", 60), 1)
    for length in range(len(data)):
        with pytest.raises(mqtt.ConnectionLostError):
            read(data[:length])


@pytest.mark.parametrize("bad", [b"\xff\xff\xff\xff", b"\x80\x80\x80\x80\x01", b"\x05"])
def test_lengths_that_lie_are_errors(bad: bytes) -> None:
    with pytest.raises(mqtt.ConnectionLostError):
        read(b"\x00\x01a\x00\x07" + bad)


def test_qos_2_is_not_spoken() -> None:
    with pytest.raises(mqtt.ConnectionLostError):
        read(b"\x00\x01a\x00\x07\x00", 2)


@pytest.mark.parametrize("expiry_s", [None, 1, 300])
@pytest.mark.parametrize("size", [0, 1, 90, 127, 128, 16_383, 16_384, 200_000])
def test_a_publish_is_written_as_paho_writes_it(expiry_s: int | None, size: int) -> None:
    plain = Properties(PacketTypes.PUBLISH)
    plain.ContentType = "a type"
    if expiry_s is not None:
        plain.MessageExpiryInterval = expiry_s
    payload = bytes(size)
    expected = packet(b"a/topic", payload, 7, plain, 1)
    header = publish_header(b"\x32", b"a/topic", 7, publish_properties("a type", expiry_s), size)
    length = packed_length(len(expected))
    assert header + payload == b"\x32" + length + expected


def test_no_more_is_under_way_than_the_server_takes() -> None:
    listener = Listener()
    client = a_client(listener)
    for number in range(mqtt.RECEIVE_MAXIMUM + 3):
        client.put("a/topic", b"%d" % number)
    sent = len(client._unsent)
    assert client.under_way == mqtt.RECEIVE_MAXIMUM + 3
    assert sent == 2 * mqtt.RECEIVE_MAXIMUM
    client._handle_packet(0x40, memoryview(b"\x00\x01"))
    assert client._unsent[-1] == b"%d" % mqtt.RECEIVE_MAXIMUM
    assert client.under_way == mqtt.RECEIVE_MAXIMUM + 2


def test_a_refusal_is_told_and_an_unknown_acknowledgement_is_not() -> None:
    listener = Listener()
    client = a_client(listener)
    client.put("a/topic", b"")
    client._handle_packet(0x40, memoryview(b"\x00\x09\x87"))
    assert (client.under_way, listener.refusals) == (1, [])
    client._handle_packet(0x40, memoryview(b"\x00\x01\x87\x00"))
    assert (client.under_way, listener.refusals) == (0, ["Not authorized"])


def test_a_packet_id_is_not_used_again_while_it_is_under_way() -> None:
    client = a_client(Listener())
    client.put("a/topic", b"stuck")
    for number in range(2, 65_536):
        client.put("a/topic", b"")
        client._handle_packet(0x40, memoryview(number.to_bytes(2, "big")))
    client.put("a/topic", b"")
    client._handle_packet(0x40, memoryview(b"\x00\x02"))
    assert client.under_way == 1


def test_acknowledgements_travel_together() -> None:
    assert pubacks([1, 258]) == b"\x40\x02\x00\x01\x40\x02\x01\x02"


# --- the end -------------------------------------------------------------------------------------------


def test_a_connection_is_not_closed_with_something_unread() -> None:
    """It would be reset, and what was said last lost."""
    heard, ended = bytearray(), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            accepted, _ = listening.accept()
            with accepted:
                accepted.recv(4096)
                accepted.sendall(CONNACK)
                while DISCONNECT not in heard:
                    heard.extend(accepted.recv(4096))
                    # Something that nobody takes any more.
                    accepted.sendall(
                        b"".join((b"\x30", packed_length(1007), b"\x00\x04left\x00", bytes(1000)))
                    )
                accepted.shutdown(socket.SHUT_WR)
                heard.extend(accepted.recv(4096))
                ended.set()

        server = threading.Thread(target=serve, daemon=True)
        server.start()
        address = bus_settings.Address("127.0.0.1", listening.getsockname()[1], None)
        connection = bus.Connection(bus_settings.Settings(address, "id", ()))
        connection.open()
        connection.put("status", b"offline", retain=True)
        connection.close()
        server.join(10)
    assert b"offline" in heard
    assert ended.is_set(), "the server was told of a reset"


def test_a_welcome_that_comes_too_late_opens_nothing() -> None:
    """The server lets in who has just said that it goes."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            accepted, _ = listening.accept()
            with accepted:
                heard = b""
                while DISCONNECT not in heard:
                    heard += accepted.recv(4096)
                accepted.sendall(CONNACK)

        server = threading.Thread(target=serve, daemon=True)
        server.start()
        address = bus_settings.Address("127.0.0.1", listening.getsockname()[1], None)
        connection = bus.Connection(bus_settings.Settings(address, "id", ()))
        connection.wait(0.0)
        connection.close()
        server.join(10)
    assert not connection.ready
    assert not connection.put("status", b"online")
