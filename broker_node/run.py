"""Running a broker: everything is wired here.

home/  identity.key identity.crt ca.crt crl.pem market.json limits.toml (optional)
       broker.db hello/ wrap/ relay/ mint/ log.key client-ids
       gateway.toml stripe.key sandbox-gateway.db (where cards are taken)
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from filelock import FileLock, Timeout

from broker_node import books, mint, payments
from broker_node.broker import Broker
from broker_node.gateways import configuration
from broker_node.keys import BrokerKeys, Revocations
from broker_node.mint import Mint
from broker_node.signers import Signers
from common import bus, clock, slots, topics
from common.client_ids import client_id
from common.config import DAY_MS, Limits, load_limits
from common.core import Lane
from common.errors import BusyError
from common.market_file import MarketFile
from common.node import Loop, set_memory_aside
from common.pools import Pools
from common.presence import presence
from common.store import Store

MIGRATIONS = "broker_node.migrations"
POOL_SIZES = {
    "passwords": 1,
    "strangers": 1,
    "mint": max(1, len(os.sched_getaffinity(0)) - 1) if hasattr(os, "sched_getaffinity") else 1,
    "gateway": 4,
}
"""Workers by pool. Passwords of strangers have a worker of their own, so that theirs alone wait for it. The
mint leaves a core to the loop."""
BEHIND = ("mint",)
"""Relays are waited for within milliseconds, coins are drawn and swapped ahead of need."""
READY_TIMEOUT_S = 1.0
MAINTAIN_EVERY_MS = 1_000


def open_store(home: Path) -> Store:
    """Open the broker's store, migrated."""
    return Store.in_home(home, "broker.db", MIGRATIONS)


@dataclass
class BrokerNode:
    """A broker, wired and ready to run."""

    home: Path
    limits: Limits
    keys: BrokerKeys
    revocations: Revocations
    store: Store
    broker: Broker
    issuing: Mint
    _maintained: int = 0
    _complete: set[str] = field(default_factory=set)
    """Months that have all their keys."""

    @classmethod
    def open(cls, home: Path, signers: Signers | None = None) -> BrokerNode:
        """Load keys and store; make this month's blind-signature keys where they are missing.

        Without `signers` the mint signs in this process.
        """
        limits = load_limits(home)
        now = clock.now_ms()
        keys = BrokerKeys.load(home, limits)
        keys.refresh(now)
        store = open_store(home)
        folder = home / "mint"
        folder.mkdir(mode=0o700, exist_ok=True)
        with store.immediate() as tx:
            issuing = Mint(folder, mint.load_issuers(tx), limits.retired_exchange_ms, signers)
        revocations = Revocations(home, keys.ca_der)
        gateway = configuration.make(home, limits, clock.now_ms)
        broker = Broker(keys, issuing, revocations, limits, gateway)
        with store.snapshot() as tx:
            report = books.check_new(tx)
        with store.immediate() as tx:
            broker.start(tx, report, now, clock.random_bytes)
        node = cls(home, limits, keys, revocations, store, broker, issuing)
        while node.make_key(now):
            pass
        return node

    def make_key(self, now: int) -> bool:
        """Make one blind-signature key of a month that is due and lacks it; tells whether one was made."""
        month = next((month for month in _months_due(now) if month not in self._complete), None)
        if month is None:
            return False
        with self.store.immediate() as tx:
            missing = mint.missing_keys(tx, month, self.limits.top_denomination)
            if not missing:
                self._complete.add(month)
                return month != _months_due(now)[-1]
            issuer = mint.make_key(tx, self.home / "mint", *missing[0], month)
            self.broker.note_keys(tx, [issuer], now, clock.random_bytes)
        self.issuing.add(issuer)
        self.broker.keys_changed()
        return True

    def maintain(self, now: int) -> None:
        """Look after files: rotate slot keys, make next month's, notice a new revocation list."""
        if now - self._maintained < MAINTAIN_EVERY_MS:
            return
        self._maintained = now
        # One at a time: a key takes a tenth of a second, and customers wait meanwhile.
        self.make_key(now)
        if self.keys.refresh(now):
            self.broker.keys_changed()
        if self.revocations.reload():
            self.broker.revocations_changed()

    def close(self) -> None:
        """Close the store."""
        self.store.close()


def _ready_line(market: MarketFile, node: BrokerNode) -> str:
    line = f"broker ready: {market.currency} market {market.market_id.hex()[:8]}"
    return f"{line} - {payments.ALARM}" if node.broker.payments.stopped else line


def _months_due(now: int) -> list[str]:
    """Give this month, and in its last two days the next one: keys are announced a day ahead."""
    this, soon = slots.month_of(now), slots.month_of(now + 2 * DAY_MS)
    return [this] if this == soon else [this, soon]


def connections(home: Path, market: MarketFile, *, tls: bool = True) -> dict[Lane, bus.Connection]:
    """Give the broker's two connections: small messages, and cells."""
    files = bus.TlsFiles(home / "ca.crt", home / "identity.crt", home / "identity.key")
    address = bus.Address(market.nodes.host, market.nodes.port, files.context() if tls else None)
    main = bus.Settings(
        address,
        client_id(home, "main"),
        (topics.ALL_MERCHANTS_OUT, topics.ALL_MERCHANT_STATUSES, topics.ALL_MERCHANT_CARDS),
        live_subscriptions=(topics.ALL_SESSIONS_UP,),
        durable=True,
        will=bus.Will(topics.broker_status(), presence("offline")),
        greeting=((topics.broker_status(), presence("online", clock.now_ms())),),
    )
    cells = bus.Settings(address, client_id(home, "cells"), (topics.ALL_MERCHANTS_CELLS,), durable=True)
    return {"main": bus.Connection(main), "cells": bus.Connection(cells)}


def run_broker(
    home: Path,
    stop: threading.Event,
    announce: Callable[[str], None],
    *,
    tls: bool = True,
    on_start: Callable[[Pools], None] = lambda _pools: None,
) -> None:
    """Run until `stop` is set.

    `announce` gets the one ready line, `on_start` the pools, whose `wake` ends a wait.
    """
    market = MarketFile.load(home / "market.json")
    with _alone(home):
        _run(home, market, stop, announce, tls=tls, on_start=on_start)


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Hold the home for one running broker. Raises `BusyError` where another has it."""
    lock = FileLock(home / ".broker.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise BusyError(f"Another process runs the broker of {home}.", "End it first.") from error
    try:
        yield
    finally:
        lock.release()


def _run(
    home: Path,
    market: MarketFile,
    stop: threading.Event,
    announce: Callable[[str], None],
    *,
    tls: bool,
    on_start: Callable[[Pools], None],
) -> None:
    signers = Signers(home / "mint", POOL_SIZES["mint"])
    node = BrokerNode.open(home, signers)
    if configuration.load(home).kind == "sandbox":
        structlog.get_logger("veilmart.broker").warning("SANDBOX GATEWAY: test cards are taken for money")
    lanes = connections(home, market, tls=tls)
    pools = Pools(POOL_SIZES, BEHIND)
    on_start(pools)
    loop = Loop(node.broker, node.store, lanes, pools, node.limits)
    announced = False
    try:
        while not stop.is_set():
            node.maintain(clock.now_ms())
            loop.round()
            ready = all(lane.ready for lane in lanes.values())
            node.broker.connected(there=ready)
            if ready and not announced:
                announced = True
                set_memory_aside()
                announce(_ready_line(market, node))
    finally:
        # A DISCONNECT silences the last will, and the retained "online" would stand.
        lanes["main"].put(topics.broker_status(), presence("offline", clock.now_ms()), retain=True)
        for lane in lanes.values():
            lane.close()
        pools.close()
        signers.close()
        node.close()
