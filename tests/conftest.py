"""What every test run shares."""

from __future__ import annotations

import copy
import functools
import gc
import itertools
import shutil
import signal
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import vectors
from client import Customer, Shopkeeper
from cryptography.hazmat.primitives import serialization
from hypothesis import HealthCheck, settings
from real_market import real_market
from world import World

from common import clock
from common.blind import BlindPrivateKey
from common.keys import IdentityKey
from common.store import Store

__all__ = ["real_market"]  # a fixture, for whoever names it

# Examples are few, so that the suite stays fast, and the same each time, so that a failure repeats.
settings.register_profile(
    "veilmart",
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("veilmart")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # In a shell's background it is ignored, by every process that a test starts too, and some end by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


RSA_KEYS = 12
_made: list[IdentityKey] = []
_again = itertools.cycle(_made)
_generate = IdentityKey.generate


def generate(key_type: Any = "ed25519") -> IdentityKey:
    """Make an identity; of RSA keys, a dozen in turn: making one takes a quarter of a second."""
    if key_type != "rsa3072":
        return _generate(key_type)
    if len(_made) < RSA_KEYS:
        _made.append(_generate(key_type))
        return _made[-1]
    return next(_again)


IdentityKey.generate = generate  # type: ignore[method-assign,assignment]

# Reading an RSA key takes milliseconds, to see whether its numbers fit, and to hand it to OpenSSL: once for
# each is enough.
serialization.load_pem_private_key = functools.lru_cache(256)(serialization.load_pem_private_key)
BlindPrivateKey.from_pem = functools.lru_cache(256)(BlindPrivateKey.from_pem)  # type: ignore[method-assign]

_migrated: dict[str, bytes] = {}
_migrate = Store.migrate


def migrate(store: Store) -> None:
    """Migrate a store; of new ones only the first of each kind, the others begin as a copy of it."""
    path, kind = Path(store._engine.url.database or ""), store._migrations
    if not path.is_file() or path.stat().st_size:
        _migrate(store)
    elif kind in _migrated:
        path.write_bytes(_migrated[kind])
    else:
        _migrate(store)
        with tempfile.TemporaryDirectory() as folder, closing(sqlite3.connect(path)) as connection:
            copied = Path(folder, "copied.db")
            connection.execute("VACUUM INTO ?", [str(copied)])
            _migrated[kind] = copied.read_bytes()


Store.migrate = migrate  # type: ignore[method-assign]

_first: dict[str, Store] = {}
_open_store = Store.__init__


def open_store(store: Store, url: str, migrations: str) -> None:
    """Open a store; those of one kind compile each statement once for all of them.

    Not customers': what seals their columns belongs to the dialect of one profile.
    """
    _open_store(store, url, migrations)
    if url.startswith("sqlite:") and not migrations.startswith("customer_node."):
        first = _first.setdefault(migrations, store)
        for engine in (store._engine, store._reading):
            engine.dialect, engine._compiled_cache = first._engine.dialect, first._engine._compiled_cache
        store._statements = first._statements


Store.__init__ = open_store  # type: ignore[method-assign]

SLOW_FILES = [
    "test_bad_input.py",
    "test_customer_restore.py",
    "test_crashes.py",
    "test_readme.py",
    "test_cli_run.py",
    "test_customer_top_ups.py",
    "test_unlinkability.py",
    "test_customer_refunds.py",
    "test_examples.py",
    "test_storefront.py",
    "test_customer_market.py",
    "test_privacy.py",
    "test_customer_refund_crash.py",
    "test_customer_discounts.py",
    "test_customer_upkeep.py",
    "test_order_events.py",
    "test_customer_disputes.py",
    "test_cli_top_up.py",
    "test_money_machine.py",
    "test_storefront_orders.py",
    "test_customer_crash.py",
    "test_many_at_once.py",
    "test_broker_announced.py",
    "test_broker_accounts.py",
    "test_attacks_on_money.py",
    "test_cli_refunds.py",
    "test_broker_top_ups.py",
    "test_customer_delivery.py",
    "test_ca.py",
    "test_customer_trust.py",
    "test_documents_run.py",
    "test_example_jobs.py",
]
"""The files that take longest come first: a worker that begins one at the end keeps the others waiting."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(SLOW_FILES)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


def pytest_collection_finish() -> None:
    # What was imported and collected stays: the collector need not go through it again and again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 50)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in vectors.lines(terminalreporter.stats.get("passed", [])):
        terminalreporter.write_line(line)


class Time:
    """The clock of every node in this process, which a test may move."""

    def __init__(self) -> None:
        self.ahead = 0
        self._real = clock.now_ms

    def now(self) -> int:
        return self._real() + self.ahead

    def advance(self, milliseconds: int) -> None:
        self.ahead += milliseconds


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    moved = Time()
    monkeypatch.setattr(clock, "now_ms", moved.now)
    return moved


@pytest.fixture
def own_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Open and migrate stores as a process of its own does, without what other tests have left."""
    monkeypatch.setattr(Store, "migrate", _migrate)
    monkeypatch.setattr(Store, "__init__", _open_store)


@pytest.fixture(scope="session")
def funded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Customer]:
    """A market in which somebody has drawn coins and tickets: made once, for tests to copy."""
    world = World(tmp_path_factory.mktemp("funded"))
    customer = Customer(world)
    world.close()
    return world.root / "market", customer


@pytest.fixture
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    """A market with a running broker, and nobody else; where the test has a `customer`, with her account."""
    if "customer" in request.fixturenames:
        shutil.copytree(request.getfixturevalue("funded")[0], tmp_path / "market")
    world = World(tmp_path)
    yield world
    world.close()


@pytest.fixture
def customer(world: World, funded: tuple[Path, Customer]) -> Customer:
    """Somebody with coins and tickets in hand."""
    customer = copy.copy(funded[1])
    customer.world, customer.coins, customer.tickets = world, [*customer.coins], [*customer.tickets]
    return customer


@pytest.fixture
def keeper(world: World) -> Shopkeeper:
    """The merchant `sports`, which answers what the test says."""
    return Shopkeeper(world)
