"""What the operator does with accounts. Each is an operator's action: it has a reason, and an event.

The mechanism (a row, a posting) is in `accounts`; whoever acts for the operator comes in here.
"""

from __future__ import annotations

from broker_node import accounts, ledger, operator_actions, totp
from broker_node.audit import Audit
from common.clock import Random
from common.errors import RefusedError, RejectedError
from common.store import Tx


def add(tx: Tx, audit: Audit, name: str, password: str, reason: str, now: int, random: Random) -> int:
    """Open an account for somebody; gives its number. Raises `RejectedError`, `UsageError`."""
    account = accounts.add(tx, name, password, now)
    operator_actions.record(tx, audit, "account.add", name, reason, now, random)
    return account


def credit(tx: Tx, audit: Audit, name: str, amount: int, reason: str, now: int, random: Random) -> int:
    """Grant an account minor units; gives the new balance.

    Raises `NotFoundError`, `UsageError`, `RejectedError` where the account is closed or would hold too much.
    """
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


def reset_totp(tx: Tx, audit: Audit, name: str, reason: str, now: int, random: Random) -> None:
    """Take the second factor from an account whose owner has lost it.

    Raises `NotFoundError`, `UsageError`, `RejectedError` where there is none.
    """
    if not totp.disable(tx, accounts.existing(tx, name)["id"]):
        raise RejectedError(f"The account {name!r} has no second factor.")
    operator_actions.record(tx, audit, "account.reset-totp", name, reason, now, random)


def close(
    tx: Tx, audit: Audit, name: str, reason: str, now: int, random: Random, *, settle: bool = False
) -> int:
    """Close an account for good; gives what was left on it.

    With `settle` the rest goes back to the operator, who has paid it out by another road; without it an
    account that holds something is not closed. Raises `NotFoundError`, `UsageError`, `RejectedError`.
    """
    account = accounts.existing(tx, name)["id"]
    rest = ledger.balance(tx, account)
    if rest and not settle:
        raise RejectedError(
            f"The account {name!r} still holds something.",
            "Pay it out and close with --settle, or let its owner close it (`veilmart account close`).",
        )
    if accounts.charges_under_way(tx, account):
        raise RejectedError(
            f"A charge of a card for {name!r} is under way.", "Close the account when it has ended."
        )
    key = operator_actions.record(tx, audit, "account.close", name, reason, now, random)
    if rest:
        ledger.change_balance(tx, account, -rest)
        ledger.post(tx, key, {ledger.account_book(account): -rest, ledger.OPERATOR: rest}, now)
    try:
        accounts.close(tx, account)
    except RefusedError as error:
        raise RejectedError(f"The account {name!r} is closed already.") from error
    return rest
