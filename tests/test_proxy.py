"""`--proxy` with a real SOCKS5 server between a customer and a real Mosquitto.

The name under which the market file has the bus is known to the proxy alone (RFC 6761, section 6.4: nothing
resolves a name below `.invalid`), and Mosquitto says where each of its connections came from.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cli import Ran, veilmart
from real_market import PASSWORD
from socks_server import Asked, SocksServer
from world import PATIENCE_S

from broker_node import accounts
from broker_node.run import BrokerNode
from common import bus, clock, mqtt
from common.errors import BusUnreachableError
from merchant_node.home import Profile
from merchant_node.run import MerchantNode
from mosquitto import Market as RealMarket
from mosquitto import free_ports, make_market
from veilmart.processes import NodeProcess, running

BUS = "bus.veilmart.invalid"
CONTENT = b"from the hut to the ridge, and back by the lake\n" * 9000
CAME = re.compile(r"New connection from 127\.0\.0\.1:(\d+) on port \d+\.")
CONNECTED = re.compile(r"New client connected from 127\.0\.0\.1:(\d+) as (\S+) ")


@dataclass
class Proxied:
    """A market that runs, and a customer who reaches it through a proxy."""

    market: RealMarket
    proxy: SocksServer
    home: Path
    asked: dict[str, list[Asked]] = field(default_factory=dict)
    """What the proxy was asked by each command."""

    def customer(self, *words: str | Path) -> Any:
        """Run a customer's command through the proxy and give its data."""
        before = len(self.proxy.asked)
        ran = customer(self.home, *words, "--proxy", self.proxy.url)
        self.asked[str(words[0])] = self.proxy.asked[before:]
        return ran.data

    def logged(self, line: re.Pattern[str]) -> list[Any]:
        """Give what Mosquitto's log says of connections."""
        return line.findall(self.market.mosquitto.log_path.read_text())


def customer(home: Path, *words: str | Path, timeout_s: float = PATIENCE_S) -> Ran:
    return veilmart(*words, "--timeout", str(timeout_s), "--json", home=home)


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a customer of a market that does not run."""
    home = tmp_path_factory.mktemp("joined")
    ports = ("--public-port", "8883", "--node-port", "8884", "--minimum-age", "0")
    assert veilmart("init", *ports, "--bus-host", BUS, home=home).code == 0
    assert veilmart("join", home / "market.json", "--no-passphrase", home=home).code == 0
    return home


@pytest.fixture
def proxied(tmp_path: Path) -> Iterator[Proxied]:
    options = {"bus_hosts": (BUS,), "node_host": "127.0.0.1", "minimum_age_seconds": 0}
    with make_market(tmp_path, **options) as market, SocksServer({BUS: "127.0.0.1"}) as proxy:
        market.mosquitto.end()
        with (market.report.bus_home / "mosquitto.conf").open("a") as configuration:
            configuration.write("\nconnection_messages true\nlog_type notice\n")
        market.mosquitto.start()
        nodes = [
            NodeProcess(name, [name, "run", "--home", str(home)], tmp_path / f"{name}.log")
            for name, home in (("broker", market.report.broker_home), ("merchant", stocked(market)))
        ]
        with running(nodes):
            yield Proxied(market, proxy, tmp_path / "customer")


def stocked(market: RealMarket) -> Path:
    home = market.merchant_home("sports")
    market.file.save(home / "market.json")
    Profile(name="Sports").save(home / "merchant.toml")
    path = market.root / "ridge.gpx"
    path.write_bytes(CONTENT)
    node = MerchantNode.open(home)
    try:
        node.inventory.add(path, "RIDGE", title="Ridge in the morning", price=450)
    finally:
        node.close()
    return home


def fund(market: RealMarket, name: str) -> None:
    node = BrokerNode.open(market.report.broker_home)
    try:
        with node.store.immediate() as tx:
            accounts.credit(tx, name, 5000, clock.now_ms(), clock.random_bytes)
    finally:
        node.close()


def test_everything_goes_through_the_proxy(
    proxied: Proxied, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved: list[object] = []
    resolve = socket.getaddrinfo

    def resolving(host: Any, *arguments: Any, **more: Any) -> Any:
        resolved.append(host)
        return resolve(host, *arguments, **more)

    market_file, password = proxied.market.report.market_path, tmp_path / "password"
    password.write_text(PASSWORD)
    assert veilmart("join", market_file, "--no-passphrase", home=proxied.home).code == 0
    before = len(proxied.logged(CAME))  # the nodes' own
    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", resolving)
        assert proxied.customer("status", "--market", market_file)["broker"]["state"] == "online"
        proxied.customer("signup", "alice", "--password-file", password)
        fund(proxied.market, "alice")
        proxied.customer("withdraw", "--yes")
        proxied.customer("buy", "sports", "RIDGE", "--yes")
        (file,) = proxied.customer("download", "--last", "--to", tmp_path / "bought")["files"]
    assert Path(file["path"]).read_bytes() == CONTENT

    # Each connection that Mosquitto saw is one of the proxy's, which was told the name and had all the bytes.
    asked = proxied.proxy.asked
    sources = [int(source) for source in proxied.logged(CAME)[before:]]
    assert sorted(sources) == sorted(each.source_port for each in asked)
    assert all(proxied.asked.values()), "each command connected"
    port = proxied.market.file.public.port
    assert {(each.host, each.by_name, each.port) for each in asked} == {(BUS, True, port)}
    assert BUS not in resolved
    assert sum(each.received for each in proxied.asked["download"]) > len(CONTENT)

    # Credentials belong to client ids, which are sessions' ids, one to one, and do not tell them.
    names = {int(source): name for source, name in proxied.logged(CONNECTED)}
    pairs = {(each.username, each.password, names[each.source_port]) for each in asked}
    assert len(pairs) == len({pair[:2] for pair in pairs}) == len({pair[2] for pair in pairs})
    assert all(len(name) >= 32 and name not in username + word for username, word, name in pairs)
    circuits = {words: {each.username for each in of} for words, of in proxied.asked.items()}
    assert circuits["signup"] == circuits["withdraw"], "one account session"
    assert circuits["download"] < circuits["buy"], "the shop session, and whoever read the cards before it"
    assert not circuits["signup"] & (circuits["buy"] | circuits["status"])
    assert not circuits["status"] & circuits["buy"]


def refused(home: Path, proxy: str) -> Ran:
    """Run a command that cannot reach the bus and look at its error."""
    ran = customer(home, "merchants", "--proxy", proxy, timeout_s=0.3)
    assert (ran.code, ran.error["code"], ran.error["retryable"]) == (6, "bus_unreachable", True)
    assert f"{BUS}:8883 through the proxy {proxy.removeprefix('socks5://')} " in ran.error["message"]
    assert "The proxy has to" in ran.error["hint"]
    return ran


def test_a_dead_proxy(joined: Path) -> None:
    (port,) = free_ports(1)
    assert "Connection refused" in refused(joined, f"socks5://127.0.0.1:{port}").error["message"]


def test_a_proxy_that_refuses_the_credentials(joined: Path) -> None:
    with SocksServer({BUS: "127.0.0.1"}, accepts_credentials=False) as proxy:
        assert "authentication failed" in refused(joined, proxy.url).error["message"]
    assert proxy.asked
    assert {each.host for each in proxy.asked} == {""}


def test_a_proxy_that_does_not_find_the_bus(joined: Path) -> None:
    with SocksServer({}) as proxy:
        assert "Host unreachable" in refused(joined, proxy.url).error["message"]
    assert {(each.host, each.source_port) for each in proxy.asked} == {(BUS, 0)}


def test_a_proxy_that_says_nothing(joined: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt, "CONNECT_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert (
            "timed out" in refused(joined, f"socks5://127.0.0.1:{silent.getsockname()[1]}").error["message"]
        )


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:9050",
        "http://127.0.0.1:9050",
        "socks4://127.0.0.1:9050",
        "socks5://127.0.0.1",
        "socks5://:9050",
        "socks5://127.0.0.1:65536",
        "socks5://127.0.0.1:port",
        "socks5://me:correct-horse@127.0.0.1:9050",
    ],
)
def test_what_is_no_address_of_a_proxy(joined: Path, address: str) -> None:
    ran = customer(joined, "merchants", "--proxy", address)
    assert (ran.code, ran.error["code"]) == (2, "usage")
    assert "correct-horse" not in ran.out + ran.err


def test_a_proxy_in_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with SocksServer({}) as proxy:
        monkeypatch.setenv("mqtt_proxy", f"socks://127.0.0.1:{proxy.port}")
        (port,) = free_ports(1)
        connection = bus.Connection(bus.Settings(bus.Address("127.0.0.1", port, None), "someone", ()))
        with pytest.raises(BusUnreachableError):
            connection.open(0.3)
        assert proxy.asked == []
