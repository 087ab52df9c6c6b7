"""Processes that sign for the mint, with what the processor has left over.

    mint's thread --key id, blinded message ...--> signer       SCHED_IDLE: any relay comes before it
    mint's thread <--------signatures------------- signer

Rule 1. Linux lets a thread run on for milliseconds, however nice it is, before one that wakes up takes its
place; one of `SCHED_IDLE` gives way at once. But such a thread would keep the interpreter's lock while it
stands aside. So it is a process, which shares none.

Rule 2. What is idle may be starved by a machine that is busy with something else. Whoever has waited for
`PATIENCE_S`, or finds every signer at work, signs in its own thread: a signature is a function of its
message, and the late one is thrown away.

Rule 3. A signer lives as long as the broker: it ends when its end of the socket closes, however the broker
went. Where one ends by itself the mint's threads sign in its place.

A signer reads the same key files as the broker, and keeps its keys as long (`mint`).
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock
from typing import Final

import structlog

from broker_node.signer import MALFORMED
from common.blind import SIGNATURE_BYTES
from common.errors import MalformedError
from common.messages import BlindedToken

PATIENCE_S: Final = 0.05
STOP_S: Final = 5.0
AVAILABLE: Final = hasattr(os, "SCHED_IDLE")
"""Elsewhere than on Linux there is no such class, and the mint's threads sign."""


class Signer:
    """One process. It is asked by one thread at a time."""

    def __init__(self, folder: Path) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            # A group of its own, which Ctrl-C does not reach; but not a session: Linux gives each its share.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "broker_node.signer", str(folder.resolve())],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                process_group=0,
            )
        self._pipe = Connection(ours.detach())
        self._owed = 1
        """How many messages are to come: that it is ready is the first."""

    def sign(self, blinded: Sequence[BlindedToken]) -> list[bytes] | None:
        """Give signatures, or None where there are none yet. Raises `EOFError` or `OSError` where it ended.

        Raises `MalformedError` as the mint does.
        """
        while self._owed:
            if not self._pipe.poll():
                return None
            self._hear()
        self._pipe.send_bytes(b"".join(item.key_id + item.blinded for item in blinded))
        self._owed += 1
        if not self._pipe.poll(PATIENCE_S):
            return None
        answer = self._hear()
        if answer == MALFORMED:
            raise MalformedError("blinded message refused")
        return [answer[start : start + SIGNATURE_BYTES] for start in range(0, len(answer), SIGNATURE_BYTES)]

    def _hear(self) -> bytes:
        message = self._pipe.recv_bytes()
        self._owed -= 1
        return message

    def close(self) -> None:
        """End it."""
        self._pipe.close()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            # It is in the middle of a request, and starved.
            self._process.kill()
            self._process.wait()


class Signers:
    """At most as many as the mint has threads; `sign` may be called by all of them at once."""

    def __init__(self, folder: Path, count: int) -> None:
        self._folder = folder
        self._left = count if AVAILABLE else 0
        """How many may still be started: each when it is missing, so that one which cannot start is not
        started for ever."""
        self._starting = Lock()
        self._started: list[Signer] = []
        self._free: SimpleQueue[Signer] = SimpleQueue()

    def sign(self, blinded: Sequence[BlindedToken]) -> list[bytes] | None:
        """Give signatures, or None: then the caller signs itself. Raises `MalformedError`."""
        signer = self._take()
        if signer is None:
            return None
        try:
            signatures = signer.sign(blinded)
        except (EOFError, OSError):
            structlog.get_logger("veilmart.broker").warning("a signer has ended: the mint's threads sign")
            return None
        except MalformedError:
            self._free.put(signer)
            raise
        self._free.put(signer)
        return signatures

    def _take(self) -> Signer | None:
        with suppress(Empty):
            return self._free.get_nowait()
        with self._starting:
            if not self._left:
                return None
            self._left -= 1
            self._started.append(Signer(self._folder))
            return self._started[-1]

    def close(self) -> None:
        """End all; nobody may be signing."""
        for signer in self._started:
            signer.close()
