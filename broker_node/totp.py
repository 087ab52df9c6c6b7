"""The second factor: time-based one-time codes (RFC 6238), SHA-1, six digits, 30 seconds.

These are the parameters that every authenticator app knows. A code of the step before or after counts too,
since clocks differ (RFC 6238, section 5.2), and each step counts once at most.
"""

from __future__ import annotations

import hmac
from typing import Final

import sqlalchemy as sa
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.hotp import HOTP

from broker_node import schema
from common.config import SECOND_MS
from common.errors import RefusedError
from common.store import Tx

STEP_MS: Final = 30 * SECOND_MS
DIGITS: Final = 6
TOLERANCE: Final = 1
"""Steps that a clock may be ahead or behind."""

_TOTP = schema.second_factors.c


def code_at(secret: bytes, step: int) -> str:
    """Give the code of a step: HOTP (RFC 4226) with the step as its counter."""
    # SHA-1 is what RFC 6238 and the apps have; HMAC does not rest on its collisions.
    return HOTP(secret, DIGITS, SHA1()).generate(step).decode()  # noqa: S303


def step_of(secret: bytes, code: str, now: int) -> int | None:
    """Give the step near `now` (milliseconds) whose code this is."""
    present = now // STEP_MS
    found = None
    for step in range(max(0, present - TOLERANCE), present + TOLERANCE + 1):
        if hmac.compare_digest(code_at(secret, step), code):
            found = step
    return found


def demanded(tx: Tx, account: int) -> bool:
    """Whether the account has a second factor."""
    return tx.one(sa.select(_TOTP.account).where(_TOTP.account == account)) is not None


def use(tx: Tx, account: int, code: str, now: int) -> bool:
    """Take a code, for this one time; an account without a second factor takes any, also none."""
    row = tx.one(sa.select(schema.second_factors).where(_TOTP.account == account))
    if row is None:
        return True
    step = step_of(row["secret"], code, now)
    if step is None:
        return False
    taken = sa.update(schema.second_factors).where(_TOTP.account == account, _TOTP.last_step < step)
    return tx.changed(taken.values(last_step=step)) == 1


def enable(tx: Tx, account: int, secret: bytes, code: str, now: int) -> None:
    """Demand codes from now on. Raises `RefusedError` where the code is wrong, or one is demanded already."""
    step = step_of(secret, code, now)
    if step is None:
        raise RefusedError("authentication")
    if demanded(tx, account):
        raise RefusedError("wrong_state")
    tx.execute(sa.insert(schema.second_factors), {"account": account, "secret": secret, "last_step": step})


def disable(tx: Tx, account: int) -> bool:
    """Demand codes no more; tells whether any were demanded."""
    return tx.changed(sa.delete(schema.second_factors).where(_TOTP.account == account)) == 1
