"""Every new key is one public event, whoever it belongs to.

    coin, ticket    in the transaction that stores the key (`mint`)
    hello, log      in the transaction after which the broker's card shows the key
    browse, order   in the transaction that sees the key in the merchant's card

Rule 1. One event per key, over restarts and repetitions: a row and its event are written together. (A coin
or ticket key has a row of its own in `issuer_keys`, which takes no second key for its slot.)

Rule 2. A merchant's keys are read off its card, as its customers read them: what it would tell us need not
be what it shows them.

Rule 3. No merchant decides how much is written. A slot's second key is recorded, since it breaks the
promise of one key per slot; a third proves nothing more. Slots that are over or far ahead are not recorded.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import sqlalchemy as sa

from broker_node import schema
from broker_node.audit import Audit, text_of
from common import config, messages
from common.clock import Random
from common.errors import MalformedError
from common.store import Tx

Kind: TypeAlias = Literal["hello", "log", "browse", "order", "coin", "ticket"]

OWNER: Final = "broker"
"""The broker as an owner of keys; no merchant is called so."""

PERIODS: Final[Mapping[Kind, int]] = {
    "hello": config.DAY_MS,
    "browse": config.HOUR_MS,
    "order": config.DAY_MS,
}
KEYS_PER_SLOT: Final = 2
AHEAD: Final = 32
"""For how many periods ahead a merchant's keys are recorded: as many order prekeys as a card holds."""

GRACE_MS: Final = 10 * config.MINUTE_MS
"""How much longer than its second period a key may open; an order prekey does."""

KEPT_MS: Final = config.DAY_MS
"""How long a row outlasts its key: a clock that is set back announces nothing twice."""

_INSERT: Final = sa.insert(schema.announced_keys)
_OF_OWNER: Final = sa.select(schema.announced_keys).where(
    schema.announced_keys.c.owner == sa.bindparam("holder")
)


@dataclass(frozen=True)
class Shown:
    """A key at its slot, whose start is 0 for a key without one."""

    kind: Kind
    slot: int
    public: bytes

    @property
    def commitment(self) -> bytes:
        """SHA-256 of the public key; the first 8 bytes are the key's id."""
        return hashlib.sha256(self.public).digest()

    @property
    def ends(self) -> int | None:
        """When it opens nothing any more, or None where that has no fixed time."""
        return self.slot + 2 * PERIODS[self.kind] + GRACE_MS if self.kind in PERIODS else None


class Announced:
    """Writes each key's event, once."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit

    def issuer(self, tx: Tx, issuer: messages.IssuerKey, now: int, random: Random) -> None:
        """Record a coin or ticket key that this transaction stores."""
        value = {"value": issuer.value} if issuer.purpose == "coin" else {}
        self._record(tx, OWNER, issuer.purpose, issuer.public, issuer.month, value, now, random)

    def own(
        self, tx: Tx, hello: Iterable[messages.SlotKey], log_public: bytes, now: int, random: Random
    ) -> None:
        """Record what the broker's card is about to show, as far as it is new."""
        shown = [Shown("log", 0, log_public), *(Shown("hello", key.slot, key.public) for key in hello)]
        self._note(tx, OWNER, shown, now, random)

    def of_merchant(self, tx: Tx, card: messages.MerchantCard, now: int, random: Random) -> None:
        """Record what is new in a verified card. Raises `MalformedError` for a slot that cannot be one."""
        shown = [Shown("browse", key.slot, key.public) for key in card.browse_prekeys]
        shown += [Shown("order", key.slot, key.public) for key in card.order_prekeys]
        if any(key.slot % PERIODS[key.kind] for key in shown):
            raise MalformedError("a prekey for a time that is no calendar slot")
        near = [key for key in shown if key.slot < now + AHEAD * PERIODS[key.kind]]
        self._note(tx, card.merchant, near, now, random)

    def sweep(self, tx: Tx, now: int) -> None:
        """Forget keys that are long over: they are not recorded again."""
        tx.execute(sa.delete(schema.announced_keys).where(schema.announced_keys.c.ends < now - KEPT_MS))

    def _note(self, tx: Tx, owner: str, shown: Sequence[Shown], now: int, random: Random) -> None:
        rows = tx.all(_OF_OWNER, {"holder": owner})
        known = {(row["kind"], row["slot"], row["commitment"]) for row in rows}
        count = Counter((row["kind"], row["slot"]) for row in rows)
        for key in shown:
            place = (key.kind, key.slot)
            over = key.ends is not None and key.ends <= now
            if over or (*place, key.commitment) in known or count[place] >= KEYS_PER_SLOT:
                continue
            known.add((*place, key.commitment))
            count[place] += 1
            row = {"owner": owner, "kind": key.kind, "slot": key.slot, "commitment": key.commitment}
            tx.insert(_INSERT, row | {"ends": key.ends})
            slot = None if key.ends is None else text_of(key.slot)
            self._record(tx, owner, key.kind, key.public, slot, {}, now, random)

    def _record(
        self,
        tx: Tx,
        owner: str,
        kind: Kind,
        public: bytes,
        slot: str | None,
        more: Mapping[str, Any],
        now: int,
        random: Random,
    ) -> None:
        digest = hashlib.sha256(public).hexdigest()
        data = {"kind": kind, "key": digest[:16], "commitment": digest, "owner": owner, "slot": slot}
        self._audit.record(tx, "key.announced", {**data, **more}, now, random)
