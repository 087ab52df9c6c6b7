"""Accounts: names, passwords, and what an operator does with them.

Rule 1. Password hashes (Argon2id, 19 MiB, 2 passes, 1 lane: OWASP's second choice for interactive use)
are made in a bounded pool, never on the node's loop.
Rule 2. An unknown name is checked against a decoy hash, and there is one error for unknown name, wrong
password and disabled account: a login says nothing about which names exist.
Rule 3. A closed account keeps its name, so that nobody can take its place. What it logs in with it keeps
while something counts that was drawn from it: a device that never heard the answer to its withdrawal, or a
wallet that is restored, hears it again, and nothing else (`sessions`). Then that is erased (`sweep`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import argon2
import sqlalchemy as sa

from broker_node import devices, ledger, schema, totp
from common import passwords, slots
from common.clock import Random
from common.config import MAXIMUM_AMOUNT
from common.errors import NotFoundError, RefusedError, RejectedError
from common.states import ACCOUNT, BROKER_TOP_UP, sources
from common.store import Row, Tx

HASHER = argon2.PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
MAXIMUM_NAME = 64
HAVE_SESSIONS = ("enabled", "closed")
"""The states of accounts that can be logged in to."""
ENDS_OF_TOP_UPS = tuple(state for state, next_ones in BROKER_TOP_UP.items() if not next_ones)


@dataclass(frozen=True)
class PasswordChecked:
    """What the pool gives back: for a sign-up the new hash, for a login whether it matched."""

    name: str
    account: int | None
    generation: int
    matched: bool
    new_hash: str = field(default="", repr=False)


def find(tx: Tx, name: str) -> Row | None:
    """Give the account's row."""
    return tx.one(sa.select(schema.accounts).where(schema.accounts.c.name == name))


def hash_password(name: str, password: str) -> PasswordChecked:
    """Hash a new account's password. Slow."""
    return PasswordChecked(name, None, 0, matched=True, new_hash=HASHER.hash(password))


_DECOY = HASHER.hash("no account has this password, because none is hashed with it")


def check_password(name: str, password: str, account: Row | None) -> PasswordChecked:
    """Compare with the account's hash, or with the decoy. Slow."""
    stored = (str(account["password_hash"]) if account is not None else "") or _DECOY
    try:
        HASHER.verify(stored, password)
    except argon2.exceptions.VerifyMismatchError:
        return PasswordChecked(name, None, 0, matched=False)
    if account is None or account["state"] not in HAVE_SESSIONS:
        return PasswordChecked(name, None, 0, matched=False)
    return PasswordChecked(name, account["id"], account["generation"], matched=True)


def create(tx: Tx, name: str, password_hash: str, now: int) -> int:
    """Open an account with a balance of zero. Raises `RefusedError("name_taken")`."""
    if find(tx, name) is not None:
        raise RefusedError("name_taken")
    result = tx.execute(
        sa.insert(schema.accounts),
        {
            "name": name,
            "password_hash": password_hash,
            "generation": 1,
            "state": "enabled",
            "created": now,
        },
    )
    account = int((result.inserted_primary_key or (0,))[0])
    tx.insert(sa.insert(schema.balances), {"account": account, "amount": 0})
    return account


def check_policy(name: str, password: str) -> None:
    """Refuse what no account may have. Raises `RefusedError("policy")`."""
    if not _proper(name):
        raise RefusedError("policy")
    check_new_password(name, password)


def check_new_password(name: str, password: str) -> None:
    """Refuse a password that is easily guessed. Raises `RefusedError("policy")`."""
    try:
        passwords.check_password(password, name)
    except RejectedError as error:
        raise RefusedError("policy") from error


def _proper(name: str) -> bool:
    return 1 <= len(name) <= MAXIMUM_NAME and name.isprintable() and name == name.strip()


def change_password(tx: Tx, account: int, new_hash: str) -> None:
    """Give the account another password: no session of before has its rights any more."""
    tx.execute(
        sa.update(schema.accounts)
        .where(schema.accounts.c.id == account)
        .values(password_hash=new_hash, generation=schema.accounts.c.generation + 1)
    )


def check_settled(tx: Tx, account: int) -> None:
    """Refuse to close an account that holds something, or may yet. Raises `RefusedError("balance_left")`."""
    if ledger.balance(tx, account) or charges_under_way(tx, account):
        raise RefusedError("balance_left")


def charges_under_way(tx: Tx, account: int) -> bool:
    """Whether the end of some charge for this account is not known."""
    charges = schema.top_ups.c
    open_ones = sa.select(charges.id).where(charges.account == account, charges.state.not_in(ENDS_OF_TOP_UPS))
    return bool(tx.all(open_ones.limit(1)))


def close(tx: Tx, account: int) -> None:
    """Close an account for good: its name stays taken, and it can be logged in to as long as rule 3 says.

    Raises `RefusedError` for a balance that is left, or a state that has no such step.
    """
    check_settled(tx, account)
    _step(tx, account, "closed")
    if tx.one(sa.select(schema.issued.c.number).where(schema.issued.c.account == account).limit(1)) is None:
        _erase(tx, account)


def sweep(tx: Tx, now: int, exchange_ms: int) -> None:
    """Erase what closed accounts are logged in to with, once nothing counts that was drawn from them.

    Coins of a key are exchanged for `exchange_ms` after its grace.
    """
    drawn = (
        sa.select(schema.accounts.c.id, sa.func.max(schema.issued.c.month).label("last"))
        .join(schema.issued, schema.issued.c.account == schema.accounts.c.id)
        .where(schema.accounts.c.state == "closed", schema.accounts.c.password_hash != "")
        .group_by(schema.accounts.c.id)
    )
    for row in tx.all(drawn):
        if slots.grace_end(row["last"]) + exchange_ms <= now:
            _erase(tx, row["id"])


def _erase(tx: Tx, account: int) -> None:
    """Erase everything to log in with; no session that there is has any right more."""
    erased = {"password_hash": "", "generation": schema.accounts.c.generation + 1}
    tx.execute(sa.update(schema.accounts).where(schema.accounts.c.id == account).values(**erased))
    devices.forget(tx, account)
    totp.disable(tx, account)


def _step(tx: Tx, account: int, state: str) -> None:
    """Change the state; every session that the account has loses its rights."""
    stepped = tx.changed(
        sa.update(schema.accounts)
        .where(schema.accounts.c.id == account)
        .where(schema.accounts.c.state.in_(sources(ACCOUNT, state)))
        .values(state=state, generation=schema.accounts.c.generation + 1)
    )
    if stepped != 1:
        raise RefusedError("wrong_state")


# --- what the operator does (with reason and event: administration.py) ---------------------------------


@dataclass(frozen=True)
class AccountView:
    """An account as its operator sees it."""

    name: str
    state: str
    balance: int


def listing(tx: Tx) -> Sequence[AccountView]:
    """Give every account with its balance."""
    rows = tx.all(
        sa.select(schema.accounts.c.name, schema.accounts.c.state, schema.balances.c.amount)
        .join(schema.balances, schema.balances.c.account == schema.accounts.c.id)
        .order_by(schema.accounts.c.name)
    )
    return [AccountView(row["name"], row["state"], row["amount"]) for row in rows]


def add(tx: Tx, name: str, password: str, now: int) -> int:
    """Open an account for somebody. Raises `RejectedError`."""
    passwords.check_password(password, name)
    if not _proper(name):
        raise RejectedError(f"A name is printable text of 1 to {MAXIMUM_NAME} characters.")
    try:
        return create(tx, name, HASHER.hash(password), now)
    except RefusedError as error:
        raise RejectedError(f"There is an account named {name!r} already.") from error


def credit(
    tx: Tx, name: str, amount: int, now: int, random: Random, *, reference: bytes | None = None
) -> int:
    """Grant an account minor units; gives the new balance.

    Raises `NotFoundError`, and `RejectedError` where the account is closed, so that nobody could draw it any
    more, or would hold more than a message can say.
    """
    row = existing(tx, name)
    if row["state"] == "closed":
        raise RejectedError(f"The account {name!r} is closed.")
    account = row["id"]
    if ledger.balance(tx, account) + amount > MAXIMUM_AMOUNT:
        raise RejectedError(f"The account {name!r} would hold more than this market can handle.")
    entries = {ledger.OPERATOR: -amount, ledger.account_book(account): amount}
    ledger.post(tx, random(16) if reference is None else reference, entries, now)
    ledger.change_balance(tx, account, amount)
    return ledger.balance(tx, account)


def set_state(tx: Tx, name: str, state: str) -> None:
    """Enable or disable an account, once. Raises `NotFoundError`, `RejectedError` where it is closed."""
    row = existing(tx, name)
    if row["state"] == state:
        return
    try:
        _step(tx, row["id"], state)
    except RefusedError as error:
        raise RejectedError(f"The account {name!r} is {row['state']}.") from error


def existing(tx: Tx, name: str) -> Row:
    """Give the account's row. Raises `NotFoundError`."""
    account = find(tx, name)
    if account is None:
        raise NotFoundError(
            f"There is no account named {name!r}.", "`veilmart broker account list` shows all."
        )
    return account
