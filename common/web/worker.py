"""The one thread that owns what is not thread-safe: opened, used and closed there.

worker = Worker(lambda: Market(profile))
worker.start()                                    # raises what opening raises
cart = await worker.call(lambda market: market.cart.view())
worker.stop()
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from typing import Generic, TypeVar

Owned = TypeVar("Owned")
Result = TypeVar("Result")


class Worker(Generic[Owned]):
    """Does one thing after the other, in the order in which they were asked for."""

    def __init__(self, opening: Callable[[], AbstractContextManager[Owned]]) -> None:
        self._opening = opening
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="worker")
        self._opened = ExitStack()
        self._owned: Owned | None = None
        self._stopping = False

    def start(self) -> Owned:
        """Open what is owned, and give it for what may be called from other threads too."""
        try:
            self._owned = self._pool.submit(lambda: self._opened.enter_context(self._opening())).result()
        except BaseException:
            self._pool.shutdown()
            raise
        return self._owned

    async def call(self, action: Callable[[Owned], Result]) -> Result:
        """Do something with what is owned. What has begun ends, also when nobody waits for it any more."""
        return await asyncio.wrap_future(self._pool.submit(self._act, action))

    def _act(self, action: Callable[[Owned], Result]) -> Result:
        if self._owned is None or self._stopping:
            raise asyncio.CancelledError
        return action(self._owned)

    def stop(self) -> None:
        """End what is under way, forget what waits, and close what is owned, in its thread."""
        self._stopping = True
        try:
            self._pool.submit(self._opened.close).result()
        finally:
            self._pool.shutdown()
