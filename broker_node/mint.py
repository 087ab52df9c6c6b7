"""The mint: blind-signature keys, one per purpose, value and month, and the tokens made under them.

Rule 1. One key per calendar slot: the table holds at most one, and it stays.
Rule 2. A token counts while its key's month or the month after lasts. Then its key is retired: it pays
nothing, and a coin can at most be swapped, for as long as the operator allows.
Rule 3. A token is spent by its mark, once; its owner is an order, an operation or a `Hello`. The same
owner may show it again, another one may not.
Rule 4. Private keys are files of the broker's home, one per key.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from broker_node import schema
from broker_node.signers import Signers
from common import coins, slots
from common.blind import BlindPrivateKey
from common.coins import Purpose
from common.errors import ForgedError, MalformedError, RefusedError, UntrustedError
from common.keys import PRIVATE_FILE_MODE, create_file
from common.messages import BlindedToken, IssuerKey, Token
from common.store import Tx

_SPEND = {
    "sqlite": sqlite.insert(schema.spent).on_conflict_do_nothing(),
    "postgresql": postgresql.insert(schema.spent).on_conflict_do_nothing(),
}
_OWNERS = sa.select(schema.spent.c.mark, schema.spent.c.owner).where(
    schema.spent.c.mark.in_(sa.bindparam("marks", expanding=True))
)
_UNSPEND = (
    sa.delete(schema.spent)
    .where(schema.spent.c.mark == sa.bindparam("shown"))
    .where(schema.spent.c.owner == sa.bindparam("loser"))
)
_COUNT_ISSUED = (
    sa.update(schema.issuer_keys)
    .where(schema.issuer_keys.c.key_id == sa.bindparam("issuer"))
    .values(issued=schema.issuer_keys.c.issued + sa.bindparam("count"))
)


@dataclass(frozen=True)
class Checked:
    """Tokens that verified: their marks, sorted, with the key of each, and what they are worth."""

    marks: tuple[tuple[bytes, bytes], ...]
    by_value: Mapping[int, int]
    """Value -> how much is there in coins of that value."""

    @property
    def total(self) -> int:
        """The sum in minor units."""
        return sum(self.by_value.values())


class RetiredKeyError(RefusedError):
    """A token of a key whose grace is over. `exchange_until`: when swaps of it end, 0 where none is made."""

    def __init__(self, issuer: IssuerKey, ended: int, exchange_until: int) -> None:
        super().__init__("unknown_key", "a retired key")
        self.issuer = issuer
        self.ended = ended
        self.exchange_until = exchange_until


class Mint:
    """Verifies, signs and spends. The private keys are loaded once.

    Coins of retired keys are swapped for `retired_exchange_ms` after their grace. Where there are `signers`
    they are asked first.
    """

    def __init__(
        self,
        folder: Path,
        issuers: Sequence[IssuerKey],
        retired_exchange_ms: int = 0,
        signers: Signers | None = None,
    ) -> None:
        self._folder = folder
        self._signers = signers
        self._retired_exchange_ms = retired_exchange_ms
        self.issuers: dict[bytes, IssuerKey] = {}
        self._private: dict[bytes, BlindPrivateKey] = {}
        for issuer in issuers:
            self.add(issuer)

    def add(self, issuer: IssuerKey) -> None:
        """Load a key that was announced."""
        path = self._folder / f"{issuer.key_id.hex()}.pem"
        try:
            self._private[issuer.key_id] = BlindPrivateKey.from_pem(path.read_bytes())
        except (OSError, ValueError, MalformedError) as error:
            raise UntrustedError(
                f"{path} is missing or damaged: a key that coins of {issuer.month} are signed by",
                "Put `mint/` back from the backup that `broker.db` is of.",
            ) from error
        self.issuers[issuer.key_id] = issuer

    def announced(self, now: int) -> list[IssuerKey]:
        """Give the keys whose tokens count now, and those made ahead, for the broker's card."""
        oldest = slots.previous_month(slots.month_of(now))
        return [issuer for issuer in self.issuers.values() if issuer.month >= oldest]

    def _issuer(self, key_id: bytes, purpose: str) -> IssuerKey:
        issuer = self.issuers.get(key_id)
        if issuer is None or issuer.purpose != purpose:
            raise RefusedError("unknown_key")
        return issuer

    def _demand_counting(
        self, issuer: IssuerKey, counting: tuple[str, str], now: int, *, exchange: bool
    ) -> None:
        previous, present = counting
        if issuer.month > present:
            raise RefusedError("unknown_key")
        if issuer.month < previous:
            ended = slots.grace_end(issuer.month)
            until = ended + self._retired_exchange_ms
            exchanged = issuer.purpose == "coin" and now < until
            if not (exchange and exchanged):
                raise RetiredKeyError(issuer, ended, until if exchanged else 0)

    def verify(self, tokens: Sequence[Token], purpose: str, now: int, *, exchange: bool = False) -> Checked:
        """Verify every signature; `exchange` takes retired keys for as long as they are exchanged.

        Raises `RefusedError`: `unknown_key` (a `RetiredKeyError` among them), `bad_token`, `double_spend`.
        """
        marks: dict[bytes, bytes] = {}
        by_value: dict[int, int] = {}
        counting = _months_that_count(now)
        for token in tokens:
            issuer = self._issuer(token.key_id, purpose)
            self._demand_counting(issuer, counting, now, exchange=exchange)
            try:
                mark = coins.verify_token(issuer, token)
            except (ForgedError, MalformedError) as error:
                raise RefusedError("bad_token") from error
            if mark in marks:
                raise RefusedError("double_spend")
            marks[mark] = token.key_id
            by_value[issuer.value] = by_value.get(issuer.value, 0) + issuer.value
        return Checked(tuple(sorted(marks.items())), by_value)

    def check_blinded(self, blinded: Sequence[BlindedToken], purpose: str, now: int) -> dict[int, int]:
        """Check that this month's keys are asked for; give value -> sum. Raises `RefusedError`."""
        month = slots.month_of(now)
        by_value: dict[int, int] = {}
        for item in blinded:
            issuer = self._issuer(item.key_id, purpose)
            if issuer.month != month:
                raise RefusedError("unknown_key")
            by_value[issuer.value] = by_value.get(issuer.value, 0) + issuer.value
        return by_value

    def sign(self, blinded: Sequence[BlindedToken]) -> list[bytes]:
        """Sign blindly: about a millisecond each, so it runs in a pool. Raises `MalformedError`."""
        signatures = self._signers.sign(blinded) if self._signers is not None else None
        if signatures is not None:
            return signatures
        return [self._private[item.key_id].blind_sign(item.blinded) for item in blinded]

    @staticmethod
    def count_issued(tx: Tx, blinded: Sequence[BlindedToken]) -> None:
        """Count what is handed out, for the public totals."""
        counts = Counter(item.key_id for item in blinded)
        tx.each(_COUNT_ISSUED, [{"issuer": key_id, "count": count} for key_id, count in counts.items()])


def owner_of(kind: str, identifier: bytes) -> bytes:
    """Give the 16 bytes under which something owns its tokens, and an operation is stored.

    Ids are chosen by customers: without the kind, an order called like a swap could show its coins again.
    """
    return hashlib.sha256(kind.encode() + b"\0" + identifier).digest()[:16]


def _months_that_count(now: int) -> tuple[str, str]:
    month = slots.month_of(now)
    return slots.previous_month(month), month


def spend(tx: Tx, claims: Mapping[bytes, Checked]) -> set[bytes]:
    """Mark tokens as spent for their owners; gives the owners that lost, whose marks are taken back.

    Rows go in sorted and without conflict errors: unsorted inserts of two transactions would deadlock
    PostgreSQL. Where one was there already, the owners are compared.
    """
    wanted = sorted(
        (mark, key_id, owner) for owner, checked in claims.items() for mark, key_id in checked.marks
    )
    rows = [{"mark": mark, "key_id": key_id, "owner": owner} for mark, key_id, owner in wanted]
    if tx.each(_SPEND[tx.dialect], rows) == len(wanted):
        return set()
    owners = {row["mark"]: row["owner"] for row in tx.among(_OWNERS, (mark for mark, _, _ in wanted))}
    losers = {owner for mark, _, owner in wanted if owners[mark] != owner}
    # By their marks, which are the key: a search for an owner would read all that was ever spent.
    taken_back = [{"shown": mark, "loser": owner} for mark, _, owner in wanted if owner in losers]
    tx.each(_UNSPEND, taken_back)
    return losers


def spent_by_others(tx: Tx, claims: Mapping[bytes, Checked]) -> set[bytes]:
    """Give the owners one of whose tokens another owner has spent already."""
    marks = [mark for checked in claims.values() for mark, _ in checked.marks]
    spent = {row["mark"]: row["owner"] for row in tx.among(_OWNERS, marks)}
    return {
        owner
        for owner, checked in claims.items()
        if any(spent.get(mark, owner) != owner for mark, _ in checked.marks)
    }


def missing_keys(tx: Tx, month: str, top: int) -> list[tuple[Purpose, int]]:
    """Give (purpose, value) of the keys that a month lacks.

    It has one for every power of two up to `top`, and one for tickets.
    """
    rows = tx.all(sa.select(schema.issuer_keys).where(schema.issuer_keys.c.month == month))
    have = {(row["purpose"], row["value"]) for row in rows}
    wanted: list[tuple[Purpose, int]] = [("coin", 2**n) for n in range(top.bit_length())]
    return [key for key in [*wanted, ("ticket", 0)] if key not in have]


def make_key(tx: Tx, folder: Path, purpose: Purpose, value: int, month: str) -> IssuerKey:
    """Make the key of a slot that has none.

    The private file is written before the row, so that a row without its key cannot exist; a file without
    a row is an attempt that a crash cut short.
    """
    private = BlindPrivateKey.generate()
    key_id, public = private.public.key_id, private.public.der
    create_file(folder / f"{key_id.hex()}.pem", private.to_pem(), mode=PRIVATE_FILE_MODE)
    issuer = IssuerKey(key_id=key_id, purpose=purpose, value=value, month=month, public=public)
    row = {name: getattr(issuer, name) for name in ("key_id", "purpose", "value", "month", "public")}
    tx.insert(sa.insert(schema.issuer_keys), row | {"issued": 0})
    return issuer


def load_issuers(tx: Tx) -> list[IssuerKey]:
    """Read every announced key."""
    columns = ("key_id", "purpose", "value", "month", "public")
    return [
        IssuerKey(**{name: row[name] for name in columns})
        for row in tx.all(sa.select(schema.issuer_keys).order_by(schema.issuer_keys.c.month))
    ]
