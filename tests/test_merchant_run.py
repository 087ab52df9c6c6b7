"""The merchant as it runs: real Mosquitto over TLS, a real broker, started and ended in any order."""

from __future__ import annotations

import contextlib
import hashlib
import json
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from broker_node.run import run_broker
from common import cards, clock, topics
from common.config import MINUTE_MS
from common.errors import BusyError, UntrustedError, UsageError
from common.presence import Presence, read_presence
from merchant_node.home import MerchantHome, Profile
from merchant_node.run import MerchantNode, run_merchant
from mosquitto import Client, Market, free_ports, make_market
from veilmart.init import init_market

MERCHANT = "sports"
WAIT_SECONDS = 20.0


class Running:
    """A node in a thread."""

    def __init__(self, run: Callable[..., None], home: Path) -> None:
        self.lines: queue.Queue[str] = queue.Queue()
        self.failure: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(run, home))
        self._thread.start()

    def _work(self, run: Callable[..., None], home: Path) -> None:
        try:
            run(home, self._stop, self.lines.put)
        except BaseException as error:  # noqa: BLE001 - raised again where the test waits
            self.failure = error

    def ready(self) -> str:
        return self.lines.get(timeout=WAIT_SECONDS)

    def end(self) -> None:
        self._stop.set()
        self._thread.join(WAIT_SECONDS)
        assert not self._thread.is_alive()
        if self.failure is not None:
            raise self.failure


@contextlib.contextmanager
def running(run: Callable[..., None], home: Path) -> Iterator[Running]:
    node = Running(run, home)
    try:
        yield node
    finally:
        node.end()


def merchant_home(market: Market) -> Path:
    home = market.merchant_home(MERCHANT)
    MerchantHome(home).join(market.file, Profile(name='Sports "R" us \\ München', description="a\nb\x7f"))
    return home


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    with make_market(tmp_path_factory.mktemp("market")) as made:
        yield made


def retained(customer: Client, topic: str, wanted: Callable[[bytes], Any]) -> Any:
    """Give the first payload of `topic` that is wanted."""
    while True:
        arrived_topic, payload = customer._messages.get(timeout=WAIT_SECONDS)
        if arrived_topic == topic and wanted(payload):
            return payload


def test_it_survives_every_order_of_start_and_end(market: Market) -> None:
    home, status, card = (
        merchant_home(market),
        topics.merchant_status(MERCHANT),
        topics.merchant_card(MERCHANT),
    )
    market.mosquitto.end()
    with running(run_merchant, home) as merchant:
        market.mosquitto.start()
        with running(run_broker, market.report.broker_home) as broker:
            broker.ready()
            assert merchant.ready() == f'merchant ready: {MERCHANT} (Sports "R" us \\ München)'
            with market.customer() as customer:
                customer.subscribe(status)
                customer.subscribe(card)
                online = read_presence(retained(customer, status, bool))
                assert online.state == "online"
                assert online.since is not None
                assert online.since % MINUTE_MS == 0
                shown = cards.open_merchant_card(
                    retained(customer, card, bool),
                    market.file.ca_der,
                    market.file.market_id,
                    MERCHANT,
                    clock.now_ms(),
                )
                assert shown.body.description == "a\nb\x7f"
            market.mosquitto.end(signal.SIGKILL)
            for lost in (market.report.bus_home / "data").iterdir():
                lost.unlink()
            market.mosquitto.start()
            with market.customer() as customer:
                customer.subscribe(status)
                customer.subscribe(card)
                assert read_presence(retained(customer, status, bool)).state == "online"
                assert retained(customer, card, bool)
        merchant.end()
        with market.customer() as customer:
            customer.subscribe(status)
            last = retained(customer, status, lambda payload: read_presence(payload).state == "offline")
            assert read_presence(last).since is not None


def test_everybody_hears_of_its_prekeys(market: Market) -> None:
    home = market.merchant_home("maps")
    MerchantHome(home).join(market.file, Profile(name="Maps"))
    topic, card = topics.audit_event("key.announced"), topics.merchant_card("maps")
    heard: set[str] = set()

    def note(payload: bytes) -> bool:
        events = json.loads(payload)
        data = [event["data"] for event in (events if isinstance(events, list) else [events])]
        heard.update(each["commitment"] for each in data if each["owner"] == "maps")
        return heard >= shown

    with (
        market.customer() as listener,
        market.customer() as customer,
        contextlib.ExitStack() as nodes,
    ):
        listener.subscribe(topic)
        nodes.enter_context(running(run_broker, market.report.broker_home)).ready()
        nodes.enter_context(running(run_merchant, home))
        customer.subscribe(card)
        body = cards.open_merchant_card(
            retained(customer, card, bool),
            market.file.ca_der,
            market.file.market_id,
            "maps",
            clock.now_ms(),
        ).body
        keys = [*body.browse_prekeys, *body.order_prekeys]
        shown = {hashlib.sha256(key.public).hexdigest() for key in keys}
        retained(listener, topic, note)
        assert heard >= shown


def test_as_a_process_it_says_one_line_and_stops_on_sigterm(market: Market) -> None:
    home = merchant_home(market)
    with (
        running(run_broker, market.report.broker_home) as broker,
        subprocess.Popen(
            [sys.executable, "-m", "merchant_node", str(home)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process,
    ):
        broker.ready()
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith(b"merchant ready: sports")
            with pytest.raises(BusyError):
                run_merchant(home, threading.Event(), print)
        finally:
            process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=WAIT_SECONDS)
    assert (process.returncode, out) == (0, b"")
    logs = [json.loads(line) for line in err.splitlines()]
    assert [log["event"] for log in logs] == ["started", "session open", "stopped"]
    identity = (home / "identity.key").read_bytes().splitlines()[1]
    assert identity not in err


def test_killed_it_is_offline_by_its_last_will(market: Market) -> None:
    home = merchant_home(market)
    status = topics.merchant_status(MERCHANT)
    with running(run_broker, market.report.broker_home) as broker, market.customer() as customer:
        broker.ready()
        customer.subscribe(status)
        with subprocess.Popen(
            [sys.executable, "-m", "merchant_node", str(home)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline()
            process.kill()
        will = retained(customer, status, lambda payload: read_presence(payload).since is None)
        assert read_presence(will) == Presence(state="offline")


def test_what_is_wrong_with_a_home_is_said(market: Market, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"merchant\.toml|market file"):
        MerchantNode.open(tmp_path)
    home = merchant_home(market)
    (home / "merchant.toml").write_text('name = ""\n')
    with pytest.raises(UsageError, match="name"):
        MerchantNode.open(home)
    (home / "merchant.toml").write_text('name = "x"\nnoise = 1\n')
    with pytest.raises(UsageError, match="noise"):
        MerchantNode.open(home)
    merchant_home(market)
    public, nodes = free_ports(2)
    other = init_market(tmp_path / "other", public_port=public, node_port=nodes, now_ms=clock.now_ms())
    other.market.save(home / "market.json")
    with pytest.raises(UntrustedError, match="does not hold"):
        MerchantNode.open(home)
    merchant_home(market)
    (home / "identity.crt").rename(home / "kept")
    with pytest.raises(UsageError, match="cannot read the certificate"):
        MerchantNode.open(home)
    (home / "identity.crt").write_bytes((market.report.broker_home / "identity.crt").read_bytes())
    with pytest.raises(UntrustedError):
        MerchantNode.open(home)
    (home / "kept").replace(home / "identity.crt")


def test_private_files_are_private(market: Market) -> None:
    home = merchant_home(market)
    node = MerchantNode.open(home)
    node.close()
    for name in ("identity.key", "merchant.db", *(path.name for path in home.glob("client-id-*"))):
        assert (home / name).stat().st_mode & 0o777 == 0o600
    assert len(list(home.glob("client-id-*"))) == 2
