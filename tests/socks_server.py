"""A SOCKS5 server (RFC 1928) that wants a username and a password (RFC 1929), on a free port of 127.0.0.1.

    with SocksServer({"bus.example.invalid": "127.0.0.1"}) as proxy:
        ...  # --proxy proxy.url
    assert [each.username for each in proxy.asked] == ...

It connects only to names and addresses in its table, and keeps what each client asked for.
"""

from __future__ import annotations

import contextlib
import ipaddress
import select
import socket
import socketserver
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

VERSION: Final = 5
USERNAME_PASSWORD: Final = 2
NO_METHOD: Final = 0xFF
CONNECT: Final = 1
ADDRESS_V4, NAME, ADDRESS_V6 = 1, 3, 4
SUCCEEDED, UNREACHABLE, REFUSED, NO_SUCH_COMMAND = 0, 4, 5, 7


@dataclass
class Asked:
    """What one client said, and how many bytes went either way."""

    methods: bytes
    username: str = ""
    password: str = ""
    host: str = ""
    by_name: bool = False
    port: int = 0
    source_port: int = 0
    """Of the connection to the target; 0 where there is none."""
    sent: int = 0
    received: int = 0


class SocksServer:
    """`known` gives the address that a host stands for; `accepts_credentials` is what it says to all."""

    def __init__(self, known: Mapping[str, str], *, accepts_credentials: bool = True) -> None:
        self.known = known
        self.accepts_credentials = accepts_credentials
        self.asked: list[Asked] = []
        self._ending, self._ended = socket.socketpair()
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"socks5://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Every relay sees that this end is closed, and ends.
        self._ending.close()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._ended.close()

    def serve(self, client: socket.socket) -> None:
        """Serve one client until either side closes."""
        with contextlib.suppress(EOFError, ConnectionError):
            asked = self._greeted(client)
            if asked is None or not self._authenticated(client, asked):
                return
            target = self._connected(client, asked)
            if target is not None:
                with target:
                    self._relay(client, target, asked)

    def _greeted(self, client: socket.socket) -> Asked | None:
        # RFC 1928, section 3.
        version, count = _exactly(client, 2)
        asked = Asked(_exactly(client, count))
        self.asked.append(asked)
        wanted = version == VERSION and USERNAME_PASSWORD in asked.methods
        client.sendall(bytes([VERSION, USERNAME_PASSWORD if wanted else NO_METHOD]))
        return asked if wanted else None

    def _authenticated(self, client: socket.socket, asked: Asked) -> bool:
        # RFC 1929, section 2.
        version, length = _exactly(client, 2)
        asked.username = _exactly(client, length).decode()
        asked.password = _exactly(client, *_exactly(client, 1)).decode()
        accepted = version == 1 and self.accepts_credentials
        client.sendall(bytes([1, 0 if accepted else 1]))
        return accepted

    def _connected(self, client: socket.socket, asked: Asked) -> socket.socket | None:
        # RFC 1928, sections 4 to 6.
        _, command, _, kind = _exactly(client, 4)
        if kind == NAME:
            asked.host, asked.by_name = _exactly(client, *_exactly(client, 1)).decode(), True
        else:
            asked.host = str(ipaddress.ip_address(_exactly(client, {ADDRESS_V4: 4, ADDRESS_V6: 16}[kind])))
        asked.port = int.from_bytes(_exactly(client, 2), "big")
        reply, target = SUCCEEDED, None
        if command != CONNECT:
            reply = NO_SUCH_COMMAND
        elif asked.host not in self.known:
            reply = UNREACHABLE
        else:
            try:
                target = socket.create_connection((self.known[asked.host], asked.port), timeout=10)
                asked.source_port = target.getsockname()[1]
            except OSError:
                reply = REFUSED
        client.sendall(bytes([VERSION, reply, 0, ADDRESS_V4, 0, 0, 0, 0]) + asked.source_port.to_bytes(2))
        return target

    def _relay(self, client: socket.socket, target: socket.socket, asked: Asked) -> None:
        while True:
            readable, _, _ = select.select([client, target, self._ended], [], [])
            if self._ended in readable:
                return
            for source in readable:
                data = source.recv(1 << 16)
                if not data:
                    return
                if source is client:
                    target.sendall(data)
                    asked.sent += len(data)
                else:
                    client.sendall(data)
                    asked.received += len(data)


class _Server(socketserver.ThreadingTCPServer):
    def __init__(self, proxy: SocksServer) -> None:
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)
        self._proxy = proxy

    def finish_request(self, request: Any, client_address: object) -> None:  # noqa: ARG002 - its signature
        self._proxy.serve(request)


def _exactly(client: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = client.recv(count - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data
