"""Topics: built here, parsed here, spelled nowhere else but in Mosquitto's two ACL files.

Rule 1. Nothing that could be a wildcard, a slash or a second spelling enters a topic: a session id is
16 bytes in lower-case hex, a merchant id matches `[a-z0-9-]{1,32}`. One thing has one topic.

Rule 2. `parse` undoes the builders and accepts nothing else.

    >>> session_up(bytes.fromhex("00112233445566778899aabbccddeeff"))
    'veilmart/v1/session/00112233445566778899aabbccddeeff/up'
    >>> parse("veilmart/v1/merchant/sports/out")
    MerchantOut(merchant_id='sports')
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from common.errors import MalformedError

if TYPE_CHECKING:
    from collections.abc import Callable

PREFIX: Final = "veilmart/v1"
SESSION_ID_BYTES: Final = 16
MAX_TOPIC_LENGTH: Final = 128

# What the broker, a customer and an auditor subscribe to.
ALL_SESSIONS_UP: Final = f"{PREFIX}/session/+/up"
ALL_MERCHANTS_OUT: Final = f"{PREFIX}/merchant/+/out"
ALL_MERCHANTS_CELLS: Final = f"{PREFIX}/merchant/+/cells"
ALL_MERCHANT_CARDS: Final = f"{PREFIX}/merchant/+/card"
ALL_MERCHANT_STATUSES: Final = f"{PREFIX}/merchant/+/status"
ALL_SPENT: Final = f"{PREFIX}/spent/+/+"
ALL_AUDIT: Final = f"{PREFIX}/audit/#"

RESERVED_IDS: Final = frozenset({"broker", "bus", "ca", "auditor"})
_MERCHANT_ID: Final = re.compile(r"[a-z0-9-]{1,32}")
_EVENT_TYPE: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_SESSION_ID: Final = re.compile(r"[0-9a-f]{32}")
_KEY_ID: Final = re.compile(r"[0-9a-f]{16}")
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True)
class BrokerCard:
    """`broker/card`: retained, everyone reads."""


@dataclass(frozen=True, slots=True)
class BrokerStatus:
    """`broker/status`: retained, the broker's last will, everyone reads."""


@dataclass(frozen=True, slots=True)
class AuditCheckpoint:
    """`audit/checkpoint`: retained, everyone reads."""


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """`audit/event/<type>`: everyone reads."""

    event_type: str


@dataclass(frozen=True, slots=True)
class SpentChunk:
    """`spent/<key id>/<number>`: retained, everyone reads. `key_id` is 8 bytes."""

    key_id: bytes
    number: int


@dataclass(frozen=True, slots=True)
class MerchantCard:
    """`merchant/<mid>/card`: retained, everyone reads."""

    merchant_id: str


@dataclass(frozen=True, slots=True)
class MerchantStatus:
    """`merchant/<mid>/status`: retained, that merchant's last will, everyone reads."""

    merchant_id: str


@dataclass(frozen=True, slots=True)
class MerchantIn:
    """`merchant/<mid>/in`: broker to merchant."""

    merchant_id: str


@dataclass(frozen=True, slots=True)
class MerchantOut:
    """`merchant/<mid>/out`: merchant to broker."""

    merchant_id: str


@dataclass(frozen=True, slots=True)
class MerchantCells:
    """`merchant/<mid>/cells`: merchant to the broker's cell connection."""

    merchant_id: str


@dataclass(frozen=True, slots=True)
class SessionUp:
    """`session/<sid>/up`: customer to broker. `session_id` is 16 bytes."""

    session_id: bytes


@dataclass(frozen=True, slots=True)
class SessionDown:
    """`session/<sid>/down`: broker to customer. `session_id` is 16 bytes."""

    session_id: bytes


Topic = (
    BrokerCard
    | BrokerStatus
    | MerchantCard
    | MerchantStatus
    | MerchantIn
    | MerchantOut
    | MerchantCells
    | SessionUp
    | SessionDown
    | AuditEvent
    | AuditCheckpoint
    | SpentChunk
)

_FIXED: Final[dict[str, Topic]] = {
    f"{PREFIX}/broker/card": BrokerCard(),
    f"{PREFIX}/broker/status": BrokerStatus(),
    f"{PREFIX}/audit/checkpoint": AuditCheckpoint(),
}
_SESSION_LEGS: Final[dict[str, Callable[[bytes], Topic]]] = {"up": SessionUp, "down": SessionDown}
_MERCHANT_LEGS: Final[dict[str, Callable[[str], Topic]]] = {
    "card": MerchantCard,
    "status": MerchantStatus,
    "in": MerchantIn,
    "out": MerchantOut,
    "cells": MerchantCells,
}


def check_merchant_id(text: str) -> str:
    """Return `text` if a merchant may be called that: `[a-z0-9-]{1,32}`, no other node's name.

    Raises MalformedError.
    """
    if _MERCHANT_ID.fullmatch(text) is None:
        raise MalformedError("a merchant id is 1 to 32 of a-z, 0-9 and '-'")
    if text in RESERVED_IDS:
        raise MalformedError("this merchant id is reserved")
    return text


def broker_card() -> str:
    """Topic of the broker's retained card."""
    return f"{PREFIX}/broker/card"


def broker_status() -> str:
    """Topic of the broker's retained presence, also its last will."""
    return f"{PREFIX}/broker/status"


def merchant_card(merchant_id: str) -> str:
    """Topic of a merchant's retained card."""
    return f"{PREFIX}/merchant/{check_merchant_id(merchant_id)}/card"


def merchant_status(merchant_id: str) -> str:
    """Topic of a merchant's retained presence, also its last will."""
    return f"{PREFIX}/merchant/{check_merchant_id(merchant_id)}/status"


def merchant_in(merchant_id: str) -> str:
    """Topic of the broker's messages to a merchant."""
    return f"{PREFIX}/merchant/{check_merchant_id(merchant_id)}/in"


def merchant_out(merchant_id: str) -> str:
    """Topic of a merchant's messages to the broker."""
    return f"{PREFIX}/merchant/{check_merchant_id(merchant_id)}/out"


def merchant_cells(merchant_id: str) -> str:
    """Topic of a merchant's content cells to the broker."""
    return f"{PREFIX}/merchant/{check_merchant_id(merchant_id)}/cells"


def session_up(session_id: bytes) -> str:
    """Topic of a customer's messages to the broker; `session_id` is 16 bytes."""
    return f"{PREFIX}/session/{_session_hex(session_id)}/up"


def session_down(session_id: bytes) -> str:
    """Topic of the broker's messages to a customer; `session_id` is 16 bytes."""
    return f"{PREFIX}/session/{_session_hex(session_id)}/down"


def audit_event(event_type: str) -> str:
    """Topic of one type of audit event, such as `order.captured`. Raises MalformedError."""
    if _EVENT_TYPE.fullmatch(event_type) is None:
        raise MalformedError("an event type is up to 64 of a-z, 0-9, '.', '_' and '-'")
    return f"{PREFIX}/audit/event/{event_type}"


def spent_chunk(key_id: bytes, number: int) -> str:
    """Topic of one chunk of the spent set of an issuer's key; `key_id` is 8 bytes. Raises MalformedError."""
    topic = f"{PREFIX}/spent/{key_id.hex()}/{number}"
    if _KEY_ID.fullmatch(key_id.hex()) is None or _NUMBER.fullmatch(str(number)) is None:
        raise MalformedError("a key id is 8 bytes, a chunk has up to nine digits")
    return topic


def audit_checkpoint() -> str:
    """Topic of the retained audit checkpoint."""
    return f"{PREFIX}/audit/checkpoint"


def parse(topic: str) -> Topic:
    """Return what `topic` names. Raises MalformedError for every topic that no builder makes."""
    fixed = _FIXED.get(topic)
    if fixed is not None:
        return fixed
    if len(topic) > MAX_TOPIC_LENGTH:
        raise MalformedError("unknown topic")
    # An exact number of levels: "veilmart", "v1", kind, name, leg.
    levels = topic.split("/")
    if len(levels) != 5 or levels[0] != "veilmart" or levels[1] != "v1":  # noqa: PLR2004 - counted above
        raise MalformedError("unknown topic")
    kind, name, leg = levels[2:]
    if kind == "session" and leg in _SESSION_LEGS:
        if _SESSION_ID.fullmatch(name) is None:
            raise MalformedError("a session id is 32 lower-case hex digits")
        return _SESSION_LEGS[leg](bytes.fromhex(name))
    if kind == "merchant" and leg in _MERCHANT_LEGS:
        return _MERCHANT_LEGS[leg](check_merchant_id(name))
    if kind == "spent" and _KEY_ID.fullmatch(name) and _NUMBER.fullmatch(leg):
        return SpentChunk(bytes.fromhex(name), int(leg))
    if kind == "audit" and name == "event" and _EVENT_TYPE.fullmatch(leg):
        return AuditEvent(leg)
    raise MalformedError("unknown topic")


def _session_hex(session_id: bytes) -> str:
    if len(session_id) != SESSION_ID_BYTES:
        raise MalformedError("a session id is 16 bytes")
    return session_id.hex()
