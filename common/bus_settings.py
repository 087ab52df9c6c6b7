"""Where and as whom to connect to the bus: plain values, which `common.mqtt` connects with."""

from __future__ import annotations

import contextlib
import hashlib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from common.errors import BusUnreachableError, UntrustedError, UsageError


@dataclass(frozen=True)
class Will:
    """What the server publishes, retained, when the connection breaks."""

    topic: str
    payload: bytes


@dataclass(frozen=True)
class TlsFiles:
    """PEM files: the market's CA, and for nodes their own certificate and key."""

    ca: Path
    certificate: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """TLS 1.3, the market's CA alone, host names checked. Raises `UntrustedError` for unusable files."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        loading = str(self.ca)
        try:
            context.load_verify_locations(self.ca)
            if self.certificate is not None:
                loading = f"{self.certificate} or its key"
                context.load_cert_chain(self.certificate, self.key)
        except OSError as error:  # `ssl.SSLError` is one too, and neither names its file
            reason = "it is missing" if isinstance(error, FileNotFoundError) else "it is no such file"
            raise UntrustedError(
                f"{loading} cannot be used for TLS: {reason}",
                "Put it back from a backup; `veilmart doctor` looks.",
            ) from error
        return context


@dataclass(frozen=True)
class Address:
    """Where Mosquitto listens. `proxy` is `socks5://host:port`; each client id has credentials of its own."""

    host: str
    port: int
    tls: ssl.SSLContext | None = field(repr=False)
    proxy: str | None = None

    def unreachable(self, reason: str) -> BusUnreachableError:
        """Give the error that says who did not answer; `reason` may be empty."""
        where = f"{self.host}:{self.port}"
        hint = "Start it with `veilmart bus run`, or check the address in the market file."
        if self.proxy is not None:
            where += " through the proxy {}:{}".format(*_proxy_address(self.proxy))
            hint = "The proxy has to run, take any user name and password, and reach the bus by its name."
        why = f" ({reason})" if reason else ""
        return BusUnreachableError(f"No answer from the bus at {where}{why}", hint)


@dataclass(frozen=True)
class Settings:
    """One connection's identity. A durable one keeps its queue at the server while it is away."""

    address: Address
    client_id: str = field(repr=False)
    subscriptions: Sequence[str]
    live_subscriptions: Sequence[str] = ()
    """Filters whose retained messages are not wanted: anybody may leave one on a topic of his own."""
    durable: bool = False
    will: Will | None = None
    greeting: Sequence[tuple[str, bytes]] = ()
    """Retained publishes made on every connection, before anything else: presence."""


def proxy_arguments(proxy: str, isolation: str) -> dict[str, Any]:
    """Translate `socks5://host:port` for paho. Raises `UsageError`.

    `isolation` becomes the credentials, so circuits differ. The bus's name is resolved by the proxy, so
    that whoever answers our name queries does not learn it.
    """
    import socks  # noqa: PLC0415 - only with --proxy

    host, port = _proxy_address(proxy)
    # Not the client id itself: whoever knows that may connect under it.
    credential = hashlib.sha256(b"veilmart v1 circuit\0" + isolation.encode()).hexdigest()[:32]
    return {
        "proxy_type": socks.SOCKS5,
        "proxy_addr": host,
        "proxy_port": port,
        "proxy_rdns": True,
        "proxy_username": credential,
        "proxy_password": credential,
    }


def _proxy_address(proxy: str) -> tuple[str, int]:
    with contextlib.suppress(ValueError):  # a port that is none
        parts = urlsplit(proxy)
        if parts.scheme in {"socks5", "socks5h"} and parts.hostname and parts.port and "@" not in proxy:
            return parts.hostname, parts.port
    # What was typed may hold a password.
    raise UsageError(
        "That is not the address of a SOCKS5 proxy.",
        "Write socks5://HOST:PORT; each session makes credentials of its own.",
    )
