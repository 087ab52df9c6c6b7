"""A Mosquitto for measurements: the product's queue limits, no TLS, no ACL, free ports of 127.0.0.1."""

from __future__ import annotations

import contextlib
import getpass
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.processes import cpu_seconds, peak_rss_mb
from veilmart.bus import find_mosquitto

START_S = 10.0
_OWN = ("persistence", "autosave", "persistent_client", "max_", "set_tcp_nodelay", "sys_interval", "log_")


@dataclass(frozen=True)
class Bus:
    """A running Mosquitto. `ports` are for customers and for nodes."""

    ports: tuple[int, int]
    pid: int
    name: str = "mosquitto"

    @property
    def peak_rss_mb(self) -> float:
        return peak_rss_mb(self.pid)

    @property
    def cpu_seconds(self) -> float:
        return cpu_seconds(self.pid)


def version() -> str:
    """Give Mosquitto's version, as it tells it."""
    told = subprocess.run([find_mosquitto(), "-h"], capture_output=True, text=True, check=False)
    found = re.search(r"version (\S+)", told.stdout)
    return found[1] if found else "unknown"


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Bus]:
    """Run one in `folder`, which exists, and end it."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(2)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        public, nodes = (probe.getsockname()[1] for probe in probes)
    (folder / "data").mkdir()
    (folder / "mosquitto.conf").write_text(_configuration(public, nodes))
    with (folder / "mosquitto.log").open("wb") as log:
        process = subprocess.Popen(
            [find_mosquitto(), "-c", "mosquitto.conf"], cwd=folder, stdout=log, stderr=log
        )
    try:
        _await_listener(process, public, folder)
        yield Bus((public, nodes), process.pid)
    finally:
        process.terminate()
        process.wait(timeout=START_S)


def _configuration(public: int, nodes: int) -> str:
    product = (Path(__file__).parent.parent / "mosquitto" / "mosquitto.conf").read_text()
    kept = [line for line in product.splitlines() if line.startswith(_OWN)]
    listeners = [f"listener {port} 127.0.0.1" for port in (public, nodes)]
    return "\n".join([f"user {getpass.getuser()}", *kept, "allow_anonymous true", *listeners, ""])


def _await_listener(process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=START_S).close()
        except ConnectionRefusedError:
            if process.poll() is not None or time.monotonic() > deadline:
                told = (folder / "mosquitto.log").read_text()
                raise RuntimeError(f"Mosquitto did not start: {told}") from None
            time.sleep(0.01)
        else:
            return
