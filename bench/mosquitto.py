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
ATTEMPTS = 5
_GENERAL = (
    *("persistence", "autosave", "persistent_client", "set_tcp_nodelay", "sys_interval", "log_"),
    *("max_packet_size", "max_inflight", "max_queued"),
)
"""What is taken over; the rest belongs to a listener, and would open Mosquitto's default one here."""


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
    (folder / "data").mkdir()
    ports, process = _start(folder)
    try:
        yield Bus(ports, process.pid)
    finally:
        _end(process)


def _start(folder: Path) -> tuple[tuple[int, int], subprocess.Popen[bytes]]:
    for _ in range(ATTEMPTS):
        ports = _free_ports()
        (folder / "mosquitto.conf").write_text(_configuration(*ports))
        with (folder / "mosquitto.log").open("wb") as log:
            process = subprocess.Popen(
                [find_mosquitto(), "-c", "mosquitto.conf"], cwd=folder, stdout=log, stderr=log
            )
        if all(_listens(process, port) for port in ports):
            return ports, process
        _end(process)  # somebody else was faster to take a port
    raise RuntimeError(f"Mosquitto does not start: {(folder / 'mosquitto.log').read_text()}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(timeout=START_S)


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        for probe in (one, other):
            probe.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


def _configuration(public: int, nodes: int) -> str:
    product = (Path(__file__).parent.parent / "mosquitto" / "mosquitto.conf").read_text()
    kept = [line for line in product.splitlines() if line.startswith(_GENERAL)]
    listeners = [f"listener {port} 127.0.0.1\nmax_qos 1" for port in (public, nodes)]
    return "\n".join([f"user {getpass.getuser()}", *kept, "allow_anonymous true", *listeners, ""])


def _listens(process: subprocess.Popen[bytes], port: int) -> bool:
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=START_S).close()
        except ConnectionRefusedError:
            time.sleep(0.01)
        else:
            return True
    return False
