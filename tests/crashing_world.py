"""A market in memory whose nodes die at chosen points and are started again at once.

    world = CrashingWorld(tmp_path)
    world.deadly["broker"].add(Point("PlaceOrder", "after the commit"))

What a node had committed stays, what it had in memory is gone, and what it had not acknowledged is delivered
to it again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crashing import FUNDS, LIMITS, MERCHANT, PASSWORD, Crash, Homes, Point, arm, stock_shop
from world import MemoryConnection, Running, World

from common import bus
from customer_node import Market


class DurableConnection(MemoryConnection):
    """A connection whose unacknowledged deliveries wait for the next one with its client id."""

    def __init__(self, world: CrashingWorld, settings: bus.Settings) -> None:
        super().__init__(world, settings)
        self._waiting = world.waiting

    def connect(self) -> None:
        super().connect()
        self.inbox += self._waiting.pop(self.settings.client_id, [])

    def take(self, limit: int) -> list[bus.Delivery]:
        taken = super().take(limit)
        self._waiting.setdefault(self.settings.client_id, []).extend(taken)
        return taken

    def acknowledge(self, deliveries: Any) -> None:  # noqa: ARG002 - the real one's signature
        self._waiting[self.settings.client_id] = []

    def abandon(self, *, will: bool = True) -> None:
        self._waiting.setdefault(self.settings.client_id, []).extend(self.inbox)
        super().abandon(will=will)


class CrashingWorld(World):
    """A market whose nodes die at given points, each once, and are started again at once."""

    def __init__(self, root: Path, limits: str = LIMITS) -> None:
        self.waiting: dict[str, list[bus.Delivery]] = {}
        self.deadly: dict[str, set[Point]] = {}
        entries = dict(line.split(" = ") for line in limits.splitlines())
        super().__init__(root, limits={name: int(value) for name, value in entries.items()})
        stock_shop(self.add_merchant(MERCHANT).inventory, root / "originals")

    def lanes(self, connections: dict[Any, bus.Connection]) -> dict[Any, MemoryConnection]:
        return {lane: DurableConnection(self, each.settings) for lane, each in connections.items()}

    def run(self, name: str, *arguments: Any, **options: Any) -> Running:
        running = super().run(name, *arguments, **options)
        loop, turn = running.loop, running.loop.round

        def mortal_turn(timeout_s: float) -> None:
            if self.running.get(name) is not running:
                return  # it died while another was being started again
            try:
                turn(timeout_s)
            except Crash:
                self.stop(name)
                self.start_broker() if name == "broker" else self.start_merchant(name)

        def die(point: Point) -> Any:
            self.deadly[name].discard(point)
            raise Crash

        arm(loop, self.deadly.setdefault(name, set()), die)
        loop.round = mortal_turn  # type: ignore[method-assign, assignment]
        return running

    def join(self, name: str) -> Path:
        """A customer's profile, with an account that has money."""
        profile = self.root / "customers" / name
        Market.join(profile, self.market_path)
        self.account(name, PASSWORD, FUNDS)
        return profile

    def homes(self) -> Homes:
        customers = self.root / "customers"
        merchants = {name: self.root / "merchants" / name for name in self.merchants}
        return Homes(self.broker_home, merchants, sorted(customers.iterdir()) if customers.exists() else [])
