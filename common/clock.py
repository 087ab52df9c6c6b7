"""The edge's clock and randomness: cores get both as arguments."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeAlias

Random: TypeAlias = Callable[[int], bytes]
"""Gives that many fresh random bytes."""


def now_ms() -> int:
    """Milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000


def random_bytes(count: int) -> bytes:
    """Give fresh random bytes from the operating system."""
    return os.urandom(count)
