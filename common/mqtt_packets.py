"""The bytes of the few MQTT 5 packets that carry the traffic: PUBLISH with QoS 1, and PUBACK.

    PUBLISH  first byte || length || topic || packet id || properties || payload       §3.3
    PUBACK   0x40 || 2 || packet id                                                    §3.4

All others are paho's (`common.mqtt`). Sections are those of MQTT 5.0.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

MESSAGE_EXPIRY: Final = b"\x02"
CONTENT_TYPE: Final = b"\x03"
PUBACK: Final = b"\x40\x02"


def variable_length(packet: memoryview, start: int) -> tuple[int, int]:
    """Read a variable byte integer (§1.5.5); gives it and where it ends, 0 where it does not."""
    value = 0
    for place in range(start, min(start + 4, len(packet))):
        byte = packet[place]
        value |= (byte & 0x7F) << 7 * (place - start)
        if not byte & 0x80:
            return value, place + 1
    return 0, 0


def packed_length(length: int) -> bytes:
    """Write a variable byte integer (§1.5.5)."""
    packed = bytearray()
    while length > 0x7F:  # noqa: PLR2004 - seven bits a byte
        packed.append(length & 0x7F | 0x80)
        length >>= 7
    packed.append(length)
    return bytes(packed)


def _string(text: bytes) -> bytes:
    return len(text).to_bytes(2, "big") + text


@lru_cache(maxsize=64)
def publish_properties(content_type: str | None, expiry_s: int | None) -> bytes:
    """Write a PUBLISH's properties, their length first (§3.3.2.3)."""
    properties = b""
    if expiry_s is not None:
        properties += MESSAGE_EXPIRY + expiry_s.to_bytes(4, "big")
    if content_type is not None:
        properties += CONTENT_TYPE + _string(content_type.encode())
    return packed_length(len(properties)) + properties


def publish_header(first: bytes, topic: bytes, packet_id: int, properties: bytes, payload_size: int) -> bytes:
    """Write what stands before a PUBLISH's payload; `first` is its first byte."""
    variable = _string(topic) + packet_id.to_bytes(2, "big") + properties
    return first + packed_length(len(variable) + payload_size) + variable


def pubacks(packet_ids: Iterable[int]) -> bytes:
    """Write a PUBACK for each."""
    return b"".join(PUBACK + packet_id.to_bytes(2, "big") for packet_id in packet_ids)
