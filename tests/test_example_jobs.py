"""The longer examples, run as a script author runs them: many orders, a watch, a mirror, a bot."""

from __future__ import annotations

import csv
import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from readme import ROOT
from real_market import PASSWORD, RealMarket, call
from test_examples import folder

__all__ = ["folder"]  # a fixture

CHEAP = 3


def example(name: str, folder: Path, *words: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    return call(sys.executable, ROOT / "examples" / name, *words, folder=folder, **more)


def shop(market: RealMarket, *words: str | Path) -> Any:
    return market.ran("merchant", "product", *words).data


# --- many orders ---------------------------------------------------------------------------------------


def orders_file(folder: Path, rows: Sequence[tuple[str, str, int]]) -> Path:
    """Write key, SKU and quantity of each row."""
    path = folder / "orders.csv"
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["key", "merchant", "sku", "quantity"])
        lines.writerows([key, "sports", sku, quantity] for key, sku, quantity in rows)
    return path


def buy_many(market: RealMarket, folder: Path, *words: str) -> tuple[int, str]:
    ran = call(
        sys.executable,
        ROOT / "examples/buy_many.py",
        "orders.csv",
        *words,
        folder=folder,
        patience_s=600,
        VEILMART_USER=folder.name,
        VEILMART_PASSWORD=PASSWORD,
    )
    assert ran.stderr == ""
    return ran.returncode, ran.stdout


def failures(folder: Path) -> list[tuple[str, str]]:
    with (folder / "orders.failed.csv").open(newline="") as file:
        return [(row["key"], row["code"]) for row in csv.DictReader(file)]


def sold(market: RealMarket, sku: str) -> int:
    """How many of a product the merchant has sold."""
    takings = market.ran("merchant", "sales").data["takings"]
    return sum(each["quantity"] for each in takings if each["sku"] == sku)


def held_by_the_broker(market: RealMarket) -> tuple[int, int]:
    """How many orders the broker knows, and what they brought the merchant; its books are right."""
    checked = market.ran("broker", "ledger", "check").data
    assert checked["faults"] == []
    with closing(sqlite3.connect(f"file:{market.home}/broker/broker.db?mode=ro", uri=True)) as store:
        (count,) = store.execute("SELECT count(*) FROM orders").fetchone()
    return count, checked["books"].get("pending:sports", 0)


def everything_once(market: RealMarket, folder: Path, count: int, at_once: int) -> None:
    sku = f"CHEAP-{count}"
    (folder / "cheap.md").write_text("a page")
    shop(market, "add", folder / "cheap.md", "--sku", sku, "--title", "A page", "--price", "0.03")
    rows = [(f"row {n}", sku, 1 + n % 3) for n in range(count)]
    copies = sum(quantity for *_, quantity in rows)
    market.account(folder.name, "200.00")
    orders_file(folder, rows)
    orders, pending = held_by_the_broker(market)
    words = ("--market", str(market.market_file), "--at-once", str(at_once))
    expected = [(0, f"{count} rows: {count} bought, 0 bought before, 0 failed\n")]
    # The second time with another number of profiles: each row still goes to the one that knows it.
    expected += [(0, f"{count} rows: 0 bought, {count} bought before, 0 failed\n")]
    assert [buy_many(market, folder, *words)] == expected[:1]
    after = held_by_the_broker(market)
    assert [buy_many(market, folder, *words[:-1], str(at_once + 1))] == expected[1:]
    assert held_by_the_broker(market) == after == (orders + count, pending + CHEAP * copies)
    assert sold(market, sku) == copies
    assert failures(folder) == []
    shop(market, "remove", sku)


def test_a_dozen_orders_each_of_them_once(real_market: RealMarket, folder: Path) -> None:
    everything_once(real_market, folder, 12, 2)


@pytest.mark.exhaustive
@pytest.mark.timeout(900)
def test_a_thousand_orders_each_of_them_once(real_market: RealMarket, folder: Path) -> None:
    everything_once(real_market, folder, 1000, 4)


@pytest.mark.exhaustive
def test_what_fails_is_in_a_file_that_can_be_run_by_itself(real_market: RealMarket, folder: Path) -> None:
    (folder / "rare.md").write_text("a page")
    words = ("--title", "A page", "--price", "0.03", "--stock", "1")
    shop(real_market, "add", folder / "rare.md", "--sku", "RARE", *words)
    real_market.account(folder.name, "20.00")
    path = orders_file(folder, [("first", "RARE", 1), ("second", "RARE", 1), ("third", "NOTHING", 1)])
    market = ("--market", str(real_market.market_file), "--at-once", "1")
    code, printed = buy_many(real_market, folder, *market)
    assert (code, printed) == (4, "3 rows: 1 bought, 0 bought before, 2 failed\n")
    assert failures(folder) == [("second", "out_of_stock"), ("third", "not_found")]
    shop(real_market, "edit", "RARE", "--stock", "5")
    (folder / "orders.failed.csv").replace(path)
    assert buy_many(real_market, folder)[1] == "2 rows: 1 bought, 0 bought before, 1 failed\n"
    assert sold(real_market, "RARE") == 2
    shop(real_market, "remove", "RARE")

    path.write_text("key,merchant,sku,quantity\na,sports,RARE,1\na,sports,RARE,2\n")
    wrong = example("buy_many.py", folder, "orders.csv")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "line 3: the key 'a' stands for another row" in wrong.stderr


# --- watch ---------------------------------------------------------------------------------------------


def test_watching_an_order(real_market: RealMarket, folder: Path) -> None:
    profile = real_market.customer(folder / "profile" / folder.name)
    assert real_market.ran("buy", "sports", "PLAN-10K", "--yes", profile=profile).code == 0
    ran = example("watch.py", folder, "--profile", profile, "--to", "bought", "--json")
    assert (ran.returncode, ran.stderr) == (0, "")
    events = [json.loads(line) for line in ran.stdout.splitlines()]
    assert list(dict.fromkeys(event["event"] for event in events)) == ["accepted", "downloading", "complete"]
    assert events[-2]["bytes_done"] == events[-2]["size"]
    assert events[-1]["files"] == [str(folder / "bought" / "plan.md")]


@pytest.mark.exhaustive
def test_watching_as_a_person_does(real_market: RealMarket, folder: Path) -> None:
    profile = real_market.customer(folder / "profile" / folder.name)
    nothing = example("watch.py", folder, "--profile", profile)
    assert (nothing.returncode, nothing.stdout) == (3, "")
    order = real_market.ran("buy", "sports", "PLAN-10K", "--yes", profile=profile).data["orders"][0]
    with real_market.without("merchant"):
        away = example("watch.py", folder, order["order_id"][:8], "--timeout", "1", "--profile", profile)
    assert away.returncode == 27
    assert re.fullmatch(r"timeout: .* nothing was heard of the merchant in time\..*\n", away.stderr)
    assert "  waiting  " in away.stdout
    there = example("watch.py", folder, "--profile", profile)
    assert there.returncode == 0
    assert re.search(r"^\S+  downloading  \d+ of \d+ bytes", there.stdout, re.MULTILINE)


# --- mirror --------------------------------------------------------------------------------------------


def mirrored(real_market: RealMarket, folder: Path) -> Path:
    """Mirror the catalogs, one product with a picture among them; gives the profile."""
    profile = real_market.customer(folder / "profile" / folder.name)
    picture, page = folder / "hill.png", folder / "hill.md"
    Image.new("RGB", (40, 30), "green").save(picture)
    page.write_text("uphill")
    words = ("--title", "Uphill", "--price", "1.00", "--image", picture, "--image-alt", "A hill")
    shop(real_market, "add", page, "--sku", "HILL", *words)
    first = example("mirror.py", folder, "catalog", "--profile", profile)
    assert (first.returncode, first.stderr) == (0, "")
    lines = [json.loads(line) for line in (folder / "catalog/sports.jsonl").read_text().splitlines()]
    assert first.stdout == f"sports: {len(lines)} products\n"
    (hill,) = [line for line in lines if line["sku"] == "HILL"]
    assert (hill["title"], hill["price"], hill["image_alt"]) == ("Uphill", 100, "A hill")
    assert (folder / "catalog/pictures" / hill["picture"]).stat().st_size > 0
    return profile


def test_mirroring_the_catalogs(real_market: RealMarket, folder: Path) -> None:
    mirrored(real_market, folder)
    shop(real_market, "remove", "HILL")


@pytest.mark.exhaustive
def test_a_mirror_asks_no_merchant_twice_for_the_same(real_market: RealMarket, folder: Path) -> None:
    profile = mirrored(real_market, folder)
    tickets = real_market.ran("wallet", profile=profile).data["tickets"]
    again = example("mirror.py", folder, "catalog", "--profile", profile)
    assert (again.returncode, again.stdout) == (0, "sports: unchanged\n")
    assert real_market.ran("wallet", profile=profile).data["tickets"] == tickets

    shop(real_market, "remove", "HILL")
    more = example("mirror.py", folder, "catalog", "--profile", profile, "--max-tickets", "0")
    assert (more.returncode, more.stderr.partition(":")[0]) == (4, "out_of_tickets")


# --- restock -------------------------------------------------------------------------------------------


def test_restocking_by_rules(real_market: RealMarket, folder: Path) -> None:
    page, keys = folder / "page.md", folder / "keys.txt"
    page.write_text("a page")
    keys.write_text("AAAA-1111\n")
    more = ("--title", "A page", "--price", "1.00")
    shop(real_market, "add", page, "--sku", "LOW", *more, "--stock", "2")
    shop(real_market, "add", "--sku", "KEYS", *more, "--keys", keys)
    keys.write_text("AAAA-1111\nBBBB-2222\n")
    rules = folder / "rules.toml"
    rules.write_text('[LOW]\nlow = 5\nto = 50\n\n[KEYS]\nlow = 2\nkeys = "keys.txt"\n')
    home = {"VEILMART_HOME": str(real_market.home)}
    ran = example("restock.py", folder, "rules.toml", "--merchant", "sports", **home)
    assert (ran.returncode, ran.stderr) == (4, ""), "two keys are still low"
    assert ran.stdout == "LOW: 2 left, now 50\nKEYS: 1 left, now 2\n"
    stock = {product["sku"]: product["stock"] for product in shop(real_market, "list")}
    assert (stock["LOW"], stock["KEYS"]) == (50, 2)
    for sku in ("LOW", "KEYS"):
        shop(real_market, "remove", sku)


@pytest.mark.exhaustive
def test_rules_that_cannot_be_followed(real_market: RealMarket, folder: Path) -> None:
    home = {"VEILMART_HOME": str(real_market.home)}
    rules = folder / "rules.toml"
    for text, code in (("[NOTHING]\nlow = 5\n", 3), ("[PLAN-10K]\nlow =", 2)):
        rules.write_text(text)
        ran = example("restock.py", folder, "rules.toml", **home)
        assert (ran.returncode, ran.stdout) == (code, "")
        assert len(ran.stderr.splitlines()) == 1
    shop(real_market, "edit", "PLAN-10K", "--stock", "6")
    rules.write_text("[PLAN-10K]\nlow = 5\nto = 9\n")
    assert example("restock.py", folder, "rules.toml", **home).stdout == "", "six are not low"
    shop(real_market, "edit", "PLAN-10K", "--stock", "unlimited")
    unlimited = example("restock.py", folder, "rules.toml", "--dry-run", **home)
    assert (unlimited.returncode, unlimited.stdout) == (0, "")


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_each_explains_itself(path: Path) -> None:
    text = path.read_text()
    assert text.startswith('#!/usr/bin/env python3\n"""')
    assert "xit code" in text.split('"""')[1]
    assert path.stat().st_mode & 0o111, "it can be run"
    assert f"\n    python examples/{path.name} " in text
    assert len(text.splitlines()) <= 160


@pytest.mark.exhaustive
@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_each_has_help(path: Path, tmp_path: Path) -> None:
    ran = example(path.name, tmp_path, "--help")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "usage: " in ran.stdout
