"""One key per calendar slot: a second one is refused, and what proves it to others is kept.

    card --> keys shown, each at its slot --> remembered with the first card that showed them
                                          --> or `SecondKeyError`, with that card beside the new one

Rule 1. A slot is an hour, a day or a month of UTC and begins with it. A holder that may choose another
moment could give each customer a slot, and so a key, of its own.

Rule 2. The whole key counts, by its SHA-256: two keys with one id of 8 bytes can be made.

Rule 3. A key is used only near its slot, and remembered for longer than that. What lies further away is
neither remembered nor used, so that no holder decides how much of the disk its cards take.

No I/O, clock or randomness: `tx` and `now` are arguments.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import sqlalchemy as sa

from common import config, messages, sealing, slots
from common.errors import MalformedError, UntrustedError
from common.store import Tx
from customer_node.schema import cards, key_slots

Purpose: TypeAlias = Literal["hello", "browse", "order"]

PERIODS: Final[Mapping[Purpose, int]] = {
    "hello": config.DAY_MS,
    "browse": config.HOUR_MS,
    "order": config.DAY_MS,
}
GRACE_MS: Final = 10 * config.MINUTE_MS
"""How long after its second period a key may still be used; see `merchant_node.prekeys`."""

CLOCKS_APART_MS: Final = config.DAY_MS
"""How far the broker's clock may be from ours: what is remembered follows ours, what is used theirs."""

AHEAD: Final = 40
"""For how many periods ahead keys are remembered."""

MONTH_KEPT_MS: Final = 100 * config.DAY_MS

_INSERT_SLOT: Final = sa.insert(key_slots)
_INSERT_CARD: Final = sa.insert(cards)


class SecondKeyError(Exception):
    """A slot has another key already; `first` is the signed card that showed it."""

    def __init__(self, purpose: str, first: bytes) -> None:
        super().__init__(purpose)
        self.purpose = purpose
        self.first = first


@dataclass(frozen=True)
class Shown:
    """A key at its slot: SHA-256 of the whole public key, and the time until which it is remembered."""

    purpose: str
    slot: int
    key: bytes
    until: int


def slot_keys(holder: str, purpose: Purpose, keys: Sequence[messages.SlotKey], now: int) -> list[Shown]:
    """Read an X-Wing key list. Raises `UntrustedError` for a slot or a key that cannot be one."""
    period = PERIODS[purpose]
    shown = []
    for key in keys:
        if key.slot % period:
            raise UntrustedError(f"{holder} shows a {purpose} key for a time that is no calendar slot.")
        try:
            sealing.load_public(key.public)
        except MalformedError as error:
            raise UntrustedError(f"{holder} shows a degenerate key.") from error
        until = key.slot + 2 * period + GRACE_MS + 2 * CLOCKS_APART_MS
        if until > now and key.slot < now + AHEAD * period:
            shown.append(Shown(purpose, key.slot, _digest(key.public), until))
    return shown


def issuer_keys(keys: Sequence[messages.IssuerKey], now: int) -> list[messages.IssuerKey]:
    """Give the issuer keys of the month before, this one and the next: no others are ever used."""
    months = _months_around(now)
    return [key for key in keys if key.month in months]


def issuer_slots(keys: Sequence[messages.IssuerKey], now: int) -> list[Shown]:
    """Read issuer keys, one slot for each purpose, value and month."""
    months = _months_around(now)
    return [
        Shown(
            f"{key.purpose} {key.value}" if key.value else key.purpose,
            months[key.month],
            _digest(key.public),
            months[key.month] + MONTH_KEPT_MS,
        )
        for key in issuer_keys(keys, now)
    ]


def key_for(purpose: Purpose, keys: Sequence[messages.SlotKey], now: int) -> sealing.XWingPublicKey | None:
    """Give the key of the newest slot that has begun at `now`, or else of the first slot.

    None where that slot is not near `now`. Raises `MalformedError` for a degenerate key.
    """
    begun = [key for key in keys if key.slot <= now]
    chosen = max(begun, key=lambda key: key.slot) if begun else min(keys, key=lambda key: key.slot)
    period = PERIODS[purpose]
    if not now - 2 * period - GRACE_MS < chosen.slot <= now + period:
        return None
    return sealing.load_public(chosen.public)


def remember(tx: Tx, holder: str, shown: Sequence[Shown], card: bytes, now: int) -> None:
    """Store the slots that are new, with the card that shows them. Raises `SecondKeyError`."""
    _forget_old(tx, now)
    known = {
        (row["purpose"], row["slot"]): (row["key"], row["card"])
        for row in tx.all(sa.select(key_slots).where(key_slots.c.holder == holder))
    }
    digest = _digest(card)
    new: list[Shown] = []
    for each in shown:
        place = (each.purpose, each.slot)
        if place not in known:
            known[place] = (each.key, digest)
            new.append(each)
        elif known[place][0] != each.key:
            raise SecondKeyError(each.purpose, _card(tx, known[place][1]) or card)
    if new and _card(tx, digest) is None:
        tx.insert(_INSERT_CARD, {"digest": digest, "card": card})
    for each in new:
        row = {"purpose": each.purpose, "slot": each.slot, "key": each.key, "until": each.until}
        tx.insert(_INSERT_SLOT, {"holder": holder, **row, "card": digest})


def latest_card(tx: Tx, holder: str) -> bytes | None:
    """Give the newest card of a holder that is still remembered."""
    card: bytes | None = tx.scalar(
        sa.select(cards.c.card)
        .join(key_slots, key_slots.c.card == cards.c.digest)
        .where(key_slots.c.holder == holder)
        .order_by(key_slots.c.slot.desc())
        .limit(1)
    )
    return card


def _forget_old(tx: Tx, now: int) -> None:
    if tx.changed(sa.delete(key_slots).where(key_slots.c.until < now)):
        tx.execute(sa.delete(cards).where(cards.c.digest.not_in(sa.select(key_slots.c.card))))


def _card(tx: Tx, digest: bytes) -> bytes | None:
    card: bytes | None = tx.scalar(sa.select(cards.c.card).where(cards.c.digest == digest))
    return card


def _months_around(now: int) -> dict[str, int]:
    """Give the month before, this one and the next, each with its start."""
    present = slots.month_of(now)
    around = (slots.previous_month(present), present, slots.next_month(present))
    return {month: slots.month_start(month) for month in around}


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
