"""Many customers at once, over real Mosquitto with TLS, a broker and two merchants, each a process."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from crashing import Homes, check_books
from crowd import BUNDLES, MERCHANTS, PASSWORD, PRODUCTS, Customer, Product, crowd

from broker_node import accounts
from broker_node.run import open_store
from common import clock, coins
from common.keys import PRIVATE_FILE_MODE, replace_file
from customer_node import Market
from customer_node.profile import SEED_FILE
from merchant_node.home import MerchantHome, Profile
from merchant_node.run import MerchantNode
from mosquitto import Market as RealMarket
from mosquitto import make_market
from veilmart.processes import NodeProcess, running


def make_merchant(market: RealMarket, merchant: str) -> Path:
    home = market.merchant_home(merchant)
    MerchantHome(home).join(market.file, Profile(name=f"The {merchant} shop"))
    node = MerchantNode.open(home)
    for product in (Product(number) for number in range(PRODUCTS)):
        if product.merchant == merchant:
            path = home / f"{product.sku}.bin"
            path.write_bytes(product.content)
            node.inventory.add(path, product.sku, title=product.sku, price=product.price)
    node.close()
    return home


def join_all(market: RealMarket, count: int, orders: int) -> list[Customer]:
    """Profiles with wallets and accounts of their own; the migration and the hash are made once."""
    template = market.root / "template"
    Market.join(template, market.report.market_path)
    hashed = accounts.HASHER.hash(PASSWORD)
    customers = [Customer(number, market.root / f"customer{number}", orders) for number in range(count)]
    store = open_store(market.report.broker_home)
    with store.immediate() as tx:
        for customer in customers:
            shutil.copytree(template, customer.profile)
            seed = clock.random_bytes(coins.SEED_BYTES)
            replace_file(customer.profile / SEED_FILE, seed, mode=PRIVATE_FILE_MODE)
            accounts.create(tx, customer.name, hashed, clock.now_ms())
            funds = BUNDLES * sum(coins.BUNDLE)
            accounts.credit(tx, customer.name, funds, clock.now_ms(), clock.random_bytes)
    store.close()
    return customers


def shop_all(customers: Sequence[Customer], processes: int) -> list[int]:
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        done = pool.map(crowd, [customers[number::processes] for number in range(processes)])
        return [right for each in done for right in each]


def shop_and_check(root: Path, count: int, orders: int, processes: int) -> None:
    with make_market(root, minimum_age_seconds=0) as market:
        broker_home, log = market.report.broker_home, root / "logs"
        merchants = {merchant: make_merchant(market, merchant) for merchant in MERCHANTS}
        nodes = [
            NodeProcess("broker", ["broker", "run", "--home", str(broker_home)], log / "broker"),
            *(
                NodeProcess(name, ["merchant", "run", "--home", str(home)], log / name)
                for name, home in merchants.items()
            ),
        ]
        with running(nodes):
            customers = join_all(market, count, orders)
            assert shop_all(customers, processes) == [orders] * count
        homes = Homes(broker_home, merchants, [customer.profile for customer in customers])
        assert check_books(homes, content={Product(n).sku: Product(n).content for n in range(PRODUCTS)}) == {
            "delivered": count * orders
        }


def test_many_at_once(tmp_path: Path) -> None:
    shop_and_check(tmp_path, count=6, orders=2, processes=2)


@pytest.mark.exhaustive
@pytest.mark.timeout(600)
def test_a_thousand_orders(tmp_path: Path) -> None:
    shop_and_check(tmp_path, count=100, orders=10, processes=4)
