"""Evidence: everything that one party received, stored and logged, and a search through all of it.

This is how the demo prints, and `tests/test_privacy.py` proves, what a party could have known: not from
what our code means to do, but from bytes. A value is looked for as it is, in hex and in base64 (at each of
the three places where it may begin in a longer base64 text), in the payloads as they travelled, in what
every key that the party ever held opens of them, in its store, its files and its log.

    evidence = Evidence("broker")
    evidence.add_home(home)
    evidence.add("frame", opened)
    findings = evidence.search({"title of MAP-1": b"Ridge in the morning"})
"""

from __future__ import annotations

import base64
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from common import codec, frames, sealing, topics
from common.errors import WireError
from common.frames import DirectionKeys, SessionKeys
from common.messages import Forward, ForwardFetch, ForwardOrder

SHORTEST = 4
"""Shorter values would be found by chance."""


@dataclass(frozen=True)
class Finding:
    """Something that a party held and must not have: which value, where, in which spelling."""

    value: str
    place: str
    spelling: str


@dataclass
class Evidence:
    """What one party held."""

    party: str
    pieces: dict[str, list[bytes]] = field(default_factory=dict, repr=False)

    def add(self, place: str, content: bytes | str) -> None:
        """Add something that the party held."""
        self.pieces.setdefault(place, []).append(content.encode() if isinstance(content, str) else content)

    def add_store(self, path: Path) -> None:
        """Add every value of every table of an SQLite store, and its files as they lie on disk."""
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            for (table,) in tables:
                for row in connection.execute(f'SELECT * FROM "{table}"'):  # noqa: S608 - our own tables
                    for value in row:
                        self.add(f"store {table}", value if isinstance(value, bytes) else str(value))
        for file in path.parent.glob(path.name + "*"):
            self.add(f"file {file.name}", file.read_bytes())

    def add_home(self, home: Path, *, without: Iterable[str] = ()) -> None:
        """Add every file of a home, stores opened; `without` names folders that are not evidence."""
        for path in sorted(home.rglob("*")):
            if not path.is_file() or set(path.relative_to(home).parts) & set(without):
                continue
            if path.suffix == ".db":
                self.add_store(path)
            elif not path.name.endswith(("-wal", "-shm")):
                self.add(f"file {path.name}", path.read_bytes())

    def search(self, values: Mapping[str, bytes | str]) -> list[Finding]:
        """Look for every value in every spelling. Raises `ValueError` for one too short to mean much."""
        findings = []
        for name, value in values.items():
            raw = value.encode() if isinstance(value, str) else value
            if len(raw) < SHORTEST:
                raise ValueError(f"{name} is too short to be searched for")
            for spelling, needle in _spellings(raw):
                findings += [
                    Finding(name, place, spelling)
                    for place, contents in self.pieces.items()
                    if any(needle in content for content in contents)
                ]
        return findings

    @property
    def size(self) -> int:
        """How many bytes the evidence has."""
        return sum(len(content) for contents in self.pieces.values() for content in contents)


def _spellings(raw: bytes) -> list[tuple[str, bytes]]:
    spellings = [("raw", raw), ("hex", raw.hex().encode()), ("HEX", raw.hex().upper().encode())]
    for shift in range(3):
        # Inside a longer base64 text a value begins at one of three places; what its neighbours share
        # with it is cut off at both ends.
        encoded = base64.b64encode(bytes(shift) + raw).rstrip(b"=")
        first = (shift * 8 + 5) // 6
        core = encoded[first : (shift + len(raw)) * 8 // 6]
        if len(core) >= SHORTEST:
            spellings.append(("base64", core))
            url = core.translate(bytes.maketrans(b"+/", b"-_"))
            if url != core:
                spellings.append(("base64url", url))
    return spellings


# --- opening what travelled ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """One publish as it crossed the bus."""

    topic: str
    payload: bytes


def open_session_frame(seen: Seen, keys: Mapping[bytes, SessionKeys]) -> bytes | None:
    """Open a customer's frame with whichever of the sessions' keys fits; None where none does."""
    try:
        place = topics.parse(seen.topic)
    except WireError:
        return None
    match place:
        case topics.SessionUp(session_id=sid) if sid in keys:
            return _open(keys[sid].up, seen)
        case topics.SessionDown(session_id=sid) if sid in keys:
            return _open(keys[sid].down, seen)
    return None


def open_merchant_frame(seen: Seen, merchant: str, keys: Iterable[SessionKeys]) -> bytes | None:
    """Open a frame between the broker and `merchant`; None where it is not one."""
    if seen.topic == topics.merchant_in(merchant):
        directions = [key.down for key in keys]
    elif seen.topic in (topics.merchant_out(merchant), topics.merchant_cells(merchant)):
        directions = [key.up for key in keys]
    else:
        return None
    return next((opened for key in directions if (opened := _open(key, seen)) is not None), None)


def _open(keys: DirectionKeys, seen: Seen) -> bytes | None:
    try:
        return frames.open_frame(keys, seen.topic, seen.payload)
    except WireError:
        return None


def open_sealed(
    opened: bytes, market: bytes, recipient: bytes, prekeys: Mapping[bytes, sealing.XWingPrivateKey]
) -> list[bytes]:
    """Open every sealed request in a frame from the broker, as its merchant would; gives their bodies."""
    bodies = []
    try:
        envelopes = codec.TO_MERCHANT.unpack(opened)
    except WireError:
        return []
    for envelope in envelopes:
        match envelope.body:
            case Forward(sealed=sealed):
                binding = sealing.Binding(market, recipient, "browse")
            case ForwardOrder(sealed=sealed) as order:
                binding = sealing.Binding(market, recipient, "order", sealing.order_outer(order))
            case ForwardFetch(sealed=sealed, cells=cells):
                binding = sealing.Binding(market, recipient, "cells", codec.pack(cells))
            case _:
                continue
        try:
            bodies.append(codec.pack(sealing.open_request(prekeys, binding, sealed)[0]))
        except WireError:
            continue
    return bodies
