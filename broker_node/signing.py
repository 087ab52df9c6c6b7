"""What waits for the mint: requests that were checked, signed in a pool, a few dozen signatures at a time.

Rule 1. A job signs several requests: handing over each of them alone would cost more than its signature.
Which ones it takes when it begins: what came while the pool was busy is signed, and then stored, together.

Rule 2. What waits is bounded, in all and for each session, so that nobody fills the pool alone, or has one
coin signed for in many swaps of which one can win.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Final, TypeVar

from broker_node import operations
from broker_node.mint import Checked, Mint
from broker_node.operations import Request
from broker_node.sends import Session
from common import messages
from common.core import Arrival, Job
from common.errors import MalformedError, RefusedError

REQUESTS_WAITING: Final = 256
REQUESTS_OF_A_SESSION: Final = 4
SIGNATURES_OF_A_JOB: Final = 16
"""A job that has as many takes no further request: 5 ms by OpenSSL, 15 ms by gmpy2."""

Item = TypeVar("Item")


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
    marks: Sequence[bytes] = ()
    """Those of what is to be signed (`signed_once`)."""

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
        """Requests of each session that are admitted and not signed yet."""
        self._admitted: list[Asked] = []
        self._queue: deque[Asked] = deque()
        """What no job has taken yet: the loop adds to it, the pool's threads take."""
        self._taking = Lock()

    def begin(self) -> None:
        """Forget what a transaction that was rolled back wanted signed."""
        self._waiting -= Counter(asked.session.sid for asked in self._admitted)
        self._admitted.clear()

    def committed(self) -> None:
        """Hand over what goes to the pool now."""
        self._queue.extend(self._admitted)
        self._admitted.clear()

    def admit(self, asked: Asked) -> Asked:
        """Count a request. Raises `RefusedError("busy")` beyond the bounds."""
        sid = asked.session.sid
        if self._waiting[sid] >= REQUESTS_OF_A_SESSION or self._waiting.total() >= REQUESTS_WAITING:
            raise RefusedError("busy")
        self._waiting[sid] += 1
        self._admitted.append(asked)
        return asked

    def jobs(self, admitted: Sequence[Asked]) -> Iterator[Job]:
        """Make as many jobs as these requests need, which were admitted.

        Whatever is in the queue when one of them begins, together they empty it.
        """
        waiting = deque(admitted)
        while _take(waiting):
            yield Job("mint", self._sign, self._done)

    def _sign(self) -> list[Signed]:
        with self._taking:
            group = _take(self._queue)
        return [Signed(each, self._signatures(each)) for each in group]

    def _done(self, signed: Sequence[Signed]) -> list[Arrival]:
        self._waiting -= Counter(each.asked.session.sid for each in signed)
        return [Arrival(each.asked.session, b"", each) for each in signed]

    def _signatures(self, asked: Asked) -> Sequence[bytes] | None:
        try:
            return self._mint.sign(asked.blinded)
        except MalformedError:
            return None


def _take(waiting: deque[Asked]) -> list[Asked]:
    """Take what one job signs."""
    group: list[Asked] = []
    size = 0
    while waiting and size < SIGNATURES_OF_A_JOB:
        group.append(waiting.popleft())
        size += len(group[-1].blinded)
    return group


def one_of_each_id(batch: Iterable[Item], asked_of: Callable[[Item], Asked]) -> list[list[Item]]:
    """Part a batch, in its order, so that each part has one content under an id, and its repetitions.

    An id is what something is spent as, and its second content counts where its first is refused. Nearly
    every batch has one part.
    """
    parts: list[list[Item]] = []
    contents: dict[bytes, list[bytes]] = {}
    for item in batch:
        asked = asked_of(item)
        known = contents.setdefault(asked.key, [])
        if asked.content_hash not in known:
            known.append(asked.content_hash)
        number = known.index(asked.content_hash)
        if number == len(parts):
            parts.append([])
        parts[number].append(item)
    return parts
