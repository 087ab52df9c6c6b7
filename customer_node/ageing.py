"""Coins whose month is over: worth asking about once, and then swapped or lost.

Coins count for their month and the next. After that a broker may still swap them for a time; whoever is
refused knows that they are worth nothing, and never shows them again.

No I/O, clock or randomness: `tx` and `now` are arguments.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from common import slots, states
from common.store import Row, Tx
from customer_node.schema import issuer_keys, tokens
from customer_node.wallet import TOKEN, WITH_KEY

_COINS: Final = WITH_KEY.where(issuer_keys.c.purpose == "coin").order_by(
    issuer_keys.c.month, issuer_keys.c.value, tokens.c.counter
)


@dataclass(frozen=True)
class Ended:
    """Coins of a month whose grace was over at `at`, in ms since 1970, and their worth in minor units.

    `lost` where the broker has refused to swap them; the others may be worth asking for.
    """

    month: str
    at: int
    worth: int
    lost: bool


def ended(tx: Tx, now: int) -> list[Ended]:
    """Sum the coins whose month is over, by month, those that are lost apart from the others."""
    worth: Counter[tuple[str, bool]] = Counter()
    for row in _over(tx, now, ("free", "ended")):
        worth[row["month"], row["state"] == "ended"] += row["value"]
    return [
        Ended(month, slots.grace_end(month), amount, lost) for (month, lost), amount in sorted(worth.items())
    ]


def to_exchange(tx: Tx, now: int, most: int) -> Sequence[Row]:
    """Give at most `most` coins whose month is over and that nobody has refused to swap."""
    return _over(tx, now, ("free",))[:most]


def retire(tx: Tx, month: str) -> None:
    """Note that coins of a month are worth nothing any more."""
    keys = sa.select(issuer_keys.c.key_id).where(
        issuer_keys.c.month == month, issuer_keys.c.purpose == "coin"
    )
    tx.execute(
        sa.update(tokens)
        .where(tokens.c.state.in_(states.sources(TOKEN, "ended")), tokens.c.key_id.in_(keys))
        .values(state="ended")
    )


def _over(tx: Tx, now: int, wanted: Sequence[str]) -> Sequence[Row]:
    first = slots.previous_month(slots.month_of(now))
    return tx.all(_COINS.where(tokens.c.state.in_(wanted), issuer_keys.c.month < first))
