"""Among how many coins one of ours hides, as far as the public totals tell: an upper bound.

    broker's card --> the totals that were published last --> coins of that value and month, not spent by then

Whoever sees a coin spent learns its value and month, and that somebody drew it: it may be any coin of that
kind that was out. But one person holds many coins, some of ours are among them, some are lost, and times
and amounts rule out others. So the crowd is smaller than this number.

Rule. The totals are shown and nothing else: no decision rests on them, and they leave the profile on no
road. So it does no harm that an account's connection brings them as well as a shop's.

No I/O, clock or randomness: `tx` and `now` are arguments.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import sqlalchemy as sa

from common import slots
from common.messages import BrokerCard
from common.store import Tx
from customer_node.schema import coin_totals, issuer_keys, tokens

_INSERT: Final = sa.insert(coin_totals)
_HELD: Final = (
    sa.select(issuer_keys.c.value, issuer_keys.c.month, sa.func.count().label("count"))
    .join(tokens, tokens.c.key_id == issuer_keys.c.key_id)
    .where(tokens.c.state == "free", issuer_keys.c.purpose == "coin")
    .group_by(issuer_keys.c.value, issuer_keys.c.month)
)


def learn(tx: Tx, card: BrokerCard) -> None:
    """Keep the totals of a card in place of those before."""
    if card.totals_at == counted_at(tx):
        return
    tx.execute(sa.delete(coin_totals))
    # Summed, since a card may name a kind twice; and nothing can be spent that was not issued.
    out: Counter[tuple[int, str]] = Counter()
    for total in card.totals:
        out[total.value, total.month] += max(0, total.issued - total.spent)
    for (value, month), count in out.items():
        tx.insert(_INSERT, {"value": value, "month": month, "at": card.totals_at, "out": count})


def counted_at(tx: Tx) -> int:
    """Give the boundary of the totals, 0 where there were none yet."""
    return int(tx.scalar(sa.select(sa.func.max(coin_totals.c.at))) or 0)


def bounds(tx: Tx, now: int) -> dict[int, int]:
    """Give, by value, an upper bound that holds for each free coin of that value; left out if unknown.

    Where the wallet alone holds more of a kind than were out, they were drawn after the count.
    """
    oldest = slots.previous_month(slots.month_of(now))
    out = {(row["value"], row["month"]): row["out"] for row in tx.all(sa.select(coin_totals))}
    found: dict[int, int] = {}
    unknown: set[int] = set()
    for row in tx.all(_HELD.where(issuer_keys.c.month >= oldest)):
        value, count = row["value"], out.get((row["value"], row["month"]), 0)
        found[value] = min(found.get(value, count), count)
        if count < row["count"]:
            unknown.add(value)
    return {value: count for value, count in found.items() if value not in unknown}
