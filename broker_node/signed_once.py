"""Each blinded value is signed once: signed again it is the same coin, paid for twice and good for once.

    mark = month (u16) || first 14 bytes of SHA-256(label || key id || blinded value)

A wallet that came back from an old copy asks for what it had before; whoever is refused asks for other coins.

Rule 1. Marks are written in the transaction that debits, spends and stores the signatures, and for what that
one hands out alone. What was asked for and refused has none.

Rule 2. The same operation again is no other one: its stored answer is looked for first.

Rule 3. Of requests in one batch that want one value the first counts, also where it is then refused for
another reason: the others ask for other coins all the same.

Rule 4. A key signs in its month alone. Marks of the months before the last one are swept, some at a time: a
clock that is set back into the month before finds all of its marks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Final

import sqlalchemy as sa

from broker_node import schema
from common import slots
from common.messages import BlindedToken, IssuerKey
from common.store import Tx

LABEL: Final = b"veilmart v1 signed value\0"
MONTH: Final = 2
HASHED: Final = 14
"""Bytes of a mark that are its month, and its value's hash."""

SWEPT_AT_ONCE: Final = 10_000
"""A broker signs no more in the minute between two sweeps, on average over a month."""

_mark = schema.signed_marks.c.mark
_AMONG: Final = sa.select(_mark).where(_mark.in_(sa.bindparam("wanted", expanding=True)))
_NOTE: Final = sa.insert(schema.signed_marks)
_OLD: Final = sa.select(_mark).where(_mark < sa.bindparam("oldest")).order_by(_mark).limit(SWEPT_AT_ONCE)
_SWEEP: Final = sa.delete(schema.signed_marks).where(_mark.in_(_OLD))


def marks_of(issuers: Mapping[bytes, IssuerKey], blinded: Iterable[BlindedToken]) -> tuple[bytes, ...]:
    """Give the marks of blinded values, whose keys are among these."""
    return tuple(
        _beginning(issuers[item.key_id].month)
        + hashlib.sha256(LABEL + item.key_id + item.blinded).digest()[:HASHED]
        for item in blinded
    )


def wanted_again(tx: Tx, requests: Sequence[tuple[bytes, Sequence[bytes]]]) -> set[bytes]:
    """Give those of these requests, each with its marks, that want what was signed, or one value twice.

    Of several that want one value all but the first; one that stands there twice is one.
    """
    signed = {row["mark"] for row in tx.among(_AMONG, (mark for _, marks in requests for mark in marks))}
    first: dict[bytes, bytes] = {}
    again: set[bytes] = set()
    for request, marks in requests:
        if (
            len(set(marks)) < len(marks)
            or not signed.isdisjoint(marks)
            or any(first.get(mark, request) != request for mark in marks)
        ):
            again.add(request)
        else:
            first.update(dict.fromkeys(marks, request))
    return again


def note(tx: Tx, marks: Iterable[bytes]) -> None:
    """Note that these values are signed in this transaction."""
    tx.each(_NOTE, [{"mark": mark} for mark in sorted(marks)])


def sweep(tx: Tx, now: int) -> None:
    """Forget some of the marks that no key can ask for any more."""
    tx.execute(_SWEEP, {"oldest": _beginning(slots.previous_month(slots.month_of(now)))})


@lru_cache(maxsize=64)
def _beginning(month: str) -> bytes:
    """Give what the marks of a month begin with: months since the year 0, so that they lie in their order."""
    return (12 * int(month[:4]) + int(month[5:]) - 1).to_bytes(MONTH)
