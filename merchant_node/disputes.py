"""Disputes as the merchant sees them: what is frozen, and what it says to it.

    open --OrderOutcome--> refunded | settled

Rule. What the merchant says is a row before it is a message, and repeated until the broker has it. It is said
once: the first word counts, and the market's operator reads it beside the customer's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from common import codec, messages
from common.config import Limits
from common.errors import NotFoundError, RejectedError, UsageError
from common.states import Table, sources
from common.store import Row, Store, Tx
from merchant_node import schema
from merchant_node.refunds import delay_of

DISPUTE: Final[Table] = {
    "open": frozenset({"refunded", "settled"}),
    "refunded": frozenset(),
    "settled": frozenset(),
}
LONGEST_ANSWER: Final = 1000
_ARRIVED: Final[codec.Codec[messages.Arrived]] = codec.Codec(messages.Arrived)

_ADD: Final = sa.insert(schema.disputes)
_KNOWN: Final = sa.select(schema.disputes.c.order_id).where(
    schema.disputes.c.order_id.in_(sa.bindparam("ids", expanding=True))
)
_REFUNDED: Final = sa.select(schema.orders.c.order_id).where(
    schema.orders.c.order_id.in_(sa.bindparam("ids", expanding=True)), schema.orders.c.state == "refunded"
)
_DUE: Final = sa.select(schema.disputes).where(schema.disputes.c.due <= sa.bindparam("now"))
_TOLD: Final = (
    sa.update(schema.disputes)
    .where(schema.disputes.c.order_id == sa.bindparam("of"))
    .values(due=sa.bindparam("next"), attempts=schema.disputes.c.attempts + 1)
)
_SAID: Final = (
    sa.update(schema.disputes).where(schema.disputes.c.order_id == sa.bindparam("of")).values(due=None)
)


@dataclass(frozen=True)
class DisputeReport:
    """One dispute. `sent` is whether the broker has what this merchant says; times are milliseconds.

    `arrived` is what the customer claims to have got: nothing proves it. None where it says nothing.
    """

    order_id: bytes
    kind: str
    state: str
    opened: int
    decide_by: int
    answer: str | None
    sent: bool
    arrived: messages.Arrived | None


class Disputes:
    """What a person does, beside the running merchant; each call is one transaction."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def listing(self, *, everything: bool = False) -> list[DisputeReport]:
        """Give the open disputes, or all, the oldest first."""
        query = sa.select(schema.disputes).order_by(schema.disputes.c.opened)
        if not everything:
            query = query.where(schema.disputes.c.state == "open")
        with self._store.immediate() as tx:
            return [_report(row) for row in tx.all(query)]

    def answer(self, order_id: bytes, statement: str) -> DisputeReport:
        """Say this merchant's part, once.

        Raises `NotFoundError`, `UsageError` for nothing or too much, `RejectedError` where it was said, or
        the dispute is over.
        """
        said = statement.strip()
        if not 0 < len(said) <= LONGEST_ANSWER:
            raise UsageError(f"An answer has 1 to {LONGEST_ANSWER} characters.")
        with self._store.immediate() as tx:
            row = tx.one(sa.select(schema.disputes).where(schema.disputes.c.order_id == order_id))
            if row is None:
                raise NotFoundError("no such dispute", "`veilmart merchant dispute list` shows them.")
            if row["state"] != "open":
                raise RejectedError(f"This dispute is over: {row['state']}.")
            if row["answer"] is not None:
                raise RejectedError("This dispute was answered; the first word counts.")
            values: dict[str, Any] = {"answer": said, "due": 0, "attempts": 0}
            tx.execute(
                sa.update(schema.disputes).where(schema.disputes.c.order_id == order_id).values(values)
            )
        return _report({**row, **values})


def _report(row: Row) -> DisputeReport:
    names = ("order_id", "kind", "state", "opened", "decide_by", "answer")
    sent = row["answer"] is not None and row["due"] is None
    arrived = None if row["arrived"] is None else _ARRIVED.unpack(row["arrived"])
    return DisputeReport(**{name: row[name] for name in names}, sent=sent, arrived=arrived)


# --- the running merchant --------------------------------------------------------------------------------


def paid(notices: Sequence[messages.DisputeOpened]) -> list[messages.OrderOutcome]:
    """Give what a dispute says of its order, beside itself: only what was paid for can be disputed."""
    return [messages.OrderOutcome(order_id=notice.order_id, outcome="captured") for notice in notices]


def opened(tx: Tx, notices: Sequence[messages.DisputeOpened], now: int) -> list[messages.Message]:
    """Store what is disputed, and confirm it; `now` is the broker's time."""
    if not notices:
        return []
    known = {row["order_id"] for row in tx.among(_KNOWN, (notice.order_id for notice in notices))}
    # A notice may come after the end: what is refunded is disputed no more.
    over = {row["order_id"] for row in tx.among(_REFUNDED, (notice.order_id for notice in notices))}
    for notice in notices:
        if notice.order_id in known:
            continue
        known.add(notice.order_id)
        state = "refunded" if notice.order_id in over else "open"
        row = {"order_id": notice.order_id, "kind": notice.kind, "state": state, "opened": now}
        arrived = codec.pack(notice.arrived[0]) if notice.arrived else None
        rest = {"decide_by": notice.decide_by, "answer": None, "due": None, "attempts": 0}
        tx.insert(_ADD, row | rest | {"arrived": arrived})
    return [messages.OutcomeKept(order_id=notice.order_id, outcome="disputed") for notice in notices]


def closed(tx: Tx, outcomes: Sequence[messages.OrderOutcome]) -> None:
    """Note how disputes ended."""
    for outcome in outcomes:
        if outcome.outcome in DISPUTE["open"]:
            _close(tx, outcome.order_id, outcome.outcome)


def _close(tx: Tx, order_id: bytes, outcome: str) -> None:
    tx.execute(
        sa.update(schema.disputes)
        .where(schema.disputes.c.order_id == order_id)
        .where(schema.disputes.c.state.in_(sources(DISPUTE, outcome)))
        .values(state=outcome, due=None)
    )


def due(tx: Tx, now: int, limits: Limits) -> list[messages.AnswerDispute]:
    """Give what has to be said now, and note when it is due again."""
    rows = tx.rows(_DUE, {"now": now})
    tx.each(_TOLD, [{"of": row["order_id"], "next": now + delay_of(row["attempts"], limits)} for row in rows])
    return [messages.AnswerDispute(order_id=row["order_id"], statement=row["answer"]) for row in rows]


def all_due(tx: Tx) -> None:
    """Make everything due at once."""
    tx.execute(sa.update(schema.disputes).where(schema.disputes.c.due.is_not(None)).values(due=0, attempts=0))


def said(tx: Tx, answers: Sequence[messages.DisputeAnswered], refusals: Sequence[messages.Refused]) -> None:
    """Stop saying what the broker has, or does not take."""
    ids = [answer.order_id for answer in answers] + [refusal.reference for refusal in refusals]
    tx.each(_SAID, [{"of": order_id} for order_id in ids])
    for refusal in refusals:
        if refusal.code == "wrong_state":
            # It was decided, and that was never heard: an order that is not refunded is paid.
            _close(tx, refusal.reference, "settled")
