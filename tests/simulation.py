"""A market in which nobody waits: time is a number, work in pools is done at once, and the bus has weather.

    with Simulation.begun() as world: ...     homes copied from a market made once for each run

Time stands still while anybody has something to do and moves on when nobody has. So what takes days takes
milliseconds, and what happens follows from the calls alone. The bus loses, repeats and holds back what
crosses it as its weather says; what a node has not acknowledged when it dies is delivered to it again.
"""

from __future__ import annotations

import atexit
import copy
import functools
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import argon2
import pytest
import sqlalchemy as sa
from client import Customer
from crashing import FUNDS, LIMITS, MERCHANT, PASSWORD, stock_shop
from crashing_world import CrashingWorld
from world import Publish, World

from broker_node import accounts
from common import clock, coins, store
from common.config import SECOND_MS
from common.core import Arrival, Job
from customer_node import Market
from merchant_node.run import MerchantNode

STEP_MS = 100
NO_ENDS_OF_A_DAY = {"top_ups_per_day": 10_000, "tickets_per_day": 10_000}
"""A history of hours does what nobody does in a day; what waits for the next day would be open at its end."""
COMMISSION = {"commission_basis_points": 250}
MOST_HELD_BACK = 6
HONEST, THIEF = "alice", "mallory"
PURSE = (*coins.BUNDLE, *coins.BUNDLE, 64, 64, 32, 32)
THIEFS_BALANCE = 300
THIEFS_TICKETS = 24
_MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of ours is made in it, with a name that nobody can guess
FOLDER = str(_MEMORY) if _MEMORY.is_dir() else None
"""Where homes lie: a process here is killed by an exception, so nothing has to outlive the machine."""


class VirtualTime:
    """The only clock of a simulation."""

    def __init__(self) -> None:
        self.ms = clock.now_ms()

    def now(self) -> int:
        return self.ms


TIME = VirtualTime()


class InlinePools:
    """`common.pools.Pools`, done at once: a job comes back in the round after."""

    wake_receiver: Any = None

    def __init__(self) -> None:
        self.finished: deque[tuple[Job, Any]] = deque()

    def submit(self, job: Job) -> None:
        self.finished.append((job, job.work()))

    def take(self) -> list[Arrival]:
        taken, self.finished = self.finished, deque()
        return [arrival for job, result in taken for arrival in job.done(result)]

    def wake(self) -> None:
        pass

    def close(self) -> None:
        self.finished.clear()


@dataclass
class Weather:
    """What the bus does to a publish: chances of losing, repeating and holding it back, in percent."""

    lost: int = 0
    repeated: int = 0
    held_back: int = 0
    chance: Random = field(default_factory=Random)
    waiting: list[Publish] = field(default_factory=list)

    def meet(self, publish: Publish) -> list[Publish]:
        """What a retained message says stays said: a bus that forgot it would not be one."""
        if publish.retain:
            return [publish]
        fate = self.chance.randrange(100)
        if fate < self.lost:
            return []
        if fate < self.lost + self.repeated:
            return [publish, publish]
        if fate < self.lost + self.repeated + self.held_back:
            self.waiting.append(publish)
            return []
        return [publish]

    def clears(self) -> list[Publish]:
        """Give what was held back, in another order."""
        self.chance.shuffle(self.waiting)
        released, self.waiting = self.waiting, []
        return released


class Simulation(CrashingWorld):
    """One merchant's shop, a customer with a wallet, and whoever a test adds; see the module."""

    def __init__(self, root: Path) -> None:
        self.waiting = {}
        self.deadly = {}
        self.weather = Weather()
        limits = {name: int(value) for name, value in (line.split(" = ") for line in LIMITS.splitlines())}
        World.__init__(self, root, limits=limits | NO_ENDS_OF_A_DAY | COMMISSION)
        self.bus.tamper = self.meet
        if (root / "merchants" / MERCHANT).exists():
            self.start_merchant(MERCHANT)
        else:
            stock_shop(self.add_merchant(MERCHANT).inventory, root / "originals")

    @classmethod
    @contextmanager
    def begun(cls) -> Iterator[tuple[Simulation, Customer]]:
        """Give a market like the others of this run, in the same place, and its thief."""
        made = template()
        TIME.ms = made.start
        shutil.rmtree(made.place, ignore_errors=True)
        shutil.copytree(made.folder, made.place)
        with closing(cls(made.place)) as world:
            mine = copy.copy(made.thief)
            mine.world, mine.coins, mine.tickets = world, [*made.thief.coins], [*made.thief.tickets]
            yield world, mine

    def meet(self, publish: Publish) -> list[Publish]:
        return self.weather.meet(publish)  # of now: calm weather is another object

    @property
    def profile(self) -> Path:
        return self.root / "customers" / HONEST

    def make_pools(self, sizes: dict[str, int]) -> Any:  # noqa: ARG002 - nobody waits for a worker
        return InlinePools()

    def start_merchant(self, merchant: str) -> MerchantNode:
        node = super().start_merchant(merchant)
        node.merchant._cell_clock = TIME.now
        return node

    # --- time ------------------------------------------------------------------------------------------

    def pump(self, until: Callable[[], bool], timeout_s: float = 20.0) -> bool:
        deadline = TIME.ms + int(timeout_s * SECOND_MS)
        while not until():
            busy = self.turn()
            if until():
                return True
            if TIME.ms >= deadline:
                return False
            if not busy and not self.clear_up():
                TIME.ms += STEP_MS
        return True

    def turn(self) -> bool:
        """Let every node take a round; tells whether there was, or is, something to do."""
        busy = self.busy()
        for running in list(self.running.values()):
            running.each_round()
            running.loop.round(0.0)
        return busy or self.busy()

    def busy(self) -> bool:
        return any(
            running.pools.finished or any(lane.inbox for lane in running.lanes.values())  # type: ignore[attr-defined]
            for running in self.running.values()
        )

    def clear_up(self) -> bool:
        """Deliver what was held back; tells whether there was any."""
        released = self.weather.clears()
        for publish in released:
            self.bus.deliver(publish)
        return bool(released)

    def settle(self) -> None:
        """Let everything happen that happens at once."""
        while self.turn() or self.clear_up():
            pass

    @contextmanager
    def calm(self) -> Iterator[None]:
        """Let nothing be lost, and nobody die, for a while."""
        before, self.weather = self.weather, Weather()
        spared = {name: set(points) for name, points in self.deadly.items()}
        for points in self.deadly.values():
            points.clear()
        try:
            yield
        finally:
            self.weather = before
            for name, points in spared.items():
                self.deadly[name] |= points


@dataclass(frozen=True)
class Template:
    """Homes to be copied to `place`, a customer of theirs, and the time in them."""

    folder: Path
    place: Path
    thief: Customer
    start: int


@functools.cache
def template() -> Template:
    """Make a market's homes, once for a run. Needs what `install` does."""
    root = Path(tempfile.mkdtemp(prefix="veilmart-simulation-", dir=FOLDER))
    atexit.register(shutil.rmtree, root)
    with closing(Simulation(root / "template")) as world:
        Market.join(world.profile, world.market_path)
        world.account(HONEST, PASSWORD, FUNDS)
        with Market(world.profile, connect=world.connect, clock=TIME.now) as market:
            market.log_in(HONEST, PASSWORD)
            market.withdraw(2)
        thief = Customer(world, THIEF, values=PURSE, tickets_wanted=THIEFS_TICKETS, extra=THIEFS_BALANCE)
    return Template(root / "template", root / "now", thief, TIME.ms)


def install(patch: pytest.MonkeyPatch) -> None:
    """Give every node of this process the virtual time, and spare it what only costs time.

    Engines stay from one market to the next, which lies in the same place: each would compile every
    statement anew. A password is hashed for a moment.
    """
    patch.setattr(clock, "now_ms", TIME.now)
    patch.setattr(store.sa, "create_engine", _engine)
    patch.setattr(accounts, "HASHER", argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=1))
    template()


_create_engine = functools.cache(sa.create_engine)


def _engine(url: str, **options: Any) -> sa.Engine:
    return _create_engine(url, **options)
