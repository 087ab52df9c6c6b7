"""What was refused stays refused, for as long as a copy of it may still come.

    asked --refused--> kept --the same again--> the same refusal, byte for byte
                         +---- nobody asked for two freshness windows: forgotten
    searched for --not_found--> given up --it comes after all--> refused, as `given_up`
                         +---- the same

Rule 1. Whoever hears a refusal takes it for the last word: a wallet gives the coins up that it asked for, a
merchant tells a person that nothing was given back. But the bus repeats, and a restart forgets what was seen.
So a copy is not looked at anew when the reason of the refusal has gone; whatever was refused is asked for
again as another request, under an id of its own.

Rule 2. The content is bound, not the id: other content under the id of what was refused is looked at. So
nobody can occupy another's id by having something refused under it. What carries a password is known by
its session and id alone: no hash of it is stored.

Rule 3. A refusal is kept for two freshness windows after it was last said: it is heard in the first, and no
copy that was sent until then counts after the second.

Rule 4. What passes, or is about the session and not about what it asks for (`OPEN`), binds nobody: who hears
it asks for the same again.

Rule 5. Only who has a session is refused here, and so many things in a time: beyond that the answer is
`busy`, which refuses nothing.

Rule 6. `not_found` is the last word too: a restored wallet that searches for its swaps and orders goes on
with the coins of those that it was told are unknown. So these are refused beforehand. Whoever searches has
the id alone, so here the id is bound: nobody but its wallet knows it, and for an order its claim secret
besides (ADR 0012).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final, TypeAlias

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from broker_node import operations, schema
from broker_node.mint import owner_of
from broker_node.refusals import PASSING, refuse
from broker_node.sends import Session, ToMerchant, ToSession
from broker_node.signing import Asked
from common import codec, messages
from common.config import Limits
from common.core import Arrival
from common.errors import RefusedError
from common.store import Tx

Refusal: TypeAlias = messages.Refused | messages.KeyRetired | messages.PayoutRefused

OPEN: Final = PASSING | {"session_over", "idempotency_conflict"}
"""A conflict needs no keeping: what has the id keeps it."""

REFUSALS_OF_A_SESSION: Final = 256
"""How many of one session are kept in a time. No wallet, and no shop, comes near it."""

GIVEN_UP_OF_A_SESSION: Final = 1024
"""How many things one session may search for in vain in a time: a search of seven eras and more."""

_CUSTOMERS: Final = (messages.Withdraw, messages.Swap, messages.ClaimRefund, messages.OpenDispute)
_MERCHANTS: Final = (messages.RefundOrder, messages.RequestPayout)
_OF_ACCOUNTS: Final = (
    messages.ChangePassword,
    messages.EnableTotp,
    messages.DisableTotp,
    messages.CloseAccount,
)

_ANSWER: Final[codec.Codec[Refusal]] = codec.Codec(Refusal)
_KEPT: Final = sa.select(schema.refusals).where(
    schema.refusals.c.request.in_(sa.bindparam("wanted", expanding=True))
)


def _keeping(insert: Any) -> sa.Insert:
    keep: sa.Insert = insert.on_conflict_do_update(
        index_elements=["request"], set_={"until": insert.excluded.until}
    )
    return keep


_KEEP: Final = {
    "sqlite": _keeping(sqlite.insert(schema.refusals)),
    "postgresql": _keeping(postgresql.insert(schema.refusals)),
}


def hash_of(sender: Session | None, request: Any) -> bytes | None:
    """Give what a request is known by if it is refused; None for one whose refusal is not kept.

    Of those that are not listed some only ask; the others their senders ask about, or leave open.
    """
    if sender is None:
        return None
    if isinstance(request, _CUSTOMERS):
        return operations.content_hash(request)
    if isinstance(request, _MERCHANTS):
        # Another merchant may have the same id, and be refused for reasons of its own.
        return hashlib.sha256((sender.merchant or "").encode() + b"\0" + codec.pack(request)).digest()
    if isinstance(request, _OF_ACCOUNTS):
        return owner_of("account change", sender.sid + request.request)
    return None


def swap_by_id(operation: bytes) -> bytes:
    """Give what a swap is known by to whoever has its id alone."""
    return _by_key(owner_of("swap", operation))


def order_by_id(order_id: bytes, claim_lock: bytes) -> bytes:
    """Give what an order is known by to whoever has its id and claim secret alone."""
    return _by_key(owner_of("order", order_id + claim_lock))


def _by_key(key: bytes) -> bytes:
    return owner_of("given up", key)


class KeptRefusals:
    """Refuses, and repeats what was refused."""

    def __init__(self, limits: Limits) -> None:
        # An operator may shorten its own window; customers go by the default.
        self._kept_ms = 2 * max(limits.freshness_ms, Limits().freshness_ms)
        self._kept_of: Counter[bytes] = Counter()
        self._given_up_of: Counter[bytes] = Counter()
        """How much of each session was kept since `_counted_from`."""
        self._counted_from = 0

    def among(self, tx: Tx, requests: Iterable[bytes], now: int) -> dict[bytes, Refusal]:
        """Give the refusals of those of these requests that were refused; each is kept on from now."""
        rows = tx.among(_KEPT, requests)
        tx.each(_KEEP[tx.dialect], [{**row, "until": now + self._kept_ms} for row in rows])
        return {row["request"]: _ANSWER.unpack(row["answer"]) for row in rows}

    def of_operations(self, tx: Tx, asked: Collection[Asked], now: int) -> dict[bytes, Refusal]:
        """Give the refusals of those that were refused or given up, by the hash of their content."""
        names = {each.content_hash: (each.content_hash, _by_key(each.key)) for each in asked}
        found = self.among(tx, (name for each in names.values() for name in each), now)
        return {shown: found[name] for shown, each in names.items() for name in each if name in found}

    def orders_left(
        self, tx: Tx, arrivals: Sequence[Arrival], now: int
    ) -> tuple[Sequence[Arrival], list[ToSession]]:
        """Give the orders that nobody has given up, and the refusals of the others."""
        names = [order_by_id(arrival.body.order_id, arrival.body.claim_lock) for arrival in arrivals]
        found = self.among(tx, names, now)
        if not found:
            return arrivals, []
        left = [arrival for arrival, name in zip(arrivals, names, strict=True) if name not in found]
        refused = [
            ToSession(arrival.sender.sid, found[name])
            for arrival, name in zip(arrivals, names, strict=True)
            if name in found
        ]
        return left, refused

    def give_up(self, tx: Tx, sender: Session, known_by: bytes, reference: bytes, now: int) -> None:
        """Refuse from now on what is not there, since whoever asks is told so.

        Raises `RefusedError("busy")` where the session has asked for too much that was not.
        """
        if self.among(tx, [known_by], now):
            return
        if not self._has_room(self._given_up_of, sender, GIVEN_UP_OF_A_SESSION, now):
            raise RefusedError("busy")
        refusal = messages.Refused(reference=reference, code="given_up")
        row = {"request": known_by, "answer": codec.pack(refusal), "until": now + self._kept_ms}
        tx.insert(_KEEP[tx.dialect], row)

    def again(
        self, tx: Tx, sender: Session | None, request: Any, now: int
    ) -> list[ToSession | ToMerchant] | None:
        """Refuse what was refused before; None where it was not."""
        known_by = hash_of(sender, request)
        if sender is None or known_by is None:
            return None
        refusal = self.among(tx, [known_by], now).get(known_by)
        if refusal is None:
            return None
        if sender.merchant is None:
            return [ToSession(sender.sid, refusal)]
        return [ToMerchant(sender.merchant, refusal)]

    def refuse(
        self, tx: Tx, sender: Session | None, request: Any, error: RefusedError, now: int
    ) -> list[ToSession | ToMerchant]:
        """Tell whoever asked, having kept what it is told; that it is too much where it is."""
        known_by = hash_of(sender, request)
        if sender is None or known_by is None or error.code in OPEN:
            return refuse(sender, request, error)
        if not self._has_room(self._kept_of, sender, REFUSALS_OF_A_SESSION, now):
            return refuse(sender, request, RefusedError("busy"))
        sends = refuse(sender, request, error)
        for send in sends:
            row = {"request": known_by, "answer": codec.pack(send.body), "until": now + self._kept_ms}
            tx.insert(_KEEP[tx.dialect], row)
        return sends

    def _has_room(self, counted: Counter[bytes], sender: Session, most: int, now: int) -> bool:
        if not 0 <= now - self._counted_from < self._kept_ms:
            self._counted_from = now
            self._kept_of.clear()
            self._given_up_of.clear()
        # Counted, too, if this transaction is rolled back: a bound need not be exact.
        counted[sender.sid] += 1
        return counted[sender.sid] <= most

    @staticmethod
    def sweep(tx: Tx, now: int) -> None:
        """Forget what no copy can come of any more."""
        tx.execute(sa.delete(schema.refusals).where(schema.refusals.c.until < now))
