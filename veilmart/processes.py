"""Nodes as processes of their own, as the demo and the tests with real processes run them.

Each is started with the same commands that a person types, announces itself with one line on stdout, logs
to a file, and is ended by its own pid.

Rule 1. A node lives no longer than who started it, however that ends: nothing keeps its ports afterwards.

Rule 2. A node is in a process group of its own: Ctrl-C on a terminal reaches who started it alone, which
then ends its nodes in order.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from common.errors import DeadlineError, VeilmartError

READY_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0
_PR_SET_PDEATHSIG: Final = 1  # prctl(2)


def die_with_parent() -> Callable[[], None] | None:
    """Give what `subprocess.Popen` takes as `preexec_fn`, so that the child is killed when we end.

    "We" is the thread that starts the child (prctl(2), PR_SET_PDEATHSIG). Only Linux has it; elsewhere a
    `kill -9` of ours leaves the child running.
    """
    if sys.platform != "linux":
        return None
    # Loaded before the fork: between fork and exec nothing may be imported or allocated at length.
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def tie() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            # The parent had ended before that call.
            os._exit(1)

    return tie


@dataclass
class NodeProcess:
    """One node: `veilmart` with `arguments`, its log in `log`."""

    name: str
    arguments: Sequence[str]
    log: Path
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self, timeout_s: float = READY_TIMEOUT_S) -> str:
        """Start it and give its ready line. Raises `DeadlineError`, or `VeilmartError` where it ended."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "veilmart", *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                process_group=0,
                preexec_fn=die_with_parent(),  # noqa: PLW1509 - two system calls, nothing that takes a lock
            )
        return self._ready_line(self.process, timeout_s)

    def _ready_line(self, process: subprocess.Popen[bytes], timeout_s: float) -> str:
        deadline = time.monotonic() + timeout_s
        line = b""
        if process.stdout is None:
            raise VeilmartError(f"{self.name} has no output to wait for")
        while not line.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                self.kill()
                raise DeadlineError(
                    f"{self.name} was not ready within {timeout_s:.0f} s.",
                    f"Its log is {self.log}.",
                    hop=self.name,
                )
            # One byte at a time: what comes behind the line is for whoever reads next.
            piece = os.read(process.stdout.fileno(), 1)
            if not piece:
                code = process.wait()
                raise VeilmartError(f"{self.name} ended with {code} at its start.", f"Its log is {self.log}.")
            line += piece
        return line.decode().strip()

    def stop(self) -> int:
        """End it with SIGTERM and give its exit code; after a while, SIGKILL."""
        return self._end(signal.SIGTERM)

    def kill(self) -> int:
        """End it as a crash does."""
        return self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> int:
        process, self.process = self.process, None
        if process is None:
            return 0
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        try:
            code = process.wait(timeout=STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        if process.stdout is not None:
            process.stdout.close()
        return code

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self.process is not None and self.process.poll() is None


@contextlib.contextmanager
def running(nodes: Sequence[NodeProcess]) -> Iterator[None]:
    """Start nodes in order, and end them in the reverse order whatever happens."""
    started: list[NodeProcess] = []
    try:
        for node in nodes:
            started.append(node)
            node.start()
        yield
    finally:
        for node in reversed(started):
            node.stop()
