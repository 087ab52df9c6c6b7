"""Numbered and chained postings, merchants' statements, checkpoints, and whether payments are stopped."""

import hashlib
from collections.abc import Iterator
from typing import Any

import msgspec
import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

LABEL = b"veilmart v1 ledger\0"
BOOKS = ("pending", "available", "reserved")


def upgrade() -> None:
    op.rename_table("ledger", "old_ledger")
    op.create_table(
        "postings",
        sa.Column("posting", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("reference", sa.LargeBinary(16), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("link", sa.LargeBinary(32), nullable=False),
    )
    op.create_table(
        "ledger",
        sa.Column("posting", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("book", sa.String(64), primary_key=True),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "merchant_lines",
        sa.Column("posting", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("merchant", sa.String(32), nullable=False),
        sa.Column("line", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("pending", sa.BigInteger, nullable=False),
        sa.Column("available", sa.BigInteger, nullable=False),
        sa.Column("reserved", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_merchant_lines", "merchant_lines", ["merchant", "line"], unique=True)
    op.create_table(
        "checkpoints",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("posting", sa.Integer, nullable=False),
        sa.Column("link", sa.LargeBinary(32), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "checked_books",
        sa.Column("book", sa.String(64), primary_key=True),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "payments",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("faults", sa.Integer, nullable=False),
    )
    _carry_over(op.get_bind())
    op.drop_table("old_ledger")
    op.drop_table("merchant_balances")


def _carry_over(connection: sa.Connection) -> None:
    link = bytes(32)
    sums: dict[str, list[int]] = {}
    for number, (reference, at, entries) in enumerate(_old_postings(connection), 1):
        content = msgspec.msgpack.encode([number, reference, at, sorted(entries.items())])
        link = hashlib.sha256(LABEL + link + content).digest()
        connection.execute(
            sa.text("INSERT INTO postings (posting, reference, at, link) VALUES (:p, :r, :a, :l)"),
            {"p": number, "r": reference, "a": at, "l": link},
        )
        connection.execute(
            sa.text("INSERT INTO ledger (posting, book, amount) VALUES (:p, :b, :a)"),
            [{"p": number, "b": book, "a": amount} for book, amount in entries.items()],
        )
        for merchant in {book.partition(":")[2] for book in entries if book.partition(":")[0] in BOOKS}:
            before = sums.get(merchant, [0, 0, 0, 0])
            after = [entries.get(f"{name}:{merchant}", 0) for name in BOOKS]
            sums[merchant] = [before[0] + 1, *map(sum, zip(before[1:], after, strict=True))]
            line = dict(zip(("n", "pe", "av", "re"), sums[merchant], strict=True))
            kind = "captured" if after[0] > 0 else "refunded" if "escrow" in entries else "settled"
            connection.execute(
                sa.text(
                    "INSERT INTO merchant_lines (posting, merchant, line, kind, pending, available, reserved)"
                    " VALUES (:p, :m, :n, :k, :pe, :av, :re)"
                ),
                {"p": number, "m": merchant, "k": kind, **line},
            )


def _old_postings(connection: sa.Connection) -> Iterator[tuple[bytes, int, dict[str, int]]]:
    """Give what was posted: entries in their order, of one reference and time, up to a sum of zero."""
    key: Any = None
    entries: dict[str, int] = {}
    rows = connection.execute(sa.text("SELECT reference, at, book, amount FROM old_ledger ORDER BY entry"))
    for reference, at, book, amount in rows.all():
        if entries and (key != (reference, at) or book in entries):
            yield *key, entries
            entries = {}
        key = (reference, at)
        entries[book] = amount
        if not sum(entries.values()):
            yield *key, entries
            entries = {}
    if entries:
        yield *key, entries
