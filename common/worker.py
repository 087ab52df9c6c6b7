"""The one thread that owns what is not thread-safe: opened, used and closed there.

    worker = Worker(lambda: Market(profile))
    worker.start()                                    # raises what opening raises
    cart = await worker.call(lambda market: market.cart.view())
    async for step in worker.iterate(lambda market: market.download_steps(order)): ...
    worker.stop()

Rule 1. One thing is done after the other, in the order in which they were asked for.

Rule 2. What has begun ends, also when nobody waits for it any more. What is cancelled before is not done.

Rule 3. An iteration lets others have their turn between two of its items. Left in whatever way, it is closed
in the thread too, before anything that is asked for later.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, suppress
from functools import partial
from typing import Generic, TypeAlias, TypeVar

Owned = TypeVar("Owned")
Result = TypeVar("Result")
Item = TypeVar("Item")
Items: TypeAlias = Generator[Item, None, None]


class Worker(Generic[Owned]):
    """Owns what `opening` opens."""

    def __init__(self, opening: Callable[[], AbstractContextManager[Owned]]) -> None:
        self._opening = opening
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="worker")
        self._opened = ExitStack()
        self._owned: Owned | None = None
        self._begun: set[Items[object]] = set()
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
        """Do something with what is owned; what still waits when it stops is cancelled."""
        return await asyncio.wrap_future(self._pool.submit(self._act, action))

    def iterate(self, begin: Callable[[Owned], Items[Item]]) -> AsyncIterator[Item]:
        """Iterate over what `begin` gives, one item at a time."""
        return _Iteration(self, begin)

    def advance(self, items: Items[Item]) -> tuple[Item] | None:
        """Give the next item, None at the end. For the thread alone, as `end` is."""
        self._begun.add(items)
        for item in items:
            return (item,)
        self._begun.discard(items)
        return None

    def end(self, items: Items[Item]) -> None:
        """Close an iterator."""
        self._begun.discard(items)
        items.close()

    def post(self, action: Callable[[Owned], object]) -> None:
        """Have something done that nobody waits for; not once it stops."""
        with suppress(RuntimeError):  # the pool takes nothing any more
            self._pool.submit(self._act, action)

    def _act(self, action: Callable[[Owned], Result]) -> Result:
        if self._owned is None or self._stopping:
            raise asyncio.CancelledError
        return action(self._owned)

    def stop(self) -> None:
        """End what is under way, forget what waits, and close what is owned, in its thread."""
        self._stopping = True
        try:
            self._pool.submit(self._close).result()
        finally:
            self._pool.shutdown()

    def _close(self) -> None:
        with self._opened:
            for items in list(self._begun):
                self.end(items)


class _Steps(Generic[Owned, Item]):
    """The thread's side of an iteration."""

    def __init__(self, worker: Worker[Owned], begin: Callable[[Owned], Items[Item]]) -> None:
        self._worker = worker
        self._begin = begin
        self._items: Items[Item] | None = None

    def next(self, owned: Owned) -> tuple[Item] | None:
        """Give the next item, None at the end."""
        if self._items is None:
            self._items = self._begin(owned)
        return self._worker.advance(self._items)

    def end(self, _: Owned) -> None:
        """Close it, if it was begun."""
        if self._items is not None:
            self._worker.end(self._items)


class _Iteration(AsyncIterator[Item]):
    """The event loop's side. Whoever lets go of it ends it at once, in the order of what is asked for."""

    def __init__(self, worker: Worker[Owned], begin: Callable[[Owned], Items[Item]]) -> None:
        steps = _Steps(worker, begin)
        # Neither holds on to this object.
        self._next: Callable[[], Awaitable[tuple[Item] | None]] = partial(worker.call, steps.next)
        self._leave: Callable[[], object] = weakref.finalize(self, worker.post, steps.end)

    async def __anext__(self) -> Item:
        try:
            found = await self._next()
        except BaseException:
            # An exception holds on to this frame, and so to this object, for as long as somebody has it.
            self._leave()
            raise
        if found is None:
            raise StopAsyncIteration
        return found[0]
