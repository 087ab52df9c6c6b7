"""Double entry, append only: how money is written down.

    book                    what it holds                               a positive sum is
    operator                credit granted by the operator              never (it is the source)
    gateway                 what came in and went out by card           never (negative is money received)
    account:<id>            an account's balance                        owed to the customer
    coins:<value>           coins of that value not spent yet           owed to whoever holds them
    escrow                  money of held and refundable orders         owed to merchant or customer
    pending:<mid>           captured, not settled                       owed to merchant or customer
    available:<mid>         settled                                     owed to the merchant
    reserved:<mid>          asked for by the merchant, not paid out     owed to the merchant
    commission              the operator's share                        earned by the operator
    payouts                 paid out to merchants                       has left the system

Rule 1. Every posting sums to zero. Rule 2. Nothing is ever updated or deleted.

Rule 3. Postings are numbered without a gap, and each one's link is a hash over the link before it and
everything in it: whatever is changed, deleted or put in between later is found where the chain breaks.

Rule 4. What touches a merchant's books is a line of its statement as well, numbered without a gap and
with the three sums after it. So a sum is read, and a debit checked, without adding anything up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import sqlalchemy as sa

from broker_node import schema
from common import codec
from common.errors import RefusedError
from common.store import Tx

OPERATOR: Final = "operator"
GATEWAY: Final = "gateway"
ESCROW: Final = "escrow"
COMMISSION: Final = "commission"
PAYOUTS: Final = "payouts"
SOURCES: Final = frozenset({OPERATOR, GATEWAY})
"""The books that money comes from: the only ones that may be negative."""
MERCHANT_BOOKS: Final = ("pending", "available", "reserved")
BOOKS_KNOWN: Final = 4096
"""Names of books that are taken apart once: there are few, but for accounts'."""

PAYMENTS: Final = "payments"
"""Under this a transaction notes whether they are running: it is read once in each."""
LINK_LABEL: Final = b"veilmart v1 ledger\0"
NO_LINK: Final = bytes(32)

_POSTING = sa.insert(schema.postings)
_ENTRY = sa.insert(schema.ledger)
_LINE = sa.insert(schema.merchant_lines)
_HEAD = (
    sa.select(schema.postings.c.posting, schema.postings.c.link)
    .order_by(schema.postings.c.posting.desc())
    .limit(1)
)
_STATE = sa.select(schema.payments.c.state).order_by(schema.payments.c.number.desc()).limit(1)
_LAST_LINE = (
    sa.select(schema.merchant_lines)
    .where(schema.merchant_lines.c.merchant == sa.bindparam("of"))
    .order_by(schema.merchant_lines.c.line.desc())
    .limit(1)
)

KINDS: Final[Mapping[tuple[frozenset[str], frozenset[str]], str]] = {
    (frozenset({"escrow"}), frozenset({"pending"})): "captured",
    (frozenset({"pending"}), frozenset({"available"})): "settled",
    (frozenset({"pending"}), frozenset({"available", "commission"})): "settled",
    (frozenset({"pending"}), frozenset({"commission"})): "settled",
    (frozenset({"pending"}), frozenset({"escrow"})): "refunded",
    (frozenset({"available"}), frozenset({"escrow"})): "refunded",
    (frozenset({"pending", "available"}), frozenset({"escrow"})): "refunded",
    (frozenset({"available"}), frozenset({"reserved"})): "payout_requested",
    (frozenset({"reserved"}), frozenset({"payouts"})): "payout_confirmed",
    (frozenset({"reserved"}), frozenset({"available"})): "payout_rejected",
}
"""What a line is, by the books that money leaves and those that it enters: a merchant has no other lines."""


class UnbalancedError(Exception):
    """A posting of ours does not sum to zero, or is none that there is."""


class OverdrawnError(Exception):
    """A posting of ours takes more out of a merchant's book than is in it."""


@dataclass(frozen=True)
class MerchantSums:
    """A merchant's books after its line number `line`, in minor units."""

    line: int = 0
    pending: int = 0
    available: int = 0
    reserved: int = 0


@dataclass(frozen=True)
class Head:
    """The last posting's number and link."""

    posting: int = 0
    link: bytes = NO_LINK


def account_book(account: int) -> str:
    """Name an account's book."""
    return f"account:{account}"


def coins_book(value: int) -> str:
    """Name the book of outstanding coins of one value."""
    return f"coins:{value}"


def pending_book(merchant: str) -> str:
    """Name the book of a merchant's captured money."""
    return f"pending:{merchant}"


def available_book(merchant: str) -> str:
    """Name the book of a merchant's settled money."""
    return f"available:{merchant}"


def reserved_book(merchant: str) -> str:
    """Name the book of what a merchant wants paid out."""
    return f"reserved:{merchant}"


def link_of(before: bytes, posting: int, reference: bytes, at: int, entries: Mapping[str, int]) -> bytes:
    """Give a posting's link: SHA-256 over label, the link before and the posting, its books sorted."""
    content = codec.pack([posting, reference, at, sorted(entries.items())])
    return hashlib.sha256(LINK_LABEL + before + content).digest()


def payments_state(tx: Tx) -> str:
    """Tell whether money moves: `running` or `stopped` (`payments`)."""
    if PAYMENTS not in tx.noted:
        row = tx.first(_STATE)
        tx.noted[PAYMENTS] = "running" if row is None else row["state"]
    return str(tx.noted[PAYMENTS])


def note_payments(tx: Tx, state: str) -> None:
    """Tell the rest of a transaction that it has changed whether money moves."""
    tx.noted[PAYMENTS] = state


def head(tx: Tx) -> Head:
    """Give the last posting's number and link."""
    row = tx.first(_HEAD)
    return Head() if row is None else Head(row["posting"], row["link"])


def sums(tx: Tx, merchant: str) -> MerchantSums:
    """Give what is in a merchant's books."""
    known: dict[str, MerchantSums] = tx.noted.setdefault(MerchantSums, {})
    if merchant not in known:
        row = tx.first(_LAST_LINE, {"of": merchant})
        names = ("line", *MERCHANT_BOOKS)
        known[merchant] = MerchantSums() if row is None else MerchantSums(*(row[name] for name in names))
    return known[merchant]


def post(tx: Tx, reference: bytes, entries: Mapping[str, int], now: int) -> None:
    """Write one balanced posting: book -> signed minor units.

    Raises `UnbalancedError`; `OverdrawnError` where a merchant's book would fall below zero; and
    `RefusedError` while payments are stopped: whoever forgot to ask whether they are is stopped here.
    """
    if sum(entries.values()):
        raise UnbalancedError("a posting must sum to zero")
    written = {book: amount for book, amount in entries.items() if amount}
    if not written:
        return
    if payments_state(tx) == "stopped":
        raise RefusedError("payments_stopped")
    last: Head = tx.noted.get(Head) or head(tx)
    number = last.posting + 1
    link = link_of(last.link, number, reference, now, written)
    merchants = {merchant for merchant in map(merchant_of, written) if merchant is not None}
    if len(merchants) > 1:
        raise UnbalancedError("a posting moves the money of one merchant at most")
    for merchant in merchants:
        _write_line(tx, merchant, number, written)
    tx.insert(_POSTING, {"posting": number, "reference": reference, "at": now, "link": link})
    for book, amount in written.items():
        tx.insert(_ENTRY, {"posting": number, "book": book, "amount": amount})
    tx.noted[Head] = Head(number, link)


def _write_line(tx: Tx, merchant: str, number: int, entries: Mapping[str, int]) -> None:
    before = sums(tx, merchant)
    after = after_line(before, merchant, entries)
    if min(after.pending, after.available, after.reserved) < 0:
        raise OverdrawnError("a merchant's book would be negative")
    line = {name: getattr(after, name) for name in ("line", *MERCHANT_BOOKS)}
    tx.insert(_LINE, {"merchant": merchant, **line, "posting": number, "kind": kind_of(entries)})
    tx.noted[MerchantSums][merchant] = after


def after_line(before: MerchantSums, merchant: str, entries: Mapping[str, int]) -> MerchantSums:
    """Give a merchant's sums after one more posting."""
    changed = [getattr(before, name) + entries.get(f"{name}:{merchant}", 0) for name in MERCHANT_BOOKS]
    return MerchantSums(before.line + 1, *changed)


def kind_of(entries: Mapping[str, int]) -> str:
    """Tell what a posting with a merchant's money is. Raises `UnbalancedError` where there is no such."""
    left = frozenset(class_of(book) for book, amount in entries.items() if amount < 0)
    entered = frozenset(class_of(book) for book, amount in entries.items() if amount > 0)
    kind = KINDS.get((left, entered))
    if kind is None:
        raise UnbalancedError(f"no posting takes from {sorted(left)} and gives to {sorted(entered)}")
    return kind


@lru_cache(maxsize=BOOKS_KNOWN)
def class_of(book: str) -> str:
    """Give a book's name without whose it is."""
    return book.partition(":")[0]


@lru_cache(maxsize=BOOKS_KNOWN)
def merchant_of(book: str) -> str | None:
    """Give the merchant whose book it is, or None."""
    name, _, owner = book.partition(":")
    return owner if name in MERCHANT_BOOKS else None
