"""A customer's home folder: one market, one wallet, one process at a time.

    market.json   the market, as joined           seed        the wallet's seed, mode 0600
    ca.pem        its CA, for TLS                 profile.db  everything else (schema.py)
    lock          held by the process that works here

Rule 1. A second process is refused at once (`BusyError`): two of them would spend one coin twice.
Rule 2. `market.json` is written last: a folder that has it is complete.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Self

import sqlalchemy as sa
from filelock import FileLock, Timeout

from common import coins
from common.clock import Random
from common.errors import BusyError, UntrustedError, UsageError
from common.keys import PRIVATE_FILE_MODE, create_file, replace_file
from common.market_file import MarketFile
from common.store import Store
from customer_node import schema

MARKET_FILE: Final = "market.json"
SEED_FILE: Final = "seed"
CA_FILE: Final = "ca.pem"
STORE_FILE: Final = "profile.db"
LOCK_FILE: Final = "lock"
MOST_EVIDENCE: Final = 100

_INSERT_EVIDENCE: Final = sa.insert(schema.evidence)


class Profile:
    """An open profile. `seed` is what all coins follow from."""

    def __init__(self, home: Path, lock: FileLock) -> None:
        self.home = home
        self._lock = lock
        try:
            self.market = MarketFile.load(home / MARKET_FILE)
            self._seed = _read_seed(home / SEED_FILE)
            self.store = Store.in_home(home, STORE_FILE, "customer_node.migrations")
        except BaseException:
            lock.release()
            raise
        self.market_id = self.market.market_id
        self.ca_der = self.market.ca_der

    @classmethod
    def join(cls, home: Path, market_path: Path, random: Random) -> Self:
        """Make a profile for the market in `market_path`, or open the one that is there.

        Raises `UsageError` or `UntrustedError` for a bad file, `UntrustedError` where the profile
        belongs to another market, `BusyError`.
        """
        market = MarketFile.load(market_path)
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = _lock(home)
        try:
            _fill(home, market, market_path, random)
        except BaseException:
            lock.release()
            raise
        return cls(home, lock)

    @classmethod
    def open(cls, home: Path) -> Self:
        """Open a profile that joined a market. Raises `UsageError` or `BusyError`."""
        if not (home / MARKET_FILE).exists():
            raise UsageError(f"{home} has joined no market", "Run `veilmart join MARKET-FILE` first.")
        return cls(home, _lock(home))

    @property
    def seed(self) -> bytes:
        """The wallet's 32-byte seed."""
        return self._seed

    def keep_evidence(self, kind: str, content: bytes, now: int) -> None:
        """Store, in a transaction of its own and once, what proves that a promise was broken.

        Only so much of it: whoever breaks promises does not decide how full the disk gets.
        """
        kept = schema.evidence.c
        with self.store.immediate() as tx:
            there = tx.scalar(
                sa.select(sa.func.count())
                .select_from(schema.evidence)
                .where(kept.kind == kind, kept.content == content)
            )
            if there or tx.scalar(sa.select(sa.func.count()).select_from(schema.evidence)) >= MOST_EVIDENCE:
                return
            tx.insert(_INSERT_EVIDENCE, {"at": now, "kind": kind, "content": content})

    def close(self) -> None:
        """Close the store and let the next process in."""
        self.store.close()
        self._lock.release()


def _fill(home: Path, market: MarketFile, market_path: Path, random: Random) -> None:
    present = home / MARKET_FILE
    if present.exists() and MarketFile.load(present).market_id != market.market_id:
        raise UntrustedError(
            f"{market_path} is the file of another market than the one that {home} belongs to",
            "Use a profile of its own for each market.",
        )
    if not present.exists() and not (home / SEED_FILE).exists():
        create_file(home / SEED_FILE, random(coins.SEED_BYTES), mode=PRIVATE_FILE_MODE)
    replace_file(home / CA_FILE, market.ca_certificate.encode())
    # Addresses may move; the market's id, which follows from CA and broker key, may not.
    market.save(present)


def _read_seed(path: Path) -> bytes:
    seed = path.read_bytes() if path.exists() else b""
    if len(seed) != coins.SEED_BYTES:
        raise UntrustedError(f"{path} is missing or damaged", "Restore it from a backup.")
    return seed


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
