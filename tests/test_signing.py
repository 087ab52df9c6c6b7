"""What waits for the mint: each request that was committed is signed once, in as few jobs as it takes."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_node import signing
from broker_node.sends import Session
from broker_node.signing import REQUESTS_OF_A_SESSION, SIGNATURES_OF_A_JOB, Asked, Signed, Signing
from common import messages
from common.core import Job
from common.errors import RefusedError


class CountingMint:
    """Signs by giving back what it is shown."""

    def sign(self, blinded: Sequence[messages.BlindedToken]) -> list[bytes]:
        return [token.blinded for token in blinded]


class Waiting:
    """`Signing` as the exchange uses it: a transaction, then its jobs."""

    def __init__(self) -> None:
        self.signing = Signing(CountingMint())  # type: ignore[arg-type] # it signs, and that is all
        self.committed: list[bytes] = []
        self.jobs: list[Job] = []
        self._number = 0

    def asked(self, size: int, sid: bytes | None = None) -> Asked:
        self._number += 1
        name = self._number.to_bytes(16)
        session = Session(sid or name, "shop", None, None, None)
        blinded = [messages.BlindedToken(key_id=bytes(8), blinded=bytes(256))] * size
        request = messages.Swap(operation=name, coins=[], blinded=[])
        return Asked(session, request, name, bytes(32), blinded)

    def transaction(self, sizes: Sequence[int], *, fails: bool = False) -> None:
        self.signing.begin()
        admitted = [self.signing.admit(self.asked(size)) for size in sizes]
        jobs = [*self.signing.jobs(admitted)]
        if not fails:
            self.signing.committed()
            self.jobs += jobs
            self.committed += [asked.key for asked in admitted]

    def run(self, job: Job) -> list[Signed]:
        return self.done(job, job.work())

    @staticmethod
    def done(job: Job, result: Any) -> list[Signed]:
        return [arrival.body for arrival in job.done(result)]


def keys(signed: Sequence[Signed]) -> list[bytes]:
    assert all(len(each.signatures or ()) == len(each.asked.blinded) for each in signed)
    return [each.asked.key for each in signed]


def test_what_came_while_the_pool_was_busy_is_signed_together() -> None:
    waiting = Waiting()
    for _ in range(4):
        waiting.transaction([2])
    first, *others = waiting.jobs
    assert keys(waiting.run(first)) == waiting.committed
    assert [waiting.run(job) for job in others] == [[], [], []]


def test_a_job_is_not_longer_for_what_waits() -> None:
    waiting = Waiting()
    waiting.transaction([2] * 50)
    sizes = [sum(len(each.asked.blinded) for each in waiting.run(job)) for job in waiting.jobs]
    assert sizes == [SIGNATURES_OF_A_JOB] * 6 + [4]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.lists(st.integers(1, 24), min_size=1, max_size=6), st.booleans()),
        st.just("run"),
    ),
    max_size=30,
)


@given(STEPS)
def test_what_was_committed_is_signed_once_and_nothing_else(steps: list[Any]) -> None:
    waiting = Waiting()
    signed: list[bytes] = []
    for step in steps:
        if step != "run":
            sizes, fails = step
            waiting.transaction(sizes, fails=fails)
        elif waiting.jobs:
            signed += keys(waiting.run(waiting.jobs.pop(0)))
    for job in waiting.jobs:
        signed += keys(waiting.run(job))
    assert signed == waiting.committed
    waiting.signing.begin()
    assert not waiting.signing._waiting, "room is given back"


def test_several_threads_take_each_request_once() -> None:
    waiting = Waiting()
    for number in range(60):
        waiting.transaction([14, 20][: 1 + number % 2])
    with ThreadPoolExecutor(4) as pool:
        results = [*pool.map(lambda job: job.work(), waiting.jobs)]
    signed = [
        key
        for job, result in zip(waiting.jobs, results, strict=True)
        for key in keys(waiting.done(job, result))
    ]
    assert sorted(signed) == waiting.committed


def test_a_session_has_a_few_under_way_until_they_are_signed() -> None:
    waiting = Waiting()
    for _ in range(2):
        waiting.signing.begin()
        admitted = [
            waiting.signing.admit(waiting.asked(1, b"one session")) for _ in range(REQUESTS_OF_A_SESSION)
        ]
        with pytest.raises(RefusedError, match="busy"):
            waiting.signing.admit(waiting.asked(1, b"one session"))
        waiting.signing.admit(waiting.asked(1))
    # Rolled back the first time: what it took up is free again.
    (job,) = waiting.signing.jobs(admitted)
    waiting.signing.committed()
    waiting.signing.begin()
    with pytest.raises(RefusedError, match="busy"):
        waiting.signing.admit(waiting.asked(1, b"one session"))
    waiting.run(job)
    waiting.signing.admit(waiting.asked(1, b"one session"))


def test_all_sessions_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing, "REQUESTS_WAITING", 3)
    waiting = Waiting()
    waiting.transaction([1, 1, 1])
    with pytest.raises(RefusedError, match="busy"):
        waiting.transaction([1])
    waiting.run(waiting.jobs[0])
    waiting.transaction([1])
