"""Double entry, append only.

    book                    what it holds                               a positive sum is
    operator                credit granted by the operator              never (it is the source)
    account:<id>            an account's balance                        owed to the customer
    coins:<value>           coins of that value not spent yet           owed to whoever holds them
    escrow                  money of held and refundable orders         owed to merchant or customer
    merchant:<mid>          captured money                              owed to the merchant

Rule 1. Every posting sums to zero. Rule 2. Nothing is ever updated or deleted. Rule 3. `balances` repeats
the account books in one row each, so that a debit can be conditional; `check` recomputes everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from broker_node import schema
from common.errors import RefusedError
from common.store import Tx

ESCROW = "escrow"
OPERATOR = "operator"

_ENTRY = sa.insert(schema.ledger)
_DEBIT = (
    sa.update(schema.balances)
    .where(schema.balances.c.account == sa.bindparam("owner"))
    .where(schema.balances.c.amount + sa.bindparam("change") >= 0)
    .values(amount=schema.balances.c.amount + sa.bindparam("change"))
)
_BALANCE = sa.select(schema.balances.c.amount).where(schema.balances.c.account == sa.bindparam("owner"))


class UnbalancedError(Exception):
    """A posting of ours does not sum to zero."""


def account_book(account: int) -> str:
    """Name an account's book."""
    return f"account:{account}"


def coins_book(value: int) -> str:
    """Name the book of outstanding coins of one value."""
    return f"coins:{value}"


def merchant_book(merchant: str) -> str:
    """Name a merchant's book."""
    return f"merchant:{merchant}"


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
    faults += [f"{book} is negative" for book, total in books.items() if total < 0 and book != OPERATOR]
    faults += [
        f"account {row['account']} shows {row['amount']}, but its entries sum to something else"
        for row in tx.all(sa.select(schema.balances))
        if row["amount"] != books.get(account_book(row["account"]), 0)
    ]
    held = tx.scalar(
        sa.select(sa.func.coalesce(sa.func.sum(schema.orders.c.amount), 0)).where(
            schema.orders.c.state.in_(("held", "refundable"))
        )
    )
    if books.get(ESCROW, 0) != int(held or 0):
        faults.append(f"escrow is {books.get(ESCROW, 0)}, open orders hold {held}")
    return Report(books, (*faults, *_coin_faults(tx, books)))


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
