"""The books: what is posted when, and what is in them.

    capture     escrow -> pending           settlement  pending -> available, commission
    refund      pending | available -> escrow           claim       escrow -> coins
    payout      available -> reserved -> payouts        rejected    reserved -> available

How money is written down, and every book, stands in `postings`; how it is checked, in `books`.

Rule. Beside the entries, `balances` has one row for each account, so that a debit can be conditional; a
merchant's sums stand in the last line of its statement. `check` compares both with the entries.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from broker_node import schema
from broker_node.books import Report, check
from broker_node.postings import (
    COMMISSION,
    ESCROW,
    GATEWAY,
    OPERATOR,
    PAYOUTS,
    OverdrawnError,
    UnbalancedError,
    account_book,
    available_book,
    coins_book,
    pending_book,
    post,
    reserved_book,
    sums,
)
from common.config import WHOLE_IN_BASIS_POINTS
from common.errors import RefusedError
from common.money import divide_half_up
from common.store import Row, Tx

__all__ = [
    "COMMISSION",
    "ESCROW",
    "GATEWAY",
    "OPERATOR",
    "PAYOUTS",
    "OverdrawnError",
    "Report",
    "UnbalancedError",
    "account_book",
    "available",
    "available_book",
    "balance",
    "capture",
    "change_balance",
    "check",
    "coins_book",
    "commission_of",
    "pending_book",
    "post",
    "require_available",
    "reserved_book",
    "settle",
    "sums",
]

_DEBIT = (
    sa.update(schema.balances)
    .where(schema.balances.c.account == sa.bindparam("owner"))
    .where(schema.balances.c.amount + sa.bindparam("change") >= 0)
    .values(amount=schema.balances.c.amount + sa.bindparam("change"))
)
_BALANCE = sa.select(schema.balances.c.amount).where(schema.balances.c.account == sa.bindparam("owner"))


def balance(tx: Tx, account: int) -> int:
    """Give an account's balance in minor units."""
    row = tx.first(_BALANCE, {"owner": account})
    return 0 if row is None else int(row["amount"])


def change_balance(tx: Tx, account: int, change: int) -> None:
    """Credit or debit the account's row. Raises `RefusedError` where it would fall below zero."""
    if tx.each(_DEBIT, [{"owner": account, "change": change}]) != 1:
        raise RefusedError("insufficient_funds")


def available(tx: Tx, merchant: str) -> int:
    """Give what a merchant may be paid out, in minor units."""
    return sums(tx, merchant).available


def require_available(tx: Tx, merchant: str, amount: int) -> None:
    """Raise `RefusedError` where a merchant has less available than this."""
    if amount > available(tx, merchant):
        raise RefusedError("insufficient_funds")


def capture(tx: Tx, order: Row, now: int) -> None:
    """Post an accepted order's money to its merchant's pending book."""
    amount = order["amount"]
    post(tx, order["order_id"], {ESCROW: -amount, pending_book(order["merchant"]): amount}, now)


def commission_of(amount: int, basis_points: int) -> int:
    """Give the operator's share of an amount, rounded half up."""
    return divide_half_up(amount * basis_points, WHOLE_IN_BASIS_POINTS)


def settle(tx: Tx, orders: Sequence[Row], basis_points: int, now: int) -> None:
    """Post what is left of captured orders to available and commission."""
    for order in orders:
        merchant, left = order["merchant"], order["amount"] - order["refunded"]
        commission = commission_of(left, basis_points)
        entries = {pending_book(merchant): -left, available_book(merchant): left - commission}
        post(tx, order["order_id"], {**entries, COMMISSION: commission}, now)
