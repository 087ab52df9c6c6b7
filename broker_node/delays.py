"""Delays that grow with failures: they slow down guessing, and keep no owner out.

Rule 1. Whoever shows a device secret that the account knows is judged by that device's own failures alone.
Strangers cannot make it wait.

Rule 2. Strangers wait by name, doubling up to an hour, and all together after many failures; the latter
they can bring about for each other, so it stays short.

Rule 3. Rows about names go a day after their delay: strangers decide what names there are.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from broker_node import schema
from common.config import DAY_MS, SECOND_MS, Limits
from common.store import Row, Tx

IN_TOTAL: Final = ""
"""The row that counts over all names: no account can have this name."""
LONGEST_TOTAL_DELAY_MS: Final = 5 * SECOND_MS

_BY_NAME: Final = sa.select(schema.login_delays).where(schema.login_delays.c.name == sa.bindparam("key"))


def inside(account: int) -> str:
    """Name the row for wrong passwords inside the account's sessions; no account can have this name."""
    return f"\n{account}"


def of_name(tx: Tx, name: str, now: int) -> int:
    """How many milliseconds a stranger has to wait before a login for this name."""
    return max(_left(tx.one(_BY_NAME, {"key": key}), now) for key in (name, IN_TOTAL))


def of_device(device: Row, now: int) -> int:
    """How many milliseconds a known device has to wait."""
    return _left(device, now)


def of_account(tx: Tx, account: int, now: int) -> int:
    """How many milliseconds an account session has to wait before it shows the password again."""
    return _left(tx.one(_BY_NAME, {"key": inside(account)}), now)


def count_stranger(tx: Tx, name: str, now: int, limits: Limits) -> None:
    """Count a stranger's failure, for the name and in total."""
    _count(tx, name, limits.login_free_tries, limits.login_longest_delay_ms, now)
    _count(tx, IN_TOTAL, limits.login_free_tries_in_total, LONGEST_TOTAL_DELAY_MS, now)


def count_inside(tx: Tx, account: int, now: int, limits: Limits) -> None:
    """Count a wrong password or code inside an account session."""
    _count(tx, inside(account), limits.login_free_tries, limits.login_longest_delay_ms, now)


def count_device(tx: Tx, device: Row, now: int, limits: Limits) -> int:
    """Count a known device's failure, on its own row; gives how long it has to wait."""
    failures = device["failures"] + 1
    wait = _wait(failures, limits.login_free_tries, limits.login_longest_delay_ms)
    tx.execute(
        sa.update(schema.devices)
        .where(schema.devices.c.account == device["account"])
        .where(schema.devices.c.secret_hash == device["secret_hash"])
        .values(failures=failures, not_before=now + wait)
    )
    return wait


def forget(tx: Tx, key: str) -> None:
    """After a success the row's delays begin anew."""
    tx.execute(sa.delete(schema.login_delays).where(schema.login_delays.c.name == key))


def decay(tx: Tx, now: int) -> None:
    """Halve the count over all names, and drop rows that are long over; called once an hour."""
    rows = schema.login_delays
    tx.execute(sa.update(rows).where(rows.c.name == IN_TOTAL).values(failures=rows.c.failures // 2))
    tx.execute(sa.delete(rows).where(rows.c.name != IN_TOTAL, rows.c.not_before < now - DAY_MS))


def _count(tx: Tx, key: str, free: int, longest: int, now: int) -> None:
    row = tx.one(_BY_NAME, {"key": key})
    failures = 1 + (row["failures"] if row is not None else 0)
    values = {"failures": failures, "not_before": now + _wait(failures, free, longest)}
    if row is None:
        tx.insert(sa.insert(schema.login_delays), {"name": key, **values})
    else:
        tx.execute(sa.update(schema.login_delays).where(schema.login_delays.c.name == key).values(**values))


def _wait(failures: int, free: int, longest: int) -> int:
    over = failures - free
    return min(SECOND_MS << min(over, 30), longest) if over >= 0 else 0


def _left(row: Row | None, now: int) -> int:
    return max(0, row["not_before"] - now) if row is not None else 0
