"""Whoever dies, whenever: every paid order is delivered once or refunded, never both, and no coin is lost.

In memory a crash is an exception that nobody catches: what was committed stays, what was in memory is gone,
what was not acknowledged is delivered again. With real processes it is SIGKILL.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Self

import crashing
import pytest
from crashing import (
    BOUGHT,
    BROKER_MESSAGES,
    CONTENT,
    FUNDS,
    LIMITS,
    MERCHANT,
    MERCHANT_MESSAGES,
    MOMENTS,
    PASSWORD,
    Crash,
    Homes,
    Moment,
    Point,
    check_books,
    crash,
    give_in,
    last,
    make_up,
    pay_out,
    shop,
    stepping,
    stock_shop,
    until,
)
from crashing_world import CrashingWorld

from broker_node import accounts
from broker_node.gateways import configuration
from broker_node.run import BrokerNode, open_store
from common import clock, messages
from common.errors import UsageError
from customer_node import Market
from customer_node.files import Target, Writer, spans
from merchant_node.home import MerchantHome, Profile
from merchant_node.run import MerchantNode
from mosquitto import Market as RealMarket
from mosquitto import make_market

DONE = {"delivered": 1, "refunded": 1}
QUARRELLED = {"delivered": 1, "refunded": 3}
"""Two more, one of which was called off and one disputed."""


# --- in memory -----------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, milliseconds in crashing.IMPATIENCE:
        monkeypatch.setattr(module, name, milliseconds)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[CrashingWorld]:
    made = CrashingWorld(tmp_path)
    yield made
    made.close()


def shop_through(world: CrashingWorld, name: str, *, quarrels: bool = False) -> None:
    """Shop until all is done, whatever it takes."""
    profile = world.join(name)
    homes = (world.broker_home, world.root / "merchants" / MERCHANT)
    with Market(profile, connect=world.connect, timeout_s=5.0) as market:
        shop(market, name, profile / "bought", quarrels=quarrels)
        if quarrels:
            make_up_after(homes, market, profile, lambda: world.pump(lambda: False, 0.02))
    pay_out(*homes, lambda: world.pump(lambda: False, 0.02))


def make_up_after(
    homes: tuple[Path, Path], market: Market, profile: Path, wait: Callable[[], object]
) -> None:
    """Let merchant and operator give in, and the customer take its money."""
    give_in(*homes, market, wait)
    make_up(market, profile / "bought")


def points(messages: Collection[str], moment: Moment) -> set[Point]:
    return {Point(message, moment) for message in messages}


@pytest.mark.parametrize(
    "moment",
    [MOMENTS[0], *(pytest.param(moment, marks=pytest.mark.exhaustive) for moment in MOMENTS[1:])],
)
def test_nodes_that_die_at_each_message(world: CrashingWorld, moment: Moment) -> None:
    world.deadly["broker"] |= points(BROKER_MESSAGES, moment)
    world.deadly[MERCHANT] |= points(MERCHANT_MESSAGES, moment)
    world.stop(MERCHANT)
    world.start_merchant(MERCHANT)
    shop_through(world, "alice", quarrels=True)
    assert not world.deadly["broker"] | world.deadly[MERCHANT], "points that no journey came to"
    world.close()
    assert check_books(world.homes()) == QUARRELLED


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.exhaustive) for seed in (1, 2))])
def test_a_customer_that_dies_again_and_again(world: CrashingWorld, seed: int) -> None:
    profile, lengths, died = world.join("alice"), Random(seed), 0  # noqa: S311 - to be repeated, not to be secret
    while not live(world, profile, lengths.randint(1, 15)) or still_open(profile):
        died += 1
    assert died > 5, "it lived too long for this test to mean anything"
    world.close()
    assert check_books(world.homes()) == DONE


def still_open(profile: Path) -> bool:
    with Market(profile) as market:
        return {order.state for order in market.orders()} != {"complete", "refunded"}


def live(world: CrashingWorld, profile: Path, step: int, *, quarrels: bool = False) -> bool:
    """Let a customer's process shop until a step; tells whether it came to its end before."""
    with Market(profile, connect=world.connect, timeout_s=5.0) as market:
        try:
            with stepping(market, last(step, crash)):
                shop(market, profile.name, profile / "bought", quarrels=quarrels)
        except Crash:
            return False
    return True


def die_at(world: CrashingWorld, step: int, *, quarrels: bool = False) -> bool:
    """Let a new customer die at a step and then go on; tells whether it died."""
    profile = world.join(f"customer{step}")
    survived = live(world, profile, step, quarrels=quarrels)
    if not survived:
        live(world, profile, 0, quarrels=quarrels)
    if quarrels:
        homes = (world.broker_home, world.root / "merchants" / MERCHANT)
        with Market(profile, connect=world.connect, timeout_s=5.0) as market:
            make_up_after(homes, market, profile, lambda: world.pump(lambda: False, 0.02))
    return not survived


def test_a_customer_that_dies_at_some_step(world: CrashingWorld) -> None:
    died = [die_at(world, step) for step in (3, 23, 43, 63)]
    assert all(died)
    world.close()
    assert check_books(world.homes()) == dict.fromkeys(DONE, len(died))


@pytest.mark.exhaustive
@pytest.mark.timeout(1200)
def test_a_customer_that_dies_at_each_step(world: CrashingWorld) -> None:
    step = 1
    while die_at(world, step, quarrels=True):
        step += 1
    world.close()
    assert check_books(world.homes()) == {end: step * count for end, count in QUARRELLED.items()}


@pytest.mark.exhaustive
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize(
    ("name", "message"),
    [("broker", each) for each in BROKER_MESSAGES] + [(MERCHANT, each) for each in MERCHANT_MESSAGES],
)
def test_a_node_that_dies_once(world: CrashingWorld, name: str, message: str, moment: Moment) -> None:
    world.deadly[name].add(Point(message, moment))
    world.stop(MERCHANT)
    world.start_merchant(MERCHANT)
    shop_through(world, "alice", quarrels=True)
    assert not world.deadly[name]
    world.close()
    assert check_books(world.homes()) == QUARRELLED


@pytest.mark.parametrize("message", ["PlaceOrder", "AnswerOrder"])
def test_a_broker_that_is_back_tells_at_once_what_it_owes(tmp_path: Path, message: str) -> None:
    world = CrashingWorld(tmp_path, "reforward_first_ms = 600000\n")
    try:
        world.deadly["broker"].add(Point(message, "after the commit"))
        world.stop("broker")
        world.start_broker()
        shop_through(world, "alice")
        assert not world.deadly["broker"]
    finally:
        world.close()
    assert check_books(world.homes()) == DONE


def test_a_file_that_died_with_two_names(tmp_path: Path) -> None:
    target = finished_part(tmp_path)
    os.link(target.part, target.path)  # and then the process was killed
    assert finish(target) == []
    assert [path.name for path in tmp_path.iterdir()] == ["route.bin"]
    assert target.path.read_bytes() == CONTENT[BOUGHT]


def test_a_file_whose_name_was_taken_meanwhile(tmp_path: Path) -> None:
    target = finished_part(tmp_path)
    target.path.write_bytes(b"somebody else's")
    with pytest.raises(UsageError, match="appeared"):
        finish(target)
    assert target.path.read_bytes() == b"somebody else's"
    assert target.part.read_bytes() == CONTENT[BOUGHT]


def finish(target: Target) -> list[Target]:
    with closing(Writer([target])) as writer:
        return writer.finish()


def finished_part(folder: Path) -> Target:
    data = CONTENT[BOUGHT]
    line = messages.ReceiptLine(
        sku=BOUGHT,
        title=BOUGHT,
        record=bytes(32),
        quantity=1,
        unit_price=77,
        discount=0,
        amount=77,
        tax=messages.Tax(rate=0, base=77, amount=0),
        file_name="route.bin",
        size=len(data),
        digest=hashlib.sha256(data).digest(),
        first_cell=0,
        cells=crashing.CELLS,
    )
    target = Target(spans(line, b"")[0], folder / line.file_name)
    target.part.write_bytes(data)
    return target


# --- real processes ------------------------------------------------------------------------------------


class MortalNode:
    """A broker or merchant process that kills itself at each of some points, and is then started again."""

    def __init__(self, kind: str, home: Path, points: Collection[Point] = ()) -> None:
        self.left = set(points)
        self.log = home.with_suffix(".log")
        self._command = [sys.executable, crashing.__file__, kind, str(home)]
        self._ready = threading.Event()
        self._lock = threading.Lock()
        self._stopping = False
        self._codes: list[int] = []
        self._thread = threading.Thread(target=self._live)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(30), self.log.read_text()
        return self

    def __exit__(self, *_: object) -> None:
        self._ready.wait(30)
        with self._lock:
            self._stopping = True
            self._process.terminate()
        self._thread.join(30)
        assert self._codes[-1] == 0
        assert set(self._codes[:-1]) <= {-signal.SIGKILL}, self.log.read_text()

    def _live(self) -> None:
        while not self._stopping:
            with self._lock, self.log.open("ab") as log:
                self._ready.clear()
                command = [*self._command, *map(str, self.left)]
                self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
            with self._process as process:
                for line in process.stdout or ():
                    if " ready" in line:
                        self._ready.set()
                    else:
                        self.left.discard(Point.parse(line.strip()))
            self._codes.append(process.returncode)
            if process.returncode != -signal.SIGKILL:
                self._ready.set()
                return


@dataclass
class RealWorld:
    """A market on real Mosquitto with TLS."""

    market: RealMarket
    merchant_home: Path
    customers: int = 0
    quarrelled: int = 0

    def join(self) -> Path:
        """A customer's profile, with an account that has money."""
        self.customers += 1
        name = f"customer{self.customers}"
        profile = self.market.root / "customers" / name
        Market.join(profile, self.market.report.market_path)
        store = open_store(self.market.report.broker_home)
        with store.immediate() as tx:
            accounts.add(tx, name, PASSWORD, clock.now_ms())
            accounts.credit(tx, name, FUNDS, clock.now_ms(), clock.random_bytes)
        store.close()
        return profile

    def check(self) -> None:
        """Every customer of this market got one thing, and the money back for the others."""
        profiles = sorted((self.market.root / "customers").iterdir())
        homes = Homes(self.market.report.broker_home, {MERCHANT: self.merchant_home}, profiles)
        expected = Counter({end: len(profiles) * count for end, count in DONE.items()})
        assert check_books(homes) == expected + Counter(refunded=2 * self.quarrelled)

    def nodes(self, broker: Collection[Point] = (), merchant: Collection[Point] = ()) -> Any:
        """Run both nodes until they have died at each of these points, and on."""
        return Nodes(
            MortalNode("broker", self.market.report.broker_home, broker),
            MortalNode("merchant", self.merchant_home, merchant),
        )

    def shop(
        self,
        at: Callable[[int], None] = lambda _step: None,
        *,
        quarrels: bool = False,
        profile: Path | None = None,
        pay: Callable[[Path, Path, Callable[[], object]], None] = pay_out,
    ) -> int:
        """Let a customer shop until all is done, whatever it takes; gives how many steps it took.

        `profile` is one that has begun to shop; `pay` is how the merchant gets its money.
        """
        profile = profile or self.join()
        homes = (self.market.report.broker_home, self.merchant_home)
        self.quarrelled += quarrels
        with Market(profile, timeout_s=20.0) as market, stepping(market, at) as steps:
            shop(market, profile.name, profile / "bought", quarrels=quarrels)
            if quarrels:
                make_up_after(homes, market, profile, lambda: time.sleep(0.05))
        pay(*homes, lambda: time.sleep(0.05))
        return steps.taken


@dataclass
class Nodes:
    broker: MortalNode
    merchant: MortalNode

    def __enter__(self) -> Self:
        self.broker.__enter__()
        self.merchant.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self.merchant.__exit__(*error)
        finally:
            self.broker.__exit__(*error)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealWorld]:
    root = tmp_path_factory.mktemp("real")
    with make_market(root, minimum_age_seconds=0) as market:
        (market.report.broker_home / "limits.toml").write_text(LIMITS)
        configuration.save(market.report.broker_home, "sandbox")
        home = market.merchant_home(MERCHANT)
        MerchantHome(home).join(market.file, Profile(name="Sports"))
        node = MerchantNode.open(home)
        stock_shop(node.inventory, root / "originals")
        node.close()
        BrokerNode.open(market.report.broker_home).close()
        yield RealWorld(market, home)


# One of each leg: the exhaustive set has all of them.
BROKER_DIES = (
    Point("TopUp", "after the commit"),
    Point("Signed of Swap", "before the commit"),
    Point("AnswerOrder", "before the commit"),
    Point("Signed of ClaimRefund", "after the commit"),
    Point("RequestPayout", "after the commit"),
)
MERCHANT_DIES = (
    Point("PayoutAnswer", "before the commit"),
    Point("ForwardOrder", "after the commit"),
)


def test_nodes_that_are_killed(real: RealWorld) -> None:
    with real.nodes(BROKER_DIES, MERCHANT_DIES) as nodes:
        profile = real.join()
        assert live_in_a_process(profile, 30) == -signal.SIGKILL
        real.shop(quarrels=True, profile=profile)
        assert not nodes.broker.left | nodes.merchant.left
        real.check()


@pytest.mark.exhaustive
@pytest.mark.timeout(600)
@pytest.mark.parametrize("moment", MOMENTS)
def test_nodes_that_are_killed_at_each_message(real: RealWorld, moment: Moment) -> None:
    with real.nodes(points(BROKER_MESSAGES, moment), points(MERCHANT_MESSAGES, moment)) as nodes:
        real.shop(quarrels=True)
        assert not nodes.broker.left | nodes.merchant.left
        real.check()


def bus_dies(real: RealWorld, dies: Callable[[int], bool]) -> Callable[[int], None]:
    def at(step: int) -> None:
        if dies(step):
            real.market.mosquitto.end(signal.SIGKILL)
            real.market.mosquitto.start()

    return at


@pytest.mark.exhaustive
def test_a_bus_that_is_killed(real: RealWorld) -> None:
    with real.nodes():
        assert real.shop(bus_dies(real, lambda step: step % 12 == 0)) > 50
        real.check()


@pytest.mark.exhaustive
@pytest.mark.timeout(1200)
def test_a_bus_that_is_killed_at_each_step(real: RealWorld) -> None:
    with real.nodes():
        step = 1
        while real.shop(bus_dies(real, step.__eq__)) >= step:
            step += 1
        real.check()


@pytest.mark.exhaustive
def test_a_customer_that_is_killed(real: RealWorld) -> None:
    with real.nodes():
        assert lives(real, iter((7, 12, 14, 9))) == [-signal.SIGKILL] * 4 + [0]
        real.check()


@pytest.mark.exhaustive
@pytest.mark.timeout(1200)
def test_a_customer_that_is_killed_at_each_step(real: RealWorld) -> None:
    with real.nodes():
        step, codes = 1, [-signal.SIGKILL]
        while codes[0] != 0:
            codes = lives(real, iter((step,)))
            step += 1
        real.check()


def lives(real: RealWorld, lengths: Iterator[int]) -> list[int]:
    """Let a customer live in processes of these lengths, and then as long as it likes; gives exit codes."""
    profile, codes = real.join(), []
    while not codes or codes[-1] != 0:
        codes.append(live_in_a_process(profile, next(lengths, 0)))
    return codes


def live_in_a_process(profile: Path, step: int) -> int:
    """Let a customer's process shop until a step, 0 for its end; gives its exit code."""
    return run_crashing("customer", profile, profile / "bought", step, profile.name)


def run_crashing(*words: object) -> int:
    command = [sys.executable, crashing.__file__, *map(str, words)]
    return subprocess.run(command, check=False, stdout=subprocess.DEVNULL, timeout=60).returncode


@pytest.mark.exhaustive
def test_a_payout_whose_commands_are_killed_at_each_step(real: RealWorld) -> None:
    """What was asked for or confirmed before the kill is so, once, and nothing else is."""

    def pay(broker_home: Path, merchant_home: Path, wait: Callable[[], object]) -> None:
        with MerchantHome(merchant_home).treasury() as treasury:
            before = len(treasury.payouts())
            until(lambda: treasury.balance().available > 0 and not treasury.balance().pending, wait)
            asked = codes_of("merchant", "payout", "--all", "--to", "here", "--yes", "--home", merchant_home)
            assert asked == [-signal.SIGKILL] * (len(asked) - 1) + [4]
            until(lambda: treasury.payouts()[-1].state == "requested", wait)
            assert len(treasury.payouts()) == before + 1
            payout = treasury.payouts()[-1].payout_id.hex()
            words = (
                "broker",
                "payout",
                "confirm",
                payout,
                "--reason",
                "paid",
                "--yes",
                "--home",
                broker_home,
            )
            assert codes_of(*words) == [-signal.SIGKILL] * 2 + [4]
            until(lambda: treasury.payouts()[-1].state == "confirmed", wait)

    with real.nodes():
        real.shop(pay=pay)
        real.check()


def codes_of(*words: object) -> list[int]:
    """Run a command again and again, each time one step further; gives its exit codes until it lives."""
    codes = [-signal.SIGKILL]
    while codes[-1] == -signal.SIGKILL:
        codes.append(run_crashing("command", len(codes), *words))
    return codes[1:]
