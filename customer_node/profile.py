"""A customer's home folder: one market, one wallet, one process at a time.

    market.json   the market, as joined           seed        the wallet's seed, mode 0600 (seed_file.py)
    ca.pem        its CA, for TLS                 profile.db  everything else (schema.py)
    lock          held by the process that works here

Rule 1. A second process is refused at once (`BusyError`): two of them would spend one coin twice.
Rule 2. `market.json` is written last: a folder that has it is complete.
Rule 3. Whoever opens the seed opens the rest: what is secret in the store is sealed under a key that
follows from it.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from filelock import FileLock, Timeout

from common import clock, coins
from common.clock import Random
from common.errors import BusyError, UntrustedError, UsageError
from common.keys import PRIVATE_FILE_MODE, create_file, replace_file
from common.market_file import MarketFile
from common.store import Store
from customer_node import schema, sealed_columns, seed_file
from customer_node.seed_file import Protection, Unlock

MARKET_FILE: Final = "market.json"
SEED_FILE: Final = "seed"
CA_FILE: Final = "ca.pem"
STORE_FILE: Final = "profile.db"
LOCK_FILE: Final = "lock"
MOST_EVIDENCE: Final = 100

_EVIDENCE: Final = sa.select(schema.evidence.c.kind, schema.evidence.c.content)


class Profile:
    """An open profile. `seed` is what all coins follow from."""

    def __init__(self, home: Path, lock: FileLock, unlock: Unlock | None, random: Random) -> None:
        self.home = home
        self._lock = lock
        self._random = random
        try:
            self.market = MarketFile.load(home / MARKET_FILE)
            self._seed = seed_file.open_seed(_read_seed(home), unlock)
            self._store: Store | None = open_store(home, self._seed, random)
        except BaseException:
            lock.release()
            raise
        self.market_id = self.market.market_id
        self.ca_der = self.market.ca_der

    @classmethod
    def join(
        cls,
        home: Path,
        market_path: Path,
        random: Random,
        unlock: Unlock | None = None,
        seed: bytes | None = None,
    ) -> MarketFile:
        """Make a profile for the market in `market_path`; in one that is there only addresses change.

        A new wallet's seed is `seed`, or else random; the file that holds it opens with `unlock`, or is
        plain where that is None. Raises `UsageError` or `UntrustedError` for a bad file, `UntrustedError`
        where the profile belongs to another market, `BusyError`.
        """
        market = MarketFile.load(market_path)
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = _lock(home)
        try:
            _fill(home, market, market_path, random, unlock, seed)
        finally:
            lock.release()
        return market

    @classmethod
    def open(cls, home: Path, unlock: Unlock | None = None, random: Random = clock.random_bytes) -> Profile:
        """Open a profile that joined a market. Raises `UsageError`, `BusyError`, `AuthenticationError`."""
        _demand_joined(home)
        return cls(home, _lock(home), unlock, random)

    @staticmethod
    def protection(home: Path) -> Protection:
        """Tell what opens the wallet of a profile. Raises `UsageError`, `UntrustedError`."""
        _demand_joined(home)
        return seed_file.protection(_read_seed(home))

    def protect(self, unlock: Unlock | None) -> None:
        """Let the wallet open with something else from now on; None is nothing at all.

        The file is replaced whole: after a crash either the old or the new one opens it. The seed, and
        with it what it opens elsewhere (a copy, the words), stays the same.
        """
        content = self._seed if unlock is None else seed_file.seal_seed(self._seed, unlock, self._random)
        replace_file(self.home / SEED_FILE, content, mode=PRIVATE_FILE_MODE)

    @property
    def seed(self) -> bytes:
        """The wallet's 32-byte seed."""
        return self._seed

    def keep_evidence(self, kind: str, content: bytes, now: int) -> None:
        """Store, in a transaction of its own and once, what proves that a promise was broken.

        Only so much of it: whoever breaks promises does not decide how full the disk gets.
        """
        with self.store.immediate() as tx:
            kept = [(row["kind"], row["content"]) for row in tx.all(_EVIDENCE)]
            if (kind, content) in kept or len(kept) >= MOST_EVIDENCE:
                return
            tx.execute(sa.insert(schema.evidence), {"at": now, "kind": kind, "content": content})

    @property
    def store(self) -> Store:
        """What the profile holds. Raises `UsageError` once it is closed: another process may have it then."""
        if self._store is None:
            raise UsageError("This profile is closed.", "Use it within `with Market(profile)`.")
        return self._store

    def close(self) -> None:
        """Close the store and let the next process in."""
        store, self._store = self._store, None
        if store is not None:
            store.close()
        self._lock.release()


def open_store(home: Path, seed: bytes, random: Random) -> Store:
    """Open the store of a profile whose seed is known, without its lock."""
    cipher = sealed_columns.RowCipher(seed, random)
    return Store.in_home(
        home,
        STORE_FILE,
        "customer_node.migrations",
        lambda dialect: sealed_columns.attach(dialect, cipher),
    )


def _demand_joined(home: Path) -> None:
    if not (home / MARKET_FILE).exists():
        raise UsageError(
            f"{home} has joined no market",
            "Run `veilmart join MARKET-FILE` first, or name the profile that has joined (--profile).",
        )


def _fill(
    home: Path,
    market: MarketFile,
    market_path: Path,
    random: Random,
    unlock: Unlock | None,
    seed: bytes | None,
) -> None:
    present = home / MARKET_FILE
    if present.exists() and MarketFile.load(present).market_id != market.market_id:
        raise UntrustedError(
            f"{market_path} is the file of another market than the one that {home} belongs to",
            "Use a profile of its own for each market.",
        )
    if not present.exists() and not (home / SEED_FILE).exists():
        made = random(coins.SEED_BYTES) if seed is None else seed
        if seed is not None:
            _begin_restoring(home, seed, random)
        content = made if unlock is None else seed_file.seal_seed(made, unlock, random)
        create_file(home / SEED_FILE, content, mode=PRIVATE_FILE_MODE)
        open_store(home, made, random).close()
    replace_file(home / CA_FILE, market.ca_certificate.encode())
    # Addresses may move; the market's id, which follows from CA and broker key, may not.
    market.save(present)


def _begin_restoring(home: Path, seed: bytes, random: Random) -> None:
    """Note, before there is a seed to draw with, that numbers of this wallet were used before."""
    store = open_store(home, seed, random)
    with closing(store), store.immediate() as tx:
        if tx.one(sa.select(schema.restores.c.number).limit(1)) is None:
            tx.execute(sa.insert(schema.restores), {"operation": random(16), "fetched": 0})


def _read_seed(home: Path) -> bytes:
    path = home / SEED_FILE
    return path.read_bytes() if path.exists() else b""


def _lock(home: Path) -> FileLock:
    lock = FileLock(home / LOCK_FILE, mode=PRIVATE_FILE_MODE, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BusyError(
            f"another process works on the profile {home}",
            "Wait for it to end, or use another profile (`--profile`).",
        ) from None
    return lock
