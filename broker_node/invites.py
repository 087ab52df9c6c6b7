"""One-time invite codes, stored as SHA-256. Which account came of a code is not kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from broker_node import schema
from common import invites
from common.clock import Random
from common.errors import NotFoundError
from common.store import Tx

_INVITES = schema.invites.c
ID_BYTES = 4


@dataclass(frozen=True)
class InviteView:
    """A code as the operator sees it afterwards: `id` is the beginning of its hash."""

    id: str
    created: int
    expires: int
    state: str
    note: str


def create(tx: Tx, now: int, life_ms: int, note: str, random: Random) -> bytes:
    """Make a code (16 bytes), which is shown once and stored hashed."""
    code = random(invites.CODE_BYTES)
    row = {"hash": invites.digest(code), "created": now, "expires": now + life_ms, "note": note}
    tx.execute(sa.insert(schema.invites), {**row, "state": "open"})
    return code


def usable(tx: Tx, code: bytes, now: int) -> bool:
    """Whether a code would be taken."""
    return tx.one(sa.select(_INVITES.hash).where(*_open(code, now))) is not None


def use(tx: Tx, code: bytes, now: int) -> bool:
    """Take a code, for this one time; tells whether it was taken."""
    return tx.changed(sa.update(schema.invites).where(*_open(code, now)).values(state="used")) == 1


def revoke(tx: Tx, identifier: str, now: int) -> None:
    """Take no sign-up for this code any more. Raises `NotFoundError` where none is open under that id."""
    found = [each for each in listing(tx, now) if each.id == identifier and each.state == "open"]
    if not found:
        raise NotFoundError(
            f"No open invite is called {identifier!r}.", "`veilmart broker invite list` shows all."
        )
    first = bytes.fromhex(identifier)
    # Within the same 4 bytes there may be two: both are given up, which is the safe side.
    span = (_INVITES.hash >= first.ljust(32, b"\0"), _INVITES.hash <= first.ljust(32, b"\xff"))
    tx.execute(sa.update(schema.invites).where(*span, _INVITES.state == "open").values(state="revoked"))


def listing(tx: Tx, now: int) -> Sequence[InviteView]:
    """Give all codes, the oldest first."""
    rows = tx.all(sa.select(schema.invites).order_by(_INVITES.created, _INVITES.hash))
    return [
        InviteView(
            row["hash"][:ID_BYTES].hex(),
            row["created"],
            row["expires"],
            "expired" if row["state"] == "open" and row["expires"] <= now else row["state"],
            row["note"],
        )
        for row in rows
    ]


def _open(code: bytes, now: int) -> tuple[sa.ColumnElement[bool], ...]:
    return (_INVITES.hash == invites.digest(code), _INVITES.state == "open", _INVITES.expires > now)
