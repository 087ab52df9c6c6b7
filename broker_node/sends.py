"""What the broker's core wants sent: to whom, not how. `gate.py` makes frames of it."""

from __future__ import annotations

from dataclasses import dataclass

from common.messages import Message, Scope


@dataclass(frozen=True, slots=True)
class Session:
    """Who sent a message. Exactly one of `account` and `merchant` is set, or, for a shop session, none."""

    sid: bytes
    scope: Scope
    account: int | None
    generation: int | None
    merchant: str | None


@dataclass(frozen=True, slots=True)
class ToSession:
    """To one customer session."""

    sid: bytes
    body: Message


@dataclass(frozen=True, slots=True)
class CellsToSession:
    """To one customer session, on the cell connection, in a frame of its own."""

    sid: bytes
    body: Message


@dataclass(frozen=True, slots=True)
class ToMerchant:
    """To a merchant, in its newest session."""

    merchant: str
    body: Message
