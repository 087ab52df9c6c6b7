"""What became of an order: paid, settled, given back; or void, so that its stock is free again.

    accepted --captured, settled--> captured         it is a sale
    accepted --refunded-----------> captured --> refunded
    captured | delivered --refunded--> refunded      all of it was given back
    accepted --void---------------> cancelled

Rule. The broker repeats an outcome until it is confirmed; a repeated one is confirmed again. What
contradicts our own state is not confirmed: the broker goes on asking, and the operator reads in the log
that this store and the broker's disagree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa
import structlog

from common import messages
from common.messages import OrderOutcome, OutcomeKept
from common.slots import minute_of
from common.states import MERCHANT_ORDER, step
from common.store import Tx
from merchant_node import discounts, licence_keys, schema, stock

_STATES = sa.select(schema.orders.c.order_id, schema.orders.c.number, schema.orders.c.state).where(
    schema.orders.c.order_id.in_(sa.bindparam("ids", expanding=True))
)
_RESERVED = sa.select(schema.order_lines.c.sku, schema.order_lines.c.reserved).where(
    schema.order_lines.c.order_number.in_(sa.bindparam("numbers", expanding=True)),
    schema.order_lines.c.reserved > 0,
)
_STEP = (
    sa.update(schema.orders)
    .where(schema.orders.c.number == sa.bindparam("of"), schema.orders.c.state == sa.bindparam("old"))
    .values(state=sa.bindparam("new"))
)
_ADD_SALE = sa.insert(schema.sales)

_STEPS: Final[Mapping[tuple[str | None, messages.Outcome], tuple[str, ...]]] = {
    ("accepted", "captured"): ("captured",),
    ("accepted", "settled"): ("captured",),
    ("accepted", "refunded"): ("captured", "refunded"),
    ("captured", "refunded"): ("refunded",),
    ("delivered", "refunded"): ("refunded",),
    ("accepted", "void"): ("cancelled",),
    **{(state, outcome): () for state in ("captured", "delivered") for outcome in ("captured", "settled")},
    # What was given back after it had been paid out of order may still be told of the time before.
    **{("refunded", outcome): () for outcome in ("captured", "settled", "refunded")},
    **{(state, "void"): () for state in ("cancelled", "rejected", None)},
}
"""(our state, the broker's outcome) -> the steps that it takes; what is not listed is a contradiction.

An unknown order that is void needs nothing: there is nothing to undo. An unknown one that is paid is none
of them: nobody could deliver it.
"""


def settle_all(
    tx: Tx, outcomes: Sequence[OrderOutcome], now: int, refused: Counter[str]
) -> list[messages.Message]:
    """Take in a batch of outcomes; `now` is the broker's time, `refused` counts contradictions."""
    if not outcomes:
        return []
    known = {row["order_id"]: row for row in tx.among(_STATES, (outcome.order_id for outcome in outcomes))}
    states: dict[bytes, str] = {order_id: row["state"] for order_id, row in known.items()}
    steps: list[dict[str, Any]] = []
    kept: list[messages.Message] = []
    for outcome in outcomes:
        old = states.get(outcome.order_id)
        taken = _STEPS.get((old, outcome.outcome))
        if taken is None:
            refused["contradiction"] += 1
            structlog.get_logger("veilmart.merchant").error(
                "broker and merchant disagree on an order", outcome=outcome.outcome, ours=old or "unknown"
            )
            continue
        for new in taken:
            before = states[outcome.order_id]
            states[outcome.order_id] = step(MERCHANT_ORDER, before, new)
            number = known[outcome.order_id]["number"]
            # By number; the id is for what goes by it.
            steps.append({"of": number, "old": before, "new": new, "id": outcome.order_id})
        kept.append(OutcomeKept(order_id=outcome.order_id, outcome=outcome.outcome))
    _take(tx, steps, now)
    return kept


def _take(tx: Tx, steps: Sequence[Mapping[str, Any]], now: int) -> None:
    tx.step(_STEP, steps)
    for taken in steps:
        if taken["new"] == "captured":
            tx.insert(_ADD_SALE, {"order_number": taken["of"], "at": minute_of(now)})
    cancelled = [taken for taken in steps if taken["new"] == "cancelled"]
    freed: Counter[str] = Counter()
    for row in tx.among(_RESERVED, (taken["of"] for taken in cancelled)):
        freed[row["sku"]] += row["reserved"]
    stock.give_back(tx, freed)
    ids = [taken["id"] for taken in cancelled]
    discounts.give_back(tx, ids)
    licence_keys.give_back(tx, ids)
