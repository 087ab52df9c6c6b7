"""Accounts: names, passwords, and what an operator does with them.

Rule 1. Password hashes (Argon2id, 19 MiB, 2 passes, 1 lane: OWASP's second choice for interactive use)
are made in a bounded pool, never on the node's loop.
Rule 2. An unknown name is checked against a decoy hash, and there is one error for unknown name, wrong
password and disabled account: a login says nothing about which names exist.
Rule 3. Failures delay: per name after a few, doubling up to an hour; and all names together after many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import argon2
import sqlalchemy as sa

from broker_node import ledger, schema
from common import messages
from common.clock import Random
from common.config import SECOND_MS, Limits
from common.errors import NotFoundError, RefusedError, RejectedError
from common.store import Row, Tx

HASHER = argon2.PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
IN_TOTAL = ""
"""The row of `login_delays` that counts over all names: no account can have this name."""
MINIMUM_PASSWORD = 8
MAXIMUM_NAME = 64
LONGEST_TOTAL_DELAY_MS = 5 * SECOND_MS
"""Strangers can bring this delay about for everybody, so it stays short: it slows guessing, no more."""


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
    stored = str(account["password_hash"]) if account is not None else _DECOY
    try:
        HASHER.verify(stored, password)
    except argon2.exceptions.VerifyMismatchError:
        return PasswordChecked(name, None, 0, matched=False)
    if account is None or account["state"] != "enabled":
        return PasswordChecked(name, None, 0, matched=False)
    return PasswordChecked(name, account["id"], account["generation"], matched=True)


def delay(tx: Tx, name: str, now: int) -> int:
    """How many milliseconds a login for this name has to wait, counting the total's delay too."""
    rows = tx.all(
        sa.select(schema.login_delays.c.not_before).where(schema.login_delays.c.name.in_((name, IN_TOTAL)))
    )
    return max((row["not_before"] - now for row in rows if row["not_before"] > now), default=0)


def count_failure(tx: Tx, name: str, now: int, limits: Limits) -> None:
    """Count a failed login and set the delays that follow from it."""
    for key, free, longest in (
        (name, limits.login_free_tries, limits.login_longest_delay_ms),
        (IN_TOTAL, limits.login_free_tries_in_total, LONGEST_TOTAL_DELAY_MS),
    ):
        row = tx.one(sa.select(schema.login_delays).where(schema.login_delays.c.name == key))
        failures = 1 + (row["failures"] if row is not None else 0)
        over = failures - free
        wait = min(SECOND_MS << min(over, 30), longest) if over >= 0 else 0
        if row is None:
            tx.insert(
                sa.insert(schema.login_delays), {"name": key, "failures": failures, "not_before": now + wait}
            )
        else:
            tx.execute(
                sa.update(schema.login_delays)
                .where(schema.login_delays.c.name == key)
                .values(failures=failures, not_before=now + wait)
            )


def forget_failures(tx: Tx, name: str) -> None:
    """After a good login the name's delays begin anew."""
    tx.execute(sa.delete(schema.login_delays).where(schema.login_delays.c.name == name))


def decay_total(tx: Tx) -> None:
    """Halve the count over all names; called once an hour."""
    tx.execute(
        sa.update(schema.login_delays)
        .where(schema.login_delays.c.name == IN_TOTAL)
        .values(failures=schema.login_delays.c.failures // 2)
    )


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


def check_policy(sign_up: messages.SignUp) -> None:
    """Refuse what no account may have. Raises `RefusedError("policy")`."""
    name = sign_up.name
    proper = 1 <= len(name) <= MAXIMUM_NAME and name.isprintable() and name == name.strip()
    if len(sign_up.password) < MINIMUM_PASSWORD or not proper:
        raise RefusedError("policy")


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
    try:
        check_policy(messages.SignUp(name=name, password=password))
        return create(tx, name, HASHER.hash(password), now)
    except RefusedError as error:
        reason = {"name_taken": f"There is an account named {name!r} already."}.get(
            error.code, f"A name is printable text; a password has at least {MINIMUM_PASSWORD} characters."
        )
        raise RejectedError(reason) from error


def credit(
    tx: Tx, name: str, amount: int, now: int, random: Random, *, reference: bytes | None = None
) -> int:
    """Grant an account minor units; gives the new balance. Raises `NotFoundError`."""
    account = existing(tx, name)["id"]
    entries = {ledger.OPERATOR: -amount, ledger.account_book(account): amount}
    ledger.post(tx, random(16) if reference is None else reference, entries, now)
    ledger.change_balance(tx, account, amount)
    return ledger.balance(tx, account)


def set_state(tx: Tx, name: str, state: str) -> None:
    """Enable or disable an account; every session that it has loses its rights. Raises `NotFoundError`."""
    account = existing(tx, name)
    tx.execute(
        sa.update(schema.accounts)
        .where(schema.accounts.c.id == account["id"])
        .values(state=state, generation=schema.accounts.c.generation + 1)
    )


def existing(tx: Tx, name: str) -> Row:
    """Give the account's row. Raises `NotFoundError`."""
    account = find(tx, name)
    if account is None:
        raise NotFoundError(
            f"There is no account named {name!r}.", "`veilmart broker account list` shows all."
        )
    return account
