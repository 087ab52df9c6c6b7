"""What every test run shares."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import vectors
from client import Customer, Shopkeeper
from hypothesis import HealthCheck, settings
from world import World

from common import clock

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
def world(tmp_path: Path) -> Iterator[World]:
    """A market with a running broker, and nobody else."""
    world = World(tmp_path)
    yield world
    world.close()


@pytest.fixture
def customer(world: World) -> Customer:
    """Somebody with coins and tickets in hand."""
    return Customer(world)


@pytest.fixture
def keeper(world: World) -> Shopkeeper:
    """The merchant `sports`, which answers what the test says."""
    return Shopkeeper(world)
