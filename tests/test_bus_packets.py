"""What the bus reads without paho: the same as paho would, and nothing out of a packet that is cut short."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import Client as Paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from common.bus import _Client, _publish_properties


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


def read(data: bytes, qos: int = 1, *, retained: int = 0) -> tuple[MQTTErrorCode, list[Any]]:
    got: list[Any] = []
    client = _Client("id", lambda *delivery: got.append(delivery))
    return client._deliver(0x30 | qos << 1 | retained, memoryview(data)), got


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
        code, got = read(data, qos, retained=retained)
        assert code == MQTTErrorCode.MQTT_ERR_SUCCESS
        assert got == [(topic.encode(), payload, bool(retained), packet_id * qos, qos)]


def test_a_publish_cut_short_before_its_payload_is_an_error() -> None:
    data = packet(b"a/topic", b"", 7, some_properties("type", 60), 1)
    for length in range(len(data)):
        code, got = read(data[:length])
        assert (code, got) == (MQTTErrorCode.MQTT_ERR_PROTOCOL, [])


@pytest.mark.parametrize("bad", [b"\xff\xff\xff\xff", b"\x80\x80\x80\x80\x01", b"\x05"])
def test_lengths_that_lie_are_errors(bad: bytes) -> None:
    assert read(b"\x00\x01a\x00\x07" + bad) == (MQTTErrorCode.MQTT_ERR_PROTOCOL, [])


def test_qos_2_is_not_spoken() -> None:
    assert read(b"\x00\x01a\x00\x07\x00", 2) == (MQTTErrorCode.MQTT_ERR_PROTOCOL, [])


@pytest.mark.parametrize("expiry_s", [None, 1, 300])
def test_properties_packed_once_are_the_same_bytes(expiry_s: int | None) -> None:
    plain = Properties(PacketTypes.PUBLISH)
    plain.ContentType = "a type"
    if expiry_s is not None:
        plain.MessageExpiryInterval = expiry_s
    assert _publish_properties("a type", expiry_s).pack() == plain.pack()
