"""A folder of slot keys: one private key file per calendar slot, made ahead and erased in time.

Rule 1. Keys are files with mode 0600, never rows: a store's WAL and its backups would keep them.
Rule 2. A key whose time is over is unlinked, and nothing else in the home holds it.
Rule 3. One key per slot: a slot that has a key never gets another.

The same mechanism holds the merchant's browse prekeys (one per hour) and order prekeys (one per day),
and the broker's hello, relay and session-wrapping keys (one per day).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from common.errors import MalformedError, UntrustedError
from common.slots import slot_start


class SlotSecret(Protocol):
    """What a keyring keeps: something with raw bytes."""

    @property
    def raw(self) -> bytes:
        """The private key's bytes."""


Secret = TypeVar("Secret", bound=SlotSecret)


@dataclass(frozen=True)
class Schedule:
    """When keys are made and erased: all in milliseconds."""

    period_ms: int
    ahead: int
    """How many slots after the current one have their key already."""
    grace_ms: int
    """How long after its slot's end a key still opens."""


class Keyring(Generic[Secret]):
    """The keys of one purpose. `refresh` makes what is due and erases what is over."""

    def __init__(
        self,
        folder: Path,
        schedule: Schedule,
        generate: Callable[[], Secret],
        load: Callable[[bytes], Secret],
        identify: Callable[[Secret], bytes],
    ) -> None:
        self._folder = folder
        self._schedule = schedule
        self._generate = generate
        self._load = load
        self._identify = identify
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for leftover in folder.glob("*.partial"):  # of a crash half way: never used
            leftover.unlink()
        self._by_slot: dict[int, Secret] = {
            int(path.stem): _loaded(path, load)
            for path in folder.iterdir()
            if re.fullmatch(r"\d+\.key", path.name)
        }
        self.by_id: Mapping[bytes, Secret] = {identify(key): key for key in self._by_slot.values()}

    def refresh(self, now: int) -> bool:
        """Make and erase what is due; tells whether anything changed."""
        period = self._schedule.period_ms
        current = slot_start(now, period)
        wanted = [current + period * n for n in range(self._schedule.ahead + 1)]
        made = [slot for slot in wanted if slot not in self._by_slot]
        over = [slot for slot in self._by_slot if slot + period + self._schedule.grace_ms <= now]
        for slot in over:
            (self._folder / f"{slot}.key").unlink(missing_ok=True)
            del self._by_slot[slot]
        for slot in made:
            key, path = self._generate(), self._folder / f"{slot}.key"
            # Another process on this home may have been faster: its key is the slot's.
            self._by_slot[slot] = key if _write_private(path, key.raw) else self._load(path.read_bytes())
        if made or over:
            self.by_id = {self._identify(key): key for key in self._by_slot.values()}
        return bool(made or over)

    def current(self, now: int) -> Secret:
        """Give the key of the slot that holds `now`; `refresh` has made it."""
        return self._by_slot[slot_start(now, self._schedule.period_ms)]

    def from_now(self, now: int) -> Iterator[tuple[int, Secret]]:
        """Give (slot, key) of the current and every later slot, in order."""
        current = slot_start(now, self._schedule.period_ms)
        return ((slot, self._by_slot[slot]) for slot in sorted(self._by_slot) if slot >= current)

    def end_of(self, slot: int) -> int:
        """When a slot is over, grace not counted."""
        return slot + self._schedule.period_ms


def _loaded(path: Path, load: Callable[[bytes], Secret]) -> Secret:
    try:
        return load(path.read_bytes())
    except (ValueError, MalformedError) as error:
        raise UntrustedError(
            f"{path} is damaged: it holds no key",
            "Put it back from a backup of this day. Do not remove it: a slot's second key is distrusted.",
        ) from error


def _write_private(path: Path, content: bytes) -> bool:
    """Write a new file whole; tells False where there is one already."""
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(partial, path)
    except FileExistsError:
        return False
    finally:
        partial.unlink()
    # The name too must outlast a loss of power: a slot that got a second key would be distrusted by all.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return True
