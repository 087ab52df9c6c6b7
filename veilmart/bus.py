"""Mosquitto: its configuration, and running it in the foreground.

Rule 1. The templates are the files in `mosquitto/` (package data under `veilmart/mosquitto`, which in a
checkout is a link to that folder), so what an operator reads there is what runs.

Rule 2. The bus's home is complete and holds only relative paths: it may be moved, mounted or handed to
another machine, and knows of no other home.

Rule 3. The child lives no longer than we do, however we end: nothing keeps the ports after us.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import ssl
import string
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from common import config
from common.errors import BusUnreachableError, UsageError, VeilmartError
from common.keys import create_file
from veilmart.processes import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CONFIGURATION_FILE: Final = "mosquitto.conf"
ACL_FILES: Final = ("acl-public", "acl-nodes")
SERVER_KEY_FILE: Final = "server.key"
SERVER_CERTIFICATE_FILE: Final = "server.crt"
CA_CERTIFICATE_FILE: Final = "ca.crt"
CRL_FILE: Final = "crl.pem"
DATA_FOLDER: Final = "data"

START_SECONDS: Final = 20.0
PORT_GRACE_SECONDS: Final = 2.0  # a Mosquitto that was just ended may still hold its port
POLL_SECONDS: Final = 0.05
WATCH_SECONDS: Final = 1.0
MAXIMUM_PORT: Final = 65535
PACKET_BYTES: Final = config.MAXIMUM_FRAME + config.KIB
"""What Mosquitto has to take: the largest frame, with its topic and properties."""
_LISTENERS: Final = 2
# What the market's safety hangs on: without any of them, or with a switch the other way, Mosquitto starts,
# and lets in too many or nobody. Files may have other names.
_DEMANDED: Final = (
    ("per_listener_settings true",),
    ("allow_anonymous true", "acl_file acl-public", "certfile server.crt", "keyfile server.key"),
    (
        "acl_file acl-nodes",
        "certfile server.crt",
        "keyfile server.key",
        "cafile ca.crt",
        "crlfile crl.pem",
        "require_certificate true",
        "use_identity_as_username true",
    ),
)


@dataclass(frozen=True, slots=True)
class Listener:
    """Where Mosquitto listens, as its configuration says."""

    host: str
    port: int


def write_configuration(bus_home: Path, *, listen: str, public_port: int, node_port: int) -> None:
    """Write Mosquitto's configuration and ACL files into the bus's home; existing ones are kept.

    Raises UsageError if a configuration that is kept takes no packet as large as a frame: where another
    starts Mosquitto (compose), nobody else looks.
    """
    (bus_home / DATA_FOLDER).mkdir(mode=0o700, exist_ok=True)
    for name in ACL_FILES:
        _create(bus_home / name, _template(name))
    configuration = string.Template(_template(CONFIGURATION_FILE).partition("\n\n")[2]).substitute(
        listen=listen, public_port=public_port, node_port=node_port, user=_current_user()
    )
    path = bus_home / CONFIGURATION_FILE
    _create(path, f"# Made by `veilmart init`; edit it freely.\n\n{configuration}")
    _demand_room(_entries(path.read_text().splitlines()), path)


def read_listeners(bus_home: Path) -> tuple[Listener, Listener]:
    """Return the public and the node listener.

    Raises UsageError if the configuration is not there, or lacks a listener or what its safety hangs on.
    """
    path = bus_home / CONFIGURATION_FILE
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise UsageError(
            f"there is no bus in {bus_home}", "Make one with `veilmart init`, or name its --home."
        ) from error
    entries = _entries(lines)
    starts = [number for number, entry in enumerate(entries) if entry[0] == "listener"]
    words = [entries[number] for number in starts]
    if len(words) != _LISTENERS or not all(_names_a_listener(each) for each in words):
        raise UsageError(
            f"{path}: `listener PORT HOST` has to stand there twice",
            "Write the public listener first and the nodes' second, with ports up to 65535.",
        )
    places = ("above the listeners", f"below `{' '.join(words[0])}`", f"below `{' '.join(words[1])}`")
    parts = (entries[: starts[0]], entries[starts[0] : starts[1]], entries[starts[1] :])
    for demanded, part, place in zip(_DEMANDED, parts, places, strict=True):
        for line in demanded:
            _demand(line.split(), part, path, place)
    _demand_room(entries, path)
    public, nodes = (Listener(host, int(port)) for _, port, host in words)
    return public, nodes


def _demand(wanted: list[str], entries: list[list[str]], path: Path, place: str) -> None:
    name, value = wanted
    present = [entry for entry in entries if entry[0] == name and len(entry) > 1]
    hint = f"`veilmart init` writes `{name} {value}` there."
    if not present:
        raise UsageError(f"{path}: `{name}` is missing {place}", hint)
    if value == "true" and any(entry != wanted for entry in present):
        raise UsageError(f"{path}: `{name}` has to be {value} {place}", hint)


def _entries(lines: list[str]) -> list[list[str]]:
    return [line.split() for line in lines if line.strip() and not line.startswith("#")]


def _demand_room(entries: list[list[str]], path: Path) -> None:
    # Of a home that was made when frames were smaller. Without the line Mosquitto takes packets of any size.
    sizes = [entry[1] for entry in entries if entry[0] == "max_packet_size" and len(entry) > 1]
    if any(not size.isdigit() or int(size) < PACKET_BYTES for size in sizes):
        raise UsageError(
            f"{path}: `max_packet_size` is below {PACKET_BYTES}, and a delivery would not pass",
            f"Write `max_packet_size {PACKET_BYTES}` there.",
        )


def _names_a_listener(words: list[str]) -> bool:
    return len(words) == 3 and words[1].isdigit() and 0 < int(words[1]) <= MAXIMUM_PORT  # noqa: PLR2004 - "listener PORT HOST"


def find_mosquitto() -> str:
    """Return the path of Mosquitto. Raises BusUnreachableError with the way to install it."""
    # Debian keeps it where only root's PATH looks.
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin"))
    found = shutil.which("mosquitto", path=path)
    if found is None:
        raise BusUnreachableError(
            "Mosquitto is not installed",
            "sudo apt-get install --no-install-recommends mosquitto, then stop its system service: "
            "sudo systemctl disable --now mosquitto",
        )
    return found


def run_bus(bus_home: Path, announce: Callable[[str], None]) -> int:
    """Run Mosquitto in the foreground until it ends or SIGTERM or SIGINT arrives; return its exit code.

    Calls `announce` with one line once both listeners accept and the market's certificate is shown. SIGHUP,
    or a replaced revocation list or server certificate, makes Mosquitto read them again (for new
    connections). Must be called in the main thread. Raises BusUnreachableError if Mosquitto is missing or
    a port is taken, VeilmartError if it does not start.
    """
    program = find_mosquitto()
    public, nodes = read_listeners(bus_home)
    for listener in (public, nodes):
        _check_free(listener)
    command = [program, "-c", CONFIGURATION_FILE]
    with (
        subprocess.Popen(
            command,
            cwd=bus_home,
            preexec_fn=die_with_parent(),  # noqa: PLW1509 - two system calls, nothing that takes a lock
        ) as child,
        _forwarding(child),
    ):
        try:
            if _await_ready(child, bus_home, (public, nodes)):
                announce(f"bus ready: public {public.host}:{public.port}, nodes {nodes.host}:{nodes.port}")
            code = _watch(child, bus_home)
        except BaseException:
            child.kill()
            raise
    return code if code >= 0 else 128 - code


def _watch(child: subprocess.Popen[bytes], bus_home: Path) -> int:
    """Wait for the end; tell Mosquitto when its revocation list or certificate was replaced."""
    watched = [bus_home / name for name in (CRL_FILE, SERVER_CERTIFICATE_FILE)]
    installed = [path.stat().st_mtime_ns for path in watched]
    while True:
        try:
            return child.wait(timeout=WATCH_SECONDS)
        except subprocess.TimeoutExpired:
            present = [path.stat().st_mtime_ns for path in watched]
            if present != installed:
                installed = present
                child.send_signal(signal.SIGHUP)


@contextmanager
def _forwarding(child: subprocess.Popen[bytes]) -> Iterator[None]:
    def forward(number: int, _frame: object) -> None:
        child.send_signal(signal.SIGTERM if number == signal.SIGINT else number)

    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {number: signal.signal(number, forward) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _await_ready(
    child: subprocess.Popen[bytes], bus_home: Path, listeners: tuple[Listener, Listener]
) -> bool:
    """Wait until both listeners answer; False if Mosquitto was told to end before."""
    deadline = time.monotonic() + START_SECONDS
    context = ssl.create_default_context(cafile=bus_home / CA_CERTIFICATE_FILE)
    context.check_hostname = False  # the address it listens on need not be one that customers use
    # The node listener would log our missing certificate as an error, so there accepting is enough.
    for listener, proof in zip(listeners, (context, None), strict=True):
        while not _answers(listener, proof):
            code = child.poll()
            if code in {0, -signal.SIGTERM}:
                return False
            if code is not None:
                raise VeilmartError(
                    f"Mosquitto ended with code {code} while starting; its reason stands above",
                    f"Correct {bus_home / CONFIGURATION_FILE} or the file that it names; `veilmart doctor` "
                    "looks at them.",
                )
            if time.monotonic() > deadline:
                raise VeilmartError(
                    f"Mosquitto did not answer within {START_SECONDS:.0f} seconds at "
                    f"{listener.host}:{listener.port}",
                    f"Does {bus_home / CONFIGURATION_FILE} name the market's certificate and key there "
                    "(`certfile`, `keyfile`)? `veilmart doctor` looks at them.",
                )
            time.sleep(POLL_SECONDS)
    return True


def _answers(listener: Listener, context: ssl.SSLContext | None) -> bool:
    """Return whether something accepts there and, given a context, proves to be the market's Mosquitto."""
    try:
        with socket.create_connection(_reachable(listener), timeout=START_SECONDS) as plain:
            if context is not None:
                with context.wrap_socket(plain) as secured:
                    secured.unwrap()
    except OSError:
        return False
    return True


def _check_free(listener: Listener) -> None:
    deadline = time.monotonic() + PORT_GRACE_SECONDS
    while True:
        try:
            family = socket.AF_INET6 if ":" in listener.host else socket.AF_INET
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((listener.host, listener.port))
        except OSError as error:
            if time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
                continue
            raise BusUnreachableError(
                f"cannot listen on {listener.host} port {listener.port}: {error.strerror}",
                "Is a bus running already? Otherwise end what uses the port, or edit mosquitto.conf.",
            ) from error
        return


def _reachable(listener: Listener) -> tuple[str, int]:
    every = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not bound to
    return every.get(listener.host, listener.host), listener.port


def _template(name: str) -> str:
    return (Path(__file__).parent / "mosquitto" / name).read_text()


def _create(path: Path, text: str) -> None:
    if not path.exists():
        create_file(path, text.encode())


def _current_user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return "root"  # an unnamed user of a container: not root, so the line has no effect
