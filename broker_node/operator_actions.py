"""What the market's operator did: each action with its reason, and a public event.

Rule 1. An action is a row of the transaction that carries it out, and so is its event: neither is without
the other, and none of them is ever changed.

Rule 2. The event names the kind of action alone. Who it was about and why is committed to with a salt, so
that it can be proved later to whoever has a right to know, and guessed by nobody.

    key = operator_actions.record(tx, audit, "account.credit", "alice", "paid in cash", now, random)
    ledger.post(tx, key, {ledger.OPERATOR: -amount, ledger.account_book(account): amount}, now)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import sqlalchemy as sa

from broker_node import schema
from broker_node.audit import Audit, commitment
from common.clock import Random
from common.errors import UsageError
from common.store import Tx

Action: TypeAlias = Literal[
    "account.add",
    "account.credit",
    "account.disable",
    "account.enable",
    "account.close",
    "account.reset-totp",
    "payout.confirm",
    "payout.reject",
    "dispute.refund",
    "dispute.settle",
]

LONGEST_REASON: Final = 500
LONGEST_SUBJECT: Final = 128

_ACTION = sa.insert(schema.operator_actions)


@dataclass(frozen=True)
class ActionView:
    """An action as its operator sees it. `id` is the reference of what it posted in the ledger."""

    id: bytes
    at: int
    action: str
    subject: str
    reason: str


def record(
    tx: Tx, audit: Audit, action: Action, subject: str, reason: str, now: int, random: Random
) -> bytes:
    """Store an action and its event; gives its id (16 bytes), the reference for what it posts.

    `subject` is what it is about (an account's name, an order's id, a merchant's) and stays private, as the
    reason does. Raises `UsageError` for a reason that is empty or too long.
    """
    said = reason.strip()
    if not 0 < len(said) <= LONGEST_REASON or not said.isprintable():
        raise UsageError(f"A reason is one line of 1 to {LONGEST_REASON} characters.", "Say why: --reason.")
    if not 0 < len(subject) <= LONGEST_SUBJECT:
        raise UsageError("An action is about something that has a name.")
    key, salt = random(16), random(16)
    row = {"id": key, "at": now, "action": action, "subject": subject, "reason": said, "salt": salt}
    tx.insert(_ACTION, row)
    public = {"action": action, "commitment": commitment(salt, key, action, subject, said, now)}
    audit.record(tx, "operator.acted", public, now, random)
    return key


def listing(tx: Tx, subject: str | None = None) -> Sequence[ActionView]:
    """Give all actions, or those about one subject, the oldest first."""
    query = sa.select(schema.operator_actions).order_by(schema.operator_actions.c.at)
    if subject is not None:
        query = query.where(schema.operator_actions.c.subject == subject)
    return [
        ActionView(row["id"], row["at"], row["action"], row["subject"], row["reason"])
        for row in tx.all(query)
    ]
