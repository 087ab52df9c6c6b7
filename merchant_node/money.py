"""What the merchant earns: the broker's statement is read line by line, and payouts are asked for.

    asked --RequestPayout until answered--> requested --operator--> confirmed | rejected
          --PayoutRefused-----------------> refused

Rule 1. The statement is read as far as it goes, kept here, and looked at without the broker. Its lines are
numbered without a gap, and each follows from the one before; what does not is not taken, and is an error
in the log: the broker's books and what it says of them disagree.

Rule 2. A payout is a row before it is asked for, so that another process may ask (`treasury`), and is
asked for with the same bytes until the broker has answered. A line that tells of its end has it asked
once more, for the operator's reason. A broker that has stopped payments is asked again later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

import sqlalchemy as sa
import structlog

from common import messages
from common.clock import Random
from common.config import MINUTE_MS, SECOND_MS
from common.states import MERCHANT_PAYOUT, sources
from common.store import Row, Tx
from merchant_node import schema

STATEMENT_EVERY_MS: Final = 5 * MINUTE_MS
STATEMENT_AGAIN_MS: Final = 5 * SECOND_MS
PAYOUT_FIRST_MS: Final = 5 * SECOND_MS
PAYOUT_LONGEST_MS: Final = 5 * MINUTE_MS
AT_ONCE: Final = 32
FOR_NOW: Final = frozenset({"payments_stopped", "busy"})
"""Refusals that asking again may change."""

Sums: TypeAlias = tuple[int, int, int]
NOTHING: Final[Sums] = (0, 0, 0)
Answer: TypeAlias = messages.PayoutAnswer | messages.PayoutRefused

SIGNS: Final[Mapping[str, tuple[int, int, int]]] = {
    "captured": (1, 0, 0),
    "settled": (-1, 1, 0),
    "refunded": (-1, -1, 0),
    "payout_requested": (0, -1, 1),
    "payout_confirmed": (0, 0, -1),
    "payout_rejected": (0, 1, -1),
}
"""Which way a line of each kind may change pending, available and reserved."""
NOTHING_GAINED: Final = frozenset({"settled", "refunded", "payout_confirmed"})
"""Kinds that take something out: the commission, what was given back, what was paid."""

_COUNTER: Final = sa.select(schema.counters.c.value).where(schema.counters.c.name == sa.bindparam("which"))
_COUNT: Final = (
    sa.update(schema.counters)
    .where(schema.counters.c.name == sa.bindparam("which"))
    .values(value=sa.bindparam("to"))
)
_LAST: Final = sa.select(schema.statement_lines).order_by(schema.statement_lines.c.line.desc()).limit(1)
_LINE: Final = sa.insert(schema.statement_lines)
_DUE: Final = (
    sa.select(schema.payouts)
    .where(schema.payouts.c.due <= sa.bindparam("now"))
    .order_by(schema.payouts.c.due)
    .limit(AT_ONCE)
)
_ASKED: Final = (
    sa.update(schema.payouts)
    .where(schema.payouts.c.payout_id == sa.bindparam("of"))
    .values(due=sa.bindparam("next"), attempts=schema.payouts.c.attempts + 1)
)
_ENDED: Final = (
    sa.update(schema.payouts)
    .where(schema.payouts.c.payout_id == sa.bindparam("of"))
    .where(schema.payouts.c.state.in_(("asked", "requested")))
    .values(due=0, attempts=0)
)

_FIELDS: Final = messages.StatementLine.__struct_fields__


# --- asking --------------------------------------------------------------------------------------------


def ask_soon(tx: Tx) -> None:
    """Have the statement asked for at once."""
    _set(tx, "statement due", 0)


def is_read(tx: Tx) -> bool:
    """Whether the last answer gave the statement's end."""
    return _counter(tx, "statement due") >= _counter(tx, "statement read") + STATEMENT_EVERY_MS


def questions(tx: Tx, now: int, random: Random) -> list[messages.Message]:
    """Give what the broker is to be asked now."""
    asked: list[messages.Message] = []
    if _counter(tx, "statement due") <= now:
        # Asked again soon; the answer puts it off.
        _set(tx, "statement due", now + STATEMENT_AGAIN_MS)
        asked.append(messages.GetStatement(request=random(16), after=_last(tx)[0]))
    for row in tx.rows(_DUE, {"now": now}):
        pause = min(PAYOUT_FIRST_MS << min(row["attempts"], 16), PAYOUT_LONGEST_MS)
        tx.changed(_ASKED, {"of": row["payout_id"], "next": now + pause})
        fields = {name: row[name] for name in ("payout_id", "amount", "destination")}
        asked.append(messages.RequestPayout(**fields))
    return asked


# --- answered ------------------------------------------------------------------------------------------


def read(tx: Tx, statements: Sequence[messages.Statement], now: int, refused: Counter[str]) -> None:
    """Take in the statement's next lines."""
    for statement in statements:
        number, sums = _last(tx)
        if statement.after != number:
            # An answer that was overtaken by another one, to the same question.
            continue
        if statement.last < number:
            _disagree("the broker's statement has lost lines", refused)
        for line in statement.lines:
            after = (line.pending, line.available, line.reserved)
            if line.line != number + 1 or not _follows(line.kind, sums, after):
                _disagree("a line of the broker's statement does not follow from the one before", refused)
                break
            number, sums = line.line, after
            tx.insert(_LINE, {name: getattr(line, name) for name in _FIELDS})
            if line.kind in {"payout_confirmed", "payout_rejected"}:
                tx.changed(_ENDED, {"of": line.reference})
        more = number < statement.last and number > statement.after
        _set(tx, "statement due", now if more else now + STATEMENT_EVERY_MS)
        _set(tx, "statement read", now)
        _set(tx, "commission", statement.commission_basis_points)


def answered(tx: Tx, answers: Sequence[Answer], refused: Counter[str]) -> None:
    """Take in what the broker says of payouts."""
    for answer in answers:
        match answer:
            case messages.PayoutAnswer(payout_id=payout_id, state=state, reason=reason):
                _now_is(tx, payout_id, state, "", reason, refused)
            case messages.PayoutRefused(payout_id=payout_id, code=code) if code in FOR_NOW:
                # Kept as it is, and asked again; whoever waits for it shall read why it takes so long.
                tx.changed(
                    sa.update(schema.payouts)
                    .where(schema.payouts.c.payout_id == payout_id, schema.payouts.c.state == "asked")
                    .values(code=code)
                )
            case messages.PayoutRefused(payout_id=payout_id, code=code):
                _now_is(tx, payout_id, "refused", code, "", refused)


def _now_is(tx: Tx, payout_id: bytes, state: str, code: str, reason: str, refused: Counter[str]) -> None:
    payouts = schema.payouts
    steps = tx.changed(
        sa.update(payouts)
        .where(payouts.c.payout_id == payout_id)
        .where(payouts.c.state.in_((*sources(MERCHANT_PAYOUT, state), state)))
        .values(state=state, code=code, reason=reason, due=None, attempts=0)
    )
    if not steps:
        _disagree("broker and merchant disagree on a payout", refused)
    ask_soon(tx)


def _counter(tx: Tx, name: str) -> int:
    return int(tx.rows(_COUNTER, {"which": name})[0]["value"])


def _set(tx: Tx, name: str, value: int) -> None:
    tx.each(_COUNT, [{"which": name, "to": value}])


def _last(tx: Tx) -> tuple[int, Sums]:
    row = tx.first(_LAST)
    return (0, NOTHING) if row is None else (row["line"], sums_of(row))


def sums_of(row: Row) -> Sums:
    """Give pending, available and reserved after a line."""
    return row["pending"], row["available"], row["reserved"]


def _follows(kind: str, before: Sums, after: Sums) -> bool:
    changes = [new - old for old, new in zip(before, after, strict=True)]
    signed = zip(changes, SIGNS[kind], strict=True)
    right = all(change * sign >= 0 if sign else not change for change, sign in signed)
    total = sum(changes)
    if kind == "captured":
        return right and total > 0
    return right and any(changes) and (total <= 0 if kind in NOTHING_GAINED else total == 0)


def _disagree(what: str, refused: Counter[str]) -> None:
    refused["contradiction"] += 1
    structlog.get_logger("veilmart.merchant").error(what)
