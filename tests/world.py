"""The whole market in memory: every core, its real SQLite store, and a bus that is a dictionary.

All bytes pass through the codec, the frames and the access rules of `mosquitto/acl-*`; what every party
received and stored can be looked at afterwards. Nothing here knows how a node works inside: the world
builds nodes as their `run.py` does and gives them connections of its own.

    world = World(tmp_path)
    shop = world.add_merchant("sports")
    with world.customer("alice") as market: ...

A market's keys are made once for a run and then copied (`market_like`): blind-signature keys take a second.
"""

from __future__ import annotations

import atexit
import functools
import json
import select
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from broker_node import administration
from broker_node.audit import Audit
from broker_node.gateways import configuration
from broker_node.run import POOL_SIZES, BrokerNode
from broker_node.run import connections as broker_connections
from common import bus, clock, topics
from common.errors import BusUnreachableError
from common.market_file import MarketFile
from common.node import Loop
from common.pools import Pools
from merchant_node.home import Profile
from merchant_node.run import MerchantNode
from merchant_node.run import connections as merchant_connections
from veilmart import ca
from veilmart.init import InitReport, init_market

PATIENCE_S = 20.0
IDLE_S = 0.02
"""Where nothing has arrived, time and the pools alone bring something; nodes look at the time each 250 ms."""


@functools.cache
def market_like(key_type: Any, minimum_age_seconds: int) -> Path:
    """Give a market with minted keys, made at the first call of a run; whoever wants one copies it."""
    folder = Path(tempfile.mkdtemp(prefix="veilmart-template-"))
    atexit.register(shutil.rmtree, folder)
    report = init_market(
        folder, key_type=key_type, minimum_age_seconds=minimum_age_seconds, now_ms=clock.now_ms()
    )
    BrokerNode.open(report.broker_home).close()
    return folder


def copy_market(home: Path, key_type: Any = "ed25519", minimum_age_seconds: int = 0) -> InitReport:
    """Put such a market at `home`, unless there is one."""
    if not home.exists():
        shutil.copytree(market_like(key_type, minimum_age_seconds), home)
    return init_market(
        home, key_type=key_type, minimum_age_seconds=minimum_age_seconds, now_ms=clock.now_ms()
    )


def matches(pattern: str, topic: str) -> bool:
    """MQTT's topic matching."""
    wanted, have = pattern.split("/"), topic.split("/")
    for n, part in enumerate(wanted):
        if part == "#":
            return True
        if n >= len(have) or (part not in ("+", have[n])):
            return False
    return len(wanted) == len(have)


@dataclass
class Publish:
    """One message that crossed the bus."""

    sender: str
    topic: str
    payload: bytes
    retain: bool


@dataclass
class MemoryBus:
    """Mosquitto's place: retained messages, subscriptions, and a record of everything that passed."""

    connections: list[MemoryConnection] = field(default_factory=list)
    retained: dict[str, bytes] = field(default_factory=dict)
    passed: list[Publish] = field(default_factory=list)
    tamper: Callable[[Publish], list[Publish]] = field(default=lambda publish: [publish])
    """What a test may do to every publish: lose it, repeat it, change it."""
    up: bool = True

    def publish(self, sender: str, topic: str, payload: bytes, *, retain: bool) -> None:
        for publish in self.tamper(Publish(sender, topic, payload, retain)):
            self.passed.append(publish)
            self.deliver(publish)

    def deliver(self, publish: Publish) -> None:
        if publish.retain:
            if publish.payload:
                self.retained[publish.topic] = publish.payload
            else:
                self.retained.pop(publish.topic, None)
        for connection in self.connections:
            if any(matches(pattern, publish.topic) for pattern in connection.patterns):
                connection.arrive(publish.topic, publish.payload, retained=False)


class MemoryConnection:
    """`common.bus.Connection`, without a socket."""

    def __init__(self, world: World, settings: bus.Settings) -> None:
        self.world = world
        self.settings = settings
        self.epoch = 1
        self.ready = False
        self.failure = ""
        self.under_way = 0
        self.inbox: list[bus.Delivery] = []
        self.patterns = (*settings.subscriptions, *settings.live_subscriptions)

    def open(self, timeout_s: float = 5.0) -> None:  # noqa: ARG002 - the real one's signature
        if not self.world.bus.up:
            raise BusUnreachableError("No answer from the bus", "Start it with `veilmart bus run`.")
        self.connect()

    def connect(self) -> None:
        if self.ready or not self.world.bus.up:
            return
        self.ready = True
        memory = self.world.bus
        for topic, payload in self.settings.greeting:
            memory.publish(self.settings.client_id, topic, payload, retain=True)
        memory.connections.append(self)
        for topic, payload in list(memory.retained.items()):
            if any(matches(pattern, topic) for pattern in self.settings.subscriptions):
                self.arrive(topic, payload, retained=True)

    def arrive(self, topic: str, payload: bytes, *, retained: bool) -> None:
        self.inbox.append(bus.Delivery(topic, payload, retained, self.epoch, 0, 1))

    def put(self, topic: str, payload: bytes, *, retain: bool = False, **_: Any) -> bool:
        if not self.ready:
            return False
        self.world.bus.publish(self.settings.client_id, topic, payload, retain=retain)
        return True

    def acknowledge(self, deliveries: Any) -> None:
        pass

    def flush(self) -> None:
        pass

    def take(self, limit: int) -> list[bus.Delivery]:
        taken, self.inbox = self.inbox[:limit], self.inbox[limit:]
        return taken

    def wait(self, timeout_s: float) -> None:
        self.world.pump(lambda: bool(self.inbox), timeout_s)

    def close(self) -> None:
        self.abandon(will=False)

    def abandon(self, *, will: bool = True) -> None:
        if not self.ready:
            return
        self.ready = False
        self.world.bus.connections.remove(self)
        if will and self.settings.will is not None:
            self.world.bus.publish(
                self.settings.client_id, self.settings.will.topic, self.settings.will.payload, retain=True
            )


@dataclass
class Running:
    """A node that the world turns: its loop, its connections, and what has to be told to it each round."""

    name: str
    loop: Loop
    lanes: dict[Any, MemoryConnection]
    pools: Pools
    each_round: Callable[[], None]
    close: Callable[[], None]


class World:
    """A market of one broker, some merchants and any number of customers."""

    def __init__(
        self,
        root: Path,
        *,
        key_type: Any = "ed25519",
        minimum_age_seconds: int = 0,
        limits: Mapping[str, int | str] | None = None,
    ) -> None:
        self.root = root
        self.bus = MemoryBus()
        self.running: dict[str, Running] = {}
        self.merchants: dict[str, MerchantNode] = {}
        report = copy_market(root / "market", key_type, minimum_age_seconds)
        if limits is not None:
            lines = [f"{name} = {json.dumps(value)}\n" for name, value in limits.items()]
            (report.broker_home / "limits.toml").write_text("".join(lines))
        configuration.save(report.broker_home, "sandbox")
        self.key_type = key_type
        self.market_path = report.market_path
        self.market = report.market
        self.ca_home, self.broker_home = report.ca_home, report.broker_home
        self.broker: BrokerNode
        self.start_broker()

    # --- nodes -----------------------------------------------------------------------------------------

    def lanes(self, connections: dict[Any, bus.Connection]) -> dict[Any, MemoryConnection]:
        return {lane: MemoryConnection(self, connection.settings) for lane, connection in connections.items()}

    def make_pools(self, sizes: dict[str, int]) -> Pools:
        return Pools(sizes)

    def run(
        self,
        name: str,
        core: Any,
        store: Any,
        limits: Any,
        lanes: dict[Any, MemoryConnection],
        pool_sizes: dict[str, int],
        each_round: Callable[[], None],
        close: Callable[[], None],
    ) -> Running:
        pools = self.make_pools(pool_sizes)
        loop = Loop(core, store, lanes, pools, limits, wait=lambda *_: None)  # type: ignore[arg-type]
        self.running[name] = Running(name, loop, lanes, pools, each_round, close)
        for lane in lanes.values():
            lane.connect()
        return self.running[name]

    def start_broker(self) -> None:
        node = self.broker = BrokerNode.open(self.broker_home)
        market = MarketFile.load(self.broker_home / "market.json")
        lanes = self.lanes(broker_connections(self.broker_home, market, tls=False))

        def each_round() -> None:
            node.maintain(clock.now_ms())
            node.broker.connected(there=all(lane.ready for lane in lanes.values()))

        self.run(
            "broker",
            node.broker,
            node.store,
            node.limits,
            lanes,
            POOL_SIZES,
            each_round,
            node.close,
        )
        self.pump(lambda: "veilmart/v1/broker/card" in self.bus.retained)

    def add_merchant(self, merchant: str) -> MerchantNode:
        """Make a merchant's home, have its certificate signed, and run it."""
        home = self.root / "merchants" / merchant
        request = ca.make_request(home, merchant, key_type=self.key_type)
        pem = ca.sign_csr(self.ca_home, request, merchant, now_ms=clock.now_ms())
        ca.install_certificate(home, pem, self.market.ca(), now_ms=clock.now_ms())
        self.market.save(home / "market.json")
        Profile(name=f"The {merchant} shop").save(home / "merchant.toml")
        return self.start_merchant(merchant)

    def start_merchant(self, merchant: str) -> MerchantNode:
        """Run a merchant whose home is there."""
        home = self.root / "merchants" / merchant
        node = self.merchants[merchant] = MerchantNode.open(home)
        lanes = self.lanes(merchant_connections(home, merchant, tls=False))
        self.run(merchant, node.merchant, node.store, node.limits, lanes, {}, lambda: None, node.close)
        self.pump(lambda: self.merchants[merchant].merchant.session.usable)
        self.pump(lambda: topics.merchant_card(merchant) in self.bus.retained)
        return node

    def stop(self, name: str) -> None:
        """Stop a node as a crash would: no goodbye, its last wills are published."""
        running = self.running.pop(name)
        for lane in running.lanes.values():
            lane.abandon()
        running.pools.close()
        running.close()

    def close(self) -> None:
        for name in list(self.running):
            self.stop(name)

    # --- time ------------------------------------------------------------------------------------------

    def pump(self, until: Callable[[], bool], timeout_s: float = PATIENCE_S) -> bool:
        """Let every node work until something is true; tells whether it became so."""
        deadline = time.monotonic() + timeout_s
        while not until():
            for running in list(self.running.values()):
                running.each_round()
                running.loop.round(0.0)
            if until():
                return True
            if time.monotonic() > deadline:
                return False
            if not any(lane.inbox for running in self.running.values() for lane in running.lanes.values()):
                wakers = [running.pools.wake_receiver for running in self.running.values()]
                select.select(wakers, [], [], IDLE_S)
        return True

    # --- people ----------------------------------------------------------------------------------------

    def account(self, name: str, password: str, amount: int) -> None:
        """What an operator does: open an account and grant it something."""
        audit = Audit(self.market.market_id, self.broker.limits)
        with self.broker.store.immediate() as tx:
            administration.add(tx, audit, name, password, "a test", clock.now_ms(), clock.random_bytes)
        if amount:
            self.fund(name, amount)

    def fund(self, name: str, amount: int) -> None:
        """Grant an account something."""
        audit = Audit(self.market.market_id, self.broker.limits)
        with self.broker.store.immediate() as tx:
            administration.credit(tx, audit, name, amount, "a test", clock.now_ms(), clock.random_bytes)

    def connect(self, settings: bus.Settings) -> Any:
        """What a customer is given in place of `bus.Connection`."""
        return MemoryConnection(self, settings)

    @contextmanager
    def customer(self, name: str, **options: Any) -> Iterator[Any]:
        """A customer's profile, joined to this market, and its API."""
        from customer_node import Market  # noqa: PLC0415 - tests of the other nodes do without it

        profile = self.root / "customers" / name
        if not profile.exists():
            Market.join(profile, self.market_path)
        with Market(profile, connect=self.connect, **options) as market:
            yield market

    def forget_customer(self, name: str) -> None:
        """Erase a profile."""
        shutil.rmtree(self.root / "customers" / name)
