"""Grouping: what one round has for one destination travels in few frames, shuffled.

Two of an order's four publishes are shared this way under load, which is the lever for throughput; and
whoever watches the bus no longer sees which message answers which, which is the lever for anonymity.

Also here, the other end of it: the freshness window and the filter of seen ids, which refuse a replay.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from common import codec, config, frames
from common.clock import Random
from common.errors import ReplayedError, StaleError
from common.messages import Envelope, Message

GROUP_ROOM = frames.content_room(64 * config.KIB)
"""Groups fill frames up to 64 KiB; only a single large message uses a larger one."""


def shuffled(count: int, random: Random) -> list[int]:
    """Give a uniformly random order of `range(count)`."""
    order = list(range(count))
    entropy = random(4 * count)
    for index in range(count - 1, 0, -1):
        # 32 bits over at most a few hundred: the bias is below 2**-23, and hides no secret.
        other = int.from_bytes(entropy[4 * index : 4 * index + 4], "big") % (index + 1)
        order[index], order[other] = order[other], order[index]
    return order


def _array(items: Sequence[bytes]) -> bytes:
    # msgpack: fixarray below 16 elements, array 16 above.
    count = len(items)
    head = bytes([0x90 | count]) if count < 16 else b"\xdc" + count.to_bytes(2, "big")  # noqa: PLR2004
    return head + b"".join(items)


def pack_frames(bodies: Sequence[Message], now: int, random: Random) -> list[bytes]:
    """Put each body into an envelope and give the plaintexts of as few frames as hold them, shuffled."""
    if not bodies:
        return []
    ids = random(16 * len(bodies))
    packed = [
        codec.pack(Envelope(id=ids[16 * n : 16 * n + 16], at=now, body=bodies[n]))
        for n in (shuffled(len(bodies), random) if len(bodies) > 1 else [0])
    ]
    result: list[bytes] = []
    group: list[bytes] = []
    size = 0
    for item in packed:
        if group and (size + len(item) + 3 > GROUP_ROOM or len(group) == config.MAXIMUM_MESSAGES_PER_FRAME):
            result.append(_array(group))
            group, size = [], 0
        group.append(item)
        size += len(item)
    result.append(_array(group))
    return result


class SeenIds:
    """The replay filter: message ids inside the freshness window, in memory.

    An id counts as seen only after the commit of what it brought, and until then within its own batch
    alone. After a restart a fresh replay may therefore be answered once more, but operations are
    idempotent: it changes nothing.
    """

    def __init__(self, window_ms: int) -> None:
        self._window = window_ms
        self._buckets: dict[int, set[bytes]] = {}
        self._batch: set[bytes] = set()

    def check(self, identifier: bytes, at: int, now: int) -> None:
        """Raise `StaleError` outside the window, `ReplayedError` for an id seen inside it."""
        if abs(now - at) > self._window:
            raise StaleError("outside the freshness window")
        if identifier in self._batch or any(identifier in bucket for bucket in self._buckets.values()):
            raise ReplayedError("seen before")
        self._batch.add(identifier)

    def add(self, identifiers: Iterable[bytes], now: int) -> None:
        """Remember ids, and begin a new batch; what could only be refused as stale by now is forgotten."""
        self._batch.clear()
        current = now // self._window
        if current not in self._buckets:
            # A message may be dated a window ahead and stays fresh for two: three buckets hold it.
            self._buckets = {slot: ids for slot, ids in self._buckets.items() if slot >= current - 2}
            self._buckets[current] = set()
        self._buckets[current].update(identifiers)
