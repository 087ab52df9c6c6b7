"""Processes that sign for the mint, with what the processor has left over.

    mint's thread --key id, blinded message ...--> signer       SCHED_IDLE: any relay comes before it
    mint's thread <--------signatures------------- signer

Rule 1. Linux lets a thread run on for milliseconds, however nice it is, before one that wakes up takes its
place; one of `SCHED_IDLE` gives way at once. But such a thread would keep the interpreter's lock while it
stands aside. So it is a process, which shares none.

Rule 2. What is idle may be starved by a machine that is busy with something else. Whoever has waited for
`patience_s`, or finds every signer at work, signs in its own thread: a signature is a function of its
message, and the late one is thrown away.

Rule 3. A signer lives as long as the broker: it ends when its end of the socket closes, however the broker
went. Where one ends by itself, or cannot be started, the mint's threads sign in its place.

A signer reads the same key files as the broker, and keeps its keys as long (`mint`).
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock
from typing import Final

import structlog

from broker_node.signer import LONGEST, MALFORMED
from common.blind import SIGNATURE_BYTES
from common.errors import MalformedError
from common.messages import BlindedToken

PATIENCE_S: Final = 0.05
PATIENCE_FOR_EACH_S: Final = 0.001
"""About three times what a signature takes with nothing else to do."""
AVAILABLE: Final = hasattr(os, "SCHED_IDLE") and hasattr(socket, "SOCK_SEQPACKET")
"""Elsewhere than on Linux there is no such class, and the mint's threads sign."""


class SignerGoneError(Exception):
    """A signer has ended, or answers what is none."""


class Signer:
    """One process. It is asked by one thread at a time. Making one raises `OSError`."""

    def __init__(self, folder: Path) -> None:
        # Packets come whole or not at all: nobody waits for the rest of one.
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            # A group of its own, which Ctrl-C does not reach; but not a session: Linux gives each its share.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "broker_node.signer", str(folder.resolve())],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                process_group=0,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._socket = ours
        self._owed = 1
        """How many packets are to come: that it is ready is the first."""

    def sign(self, blinded: Sequence[BlindedToken]) -> list[bytes] | None:
        """Give signatures, or None where there are none yet.

        Raises `SignerGoneError`, and `MalformedError` as the mint does.
        """
        if not blinded:
            return []  # an empty packet would be the end
        try:
            while self._owed:
                self._hear(0.0)
            self._socket.send(b"".join(item.key_id + item.blinded for item in blinded))
            self._owed += 1
            answer = self._hear(patience_s(len(blinded)))
        except (BlockingIOError, TimeoutError):
            return None
        except OSError as error:
            raise SignerGoneError from error
        if answer == MALFORMED:
            raise MalformedError("blinded message refused")
        if len(answer) != SIGNATURE_BYTES * len(blinded):
            raise SignerGoneError
        return [answer[start : start + SIGNATURE_BYTES] for start in range(0, len(answer), SIGNATURE_BYTES)]

    def _hear(self, timeout_s: float) -> bytes:
        self._socket.settimeout(timeout_s)
        packet = self._socket.recv(LONGEST)
        if not packet:
            raise SignerGoneError
        self._owed -= 1
        return packet

    def end(self) -> int:
        """End it, and give its exit status: it has nothing to lose."""
        self._socket.close()
        self._process.kill()
        return self._process.wait()


def patience_s(messages: int) -> float:
    """Say how long to wait for so many signatures."""
    return PATIENCE_S + PATIENCE_FOR_EACH_S * messages


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
        self._log = structlog.get_logger("veilmart.broker")

    def sign(self, blinded: Sequence[BlindedToken]) -> list[bytes] | None:
        """Give signatures, or None: then the caller signs itself. Raises `MalformedError`."""
        signer = self._take()
        if signer is None:
            return None
        try:
            signatures = signer.sign(blinded)
        except SignerGoneError:
            self._log.warning("a signer has ended: the mint's threads sign", status=signer.end())
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
            try:
                self._started.append(Signer(self._folder))
            except OSError as error:
                self._log.warning("no signer can be started: the mint's threads sign", error=str(error))
                return None
            return self._started[-1]

    def close(self) -> None:
        """End all; nobody may be signing."""
        for signer in self._started:
            signer.end()
