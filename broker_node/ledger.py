"""Double entry, append only.

    book                    what it holds                               a positive sum is
    operator                credit granted by the operator              never (it is the source)
    gateway                 money at the card gateway                   never (negative: received there)
    account:<id>            an account's balance                        owed to the customer
    coins:<value>           coins of that value not spent yet           owed to whoever holds them
    escrow                  money of held orders, and refunds unclaimed owed to merchant or customer
    pending:<mid>           captured money that is not settled          owed to the merchant, or given back
    available:<mid>         settled money                               owed to the merchant
    commission              the operator's share of what settled        the operator's
    payouts                 what was paid out to merchants              gone from the system

    capture     escrow -> pending           settlement  pending -> available, commission
    refund      pending | available -> escrow           claim       escrow -> coins

Rule 1. Every posting sums to zero. Rule 2. Nothing is ever updated or deleted. Rule 3. `balances` and
`merchant_balances` repeat the account and available books in one row each, so that a debit can be
conditional; `check` recomputes everything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from broker_node import schema
from common.config import WHOLE_IN_BASIS_POINTS
from common.errors import RefusedError
from common.money import divide_half_up
from common.store import Row, Tx

ESCROW = "escrow"
OPERATOR = "operator"
GATEWAY = "gateway"
COMMISSION = "commission"
PAYOUTS = "payouts"
PENDING = ("captured", "disputed")
"""States of orders whose money, but for what was given back, is pending."""

_ENTRY = sa.insert(schema.ledger)
_DEBIT = (
    sa.update(schema.balances)
    .where(schema.balances.c.account == sa.bindparam("owner"))
    .where(schema.balances.c.amount + sa.bindparam("change") >= 0)
    .values(amount=schema.balances.c.amount + sa.bindparam("change"))
)
_BALANCE = sa.select(schema.balances.c.amount).where(schema.balances.c.account == sa.bindparam("owner"))
_CHANGE_AVAILABLE = (
    sa.update(schema.merchant_balances)
    .where(schema.merchant_balances.c.merchant == sa.bindparam("owner"))
    .where(schema.merchant_balances.c.available + sa.bindparam("change") >= 0)
    .values(available=schema.merchant_balances.c.available + sa.bindparam("change"))
)
_AVAILABLE = sa.select(schema.merchant_balances.c.available).where(
    schema.merchant_balances.c.merchant == sa.bindparam("owner")
)


class UnbalancedError(Exception):
    """A posting of ours does not sum to zero."""


def account_book(account: int) -> str:
    """Name an account's book."""
    return f"account:{account}"


def coins_book(value: int) -> str:
    """Name the book of outstanding coins of one value."""
    return f"coins:{value}"


def pending_book(merchant: str) -> str:
    """Name the book of a merchant's captured money that is not settled."""
    return f"pending:{merchant}"


def available_book(merchant: str) -> str:
    """Name the book of what a merchant may be paid out."""
    return f"available:{merchant}"


def post(tx: Tx, reference: bytes, entries: Mapping[str, int], now: int) -> None:
    """Write one balanced posting: book -> signed minor units. Raises `UnbalancedError`."""
    if sum(entries.values()):
        raise UnbalancedError("a posting must sum to zero")
    for book, amount in entries.items():
        if amount:
            tx.insert(_ENTRY, {"reference": reference, "book": book, "amount": amount, "at": now})


def balance(tx: Tx, account: int) -> int:
    """Give an account's balance in minor units."""
    return int(tx.scalar(_BALANCE, {"owner": account}) or 0)


def change_balance(tx: Tx, account: int, change: int) -> None:
    """Credit or debit the account's row. Raises `RefusedError` where it would fall below zero."""
    if tx.changed(_DEBIT, {"owner": account, "change": change}) != 1:
        raise RefusedError("insufficient_funds")


def available(tx: Tx, merchant: str) -> int:
    """Give what a merchant may be paid out, in minor units."""
    return int(tx.scalar(_AVAILABLE, {"owner": merchant}) or 0)


def change_available(tx: Tx, merchant: str, change: int) -> None:
    """Credit or debit a merchant's row. Raises `RefusedError` where it would fall below zero."""
    if tx.changed(_CHANGE_AVAILABLE, {"owner": merchant, "change": change}) == 1:
        return
    if change < 0 or tx.scalar(_AVAILABLE, {"owner": merchant}) is not None:
        raise RefusedError("insufficient_funds")
    tx.insert(sa.insert(schema.merchant_balances), {"merchant": merchant, "available": change})


def capture(tx: Tx, order: Row, now: int) -> None:
    """Post an accepted order's money to its merchant's pending book."""
    amount = order["amount"]
    post(tx, order["order_id"], {ESCROW: -amount, pending_book(order["merchant"]): amount}, now)


def commission_of(amount: int, basis_points: int) -> int:
    """Give the operator's share of an amount, rounded half up."""
    return divide_half_up(amount * basis_points, WHOLE_IN_BASIS_POINTS)


def settle(tx: Tx, orders: Sequence[Row], basis_points: int, now: int) -> None:
    """Post what is left of captured orders to available and commission."""
    credited: Counter[str] = Counter()
    for order in orders:
        merchant, left = order["merchant"], order["amount"] - order["refunded"]
        commission = commission_of(left, basis_points)
        entries = {pending_book(merchant): -left, available_book(merchant): left - commission}
        post(tx, order["order_id"], {**entries, COMMISSION: commission}, now)
        credited[merchant] += left - commission
    for merchant, amount in sorted(credited.items()):
        change_available(tx, merchant, amount)


@dataclass(frozen=True)
class Report:
    """What `check` found: nothing in `faults` means that the books are right."""

    books: Mapping[str, int]
    faults: tuple[str, ...]


def check(tx: Tx) -> Report:
    """Recompute everything from the entries."""
    faults = [
        f"posting {row['reference'].hex()} sums to {row['total']}"
        for row in tx.all(
            sa.select(schema.ledger.c.reference, sa.func.sum(schema.ledger.c.amount).label("total"))
            .group_by(schema.ledger.c.reference, schema.ledger.c.at)
            .having(sa.func.sum(schema.ledger.c.amount) != 0)
        )
    ]
    books = {
        str(row["book"]): int(row["total"])
        for row in tx.all(
            sa.select(schema.ledger.c.book, sa.func.sum(schema.ledger.c.amount).label("total"))
            .group_by(schema.ledger.c.book)
            .order_by(schema.ledger.c.book)
        )
    }
    sources = (OPERATOR, GATEWAY)
    faults += [f"{book} is negative" for book, total in books.items() if total < 0 and book not in sources]
    faults += [
        f"account {row['account']} shows {row['amount']}, but its entries sum to something else"
        for row in tx.all(sa.select(schema.balances))
        if row["amount"] != books.get(account_book(row["account"]), 0)
    ]
    faults += [*_order_faults(tx, books), *_coin_faults(tx, books), *_top_up_faults(tx, books)]
    return Report(books, tuple(faults))


def _top_up_faults(tx: Tx, books: Mapping[str, int]) -> list[str]:
    """Compare the gateway's book with the charges that it stands for."""
    charged = sa.select(sa.func.coalesce(sa.func.sum(schema.top_ups.c.amount), 0)).where(
        schema.top_ups.c.state == "charged"
    )
    received = int(tx.scalar(charged) or 0)
    if books.get(GATEWAY, 0) == -received:
        return []
    return [f"gateway is {books.get(GATEWAY, 0)}, cards were charged {received}"]


def _order_faults(tx: Tx, books: Mapping[str, int]) -> list[str]:
    """Compare escrow, pending and available with the orders and rows that they stand for."""
    orders = schema.orders.c
    held = sa.case((orders.state == "held", orders.amount), else_=orders.refunded - orders.claimed)
    escrow = int(tx.scalar(sa.select(sa.func.coalesce(sa.func.sum(held), 0))) or 0)
    pending = {
        pending_book(row["merchant"]): int(row["total"])
        for row in tx.all(
            sa.select(orders.merchant, sa.func.sum(orders.amount - orders.refunded).label("total"))
            .where(orders.state.in_(PENDING))
            .group_by(orders.merchant)
        )
    }
    available = {
        available_book(row["merchant"]): int(row["available"])
        for row in tx.all(sa.select(schema.merchant_balances))
    }
    faults = []
    if books.get(ESCROW, 0) != escrow:
        faults.append(f"escrow is {books.get(ESCROW, 0)}, open orders hold {escrow}")
    for prefix, expected in (("pending:", pending), ("available:", available)):
        names = {book for book in books if book.startswith(prefix)} | set(expected)
        faults += [
            f"{book} is {books.get(book, 0)}, orders and rows say {expected.get(book, 0)}"
            for book in sorted(names)
            if books.get(book, 0) != expected.get(book, 0)
        ]
    return faults


def _coin_faults(tx: Tx, books: Mapping[str, int]) -> list[str]:
    """Compare, for each denomination, what was issued with what is outstanding and what was spent."""
    keys, spent = schema.issuer_keys, schema.spent
    issued = {
        row["value"]: int(row["issued"])
        for row in tx.all(
            sa.select(keys.c.value, sa.func.sum(keys.c.issued).label("issued"))
            .where(keys.c.purpose == "coin")
            .group_by(keys.c.value)
        )
    }
    gone = {
        row["value"]: int(row["spent"])
        for row in tx.all(
            sa.select(keys.c.value, sa.func.count(spent.c.mark).label("spent"))
            .join(spent, spent.c.key_id == keys.c.key_id)
            .where(keys.c.purpose == "coin")
            .group_by(keys.c.value)
        )
    }
    return [
        f"of value {value}, {count} coins were issued and {gone.get(value, 0)} spent, "
        f"but {books.get(coins_book(value), 0)} is outstanding"
        for value, count in sorted(issued.items())
        if (count - gone.get(value, 0)) * value != books.get(coins_book(value), 0)
    ]
