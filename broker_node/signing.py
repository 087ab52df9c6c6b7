"""What waits for the mint: requests that were checked, signed in a pool, a few dozen signatures at a time.

Rule 1. A job holds several requests: handing over each of them alone would cost more than its signature.

Rule 2. What waits is bounded, in all and for each session, so that nobody fills the pool alone, or has one
coin signed for in many swaps of which one can win.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from broker_node import operations
from broker_node.mint import Checked, Mint
from broker_node.operations import Request
from broker_node.sends import Session
from common import messages
from common.errors import MalformedError, RefusedError
from common.node import Arrival, Job

REQUESTS_WAITING: Final = 256
REQUESTS_OF_A_SESSION: Final = 4
SIGNATURES_OF_A_JOB: Final = 16
"""A job that has as many takes no further request: 5 ms by OpenSSL, 15 ms by gmpy2."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request. `key` is what its answer is stored under, and what it spends as."""

    session: Session
    request: Request
    key: bytes
    content_hash: bytes
    blinded: Sequence[messages.BlindedToken]
    spent: Checked | None = None
    """A swap's coins."""
    made: Mapping[int, int] = field(default_factory=dict)
    """Value -> how much a swap makes in coins of that value."""

    @classmethod
    def of(cls, session: Session, request: Request, blinded: Sequence[messages.BlindedToken]) -> Asked:
        """Make one of a request that is not checked yet."""
        key, content_hash = operations.key_of(request), operations.content_hash(request)
        return cls(session, request, key, content_hash, blinded)


@dataclass(frozen=True, slots=True)
class Signed:
    """What came back from the pool; no signatures where the mint refused a blinded value."""

    asked: Asked
    signatures: Sequence[bytes] | None = field(repr=False)


class Signing:
    """Bounds what waits, and makes jobs of it."""

    def __init__(self, mint: Mint) -> None:
        self._mint = mint
        self._waiting: Counter[bytes] = Counter()
        """Requests of each session in the pool."""
        self._admitted: Counter[bytes] = Counter()

    def begin(self) -> None:
        """Forget what a transaction that was rolled back wanted signed."""
        self._admitted.clear()

    def committed(self) -> None:
        """Count what goes to the pool now."""
        self._waiting.update(self._admitted)
        self._admitted.clear()

    def admit(self, asked: Asked) -> Asked:
        """Count a request. Raises `RefusedError("busy")` beyond the bounds."""
        sid = asked.session.sid
        if self._waiting[sid] + self._admitted[sid] >= REQUESTS_OF_A_SESSION:
            raise RefusedError("busy")
        if self._waiting.total() + self._admitted.total() >= REQUESTS_WAITING:
            raise RefusedError("busy")
        self._admitted[sid] += 1
        return asked

    def jobs(self, admitted: Sequence[Asked]) -> Iterator[Job]:
        """Make jobs of requests that were admitted."""
        group: list[Asked] = []
        size = 0
        for asked in admitted:
            group.append(asked)
            size += len(asked.blinded)
            if size >= SIGNATURES_OF_A_JOB:
                yield self._job(group)
                group, size = [], 0
        if group:
            yield self._job(group)

    def _job(self, group: Sequence[Asked]) -> Job:
        def done(signed: Sequence[Signed]) -> list[Arrival]:
            self._waiting -= Counter(each.session.sid for each in group)
            return [Arrival(each.asked.session, b"", each) for each in signed]

        return Job("mint", lambda: [Signed(each, self._signatures(each)) for each in group], done)

    def _signatures(self, asked: Asked) -> Sequence[bytes] | None:
        try:
            return self._mint.sign(asked.blinded)
        except MalformedError:
            return None
