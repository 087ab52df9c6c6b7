"""What the nodes inside a test's own process are spared; those that a test starts do all of it.

Making keys, hashing passwords slowly on purpose and waiting for the disk are a third of the suite's time
where nothing looks at them. What looks at them asks for the originals, which have their names here. Markets
of one run have the same keys for the same slots: what needs two markets' keys apart takes `make_key_of_slot`.
"""

from __future__ import annotations

import functools
import itertools
import os
import sqlite3
import tempfile
from collections import defaultdict
from contextlib import closing
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import argon2
from cryptography.hazmat.primitives import serialization

from broker_node import accounts, mint
from common import store
from common.blind import BlindPrivateKey
from common.coins import Purpose
from common.keys import IdentityKey
from common.messages import IssuerKey
from common.store import Store, Tx

RSA_KEYS = 12

generate_identity = IdentityKey.generate
generate_blind = BlindPrivateKey.generate
make_key_of_slot = mint.make_key
migrate_in_full = Store.migrate
open_alone = Store.__init__
configure_in_full = store._configure_sqlite
fsync = os.fsync
HASHER, DECOY = accounts.HASHER, accounts._DECOY


def install() -> None:
    """Put all of it in place, for the whole run."""
    IdentityKey.generate = _identity  # type: ignore[method-assign,assignment]
    BlindPrivateKey.generate = _blind  # type: ignore[method-assign]
    mint.make_key = _key_of_slot
    # Reading an RSA key takes milliseconds, to see whether its numbers fit, and to hand it to OpenSSL.
    serialization.load_pem_private_key = functools.lru_cache(256)(serialization.load_pem_private_key)
    BlindPrivateKey.from_pem = functools.lru_cache(256)(BlindPrivateKey.from_pem)  # type: ignore[method-assign]
    accounts.HASHER = argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
    accounts._DECOY = accounts.HASHER.hash("no account has this password")
    Store.migrate = _migrate  # type: ignore[method-assign]
    Store.__init__ = _open  # type: ignore[method-assign]
    # What the kernel has taken outlives every process that a test kills; only the machine's end would show.
    store._configure_sqlite = _configure
    os.fsync = lambda _descriptor: None


# --- keys ----------------------------------------------------------------------------------------------

_made: list[IdentityKey] = []
_again = itertools.cycle(_made)


def _identity(key_type: Any = "ed25519") -> IdentityKey:
    """Make an identity; of RSA keys, a dozen in turn: making one takes a quarter of a second."""
    if key_type != "rsa3072":
        return generate_identity(key_type)
    if len(_made) < RSA_KEYS:
        _made.append(generate_identity(key_type))
        return _made[-1]
    return next(_again)


_of_slots: dict[tuple[str, int, str], list[BlindPrivateKey]] = defaultdict(list)
_wanted: ContextVar[tuple[Path, list[BlindPrivateKey]] | None] = ContextVar("wanted", default=None)


def _key_of_slot(tx: Tx, folder: Path, purpose: Purpose, value: int, month: str) -> IssuerKey:
    """Make a slot's key: the one that another market of this run has there, if this one has it not yet."""
    token = _wanted.set((folder, _of_slots[purpose, value, month]))
    try:
        return make_key_of_slot(tx, folder, purpose, value, month)
    finally:
        _wanted.reset(token)


def _blind() -> BlindPrivateKey:
    wanted = _wanted.get()
    if wanted is None:
        return generate_blind()
    folder, known = wanted
    for key in known:
        if not (folder / f"{key.public.key_id.hex()}.pem").exists():
            return key
    known.append(generate_blind())
    return known[-1]


# --- stores --------------------------------------------------------------------------------------------

_migrated: dict[str, bytes] = {}
_first: dict[str, Store] = {}


def _migrate(opened: Store) -> None:
    """Migrate a store; of new ones only the first of each kind, the others begin as a copy of it."""
    path, kind = Path(opened._engine.url.database or ""), opened._migrations
    if not path.is_file() or path.stat().st_size:
        migrate_in_full(opened)
    elif kind in _migrated:
        path.write_bytes(_migrated[kind])
    else:
        migrate_in_full(opened)
        with tempfile.TemporaryDirectory() as folder, closing(sqlite3.connect(path)) as connection:
            copied = Path(folder, "copied.db")
            connection.execute("VACUUM INTO ?", [str(copied)])
            _migrated[kind] = copied.read_bytes()


def _open(opened: Store, url: str, migrations: str) -> None:
    """Open a store; those of one kind compile each statement once for all of them.

    Not customers': what seals their columns belongs to the dialect of one profile.
    """
    open_alone(opened, url, migrations)
    if url.startswith("sqlite:") and not migrations.startswith("customer_node."):
        first = _first.setdefault(migrations, opened)
        for engine in (opened._engine, opened._reading):
            engine.dialect, engine._compiled_cache = first._engine.dialect, first._engine._compiled_cache
        opened._statements = first._statements


def _configure(connection: sqlite3.Connection, record: object) -> None:
    configure_in_full(connection, record)
    connection.execute("PRAGMA synchronous=OFF")
