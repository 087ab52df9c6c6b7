"""Restoring with real processes over a real Mosquitto: killed again and again, it brings the same balance."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from world import PATIENCE_S

from broker_node import accounts, schema
from broker_node.run import open_store
from common import clock
from customer_node import Market
from merchant_node.home import MerchantHome, Profile
from merchant_node.run import MerchantNode
from mosquitto import Market as RealMarket
from mosquitto import make_market
from veilmart.processes import NodeProcess, running

NAME, PASSWORD = "alice", "a long enough password"
LIMITS = "totals_minimum_orders = 1\ntotals_period_ms = 200\n"
PRICES = {"PLAN": 1234, "ROUTE": 77}


def stock(market: RealMarket, folder: Path) -> Path:
    home = market.merchant_home("sports")
    MerchantHome(home).join(market.file, Profile(name="Sports"))
    node = MerchantNode.open(home)
    for sku, price in PRICES.items():
        path = folder / f"{sku}.bin"
        path.write_bytes(sku.encode() * 100)
        node.inventory.add(path, sku, title=sku, price=price)
    node.close()
    return home


def fund(market: RealMarket, amount: int) -> None:
    with closing(open_store(market.report.broker_home)) as store, store.immediate() as tx:
        accounts.credit(tx, NAME, amount, clock.now_ms(), clock.random_bytes)


def published(market: RealMarket) -> None:
    """Wait until all that is spent stands in the public set."""
    deadline = time.monotonic() + PATIENCE_S
    waiting = sa.select(sa.func.count()).select_from(schema.spent).where(schema.spent.c.published.is_(None))
    due = sa.select(sa.func.count()).select_from(schema.spent_chunks).where(schema.spent_chunks.c.due == 1)
    with closing(open_store(market.report.broker_home)) as store:
        while time.monotonic() < deadline:
            with store.immediate() as tx:
                if not tx.scalar(waiting) and not tx.scalar(due):
                    return
            time.sleep(0.1)
    raise AssertionError("the spent set was not published")


def live(market: RealMarket, profile: Path) -> tuple[list[str], int]:
    """Buy, with change; gives the words and what is left."""
    Market.join(profile, market.report.market_path)
    with Market(profile, timeout_s=PATIENCE_S) as customer:
        customer.sign_up(NAME, PASSWORD)
        fund(market, 4000)
        customer.withdraw(2)
        for sku in ("PLAN", "ROUTE", "ROUTE"):
            customer.buy_now("sports", sku)
        held = customer.wallet()
        # An open visit has spent its ticket already; the order's coins are spent with the order.
        published(market)
        return customer.words(), held.usable


def command(environment: dict[str, str], *words: str | Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "veilmart", *map(str, words), "--json"],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def killed_again_and_again(environment: dict[str, str], words: tuple[str | Path, ...]) -> tuple[Any, int]:
    """Kill the command after a little longer each time, until it comes to its end; gives what it said."""
    for killed in range(100):
        with command(environment, *words) as process:
            try:
                out, _ = process.communicate(timeout=0.8 * 1.6**killed)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                continue
        return json.loads(out), killed
    raise AssertionError("it never ended")


@pytest.mark.exhaustive
def test_kill_and_restore_again_until_it_is_back(tmp_path: Path) -> None:
    with make_market(tmp_path, minimum_age_seconds=0) as market:
        (market.report.broker_home / "limits.toml").write_text(LIMITS)
        home, logs = stock(market, tmp_path), tmp_path / "logs"
        broker = ["broker", "run", "--home", str(market.report.broker_home)]
        nodes = [
            NodeProcess("broker", broker, logs / "broker.log"),
            NodeProcess("sports", ["merchant", "run", "--home", str(home)], logs / "sports.log"),
        ]
        with running(nodes):
            words, before = live(market, tmp_path / "old")
            shutil.rmtree(tmp_path / "old")
            (tmp_path / "words").write_text(" ".join(words))
            (tmp_path / "password").write_text(PASSWORD)
            environment = {
                "VEILMART_PROFILE": str(tmp_path / "new"),
                "VEILMART_KEY_FILE": str(tmp_path / "key"),
            }
            files = ("--words-file", tmp_path / "words", "--password-file", tmp_path / "password")
            said, killed = killed_again_and_again(
                environment, ("wallet", "restore", market.report.market_path, NAME, *files)
            )
            assert said["ok"], said
            assert said["data"]["complete"]
            assert killed > 0
            with command(environment, "wallet", "show") as process:
                shown = json.loads(process.communicate()[0])
            assert shown["data"]["usable"] == before
            with command(environment, "buy", "sports", "PLAN", "--yes") as process:
                bought = json.loads(process.communicate()[0])
            assert bought["ok"], bought
