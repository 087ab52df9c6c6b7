"""What the operator does with accounts. Each is an operator's action: it has a reason, and an event.

The mechanism (a row, a posting) is in `accounts`; whoever acts for the operator comes in here.
"""

from __future__ import annotations

from broker_node import accounts, operator_actions
from broker_node.audit import Audit
from common.clock import Random
from common.store import Tx


def add(tx: Tx, audit: Audit, name: str, password: str, reason: str, now: int, random: Random) -> int:
    """Open an account for somebody; gives its number. Raises `RejectedError`, `UsageError`."""
    account = accounts.add(tx, name, password, now)
    operator_actions.record(tx, audit, "account.add", name, reason, now, random)
    return account


def credit(tx: Tx, audit: Audit, name: str, amount: int, reason: str, now: int, random: Random) -> int:
    """Grant an account minor units; gives the new balance. Raises `NotFoundError`, `UsageError`."""
    key = operator_actions.record(tx, audit, "account.credit", name, reason, now, random)
    return accounts.credit(tx, name, amount, now, random, reference=key)


def disable(tx: Tx, audit: Audit, name: str, reason: str, now: int, random: Random) -> None:
    """Refuse an account's logins and end its sessions. Raises `NotFoundError`, `UsageError`."""
    accounts.set_state(tx, name, "disabled")
    operator_actions.record(tx, audit, "account.disable", name, reason, now, random)


def enable(tx: Tx, audit: Audit, name: str, reason: str, now: int, random: Random) -> None:
    """Let a disabled account in again. Raises `NotFoundError`, `UsageError`."""
    accounts.set_state(tx, name, "enabled")
    operator_actions.record(tx, audit, "account.enable", name, reason, now, random)
