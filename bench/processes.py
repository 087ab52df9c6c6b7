"""Child processes that take commands: one JSON line in, one JSON line out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

STOP_S = 20.0
ROOT = Path(__file__).parent.parent


def peak_rss_mb(pid: int | str = "self") -> float:
    """Give the highest resident size that a running process ever had, in MB (10**6 bytes)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return round(int(line.split()[1]) * 1024 / 1e6, 1)
    raise RuntimeError("the system does not tell a process's peak memory")


def cpu_seconds(pid: int | str = "self") -> float:
    """Give the processor time that a running process has used, in user and system mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Worker:
    """A Python process of ours. It says one line when it is ready; `ask` gives it work."""

    def __init__(self, name: str, module: str, *arguments: str) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        try:
            self.answer()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def ask(self, **command: Any) -> Any:
        """Send a command and give its answer."""
        self.begin(**command)
        return self.answer()

    def begin(self, **command: Any) -> None:
        """Send a command; `answer` gives its answer, once it is there."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """Give the next line. Raises `RuntimeError` when the process has ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with code {self._process.wait(STOP_S)}")
        return json.loads(line)

    @property
    def peak_rss_mb(self) -> float:
        return peak_rss_mb(self._process.pid)

    @property
    def cpu_seconds(self) -> float:
        return cpu_seconds(self._process.pid)

    def stop(self) -> None:
        """End it: closing its input, or SIGTERM for a node, is its sign."""
        process = self._process
        if process.stdin is not None and not process.stdin.closed:
            process.stdin.close()
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def floor(port: int) -> Iterator[Worker]:
    """Start the floor's three processes; the client is the last."""
    for role in ("relay", "server", "client"):
        yield Worker(f"floor {role}", "bench.floor", role, str(port))


def nodes(broker: Path, merchant: Path, profiles: Path | None = None) -> Iterator[Worker]:
    """Start a broker and a merchant."""
    for role, home in (("broker", broker), ("merchant", merchant)):
        profile = [str(profiles / f"{role}.prof")] if profiles is not None else []
        yield Worker(role, "bench.node", role, str(home), *profile)


def say(line: str) -> None:
    """Tell on stderr how it goes."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def commands() -> Iterator[dict[str, Any]]:
    """In a worker: give what was asked, until the input ends."""
    for line in sys.stdin:
        yield json.loads(line)


def tell(answer: Any) -> None:
    """In a worker: say one line."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def serve(handle: Callable[..., Any]) -> None:
    """In a worker: say that it is ready, then answer each command."""
    tell("ready")
    for command in commands():
        tell(handle(**command))
