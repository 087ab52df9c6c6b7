"""What the books have to agree with: balances, orders, coins issued and spent, payouts, charged cards.

Each is compared as a whole, whatever the walk over the entries went on from (`books`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa

from broker_node import order_books, schema
from broker_node.postings import (
    GATEWAY,
    PAYOUTS,
    SOURCES,
    account_book,
    class_of,
    coins_book,
    reserved_book,
)
from common.store import Tx


def faults(tx: Tx, books: Mapping[str, int]) -> Iterator[str]:
    """Give what in the store contradicts the books' sums, in words; `books` is book -> signed minor units."""
    for book, total in sorted(books.items()):
        if total < 0 and class_of(book) not in SOURCES:
            yield f"{book} is negative"
    yield from _account_faults(tx, books)
    yield from order_books.sum_faults(tx, books)
    yield from _coin_faults(tx, books)
    yield from _payout_faults(tx, books)
    charged = sa.select(sa.func.coalesce(sa.func.sum(schema.top_ups.c.amount), 0)).where(
        schema.top_ups.c.state == "charged"
    )
    received = int(tx.scalar(charged) or 0)
    if books.get(GATEWAY, 0) != -received:
        yield f"gateway is {books.get(GATEWAY, 0)}, cards were charged {received}"


def _account_faults(tx: Tx, books: Mapping[str, int]) -> Iterator[str]:
    rows: dict[str, int] = {
        account_book(row["account"]): row["amount"] for row in tx.all(sa.select(schema.balances))
    }
    for book in sorted(rows.keys() | {book for book in books if class_of(book) == "account"}):
        if rows.get(book, 0) != books.get(book, 0):
            name = book.replace(":", " ")
            yield f"{name} shows {rows.get(book, 0)}, but its entries sum to {books.get(book, 0)}"


def _coin_faults(tx: Tx, books: Mapping[str, int]) -> Iterator[str]:
    """Compare, for each denomination, what was issued with what is outstanding and what was spent."""
    keys, spent = schema.issuer_keys, schema.spent
    gone = _by_key(
        tx, sa.select(spent.c.key_id.label("key"), sa.func.count().label("count")).group_by(spent.c.key_id)
    )
    issued: Counter[int] = Counter()
    back: Counter[int] = Counter()
    for row in tx.all(sa.select(keys.c.key_id, keys.c.value, keys.c.issued).where(keys.c.purpose == "coin")):
        issued[row["value"]] += row["issued"]
        back[row["value"]] += gone.get(row["key_id"], 0)
    values = issued.keys() | {int(book.partition(":")[2]) for book in books if class_of(book) == "coins"}
    for value in sorted(values):
        outstanding = books.get(coins_book(value), 0)
        if (issued[value] - back[value]) * value != outstanding:
            yield (
                f"of value {value}, {issued[value]} coins were issued and {back[value]} spent, "
                f"but {outstanding} is outstanding"
            )


def _payout_faults(tx: Tx, books: Mapping[str, int]) -> Iterator[str]:
    """Compare what is reserved for each merchant, and what was paid out, with the payouts that there are."""
    payouts = schema.payouts.c
    total = sa.func.sum(payouts.amount).label("total")
    said: Counter[str] = Counter()
    for row in tx.all(
        sa.select(payouts.merchant, payouts.state, total).group_by(payouts.merchant, payouts.state)
    ):
        if row["state"] == "requested":
            said[reserved_book(row["merchant"])] += int(row["total"])
        elif row["state"] == "confirmed":
            said[PAYOUTS] += int(row["total"])
    written = {book for book in books if book == PAYOUTS or class_of(book) == "reserved"}
    for book in sorted(said.keys() | written):
        if books.get(book, 0) != said[book]:
            yield f"{book} is {books.get(book, 0)}, payouts that there are say {said[book]}"


def _by_key(tx: Tx, statement: sa.Select[Any]) -> dict[bytes, int]:
    return {row["key"]: int(row["count"]) for row in tx.all(statement)}
