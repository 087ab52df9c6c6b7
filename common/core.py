"""What a node's core is, and what passes between it and the loop that runs it (`node`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

from common import bus, clock
from common.store import Tx

Lane: TypeAlias = Literal["main", "cells"]


@dataclass(frozen=True, slots=True)
class Incoming:
    """What arrived on the bus, not checked yet."""

    topic: str
    payload: bytes
    retained: bool = False


@dataclass(frozen=True, slots=True)
class Arrival:
    """One checked message: who sent it, its send's id, and its body."""

    sender: Any
    id: bytes
    body: Any


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One publish, framed."""

    topic: str
    payload: bytes
    lane: Lane = "main"
    retain: bool = False
    expiry_ms: int | None = None
    content_type: str = bus.CONTENT_TYPE


@dataclass(frozen=True, slots=True)
class Job:
    """Slow work: `work()` runs in the pool `pool`, `done(result)` gives what it comes back as."""

    pool: str
    work: Callable[[], Any] = field(repr=False)
    done: Callable[[Any], Sequence[Arrival]] = field(repr=False)


class CellSource(Protocol):
    """Cells to come, made a frame at a time as the connection takes them: constant memory at any size."""

    def next_frame(self) -> Outgoing | None:
        """Give the next cells in one frame, or None at the end. This is edge code: it reads files."""


class Core(Protocol):
    """What a node decides with."""

    def unknown(self, incoming: Sequence[Incoming]) -> bool:
        """Whether `check` needs something from the store first."""

    def warm(self, tx: Tx, incoming: Sequence[Incoming]) -> None:
        """Read that into memory."""

    def check(self, incoming: Incoming, now: int) -> Sequence[Arrival]:
        """Open a frame. Raises `WireError`."""

    def begin(self) -> None:
        """Forget what a transaction that was rolled back had staged in memory: a new one begins."""

    def receive_all(self, tx: Tx, arrivals: Sequence[Arrival], now: int, random: clock.Random) -> list[Any]:
        """Decide."""

    def tick(self, tx: Tx, now: int, random: clock.Random) -> list[Any]:
        """Do what is due by time."""

    def seen(self, arrivals: Iterable[Arrival], now: int) -> None:
        """Remember the ids of committed arrivals."""

    def frame(
        self, sends: Sequence[Any], now: int, random: clock.Random
    ) -> list[Outgoing | Job | CellSource]:
        """Group what goes to one place, shuffle it, and seal it into frames."""
