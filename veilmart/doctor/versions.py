"""Versions: what Veilmart stands on, and the least that it needs of each.

The least versions of its libraries are those that its own package asks for, read from its metadata.
"""

from __future__ import annotations

import re
import sqlite3
import ssl
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import Final

from common.errors import BusUnreachableError, UnreachableError
from veilmart.bus import find_mosquitto
from veilmart.doctor.findings import Check, Finding

PYTHON: Final = (3, 11)
SQLITE: Final = (3, 35)
"""RETURNING came with it."""
OPENSSL: Final = (1, 1, 1)
"""TLS 1.3 came with it."""
MOSQUITTO: Final = (2, 0)
"""MQTT 5 without the gaps of 1.6, and nothing listens without being told to."""
SHOWN: Final = ("cryptography", "paho-mqtt")
ANSWER_SECONDS: Final = 10.0

_REQUIREMENT: Final = re.compile(r"([A-Za-z0-9][\w.-]*)(?:\[[^]]*\])?\s*([^;]*)")
_BOUND: Final = re.compile(r"(>=|<)\s*([\d.]+)")

Version = tuple[int, ...]


def check_versions(*, bus_here: bool) -> Iterator[Finding]:
    """Look at the interpreter, its libraries and, where the bus is run, Mosquitto."""
    yield _least("Python", sys.version_info[:3], PYTHON, "Install a newer Python and set up anew.")
    yield _least("SQLite", sqlite3.sqlite_version_info, SQLITE, "Use a Python that brings a newer SQLite.")
    yield _least(
        "OpenSSL",
        numbers(ssl.OPENSSL_VERSION.split()[1]),
        OPENSSL,
        "Use a Python that brings a newer OpenSSL.",
    )
    yield from check_libraries(metadata.requires("veilmart") or [])
    yield _hybrid_keys()
    yield check_mosquitto(bus_here=bus_here)


def check_libraries(requirements: list[str]) -> Iterator[Finding]:
    """Compare what is installed with `requirements`, as the package's metadata writes them."""
    wrong: list[str] = []
    for each in requirements:
        found = _REQUIREMENT.match(each)
        if found is None or "extra ==" in each:
            continue
        name, bounds = found[1], found[2]
        version = _installed(name)
        good = version is not None and _within(numbers(version), bounds)
        if not good:
            wrong.append(f"{name} is {version or 'missing'}, {bounds.strip() or 'any'} is needed")
        elif name in SHOWN:
            yield Check("versions", name).ok(f"{version} ({bounds.strip()})")
    check = Check("versions", "libraries")
    if wrong:
        yield check.problem("; ".join(wrong), "Install Veilmart again: `make set-up`, or pip.")
    else:
        yield check.ok("each is of a version that Veilmart asks for")


def check_mosquitto(*, bus_here: bool) -> Finding:
    """Ask Mosquitto for its version. Only whoever runs the bus needs it."""
    check = Check("versions", "Mosquitto")
    try:
        program = find_mosquitto()
        said = subprocess.run(
            [program, "-h"], capture_output=True, text=True, check=False, timeout=ANSWER_SECONDS
        ).stdout
    except BusUnreachableError as error:
        return check.failed(error) if bus_here else check.not_applicable("not here, and no bus is run here")
    except (OSError, subprocess.TimeoutExpired) as error:
        return check.problem(f"does not start: {type(error).__name__}", "Install it again.", UnreachableError)
    found = re.search(r"version (\d[\d.]*)", said)
    if found is None:
        return check.warning("does not say its version", f"It has to be {_dotted(MOSQUITTO)} or newer.")
    return _least("Mosquitto", numbers(found[1]), MOSQUITTO, "Install a newer one.")


def numbers(version: str) -> Version:
    """Give a version's leading numbers: (2, 1) of 2.1rc3."""
    return tuple(int(each) for each in re.findall(r"\d+", re.split(r"[^\d.]", version, maxsplit=1)[0]))


def _least(name: str, found: Version, least: Version, advice: str) -> Finding:
    check, detail = Check("versions", name), f"{_dotted(found)} ({_dotted(least)} or newer)"
    return check.ok(detail) if found >= least else check.problem(detail, advice)


def _hybrid_keys() -> Finding:
    check = Check("versions", "X-Wing keys")
    from common.sealing import XWingPrivateKey  # noqa: PLC0415 - only once the libraries were looked at

    try:
        XWingPrivateKey.generate()
    except Exception as error:  # noqa: BLE001 - whatever the library says of what it cannot do
        return check.problem(
            f"cryptography makes none ({type(error).__name__})", "Install cryptography's own wheel."
        )
    return check.ok("cryptography makes them")


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _within(version: Version, bounds: str) -> bool:
    return all(
        version >= numbers(bound) if relation == ">=" else version < numbers(bound)
        for relation, bound in _BOUND.findall(bounds)
    )


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))
