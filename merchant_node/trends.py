"""How a shop went, day by day: revenue, what became of orders, how long deliveries took, what was given back.

Rule. Days are those of a person: `offset` milliseconds are added to a time before it is cut into days. What
is read is a range of numbered rows (`merchant_node.figures`), and of deliveries the newest ones at most.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import sqlalchemy as sa

from common.config import DAY_MS
from common.store import Store, Tx
from merchant_node import schema
from merchant_node.figures import PAID, first_number

MOST_DELIVERIES: Final = 20_000
SOLD: Final = (*PAID, "refunded")


@dataclass(frozen=True)
class Day:
    """One day; `day` counts from 1970. Amounts in minor units, times in milliseconds, None where unknown.

    `revenue` is of paid orders that were not given back whole; `given` is what was given back that day.
    """

    day: int
    paid: int
    revenue: int
    refunds: int
    given: int
    deliveries: int
    median: int | None
    slow: int | None


@dataclass(frozen=True)
class Funnel:
    """How many orders came in, and how far they came. Each step is among those of the one before."""

    received: int
    accepted: int
    paid: int
    delivered: int


@dataclass(frozen=True)
class Trends:
    """Some days, the oldest first, and the orders of all of them together."""

    days: Sequence[Day]
    funnel: Funnel


def percentile(ordered: Sequence[int], part: float) -> int | None:
    """Give the least value that so much of the ordered values do not exceed (nearest rank)."""
    if not ordered:
        return None
    return ordered[max(0, -int(-len(ordered) * part // 1) - 1)]


def read_trends(store: Store, since: int, until: int, offset: int) -> Trends:
    """Read the days from the one of `since` to the one of `until`."""
    with store.snapshot() as tx:
        by_state = _orders(tx, since, offset)
        given = _refunds(tx, since, offset)
        took = _deliveries(tx, since, offset)
    days: list[Day] = []
    for day in range((since + offset) // DAY_MS, (until + offset) // DAY_MS + 1):
        states, times = by_state[day], sorted(took[day])
        days.append(
            Day(
                day,
                sum(states[state][0] for state in SOLD),
                sum(states[state][1] for state in PAID),
                *given[day],
                len(times),
                percentile(times, 0.5),
                percentile(times, 0.95),
            )
        )
    return Trends(days, _funnel(by_state.values()))


_Counts: TypeAlias = defaultdict[str, tuple[int, int]]
"""How many orders, of what amount together, by state."""


def _nothing() -> tuple[int, int]:
    return 0, 0


def _funnel(days: Iterable[_Counts]) -> Funnel:
    sums: defaultdict[str, int] = defaultdict(int)
    for states in days:
        for state, (count, _) in states.items():
            sums[state] += count
    paid = sum(sums[state] for state in SOLD)
    accepted = paid + sums["accepted"] + sums["cancelled"]
    return Funnel(accepted + sums["rejected"], accepted, paid, sums["delivered"])


def _orders(tx: Tx, since: int, offset: int) -> defaultdict[int, _Counts]:
    orders = schema.orders.c
    day = ((orders.at + offset) // DAY_MS).label("day")
    query = (
        sa.select(day, orders.state, sa.func.count(), sa.func.sum(orders.amount))
        .where(orders.number >= first_number(tx, schema.orders, since), orders.at >= since)
        .group_by(day, orders.state)
    )
    found: defaultdict[int, _Counts] = defaultdict(lambda: defaultdict(_nothing))
    for number, state, count, amount in tx.tuples(query):
        found[number][state] = (count, amount)
    return found


def _refunds(tx: Tx, since: int, offset: int) -> defaultdict[int, tuple[int, int]]:
    refunds = schema.refunds.c
    day = ((refunds.at + offset) // DAY_MS).label("day")
    query = (
        sa.select(day, sa.func.count(), sa.func.sum(refunds.given))
        .where(refunds.state == "done", refunds.at >= since)
        .group_by(day)
    )
    found: defaultdict[int, tuple[int, int]] = defaultdict(_nothing)
    found.update({number: (count, int(amount)) for number, count, amount in tx.tuples(query)})
    return found


def _deliveries(tx: Tx, since: int, offset: int) -> defaultdict[int, list[int]]:
    """Give how long it took from an order to its settlement: the customer has confirmed the download."""
    lines, orders = schema.statement_lines.c, schema.orders.c
    query = (
        sa.select(lines.at, orders.at)
        .join(schema.orders, orders.order_id == lines.reference)
        .where(lines.kind == "settled", lines.at >= since)
        .order_by(lines.line.desc())
        .limit(MOST_DELIVERIES)
    )
    found: defaultdict[int, list[int]] = defaultdict(list)
    for settled, ordered in tx.tuples(query):
        found[(settled + offset) // DAY_MS].append(max(0, settled - ordered))
    return found
