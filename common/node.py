"""The loop that every node runs around its core (`core`).

    batch    = drain(small messages) + drain(cells, a few) + finished jobs + due timers
    arrivals = those that open (size, MAC, GCM, types, fresh); the others are counted, and acknowledged
               all the same
    with store.immediate() as tx:
        sends = core.receive_all(tx, arrivals, now, random)
    publish what the core framed, acknowledge in arrival order, flush once

Rule 1. A core decides and returns; its only effect is `tx`. The loop alone publishes, and only after the
commit: whatever crashes in between is taken up again from the store.

Rule 2. What a peer sends is refused by `WireError`: counted by reason, dropped, acknowledged.

Rule 3. An error of our own rolls the batch back; then every message is tried alone, the culprit is
quarantined (its reason and type are logged, never its content), and after a few of them the node stops.

Rule 4. Slow work (password hashes, RSA) is a `Job`: it runs in a bounded pool and comes back as arrivals.
"""

from __future__ import annotations

import gc
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog

from common import bus, clock, config
from common.config import Limits
from common.core import Arrival, CellSource, Core, Incoming, Job, Lane, Outgoing
from common.errors import WireError
from common.pools import Pools
from common.store import Store

TICK_S = 0.25
GARBAGE_AFTER = 10_000
"""Containers made before the youngest are looked through: with Python's 700 several times in each batch."""
LANES: tuple[Lane, ...] = ("main", "cells")


class TooManyFailuresError(Exception):
    """Our own code failed on too many messages: better to stop than to go on."""


class Loop:
    """Drain, check, transaction, commit, publish, acknowledge."""

    def __init__(
        self,
        core: Core,
        store: Store,
        connections: Mapping[Lane, bus.Connection],
        pools: Pools,
        limits: Limits,
        wait: Callable[..., None] = bus.wait,
    ) -> None:
        self._wait = wait
        self._core = core
        self._store = store
        self._connections = connections
        self._pools = pools
        self._limits = limits
        self._log = structlog.get_logger("veilmart.node")
        self._cells: deque[CellSource] = deque()
        self._next_tick = 0
        self._failures: dict[Lane, str] = dict.fromkeys(connections, "")
        self.refused: Counter[str] = Counter()
        self.quarantined = 0

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; `Pools.wake` ends the wait."""
        while not stop.is_set():
            self.round()

    def round(self, timeout_s: float = TICK_S) -> None:
        """One round."""
        connections = [self._connections[lane] for lane in LANES if lane in self._connections]
        idle = not any(self._cell_room() for _ in self._cells)
        self._wait(connections, timeout_s if idle else 0.0, self._pools.wake_receiver)
        self._tell_of_failures()
        batches = {
            "main": self._connections["main"].take(self._limits.batch_messages),
            "cells": self._connections["cells"].take(_frames(self._limits.batch_cells))
            if "cells" in self._connections
            else [],
        }
        now = clock.now_ms()
        arrivals = self._open(batches["main"] + batches["cells"], now) + self._pools.take()
        self.deliver(self.decide(arrivals, now), now)
        for lane, connection in self._connections.items():
            connection.acknowledge(batches[lane])
        self._serve_cells()
        for connection in connections:
            connection.flush()

    def _tell_of_failures(self) -> None:
        # Once: the attempts that follow fail in the same way, every few seconds.
        for lane, connection in self._connections.items():
            before, self._failures[lane] = self._failures[lane], connection.failure
            if connection.failure and connection.failure != before:
                self._log.warning("no connection to the bus", lane=lane, reason=connection.failure)
            elif before and not connection.failure:
                self._log.info("connected to the bus again", lane=lane)

    # --- check -----------------------------------------------------------------------------------------

    def _open(self, deliveries: Sequence[bus.Delivery], now: int) -> list[Arrival]:
        incoming = [Incoming(d.topic, d.payload, d.retained) for d in deliveries]
        if incoming and self._core.unknown(incoming):
            with self._store.immediate() as tx:
                self._core.warm(tx, incoming)
        arrivals: list[Arrival] = []
        for message in incoming:
            try:
                arrivals.extend(self._core.check(message, now))
            except WireError as error:
                self.refused[error.reason] += 1
                self._log.info("refused", reason=error.reason)
            except Exception as error:  # noqa: BLE001 - ours: one message must not stop the node
                self._quarantine(error, "frame")
        return arrivals

    # --- decide ----------------------------------------------------------------------------------------

    def decide(self, arrivals: Sequence[Arrival], now: int) -> list[Any]:
        """One transaction for the whole batch, or, where our own code fails on it, one for each message."""
        due = now >= self._next_tick
        if not arrivals and not due:
            return []
        self._next_tick = now + int(TICK_S * 1000) if due else self._next_tick
        try:
            sends = self._commit(arrivals, now, due=due)
        except Exception as error:
            if not arrivals:
                raise
            self._log.exception("batch failed", error=type(error).__name__, messages=len(arrivals))
            sends = [send for arrival in arrivals for send in self._alone(arrival, now)]
        return sends

    def _commit(self, arrivals: Sequence[Arrival], now: int, *, due: bool) -> list[Any]:
        self._core.begin()
        with self._store.immediate() as tx:
            sends = self._core.receive_all(tx, arrivals, now, clock.random_bytes) if arrivals else []
            if due:
                sends += self._core.tick(tx, now, clock.random_bytes)
        self._core.seen(arrivals, now)
        return sends

    def _alone(self, arrival: Arrival, now: int) -> list[Any]:
        try:
            return self._commit([arrival], now, due=False)
        except Exception as error:  # noqa: BLE001 - ours: the others of its batch are not harmed
            self._quarantine(error, type(arrival.body).__name__)
            return []

    def _quarantine(self, error: Exception, kind: str) -> None:
        self.quarantined += 1
        self._log.exception("quarantined", error=type(error).__name__, message=kind)
        if self.quarantined >= self._limits.quarantine_before_stop:
            raise TooManyFailuresError(f"{self.quarantined} messages failed in our own code") from error

    # --- send ------------------------------------------------------------------------------------------

    def deliver(self, sends: Sequence[Any], now: int) -> None:
        """Frame and publish."""
        for item in self._core.frame(sends, now, clock.random_bytes) if sends else ():
            if isinstance(item, Outgoing):
                self._put(item)
            elif isinstance(item, Job):
                self._pools.submit(item)
            else:
                self._cells.append(item)

    def _put(self, item: Outgoing) -> bool:
        connection = self._connections.get(item.lane, self._connections["main"])
        return connection.put(
            item.topic,
            item.payload,
            retain=item.retain,
            expiry_ms=item.expiry_ms,
            content_type=item.content_type,
        )

    def _cell_room(self) -> bool:
        connection = self._connections.get("cells")
        return connection is not None and connection.under_way < _frames(self._limits.cell_window)

    def _serve_cells(self) -> None:
        # In turn, so that one long delivery does not hold up another.
        while self._cells and self._cell_room():
            source = self._cells.popleft()
            item = source.next_frame()
            if item is not None and self._put(item):
                self._cells.append(source)


def set_memory_aside() -> None:
    """Take whatever there is in this process by now for permanent: for a node that is ready.

    A collection of all garbage walks over some 90,000 objects that a node's modules consist of, 40 ms in
    which nobody is answered, and finds nothing: what a node makes as it goes is freed without it.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_AFTER, *gc.get_threshold()[1:])


def _frames(cells: int) -> int:
    """Give how many frames hold so many cells."""
    return -(-cells // config.CELLS_PER_FRAME)
