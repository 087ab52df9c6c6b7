"""Ids that follow from the seed: swaps and orders are numbered, so that a restored wallet finds them again.

    id     = HKDF(seed, label || kind || era || month || number)    16 bytes
    secret = HKDF(seed, label || order id)                          32 bytes

Rule 1. A number is stored before what carries its id is sent, in the same transaction.

Rule 2. Numbers begin anew with each month: whoever restores looks at the months whose coins still count
and at no others.

Rule 3. Each restoring begins an era of its own, in ids and in the counters of tokens. What the wallet asked
about while it restored, in vain or not, is thereby never used again; and it may draw and buy at once, since
nothing that is still to be found can have the same number.

Rule 4. Never do `GAP` numbers in a row stay without a trace at the broker. The number of what it refused is
given again, once no copy of the refused message, and no answer to one, can arrive any more; and with
`MOST_UNTRACED` numbers unanswered or refused, there is no further one.

No I/O, clock or randomness: `tx` and `now` are arguments.
"""

from __future__ import annotations

import hmac
from typing import Final, Literal, TypeAlias

import sqlalchemy as sa
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from common.errors import RejectedError
from common.store import Tx
from customer_node.schema import eras, freed_numbers, numbers, operations, orders, restores, searches

Kind: TypeAlias = Literal["swap", "order"]
KINDS: Final[tuple[Kind, ...]] = ("swap", "order")

GAP: Final = 24
"""So many numbers in a row without a trace at the broker, and there are no more: those refused leave none."""

MOST_UNTRACED: Final = 12
"""How many numbers of a kind may be unanswered or refused; with `MOST_SKIPPED` well below `GAP`."""

MOST_SKIPPED: Final = 8
"""How many numbers are left out at once where one turns out to be used; well below `GAP`."""

ERA_BITS: Final = 31
COUNTER_BITS: Final = 32
"""A token's counter is its era's number, shifted by this, and the count in it: 63 bits in all."""


def next_id(tx: Tx, seed: bytes, kind: Kind, month: str, now: int) -> bytes:
    """Give the id of the next swap or order of a month, and store that it was given.

    Raises `RejectedError` where too many are unanswered or refused.
    """
    if untraced(tx, kind, now) >= MOST_UNTRACED:
        raise RejectedError(
            f"The broker refused or did not answer the last {MOST_UNTRACED} {kind}s.",
            "`veilmart resume` asks about them; what was refused counts for ten minutes.",
        )
    era = present_era(tx)
    place = (freed_numbers.c.kind == kind, freed_numbers.c.era == era, freed_numbers.c.month == month)
    number = tx.scalar(
        sa.select(sa.func.min(freed_numbers.c.number)).where(*place, freed_numbers.c.usable_from <= now)
    )
    if number is None:
        return _new_id(tx, seed, kind, month)
    tx.execute(sa.delete(freed_numbers).where(*place, freed_numbers.c.number == number))
    return id_of(seed, kind, era, month, number)


def other_id(tx: Tx, seed: bytes, kind: Kind, month: str, skipped: int) -> bytes:
    """Give another id instead of one that turned out to be used: `skipped` numbers are left out.

    Those of a profile that came back from a copy were used since.
    """
    return _new_id(tx, seed, kind, month, skipped)


def _new_id(tx: Tx, seed: bytes, kind: Kind, month: str, skipped: int = 0) -> bytes:
    era = present_era(tx)
    where = (numbers.c.kind == kind, numbers.c.era == era, numbers.c.month == month)
    row = tx.one(sa.select(numbers.c.next).where(*where))
    number = skipped + (0 if row is None else int(row["next"]))
    if row is None:
        tx.execute(sa.insert(numbers), {"kind": kind, "era": era, "month": month, "next": number + 1})
    else:
        tx.execute(sa.update(numbers).where(*where).values(next=number + 1))
    return id_of(seed, kind, era, month, number)


def give_back(tx: Tx, seed: bytes, kind: Kind, given: bytes, usable_from: int) -> None:
    """Let an id be given again from a time on: the broker keeps nothing of what had it.

    One of an era that is over is not given again, and need not be: nothing new follows it.
    """
    era = present_era(tx)
    rows = tx.all(
        sa.select(numbers.c.month, numbers.c.next)
        .where(numbers.c.kind == kind, numbers.c.era == era)
        .order_by(numbers.c.month.desc())
    )
    for row in rows:
        for number in reversed(range(row["next"])):
            if id_of(seed, kind, era, row["month"], number) == given:
                place = {"kind": kind, "era": era, "month": row["month"], "number": number}
                tx.execute(sa.insert(freed_numbers), {**place, "usable_from": usable_from})
                return


def untraced(tx: Tx, kind: Kind, now: int) -> int:
    """Count the numbers of a kind that are given, and of which the broker may keep nothing."""
    open_ = (
        sa.select(sa.func.count()).where(operations.c.kind == "swap", operations.c.state == "open")
        if kind == "swap"
        else sa.select(sa.func.count()).where(orders.c.state.in_(("draft", "refused")))
    )
    resting = sa.select(sa.func.count()).where(
        freed_numbers.c.kind == kind, freed_numbers.c.usable_from > now
    )
    return int(tx.scalar(open_)) + int(tx.scalar(resting))


def id_of(seed: bytes, kind: Kind, era: int, month: str, number: int) -> bytes:
    """Give the 16-byte id of a numbered swap or order."""
    place = b"\0".join((kind.encode(), str(era).encode(), month.encode(), str(number).encode()))
    return _expand(seed, b"veilmart v1 id\0" + place, 16)


def order_secret(seed: bytes, order_id: bytes) -> bytes:
    """Give the secret that an order's three secrets follow from."""
    return _expand(seed, b"veilmart v1 secret of order\0" + order_id, 32)


def present_era(tx: Tx) -> int:
    """Give the era of what is numbered now; 0 in a wallet that was never restored.

    Raises `RejectedError` in one that is made from words and does not know its era yet: a number of the
    first era would be used twice.
    """
    newest = tx.one(sa.select(eras.c.era).order_by(eras.c.number.desc()).limit(1))
    if newest is not None:
        return int(newest["era"])
    if tx.one(sa.select(restores.c.number).where(restores.c.count.is_(None)).limit(1)) is not None:
        raise RejectedError("The wallet is not restored yet.", "`veilmart wallet restore` does it.")
    return 0


def restoring(tx: Tx) -> bool:
    """Tell whether the wallet was made from words and did not get everything back yet."""
    asked = tx.one(sa.select(restores.c.number).where(restores.c.count.is_(None)).limit(1))
    open_ = tx.one(sa.select(searches.c.kind).where(searches.c.misses < GAP).limit(1))
    return asked is not None or open_ is not None


def era_of(seed: bytes, account: str, count: int) -> int:
    """Give the era that the `count`-th restoring with an account begins; 0 is the first wallet's.

    An account counts for itself alone, so its name is in it: two accounts' first eras differ.
    """
    if count == 0:
        return 0
    content = b"veilmart v1 era\0" + str(count).encode() + b"\0" + account.encode()
    digest = hmac.digest(seed, content, "sha256")
    return 1 + int.from_bytes(digest[:8]) % ((1 << ERA_BITS) - 1)


def split_counter(counter: int) -> tuple[int, int]:
    """Give the era of a token counter and the count in it."""
    return counter >> COUNTER_BITS, counter & ((1 << COUNTER_BITS) - 1)


def first_counter(era: int) -> int:
    """Give the first token counter of an era."""
    return era << COUNTER_BITS


def _expand(seed: bytes, info: bytes, length: int) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=length, salt=None, info=info).derive(seed)
