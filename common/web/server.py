"""Running a site: uvicorn on one socket of this machine, from its ready line to a clean end by signal."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Final, Protocol

import uvicorn
from starlette.types import ASGIApp

from common.config import KIB
from common.errors import UsageError

LOOPBACK: Final = "127.0.0.1"
BACKLOG: Final = 64
MOST_CONNECTIONS: Final = 64
GRACE_S: Final = 3
LONGEST_HEADERS: Final = 16 * KIB


@dataclass(frozen=True)
class Address:
    """Where a server listens; the port is taken from the moment at which this exists."""

    host: str
    port: int
    socket: socket.socket = field(repr=False, compare=False)

    @classmethod
    def free(cls, port: int = 0) -> Address:
        """Take a port of this machine, any free one for 0. Raises `UsageError` where it is not free."""
        taken = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        # A server that was ended a moment ago can be started again on its port.
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind((LOOPBACK, port))
            taken.listen(BACKLOG)
        except OSError as error:
            taken.close()
            raise UsageError(
                f"Port {port} of {LOOPBACK} cannot be used: {error.strerror}.",
                "Choose another one with --port, or leave it out.",
            ) from error
        return cls(LOOPBACK, taken.getsockname()[1], taken)

    @property
    def hosts(self) -> frozenset[str]:
        """The `Host` headers that mean this server."""
        return frozenset({f"{self.host}:{self.port}", f"localhost:{self.port}"})

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        return f"http://{self.host}:{self.port}"


class Stopping(Protocol):
    """What of a site the runner needs."""

    stopping: bool


class _Server(uvicorn.Server):
    """Ends by SIGTERM and SIGINT, and leaves them as they were; nothing is raised again afterwards."""

    def __init__(self, config: uvicorn.Config, site: Stopping, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._site = site
        self._announce = announce

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        numbers = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Streams of events would otherwise hold the end up.
        self._site.stopping = True
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit:
            self._announce()


def serve(site: Stopping, app: ASGIApp, address: Address, announce: Callable[[], None]) -> None:
    """Serve until a signal ends it; `announce` is called once the first request can come."""
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="critical",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        ws="none",
        lifespan="on",
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=GRACE_S,
        h11_max_incomplete_event_size=LONGEST_HEADERS,
    )
    with address.socket:
        _Server(config, site, announce).run(sockets=[address.socket])
