"""Ids that follow from the seed: swaps and orders are numbered, so that a restored wallet finds them again.

    id     = HKDF(seed, label || kind || era || month || number)    16 bytes
    secret = HKDF(seed, label || order id)                          32 bytes

Rule 1. A number is stored before what carries its id is sent, in the same transaction.

Rule 2. Numbers begin anew with each month: whoever restores looks at the months whose coins still count
and at no others.

Rule 3. Each restoring begins an era of its own, in ids and in the counters of tokens. What the wallet asked
about while it restored, in vain or not, is thereby never used again; and it may draw and buy at once, since
nothing that is still to be found can have the same number.

No I/O, clock or randomness: `tx` is an argument.
"""

from __future__ import annotations

import hmac
from typing import Final, Literal, TypeAlias

import sqlalchemy as sa
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from common.errors import RejectedError
from common.store import Tx
from customer_node.schema import eras, numbers, restores, searches

Kind: TypeAlias = Literal["swap", "order"]

GAP: Final = 24
"""So many numbers in a row without a trace at the broker, and there are no more: those refused leave none."""

MOST_SKIPPED: Final = 8
"""How many numbers are left out at once where one turns out to be used; well below `GAP`."""

ERA_BITS: Final = 31
COUNTER_BITS: Final = 32
"""A token's counter is its era's number, shifted by this, and the count in it: 63 bits in all."""


def next_id(tx: Tx, seed: bytes, kind: Kind, month: str, skipped: int = 0) -> bytes:
    """Give the id of the next swap or order of a month, and store that it was given.

    `skipped` numbers are left out: those of a profile that came back from a copy were used since.
    """
    era = present_era(tx)
    where = (numbers.c.kind == kind, numbers.c.era == era, numbers.c.month == month)
    row = tx.one(sa.select(numbers.c.next).where(*where))
    number = skipped + (0 if row is None else int(row["next"]))
    if row is None:
        tx.execute(sa.insert(numbers), {"kind": kind, "era": era, "month": month, "next": number + 1})
    else:
        tx.execute(sa.update(numbers).where(*where).values(next=number + 1))
    return id_of(seed, kind, era, month, number)


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
