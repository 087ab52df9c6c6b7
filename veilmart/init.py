"""`veilmart init`: a market's CA, broker and bus, each with a home of its own, and the market file.

Rule 1. Repeating it changes nothing, also after a crash half way: each file appears whole or not at all,
what is there is kept, and what is missing is made to fit what is there.

Rule 2. No home holds a path or a private key of another: each may be moved to a machine of its own.

    home/market.json
    home/ca/       ca.key ca.crt crl.pem issued/
    home/broker/   identity.key identity.crt ca.crt crl.pem market.json
    home/bus/      mosquitto.conf acl-public acl-nodes server.key server.crt ca.crt crl.pem data/
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from filelock import FileLock, Timeout

from common import money
from common.errors import BusyError, UsageError
from common.keys import IdentityKey, KeyType, create_file, identity_fingerprint
from common.market_file import Address, MarketFile
from veilmart import bus, ca
from veilmart.certificates import check_host

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MARKET_FILE: Final = "market.json"
DEFAULT_HOSTS: Final = ("localhost", "127.0.0.1")
DEFAULT_PUBLIC_PORT: Final = 8883
DEFAULT_NODE_PORT: Final = 8884
LOCK_SECONDS: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class InitReport:
    """Where everything is; `created` is empty when all of it was there already."""

    ca_home: Path
    broker_home: Path
    bus_home: Path
    market_path: Path
    market: MarketFile
    created: tuple[Path, ...]


def init_market(
    home: Path,
    *,
    currency: str = "EUR",
    bus_hosts: Sequence[str] = DEFAULT_HOSTS,
    node_host: str | None = None,
    listen: str = "127.0.0.1",
    public_port: int = DEFAULT_PUBLIC_PORT,
    node_port: int = DEFAULT_NODE_PORT,
    key_type: KeyType = "ed25519",
    minimum_age_seconds: int = 3600,
    now_ms: int,
) -> InitReport:
    """Make a market in `home`. Customers are told the first of `bus_hosts`, nodes `node_host` or the same.

    A market that exists keeps its own settings, whatever the arguments say. Raises UsageError for an
    unusable argument, BusyError while another process does the same.
    """
    node_host = node_host or (bus_hosts[0] if bus_hosts else "")
    _check_arguments(currency, (*bus_hosts, node_host), listen, (public_port, node_port))
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with FileLock(home / ".init.lock", timeout=LOCK_SECONDS):
            before = _files(home)
            ca_home, broker_home, bus_home = home / "ca", home / "broker", home / "bus"
            ca.create_ca(ca_home, key_type=key_type, now_ms=now_ms)
            fingerprint = _init_broker(ca_home, broker_home, key_type, now_ms)
            market = _init_market_file(
                home,
                broker_home,
                MarketFile(
                    veilmart_market=1,
                    currency=currency,
                    ca_certificate=(ca_home / ca.CA_CERTIFICATE_FILE).read_text(),
                    public=Address(host=bus_hosts[0], port=public_port),
                    nodes=Address(host=node_host, port=node_port),
                    broker_fingerprint=fingerprint.hex(),
                    minimum_age_seconds=minimum_age_seconds,
                ),
            )
            hosts = (market.public.host, market.nodes.host, *bus_hosts)
            _init_bus(ca_home, bus_home, hosts, key_type=key_type, now_ms=now_ms)
            # The market file was there first, so after a crash in between its ports are the ones.
            bus.write_configuration(
                bus_home, listen=listen, public_port=market.public.port, node_port=market.nodes.port
            )
            created = tuple(sorted(_files(home) - before))
    except Timeout as error:
        raise BusyError(f"another process makes a market in {home}") from error
    return InitReport(
        ca_home=ca_home,
        broker_home=broker_home,
        bus_home=bus_home,
        market_path=home / MARKET_FILE,
        market=market,
        created=created,
    )


def _init_broker(ca_home: Path, broker_home: Path, key_type: KeyType, now_ms: int) -> bytes:
    broker_home.mkdir(mode=0o700, exist_ok=True)
    key = _key_at(broker_home / ca.IDENTITY_KEY_FILE, key_type)
    certificate = broker_home / ca.IDENTITY_CERTIFICATE_FILE
    if not certificate.exists():
        create_file(certificate, ca.certify_broker(ca_home, key.public, now_ms=now_ms))
    _copy_from_ca(ca_home, broker_home)
    return identity_fingerprint(key.public)


def _init_market_file(home: Path, broker_home: Path, wanted: MarketFile) -> MarketFile:
    path = home / MARKET_FILE
    if not path.exists():
        wanted.save(path)
    market = MarketFile.load(path)
    if not (broker_home / MARKET_FILE).exists():
        market.save(broker_home / MARKET_FILE)
    return market


def _init_bus(ca_home: Path, bus_home: Path, hosts: Sequence[str], *, key_type: KeyType, now_ms: int) -> None:
    bus_home.mkdir(mode=0o700, exist_ok=True)
    key = _key_at(bus_home / bus.SERVER_KEY_FILE, key_type)
    certificate = bus_home / bus.SERVER_CERTIFICATE_FILE
    if not certificate.exists():
        create_file(certificate, ca.certify_bus(ca_home, key.public, hosts, now_ms=now_ms))
    _copy_from_ca(ca_home, bus_home)


def _key_at(path: Path, key_type: KeyType) -> IdentityKey:
    if not path.exists():
        for leftover in path.parent.glob(f".{path.name}.*.new"):  # of a crash half way: never used
            leftover.unlink()
        IdentityKey.generate(key_type).save(path)
    return IdentityKey.load(path)


def _copy_from_ca(ca_home: Path, other_home: Path) -> None:
    for name in (ca.CA_CERTIFICATE_FILE, ca.CRL_FILE):
        if not (other_home / name).exists():
            create_file(other_home / name, (ca_home / name).read_bytes())


def _files(home: Path) -> set[Path]:
    return {path for path in home.rglob("*") if path.is_file() and not path.name.startswith(".")}


def _check_arguments(currency: str, bus_hosts: Sequence[str], listen: str, ports: tuple[int, int]) -> None:
    money.exponent(currency)
    if not bus_hosts:
        raise UsageError("a bus needs at least one host name or address")
    for host in bus_hosts:
        check_host(host)
    try:
        ipaddress.ip_address(listen)
    except ValueError as error:
        raise UsageError(f"{listen!r} is not an IP address to listen on") from error
    if ports[0] == ports[1] or not all(0 < port < 1 << 16 for port in ports):
        raise UsageError(
            "the two listeners need two different ports from 1 to 65535",
            "Choose them with --public-port and --node-port.",
        )
