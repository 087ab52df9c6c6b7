"""Slow work beside the loop: bounded pools of threads, whose results come back as arrivals.

Rule. Work in a pool touches neither the store nor the bus. What it gives is decided upon in the
loop's next transaction.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections import deque
from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from common.core import Arrival, Job

POOL_NICENESS = 10
"""With more, another busy process on the machine would keep a pool from its work for seconds."""


class Pools:
    """Bounded pools of worker threads. A finished job wakes the loop through a socket pair.

    Those named in `behind` have only what the processor has left: whoever waits for a relay comes first.
    """

    def __init__(self, sizes: Mapping[str, int], behind: Collection[str] = ()) -> None:
        self._executors = {
            name: ThreadPoolExecutor(
                size, f"veilmart-{name}", initializer=_stand_back if name in behind else None
            )
            for name, size in sizes.items()
        }
        self._finished: deque[tuple[Job, Future[Any]]] = deque()
        self.wake_receiver, self._wake_sender = socket.socketpair()
        self.wake_receiver.setblocking(False)

    def submit(self, job: Job) -> None:
        """Start a job. Cores bound how many may wait."""
        future = self._executors[job.pool].submit(job.work)
        future.add_done_callback(lambda done: self._finish(job, done))

    def _finish(self, job: Job, future: Future[Any]) -> None:
        self._finished.append((job, future))
        self.wake()

    def wake(self) -> None:
        """End the loop's wait."""
        self._wake_sender.send(b"\0")

    def take(self) -> list[Arrival]:
        """Give what has come back. An exception inside a job is ours: it is raised here."""
        try:
            self.wake_receiver.recv(4096)
        except BlockingIOError:
            return []
        arrivals: list[Arrival] = []
        while self._finished:
            job, future = self._finished.popleft()
            arrivals += job.done(future.result())
        return arrivals

    def close(self) -> None:
        """Stop the pools and the socket pair."""
        for executor in self._executors.values():
            executor.shutdown(wait=True, cancel_futures=True)
        self.wake_receiver.close()
        self._wake_sender.close()


def _stand_back() -> None:
    """Lower this thread's priority, where threads have one."""
    if sys.platform == "linux":
        # Elsewhere a thread's id is none that `setpriority` knows.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), POOL_NICENESS)
