"""Sets up a whole market below one folder and runs its nodes: Mosquitto, a broker and two merchants.

    state/market/      what `veilmart init` makes: ca/ broker/ bus/ market.json
    state/merchants/   sports/ archive/
    state/customers/   one profile each
    state/goods/       the files that are sold, kept from one run to the next
    state/logs/        one log per node

Everything but the goods is made anew at each run.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from broker_node import administration
from broker_node.gateways import configuration
from broker_node.run import BrokerNode
from common import clock
from common.errors import BusyError
from common.market_file import MarketFile
from merchant_node.home import Profile
from veilmart import ca
from veilmart.cli.broker_store import broker_store
from veilmart.demo.goods import ARCHIVE, SPORTS, Goods, make_files
from veilmart.demo.recorder import RECORDER, Recorder
from veilmart.demo.stock import stock
from veilmart.init import InitReport, init_market
from veilmart.processes import NodeProcess, running

SHOPS: dict[str, tuple[str, str, tuple[Goods, ...]]] = {
    "sports": ("Sports shop", "Training plans, routes and photos.", SPORTS),
    "archive": ("Sound archive", "Uncompressed field recordings.", ARCHIVE),
}
REASON = "the demo"
"""Why the operator does here what he does."""
MADE_ANEW = ("market", "merchants", "customers", "logs", "bought", "passwords")


@dataclass(frozen=True)
class DemoMarket:
    """A market that runs."""

    state: Path
    report: InitReport
    files: dict[str, Path]
    recorder: Recorder

    @property
    def market_path(self) -> Path:
        """The market file."""
        return self.report.market_path

    def merchant_home(self, merchant: str) -> Path:
        """Give a merchant's home."""
        return self.state / "merchants" / merchant

    def profile(self, name: str) -> Path:
        """Give a customer's profile."""
        return self.state / "customers" / name

    def fund(self, name: str, amount: int) -> None:
        """Grant an account a balance in minor units, as the operator does."""
        with broker_store(self.report.broker_home) as desk:
            now, random = clock.now_ms(), clock.random_bytes
            administration.credit(desk.tx, desk.audit, name, amount, REASON, now, random)


@contextmanager
def demo_market(state: Path, say: Callable[[str], None]) -> Iterator[DemoMarket]:
    """Make a market in `state` and run it. Raises `BusyError` while another demo runs there."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = FileLock(state / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise BusyError(f"Another demo runs in {state}.", "End it, or choose another --state.") from error
    try:
        for name in MADE_ANEW:
            shutil.rmtree(state / name, ignore_errors=True)
        with _running(state, say) as market:
            yield market
    finally:
        lock.release()


@contextmanager
def _running(state: Path, say: Callable[[str], None]) -> Iterator[DemoMarket]:
    say("making the files that the shops sell")
    files = make_files(SPORTS, state / "goods") | make_files(ARCHIVE, state / "goods")
    say("making the market: CA, broker, bus, coin keys")
    public_port, node_port = _free_ports()
    report = init_market(
        state / "market",
        public_port=public_port,
        node_port=node_port,
        minimum_age_seconds=0,
        now_ms=clock.now_ms(),
    )
    configuration.save(report.broker_home, "sandbox")
    BrokerNode.open(report.broker_home).close()
    certify(report, state / "merchants" / RECORDER, RECORDER)
    Recorder.admit(report.bus_home)
    for merchant, (name, description, goods) in SHOPS.items():
        say(f"making {name} and putting {len(goods)} products on sale")
        home = state / "merchants" / merchant
        certify(report, home, merchant)
        Profile(name=name, description=description).save(home / "merchant.toml")
        stock(home, goods, files)
    say("starting Mosquitto, the broker and two merchants")
    with running(_nodes(state, report)), ExitStack() as stack:
        recorder = stack.enter_context(
            Recorder.listening(MarketFile.load(report.market_path), state / "merchants" / RECORDER)
        )
        yield DemoMarket(state, report, files, recorder)


def _nodes(state: Path, report: InitReport) -> list[NodeProcess]:
    logs = state / "logs"
    return [
        NodeProcess("bus", ["bus", "run", "--home", str(report.bus_home)], logs / "bus.log"),
        NodeProcess("broker", ["broker", "run", "--home", str(report.broker_home)], logs / "broker.log"),
        *(
            NodeProcess(
                merchant,
                ["merchant", "run", "--home", str(state / "merchants" / merchant)],
                logs / f"{merchant}.log",
            )
            for merchant in SHOPS
        ),
    ]


def certify(report: InitReport, home: Path, name: str) -> None:
    """Do what a merchant and the CA's operator do: key, request, certificate, market file."""
    request = ca.make_request(home, name)
    pem = ca.sign_csr(report.ca_home, request, name, now_ms=clock.now_ms())
    ca.install_certificate(home, pem, report.market.ca(), now_ms=clock.now_ms())
    report.market.save(home / "market.json")


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]
