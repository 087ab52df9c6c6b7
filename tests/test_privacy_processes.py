"""The same over a real Mosquitto, with nodes as processes: what they print, and what Mosquitto keeps.

`test_privacy.py` sees each message as it passes; here it is the stderr of every process, Mosquitto's log,
and the file in which it saves its state.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from profile_rows import profile_rows
from visits import ALICE, GOODS, PEOPLE, PIECE, PLACES, WRONG_PASSWORD, Values
from world import PATIENCE_S

from broker_node import accounts
from broker_node.run import BrokerNode
from common import clock, codec, messages, topics
from common.errors import AuthenticationError
from customer_node import Market
from customer_node.orders import Secrets
from customer_node.schema import order_secrets, visits
from merchant_node.home import Profile
from merchant_node.run import MerchantNode
from mosquitto import Market as RealMarket
from mosquitto import make_market
from veilmart.evidence import Evidence
from veilmart.processes import NodeProcess, running

PRODUCT = GOODS[0]


def stock(market: RealMarket, folder: Path) -> Path:
    home = market.merchant_home("sports")
    market.file.save(home / "market.json")
    Profile(name="Sports").save(home / "merchant.toml")
    path = folder / PRODUCT.file_name
    path.write_bytes(PRODUCT.content)
    node = MerchantNode.open(home)
    try:
        node.inventory.add(path, PRODUCT.sku, title=PRODUCT.title, price=PRODUCT.price)
    finally:
        node.close()
    return home


def fund(market: RealMarket) -> None:
    node = BrokerNode.open(market.report.broker_home)
    try:
        with node.store.immediate() as tx:
            accounts.credit(tx, ALICE, 5000, clock.now_ms(), clock.random_bytes)
    finally:
        node.close()


def shop(market: RealMarket, profile: Path, bought: Path) -> None:
    Market.join(profile, market.report.market_path)
    with Market(profile, timeout_s=PATIENCE_S) as customer:
        customer.sign_up(ALICE, PEOPLE[ALICE])
        customer.log_out()
        with pytest.raises(AuthenticationError):
            customer.log_in(ALICE, WRONG_PASSWORD)
        customer.log_in(ALICE, PEOPLE[ALICE])
        fund(market)
        customer.withdraw()
        order = customer.buy_now("sports", PRODUCT.sku)
        (file,) = customer.download(order.order_id, bought)
        assert file.path.read_bytes() == PRODUCT.content
        customer.log_out()


def secrets_of(profile: Path) -> Values:
    """Give the secrets of one purchase."""
    pieces = [PRODUCT.content[int(place * len(PRODUCT.content)) :][:PIECE] for place in PLACES]
    values: Values = {"name": ALICE, "password": PEOPLE[ALICE], "wrong password": WRONG_PASSWORD}
    values |= {"SKU": PRODUCT.sku, "title": PRODUCT.title, "file name": PRODUCT.file_name}
    values |= {f"content {n}": piece for n, piece in enumerate(pieces)}
    values["seed"] = (profile / "seed").read_bytes()
    held = order_secrets.c
    ((order_id, place_order, secret, answer_secret),) = profile_rows(
        profile, held.order_id, held.place_order, held.secret, held.answer_secret
    )
    order = codec.Codec[messages.PlaceOrder](messages.PlaceOrder).unpack(place_order)
    values |= {f"serial {n}": coin.serial for n, coin in enumerate(order.coins)}
    values |= {"order id": order_id, "order secret": secret, "answer secret": answer_secret}
    values |= {name: getattr(Secrets.of(secret), name) for name in ("claim", "status", "fetch")}
    ((session, keys),) = profile_rows(profile, visits.c.session, visits.columns["keys"])
    return values | {"session keys": keys[8:40], "session id": session}


def test_processes_and_mosquitto_keep_no_secret(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    profile, logs = tmp_path / "profile", tmp_path / "logs"
    with make_market(tmp_path, minimum_age_seconds=0) as market:
        merchant_home = stock(market, tmp_path)
        nodes = [
            NodeProcess(
                "broker", ["broker", "run", "--home", str(market.report.broker_home)], logs / "broker.log"
            ),
            NodeProcess("sports", ["merchant", "run", "--home", str(merchant_home)], logs / "sports.log"),
        ]
        with running(nodes):
            shop(market, profile, tmp_path / "bought")
    printed = capfd.readouterr()

    values = secrets_of(profile)
    kept = Evidence("logs")
    for path in sorted(logs.iterdir()):
        kept.add(path.name, path.read_bytes())
    kept.add("what the customer's process printed", printed.out + printed.err)
    assert b"session open" in (logs / "sports.log").read_bytes()
    assert kept.search(values) == []

    bus = Evidence("bus")
    bus.add_home(market.report.bus_home)
    assert bus.search(values) == []
    # What it does keep is found there: the retained card of the broker.
    assert "file mosquitto.db" in {each.place for each in bus.search({"topic": topics.broker_card()})}
