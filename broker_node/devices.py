"""Devices that an account has been logged in from: SHA-256 of a secret that each keeps for this account.

A device becomes known by a login that succeeded. It proves nothing by itself: it only parts the owner's
failures from those of strangers (`delays.py`).
"""

from __future__ import annotations

import hashlib

import sqlalchemy as sa

from broker_node import schema
from common.store import Row, Tx

_DEVICES = schema.devices.c


def find(tx: Tx, account: int, secret: bytes) -> Row | None:
    """Give the device's row, where the account knows it."""
    known = (_DEVICES.account == account, _DEVICES.secret_hash == hashlib.sha256(secret).digest())
    return tx.one(sa.select(schema.devices).where(*known))


def remember(tx: Tx, account: int, secret: bytes, now: int, most: int) -> None:
    """Know the device from now on, without failures; of more than `most`, the longest unused go."""
    digest = hashlib.sha256(secret).digest()
    of_account = _DEVICES.account == account
    tx.execute(sa.delete(schema.devices).where(of_account, _DEVICES.secret_hash == digest))
    tx.execute(
        sa.insert(schema.devices),
        {"account": account, "secret_hash": digest, "used": now, "failures": 0, "not_before": 0},
    )
    kept = sa.select(_DEVICES.secret_hash).where(of_account).order_by(_DEVICES.used.desc()).limit(most)
    tx.execute(sa.delete(schema.devices).where(of_account, _DEVICES.secret_hash.not_in(kept)))


def forget(tx: Tx, account: int) -> None:
    """Know none of the account's devices any more."""
    tx.execute(sa.delete(schema.devices).where(_DEVICES.account == account))
