"""Checking the books: everything is computed anew from the entries.

Rule 1. The chain first: every posting has the next number, its link follows from the link before it and
from its entries, its entries sum to zero, and a merchant's line has the sums that follow from them. What
was changed, deleted or put in between is found by that, whatever it was.

Rule 2. Then what the entries have to agree with: no book is negative but where money comes from; each
account's balance, the orders, the payouts, the coins issued and spent per denomination say what the books
say; and each order has its hold, its coins, and entries that are those of its state, and no hold is without
an order (`comparisons`, `order_books`).

Rule 3. A check that finds nothing leaves a checkpoint: how far it came, that posting's link, and the sums
there. The check at the start goes on from it: it walks over what is new, looks at the orders that this is
about, and compares sums for all others.
The check of everything believes no checkpoint, and compares that one too: whoever writes the history
anew, links and all, has to write the checkpoint anew as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa

from broker_node import comparisons, order_books, schema
from broker_node.postings import (
    MERCHANT_BOOKS,
    Head,
    MerchantSums,
    UnbalancedError,
    after_line,
    kind_of,
    link_of,
    merchant_of,
)
from common.store import Row, Tx

AT_ONCE: Final = 4_000
"""Postings read at once: memory stays the same, however many there are."""
FAULTS_SHOWN: Final = 100


@dataclass(frozen=True)
class Report:
    """What a check found: nothing in `faults` means that the books are right.

    `complete` is whether everything was checked, and not only what is new. `walked` postings were looked
    at; the last one was `reached`.
    """

    books: Mapping[str, int]
    faults: tuple[str, ...]
    complete: bool
    walked: int
    reached: Head


@dataclass
class _Walk:
    """How far a walk over the postings has come, and what it has added up and found."""

    reached: Head = field(default_factory=Head)
    books: Counter[str] = field(default_factory=Counter)
    merchants: dict[str, MerchantSums] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    """Books with entries since the walk began."""
    walked: int = 0
    faults: list[str] = field(default_factory=list)


def check(tx: Tx) -> Report:
    """Recompute everything from the first entry on."""
    checkpoint = _checkpoint(tx)
    walk = _Walk()
    _go(tx, walk, checkpoint)
    if checkpoint is not None and checkpoint["posting"] > walk.reached.posting:
        walk.faults.append(f"postings up to {checkpoint['posting']} were checked before, and are gone")
    walk.faults += [*comparisons.faults(tx, walk.books), *order_books.faults(tx)]
    return _report(walk, complete=True)


def check_new(tx: Tx) -> Report:
    """Go on from the last checkpoint; check everything where there is none."""
    checkpoint = _checkpoint(tx)
    if checkpoint is None:
        return check(tx)
    walk = _resumed(tx, checkpoint)
    _go(tx, walk, checkpoint)
    walk.faults += [*comparisons.faults(tx, walk.books), *order_books.new_faults(tx, checkpoint["posting"])]
    return _report(walk, complete=False)


def _report(walk: _Walk, *, complete: bool) -> Report:
    books = dict(sorted(walk.books.items()))
    more = len(walk.faults) - FAULTS_SHOWN
    shown = walk.faults[:FAULTS_SHOWN] + ([f"and {more} more"] if more > 0 else [])
    return Report(books, tuple(shown), complete, walk.walked, walk.reached)


# --- checkpoints ---------------------------------------------------------------------------------------


def keep(tx: Tx, report: Report, now: int) -> None:
    """Leave a checkpoint where a check came to that found nothing."""
    last = _checkpoint(tx)
    if report.faults or (last is not None and last["posting"] >= report.reached.posting):
        return
    before = {row["book"]: row["amount"] for row in tx.all(sa.select(schema.checked_books))}
    rows = [{"book": book, "amount": amount} for book, amount in report.books.items()]
    rows += [{"book": book, "amount": 0} for book in before.keys() - report.books.keys()]
    changed = [row for row in rows if before.get(row["book"]) != row["amount"]]
    old = sa.delete(schema.checked_books).where(schema.checked_books.c.book == sa.bindparam("old"))
    tx.each(old, [{"old": row["book"]} for row in changed if row["book"] in before])
    for row in changed:
        tx.insert(_CHECKED_BOOK, row)
    tx.insert(_CHECKPOINT, {"posting": report.reached.posting, "link": report.reached.link, "at": now})


_CHECKED_BOOK: Final = sa.insert(schema.checked_books)
_CHECKPOINT: Final = sa.insert(schema.checkpoints)


def _checkpoint(tx: Tx) -> Row | None:
    newest = sa.select(schema.checkpoints).order_by(schema.checkpoints.c.number.desc()).limit(1)
    return tx.one(newest)


def _resumed(tx: Tx, checkpoint: Row) -> _Walk:
    walk = _Walk(Head(checkpoint["posting"], checkpoint["link"]))
    walk.books.update({row["book"]: row["amount"] for row in tx.all(sa.select(schema.checked_books))})
    link = tx.scalar(
        sa.select(schema.postings.c.link).where(schema.postings.c.posting == checkpoint["posting"])
    )
    if checkpoint["posting"] and link != checkpoint["link"]:
        walk.faults.append(f"posting {checkpoint['posting']} is not the one that was checked before")
    for merchant in tx.all(_MERCHANTS_AFTER, {"after": checkpoint["posting"]}):
        line = tx.one(_LAST_LINE, {"of": merchant["merchant"], "until": checkpoint["posting"]})
        if line is not None:
            walk.merchants[merchant["merchant"]] = _sums(line)
    return walk


_MERCHANTS_AFTER: Final = (
    sa.select(schema.merchant_lines.c.merchant)
    .where(schema.merchant_lines.c.posting > sa.bindparam("after"))
    .distinct()
)
_LAST_LINE: Final = (
    sa.select(schema.merchant_lines)
    .where(schema.merchant_lines.c.merchant == sa.bindparam("of"))
    .where(schema.merchant_lines.c.posting <= sa.bindparam("until"))
    .order_by(schema.merchant_lines.c.line.desc())
    .limit(1)
)


# --- the chain -----------------------------------------------------------------------------------------


def _go(tx: Tx, walk: _Walk, checkpoint: Row | None) -> None:
    first = walk.reached.posting + 1
    last = int(tx.scalar(sa.select(sa.func.max(schema.postings.c.posting))) or 0)
    for start in range(first, last + 1, AT_ONCE):
        _go_over(tx, walk, start, min(start + AT_ONCE - 1, last), checkpoint)
    for outside in (schema.ledger.c.posting > last, schema.ledger.c.posting < 1):
        if stray := tx.scalar(sa.select(sa.func.count()).select_from(schema.ledger).where(outside)):
            walk.faults.append(f"{stray} entries belong to no posting")


def _go_over(tx: Tx, walk: _Walk, first: int, last: int, checkpoint: Row | None) -> None:
    by_posting: dict[int, dict[str, int]] = {}
    for number, book, amount in tx.tuples(_within(schema.ledger, first, last)):
        by_posting.setdefault(number, {})[book] = amount
    lines = {line["posting"]: line for line in tx.all(_within(schema.merchant_lines, first, last))}
    checked_before = checkpoint["posting"] if checkpoint is not None else 0
    for number, reference, at, link in tx.tuples(_within(schema.postings, first, last)):
        entries = by_posting.pop(number, {})
        _step(walk, number, link_of(walk.reached.link, number, reference, at, entries), link, entries)
        _check_line(walk, number, entries, lines.pop(number, None))
        if checkpoint is not None and number == checked_before and link != checkpoint["link"]:
            walk.faults.append(f"posting {number} is not the one that was checked before")
    for number, entries in sorted(by_posting.items()):
        walk.faults.append(f"the entries of posting {number} have lost it")
        walk.books.update(entries)
    walk.faults += [f"a line of {lines[number]['merchant']} has no posting" for number in sorted(lines)]


def _within(table: sa.Table, first: int, last: int) -> sa.Select[Any]:
    return sa.select(table).where(table.c.posting.between(first, last)).order_by(table.c.posting)


def _step(walk: _Walk, number: int, expected: bytes, link: bytes, entries: Mapping[str, int]) -> None:
    if total := sum(entries.values()):
        walk.faults.append(f"posting {number} sums to {total}")
    if gone := number - walk.reached.posting - 1:
        walk.faults.append(f"before posting {number} {gone} are missing")
    if link != expected:
        walk.faults.append(f"posting {number} or what was before it is not what was written")
    # On from what is stored: one change shall be one fault, not one for each posting after it.
    walk.reached = Head(number, link)
    walk.walked += 1
    for book, amount in entries.items():
        walk.books[book] += amount


def _check_line(walk: _Walk, number: int, entries: Mapping[str, int], line: Row | None) -> None:
    merchant = next((owner for owner in map(merchant_of, entries) if owner is not None), None)
    if merchant is None:
        if line is not None:
            walk.faults.append(f"posting {number} is a line of {line['merchant']}, but none of its money")
        return
    expected = after_line(walk.merchants.get(merchant, MerchantSums()), merchant, entries)
    try:
        kind = kind_of(entries)
    except UnbalancedError:
        walk.faults.append(f"posting {number} is none that {merchant} could have")
        kind = ""
    found = None if line is None or line["merchant"] != merchant else _sums(line)
    if found != expected or (line is not None and line["kind"] != kind):
        walk.faults.append(f"posting {number} is not the line of {merchant} that it should be")
    walk.merchants[merchant] = expected if found is None else found


def _sums(line: Row) -> MerchantSums:
    return MerchantSums(line["line"], *(line[name] for name in MERCHANT_BOOKS))
