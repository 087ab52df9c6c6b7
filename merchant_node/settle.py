"""What became of an order: paid for, so that it is a sale; or void, so that its stock is free again.

Rule. The broker repeats an outcome until it is confirmed; a repeated one is confirmed again. What
contradicts our own state is not confirmed: the broker goes on asking, and the operator reads in the log
that this store and the broker's disagree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa
import structlog

from common import messages
from common.messages import OrderOutcome, OutcomeKept
from common.slots import minute_of
from common.states import MERCHANT_ORDER, step
from common.store import Tx
from merchant_node import discounts, schema, stock

_STATES = sa.select(schema.orders.c.order_id, schema.orders.c.state).where(
    schema.orders.c.order_id.in_(sa.bindparam("ids", expanding=True))
)
_RESERVED = sa.select(schema.order_lines.c.sku, schema.order_lines.c.reserved).where(
    schema.order_lines.c.order_id.in_(sa.bindparam("ids", expanding=True)), schema.order_lines.c.reserved > 0
)
_STEP = (
    sa.update(schema.orders)
    .where(schema.orders.c.order_id == sa.bindparam("id"), schema.orders.c.state == sa.bindparam("old"))
    .values(state=sa.bindparam("new"))
)
_ADD_SALE = sa.insert(schema.sales)

_TARGET: Final = {"captured": "captured", "void": "cancelled"}
_SETTLED: Final = frozenset(
    {
        ("captured", "captured"),
        ("delivered", "captured"),
        ("cancelled", "void"),
        ("rejected", "void"),
        (None, "void"),
    }
)
"""(our state, the broker's outcome) where nothing is left to do. An unknown order that is void is one of
them: there is nothing to undo. An unknown one that is paid is not: nobody could deliver it."""


def settle_all(
    tx: Tx, outcomes: Sequence[OrderOutcome], now: int, refused: Counter[str]
) -> list[messages.Message]:
    """Take in a batch of outcomes; `now` is the broker's time, `refused` counts contradictions."""
    if not outcomes:
        return []
    rows = tx.among(_STATES, (outcome.order_id for outcome in outcomes))
    states: dict[bytes, str] = {row["order_id"]: row["state"] for row in rows}
    steps: list[dict[str, Any]] = []
    kept: list[messages.Message] = []
    for outcome in outcomes:
        old = states.get(outcome.order_id)
        if old == "accepted":
            new = step(MERCHANT_ORDER, old, _TARGET[outcome.outcome])
            states[outcome.order_id] = new
            steps.append({"id": outcome.order_id, "old": old, "new": new})
        elif (old, outcome.outcome) not in _SETTLED:
            refused["contradiction"] += 1
            structlog.get_logger("veilmart.merchant").error(
                "broker and merchant disagree on an order", outcome=outcome.outcome, ours=old or "unknown"
            )
            continue
        kept.append(OutcomeKept(order_id=outcome.order_id))
    _take(tx, steps, now)
    return kept


def _take(tx: Tx, steps: Sequence[dict[str, Any]], now: int) -> None:
    tx.step(_STEP, steps)
    for taken in steps:
        if taken["new"] == "captured":
            tx.insert(_ADD_SALE, {"order_id": taken["id"], "at": minute_of(now)})
    cancelled = [taken["id"] for taken in steps if taken["new"] == "cancelled"]
    freed: Counter[str] = Counter()
    for row in tx.among(_RESERVED, cancelled):
        freed[row["sku"]] += row["reserved"]
    stock.give_back(tx, freed)
    discounts.give_back(tx, cancelled)
