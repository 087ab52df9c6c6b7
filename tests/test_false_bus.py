"""Who plays the bus is refused by each of our clients, with its own TLS settings, before it says anything.

The listener is on the right address and speaks TLS 1.3; only its certificate is wrong.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

import msgspec
import pytest
from world import copy_market

from broker_node.run import connections as broker_connections
from common import bus, clock
from common.errors import BusUnreachableError
from common.keys import IdentityKey, Role
from customer_node import Market
from merchant_node.home import Profile
from merchant_node.run import connections as merchant_connections
from veilmart import ca, certificates
from veilmart.init import InitReport

HOSTS = ("localhost", "127.0.0.1")


class Listener:
    """Accepts with one certificate, and keeps whatever a client says after the handshake."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self.handshakes: list[str] = []
        """One of each connection: its version, or why it failed."""
        self.said = b""
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._hear(self._listener.accept()[0])

    def _hear(self, client: socket.socket) -> None:
        client.settimeout(5.0)
        with client:
            try:
                with self._context.wrap_socket(client, server_side=True) as opened:
                    self.handshakes.append(str(opened.version()))
                    self.said += opened.recv(1024)
            except OSError as error:
                self.handshakes.append(str(error))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # What is being heard is heard to its end first.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(10.0)
        self._listener.close()


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> InitReport:
    return copy_market(tmp_path_factory.mktemp("market") / "market")


def certified(
    folder: Path, ca_home: Path, name: str, role: Role, hosts: tuple[str, ...]
) -> tuple[Path, Path]:
    """Have a key certified; the CA's own rules would not let a merchant name hosts."""
    key = IdentityKey.generate("ed25519")
    key.save(folder / f"{name}.key")
    certificate = ca.load_ca_certificate(ca_home / ca.CA_CERTIFICATE_FILE)
    authority = certificates.Authority(IdentityKey.load(ca_home / ca.CA_KEY_FILE), certificate)
    issued = certificates.issue(authority, key.public, name, role=role, hosts=hosts, now_ms=clock.now_ms())
    (folder / f"{name}.crt").write_bytes(certificates.certificate_to_pem(issued))
    return folder / f"{name}.crt", folder / f"{name}.key"


def another_cas(folder: Path, market: InitReport) -> tuple[Path, Path]:
    ca.create_ca(folder / "other-ca", now_ms=clock.now_ms())
    return certified(folder, folder / "other-ca", "bus", "bus", HOSTS)


def a_merchants(folder: Path, market: InitReport) -> tuple[Path, Path]:
    return certified(folder, market.ca_home, "sports", "merchant", HOSTS)


def the_brokers(folder: Path, market: InitReport) -> tuple[Path, Path]:
    return certified(folder, market.ca_home, "broker", "broker", HOSTS)


def another_hosts(folder: Path, market: InitReport) -> tuple[Path, Path]:
    return certified(folder, market.ca_home, "bus", "bus", ("bus.example.org", "127.0.0.2"))


def the_real_one(folder: Path, market: InitReport) -> tuple[Path, Path]:
    return certified(folder, market.ca_home, "bus", "bus", HOSTS)


def as_broker(folder: Path, market: InitReport, port: int) -> bus.Settings:
    home = shutil.copytree(market.broker_home, folder / "broker")
    nodes = msgspec.structs.replace(market.market.nodes, port=port)
    placed = msgspec.structs.replace(market.market, nodes=nodes)
    return broker_connections(home, placed)["main"].settings


def as_merchant(folder: Path, market: InitReport, port: int) -> bus.Settings:
    home = folder / "merchant"
    request = ca.make_request(home, "maps")
    ca_home = shutil.copytree(market.ca_home, folder / "ca")
    pem = ca.sign_csr(ca_home, request, "maps", now_ms=clock.now_ms())
    ca.install_certificate(home, pem, market.market.ca(), now_ms=clock.now_ms())
    nodes = msgspec.structs.replace(market.market.nodes, port=port)
    msgspec.structs.replace(market.market, nodes=nodes).save(home / "market.json")
    Profile(name="Maps").save(home / "merchant.toml")
    return merchant_connections(home, "maps")["main"].settings


def as_customer(folder: Path, market: InitReport, port: int) -> bus.Settings:
    public = msgspec.structs.replace(market.market.public, port=port)
    msgspec.structs.replace(market.market, public=public).save(folder / "market.json")
    Market.join(folder / "profile", folder / "market.json")
    with Market(folder / "profile") as opened:
        return opened._context.uplink._settings(clock.random_bytes(16), "shop")


Client = Callable[[Path, InitReport, int], bus.Settings]
clients = pytest.mark.parametrize("client", [as_broker, as_merchant, as_customer], ids=lambda c: c.__name__)


@clients
@pytest.mark.parametrize(
    ("pretended", "reason"),
    [
        (another_cas, "unable to get local issuer certificate|certificate signature failure"),
        (a_merchants, "unsuitable certificate purpose"),
        (the_brokers, "unsuitable certificate purpose"),
        (another_hosts, "mismatch, certificate is not valid for"),
    ],
    ids=["another CA's", "a merchant's", "the broker's", "another host's"],
)
def test_a_false_bus_is_told_nothing(
    tmp_path: Path,
    market: InitReport,
    client: Client,
    pretended: Callable[[Path, InitReport], tuple[Path, Path]],
    reason: str,
) -> None:
    with Listener(*pretended(tmp_path, market)) as listener:
        connection = bus.Connection(client(tmp_path, market, listener.port))
        try:
            with pytest.raises(BusUnreachableError, match=f"certificate verify failed: .*({reason})"):
                connection.open(0.0)
            # Whoever would go on says CONNECT now.
            connection.flush()
        finally:
            connection.abandon()
    assert listener.said == b""
    assert len(listener.handshakes) == 1


@clients
def test_the_bus_itself_is_greeted_with_connect(tmp_path: Path, market: InitReport, client: Client) -> None:
    with Listener(*the_real_one(tmp_path, market)) as listener:
        connection = bus.Connection(client(tmp_path, market, listener.port))
        try:
            with pytest.raises(BusUnreachableError):
                connection.open(0.0)
            connection.flush()
        finally:
            connection.abandon()
    assert listener.handshakes == ["TLSv1.3"]
    assert listener.said[0] == 0x10  # MQTT 5.0, section 3.1.1
