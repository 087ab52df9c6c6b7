"""Pools: slow work beside the loop, which it neither stops nor outruns."""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Iterator

import pytest

from common.core import Arrival, Job
from common.pools import POOL_NICENESS, Pools


@pytest.fixture
def pools() -> Iterator[Pools]:
    opened = Pools({"slow": 2, "usual": 1}, behind=("slow",))
    yield opened
    opened.close()


def finished(pools: Pools, count: int) -> list[Arrival]:
    arrivals: list[Arrival] = []
    while len(arrivals) < count:
        assert select.select([pools.wake_receiver], [], [], 10)[0], "no job came back"
        arrivals += pools.take()
    return arrivals


def test_one_job_may_come_back_as_several_arrivals(pools: Pools) -> None:
    pools.submit(
        Job("slow", lambda: [1, 2, 3], lambda values: [Arrival(None, b"", value) for value in values])
    )
    assert [arrival.body for arrival in finished(pools, 3)] == [1, 2, 3]


def test_an_error_in_a_job_is_ours_and_loud(pools: Pools) -> None:
    pools.submit(Job("slow", lambda: 1 // 0, lambda _: []))
    with pytest.raises(ZeroDivisionError):
        finished(pools, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a priority of their own on Linux alone")
def test_what_is_slow_has_only_what_the_loop_leaves(pools: Pools) -> None:
    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before = priority()
    for pool, expected in (("slow", max(POOL_NICENESS, before)), ("usual", before)):
        pools.submit(Job(pool, priority, lambda value: [Arrival(None, b"", value)]))
        (arrival,) = finished(pools, 1)
        assert arrival.body == expected
    assert priority() == before
