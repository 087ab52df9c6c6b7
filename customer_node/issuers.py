"""The broker's blind-signature keys as the wallet knows them.

Rule. Each purpose, value and month has one key, and each key belongs to one of them; `key_slots` keeps the
evidence where a broker shows another.

No I/O, clock or randomness: `tx` is an argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from common import coins
from common.errors import MalformedError, UntrustedError
from common.messages import IssuerKey
from common.store import Row, Tx
from customer_node.schema import issuer_keys

_COLUMNS: Final = ("key_id", "purpose", "value", "month", "public")
_INSERT_KEY: Final = sa.insert(issuer_keys)


def learn(tx: Tx, announced: Sequence[IssuerKey]) -> None:
    """Store the announced keys. Raises `UntrustedError` for a malformed or a second one."""
    rows = tx.all(sa.select(issuer_keys))
    by_slot = {(row["purpose"], row["value"], row["month"]): row["public"] for row in rows}
    ids = {row["key_id"] for row in rows}
    for key in announced:
        slot = (key.purpose, key.value, key.month)
        try:
            coins.issuer_public(key)
        except MalformedError as error:
            raise UntrustedError(f"The broker announces an unusable key: {error}.") from error
        if by_slot.get(slot, key.public) != key.public:
            raise UntrustedError(
                f"The broker announces a second {key.purpose} key of value {key.value} for {key.month}."
            )
        if slot in by_slot:
            continue
        if key.key_id in ids:
            raise UntrustedError("The broker announces one key for two values or months.")
        ids.add(key.key_id)
        by_slot[slot] = key.public
        columns = {name: getattr(key, name) for name in _COLUMNS}
        tx.insert(_INSERT_KEY, {**columns, "next_counter": 0})


def top(tx: Tx, month: str) -> int:
    """Give the largest coin of a month. Raises `UntrustedError` if there is none."""
    largest: int | None = tx.scalar(
        sa.select(sa.func.max(issuer_keys.c.value)).where(
            issuer_keys.c.purpose == "coin", issuer_keys.c.month == month
        )
    )
    if largest is None:
        raise UntrustedError(f"The broker announces no coins for {month}.")
    return largest


def largest(tx: Tx) -> int:
    """Give the largest coin of all months that the wallet knows, 1 where it knows none."""
    value: int | None = tx.scalar(sa.select(sa.func.max(issuer_keys.c.value)))
    return value or 1


def issuer_of(row: Row) -> IssuerKey:
    """Give the key out of a row that has its columns."""
    return IssuerKey(**{name: row[name] for name in _COLUMNS})
