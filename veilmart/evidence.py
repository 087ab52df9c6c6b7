"""Evidence: everything that one party received, stored and logged, and a search through all of it.

This is how the demo prints, and `tests/test_privacy.py` proves, what a party could have known: not from
what our code means to do, but from bytes. A value is looked for as it is, in hex, in base64 (at each of
the three places where it may begin in a longer base64 text) and as Python or JSON would print it, in the
payloads as they travelled, in what every key that the party ever held opens of them, in its store, its
files and its log.

    evidence = Evidence("broker")
    evidence.add_home(home)
    evidence.add("frame", opened)
    findings = evidence.search({"title of MAP-1": b"Ridge in the morning"})

What no search for known values can show is whether two heaps of evidence have anything in common at all:
`shared` looks for that.
"""

from __future__ import annotations

import base64
import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from common import codec, frames, sealing, topics
from common.errors import WireError
from common.frames import DirectionKeys, SessionKeys
from common.messages import Forward, ForwardFetch, ForwardOrder

SHORTEST = 4
"""Shorter values would be found by chance."""

COMMON = 8
"""How many bytes in a row two heaps of evidence may not have in common: as many as a random id must have."""

SQLITE = b"SQLite format 3\0"
"""How such a file begins; Mosquitto's own store has the same suffix and is none."""

# What is spelled in text can only be in what is printable; a value may be broken over several lines (PEM).
_PRINTABLE = re.compile(rb"[\x20-\x7e]{6,}(?:\r?\n[\x20-\x7e]+)*")
_HEX = re.compile(rb"(?:[0-9a-fA-F]{2}){8,}")
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{11,}")


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
    pieces: dict[str, set[bytes]] = field(default_factory=dict, repr=False)
    _texts: dict[str, list[bytes]] = field(default_factory=dict, repr=False)

    def add(self, place: str, content: bytes | str) -> None:
        """Add something that the party held."""
        raw = content.encode() if isinstance(content, str) else content
        pieces = self.pieces.setdefault(place, set())
        if raw in pieces:
            return
        pieces.add(raw)
        self._texts.setdefault(place, []).extend(
            text.replace(b"\r", b"").replace(b"\n", b"") for text in _PRINTABLE.findall(raw)
        )

    def add_values(self, place: str, decoded: object) -> None:
        """Add every single value of something decoded (see `leaves`)."""
        for leaf in leaves(decoded):
            self.add(place, leaf)

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
            if path.suffix == ".db" and path.read_bytes().startswith(SQLITE):
                self.add_store(path)
            elif not path.name.endswith(("-wal", "-shm")):
                self.add(f"file {path.name}", path.read_bytes())

    def search(self, values: Mapping[str, bytes | str]) -> list[Finding]:
        """Look for every value in every spelling. Raises `ValueError` for one too short to mean much."""
        findings = []
        texts = {place: b"\n".join(parts) for place, parts in self._texts.items()}
        for name, value in values.items():
            raw = value.encode() if isinstance(value, str) else value
            if len(raw) < SHORTEST:
                raise ValueError(f"{name} is too short to be searched for")
            findings += [
                Finding(name, place, "raw")
                for place, contents in self.pieces.items()
                if any(raw in content for content in contents)
            ]
            findings += [
                Finding(name, place, spelling)
                for spelling, needle in _spellings(raw)
                for place, text in texts.items()
                if needle in text
            ]
        return findings

    @property
    def size(self) -> int:
        """How many bytes the evidence has."""
        return sum(len(content) for contents in self.pieces.values() for content in contents)


def _spellings(raw: bytes) -> list[tuple[str, bytes]]:
    spellings = [("hex", raw.hex().encode()), ("HEX", raw.hex().upper().encode())]
    printed = {json.dumps(raw.decode("latin-1"))[1:-1], *(_printed(raw, quote) for quote in ("'", "\\'"))}
    if (text := _text(raw)) is not None:
        printed.add(json.dumps(text)[1:-1])
    # Logs are JSON: what stands in one of their texts is escaped once more.
    twice = {json.dumps(form)[1:-1] for form in printed}
    spellings += [("printed", form.encode()) for form in sorted(printed | twice) if form.encode() != raw]
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


def _printed(raw: bytes, quote: str) -> str:
    """Spell bytes as Python does; whether it escapes a quote depends on what else it prints."""
    return "".join(quote if byte == ord("'") else repr(bytes([byte]))[2:-1] for byte in raw)


def _text(raw: bytes) -> str | None:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


# --- single values, and what two heaps have in common ---------------------------------------------------


def leaves(decoded: object) -> Iterator[bytes]:
    """Give every text and byte string in what msgpack or JSON decoded to, and whatever is packed in those.

    A number that takes msgpack eight bytes (a time, a random one) is given as those eight bytes.
    """
    match decoded:
        case bytes():
            yield decoded
            yield from _nested(decoded)
        case str():
            yield decoded.encode()
        case bool():
            return
        case int() if abs(decoded) >= 2**32:
            yield (decoded % 2**64).to_bytes(8, "big")
        case msgspec.Struct():
            yield from leaves(msgspec.msgpack.decode(codec.pack(decoded)))
        case Mapping():
            for key, value in decoded.items():
                yield from leaves(key)
                yield from leaves(value)
        case Iterable():
            for item in decoded:
                yield from leaves(item)


def _nested(raw: bytes) -> Iterator[bytes]:
    for decode in (msgspec.msgpack.decode, msgspec.json.decode):
        try:
            decoded = decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError):
            continue
        if isinstance(decoded, list | dict):
            yield from leaves(decoded)


@dataclass(frozen=True)
class Shared:
    """`COMMON` bytes in a row that stand in two heaps of evidence, and where in each."""

    content: bytes
    place: str
    other_place: str


def shared(one: Evidence, other: Evidence, known: Evidence) -> list[Shared]:
    """Give whatever `COMMON` bytes in a row are in both and not in `known`, hex and base64 undone.

    `one` should be the smaller heap. Add single values (`add_values`), not whole payloads: in those, what
    surrounds the values is the same everywhere.
    """
    public = {window for _, content in _contents(known) for window in _windows(content)}
    here: dict[bytes, str] = {}
    for place, content in _contents(one):
        here.update((window, place) for window in _windows(content) if window not in public)
    sought, common = set(here), dict[bytes, str]()
    for place, content in _contents(other):
        common.update((window, place) for window in sought.intersection(_windows(content)))
    return [Shared(window, here[window], place) for window, place in common.items()]


def _contents(evidence: Evidence) -> Iterator[tuple[str, bytes]]:
    given: set[bytes] = set()
    for place, contents in evidence.pieces.items():
        for content in contents - given:
            given.add(content)
            yield place, content
            for run in _HEX.findall(content):
                yield place, bytes.fromhex(run.decode())
            for run in _BASE64.findall(content):
                text = run.translate(bytes.maketrans(b"-_", b"+/"))
                yield place, base64.b64decode(text[: len(text) // 4 * 4])


def _windows(content: bytes) -> Iterable[bytes]:
    length = len(content)
    return map(content.__getitem__, map(slice, range(length - COMMON + 1), range(COMMON, length + 1)))


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
