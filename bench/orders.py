"""Orders against the floor: sealed, framed, paid with four coins, durable on both nodes, answers verified."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from bench import conditions, market, mosquitto, processes
from bench.figures import Figures, medians
from bench.processes import Worker, say
from bench.shopper import Setup
from common import codec

Measured: TypeAlias = Worker | mosquitto.Bus

COINS = (512, 256, 128, 64)
PRICE = sum(COINS)
PAYLOAD = 1024
WINDOWS = (1, 16, 128)
ORDERS = {1: 150, 16: 800, 128: 2500}
ROUND_TRIPS = {1: 600, 16: 3000, 128: 6000}
SETTLE_S = 10.0


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    rounds: int = 3
    windows: Sequence[int] = WINDOWS
    scale: float = 1.0
    profiles: Path | None = None

    def count(self, counts: dict[int, int], window: int) -> int:
        return max(window, int(counts.get(window, counts[128]) * self.scale))


def measure(plan: Plan) -> dict[str, Any]:
    """Run floor and orders in turn and give the medians of both."""
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="veilmart-bench-")))
        (root / "bus").mkdir()
        bus = stack.enter_context(mosquitto.running(root / "bus"))
        homes = market.make(root, bus.ports)
        (root / "item").write_bytes(b"something small")
        record = market.put_on_sale(homes, root / "item", PRICE)
        treasury = market.Treasury(homes)
        purses = _mint(plan, treasury, root)
        setup = _write_setup(root, homes, treasury, record)

        floor = [stack.enter_context(worker) for worker in processes.floor(bus.ports[0])]
        nodes = [stack.enter_context(n) for n in processes.nodes(homes.broker, homes.merchant, plan.profiles)]
        shopper = stack.enter_context(Worker("customer", "bench.shopper", str(setup)))
        above: tuple[Measured, ...] = (shopper, *nodes, bus)
        runs = _alternate(plan, Meter(floor[-1], (*floor, bus)), Meter(shopper, above), purses)
        placed = sum(plan.count(ORDERS, window) for window in plan.windows) * plan.rounds
        _await_outcomes(homes, placed)
        peak = {process.name: process.peak_rss_mb for process in (*floor, *above)}
        for node in nodes:
            node.stop()
        books = _check(homes, placed)
    return _report(plan, runs) | {
        "peak_rss_mb": peak,
        "checked": {"orders_captured": books.captured, "sales": books.sales, "ledger_faults": books.faults},
        "conditions": conditions.describe(PAYLOAD),
    }


def _mint(plan: Plan, treasury: market.Treasury, root: Path) -> dict[tuple[int, int], Path]:
    """Make the coins of every run beforehand, a file for each."""
    say("minting coins")
    purses: dict[tuple[int, int], Path] = {}
    for number in range(plan.rounds):
        for window in plan.windows:
            coins = treasury.coins(COINS * plan.count(ORDERS, window))
            path = purses[number, window] = root / f"coins-{number}-{window}"
            path.write_bytes(codec.pack(coins))
    return purses


def _write_setup(root: Path, homes: market.Homes, treasury: market.Treasury, record: Any) -> Path:
    (root / "ticket").write_bytes(codec.pack([treasury.ticket()]))
    setup = Setup(str(homes.market), str(root / "ticket"), PRICE, market.record_digest(record), len(COINS))
    (root / "setup.json").write_bytes(msgspec.json.encode(setup))
    return root / "setup.json"


@dataclass
class Meter:
    """A worker that takes measurements, and the processes whose time they take."""

    worker: Worker
    processes: Sequence[Measured]
    cpu_us: dict[str, float] = field(default_factory=dict)
    """Processor time per message in the last measurement."""

    def measure(self, messages: int, **command: Any) -> Figures:
        # Earlier writes, such as those of minting, reach the disk before the measuring begins.
        os.sync()
        before = [process.cpu_seconds for process in self.processes]
        measured: Figures = self.worker.ask(**command)
        for process, used in zip(self.processes, before, strict=True):
            self.cpu_us[process.name] = round((process.cpu_seconds - used) / messages * 1e6)
        return measured


def _alternate(
    plan: Plan, floor: Meter, shopper: Meter, purses: dict[tuple[int, int], Path]
) -> dict[tuple[str, int], list[Figures]]:
    runs: dict[tuple[str, int], list[Figures]] = {}
    for number in range(plan.rounds):
        for window in plan.windows:
            count = plan.count(ROUND_TRIPS, window)
            below = floor.measure(count, do="run", window=window, count=count, size=PAYLOAD)
            placed = plan.count(ORDERS, window)
            above = shopper.measure(placed, window=window, coins=str(purses[number, window]))
            runs.setdefault(("floor", window), []).append(below)
            runs.setdefault(("orders", window), []).append(above)
            say(
                f"round {number + 1}, window {window}: floor {below['rate']}/s, orders {above['rate']}/s,"
                f" ratio {above['rate'] / below['rate']:.2f}"
            )
            say(f"  processor time per message in us: floor {floor.cpu_us}, orders {shopper.cpu_us}")
    return runs


def _report(plan: Plan, runs: dict[tuple[str, int], list[Figures]]) -> dict[str, Any]:
    floor = {str(window): medians(runs["floor", window]) for window in plan.windows}
    orders = {str(window): medians(runs["orders", window]) for window in plan.windows}
    for window, measured in orders.items():
        measured["ratio"] = round(measured["rate"] / floor[window]["rate"], 3)
    widest = orders[str(max(plan.windows))]
    # The figures of the widest window stand at the top: that is the one that the ratio is promised for.
    return {"floor": floor, "orders": {**widest, "windows": orders}, "ratio": widest["ratio"]}


def _await_outcomes(homes: market.Homes, placed: int) -> None:
    deadline = time.monotonic() + SETTLE_S
    while time.monotonic() < deadline:
        books = market.audit(homes)
        if books.outcomes_open == 0 and books.sales == placed:
            return
        time.sleep(0.1)


def _check(homes: market.Homes, placed: int) -> market.Books:
    books = market.audit(homes)
    wanted = market.Books(placed, placed, placed * len(COINS) + 1, 0, ())
    if books != wanted:
        raise RuntimeError(f"the books are wrong: {books}, and should be {wanted}")
    return books
