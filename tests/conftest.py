"""What every test run shares."""

from __future__ import annotations

import copy
import gc
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import spared
import vectors
from client import Customer, Shopkeeper
from hypothesis import HealthCheck, settings
from real_market import real_market
from world import World

from common import clock, store
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

spared.install()

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # In a shell's background it is ignored, by every process that a test starts too, and some end by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


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
    monkeypatch.setattr(Store, "migrate", spared.migrate_in_full)
    monkeypatch.setattr(Store, "__init__", spared.open_alone)
    monkeypatch.setattr(store, "_configure_sqlite", spared.configure_in_full)
    monkeypatch.setattr(os, "fsync", spared.fsync)


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
