"""Time on the customer's side: a clock that never jumps, and how long to wait for an answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

from common.clock import now_ms

Clock: TypeAlias = Callable[[], int]
"""Gives milliseconds since 1970."""


def steady_clock() -> Clock:
    """Give a clock that starts at the wall clock's time and then only follows monotonic time.

    Message times are the broker's clock plus time elapsed: a wall clock set while a session runs would
    show in them, and make them stale.
    """
    start, origin = now_ms(), time.monotonic_ns()
    return lambda: start + (time.monotonic_ns() - origin) // 1_000_000


class Countdown:
    """How long one wait may take, in milliseconds on `clock`."""

    def __init__(self, clock: Clock, timeout_ms: int) -> None:
        self._clock = clock
        self._end = clock() + timeout_ms

    @property
    def over(self) -> bool:
        """Whether the time is up."""
        return self._clock() >= self._end

    @property
    def left_ms(self) -> int:
        """How much of it is left."""
        return max(0, self._end - self._clock())

    def slice_s(self, longest_ms: int) -> float:
        """Give what is left, at most `longest_ms`, in seconds."""
        return min(longest_ms, self.left_ms) / 1000


class Repeater:
    """When to send the same thing again: after `first_ms`, then twice as long each time, to `longest_ms`."""

    def __init__(self, clock: Clock, first_ms: int, longest_ms: int) -> None:
        self._clock = clock
        self._interval = first_ms
        self._longest = longest_ms
        self._next = clock()

    def due(self) -> bool:
        """Tell whether to send now; the first time always. Counts as sent."""
        if self._clock() < self._next:
            return False
        self._next = self._clock() + self._interval
        self._interval = min(2 * self._interval, self._longest)
        return True
