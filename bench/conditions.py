"""What a figure depends on."""

from __future__ import annotations

import os
import platform
import ssl
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench import mosquitto

LIBRARIES = ("paho-mqtt", "cryptography", "msgspec", "sqlalchemy")


def describe(payload: int | None = None) -> dict[str, Any]:
    """Give machine, versions and what was held equal; `payload` is the floor's, where there is one."""
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "cpu": _cpu(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
        "mosquitto": mosquitto.version(),
        **{name: version(name) for name in LIBRARIES},
        "tls": False,
        "mqtt": 5,
        "qos": 1,
        **({"floor_payload_bytes": payload} if payload is not None else {}),
        "sqlite": "WAL, synchronous=FULL",
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()
