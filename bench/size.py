"""Size of use: searching 100,000 products through the sealed road, importing 10,000 rows, 1,000,000 orders.

The table is imported through the dashboard's form into a shop that is as good as empty; the rest of the
products and all orders are written into the merchant's store, in the rows that it would write itself.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from bench import conditions, market, mosquitto, processes
from bench.dashboard import Dashboard
from bench.market import Homes, Treasury
from bench.processes import Worker, say
from common import clock, codec, config
from common.slots import minute_of
from common.store import Tx
from merchant_node import schema
from merchant_node.bulk import Bulk, Entry
from merchant_node.home import MerchantHome
from merchant_node.web.desk import Books

SEARCH_LIMIT_MS = 150.0
IMPORT_LIMIT_S = 10.0
OPEN_LIMIT_S = 1.0
WORDS = ("ridge", "morning", "tempo", "harbour", "island", "winter", "marathon", "valley", "bridge", "canyon")
CATEGORIES = ("plans", "routes", "photos", "maps", "books")
SORTS = ("title", "price", "newest")
FILE = ("one.txt", b"the same file for all of them")
ORDERS_AT_ONCE = 50_000
YEAR_MS = 365 * config.DAY_MS
LOOKS = 5


@dataclass(frozen=True)
class Plan:
    """How much there is: products, rows of the table, orders, and how many searches are timed."""

    products: int = 100_000
    rows: int = 10_000
    orders: int = 1_000_000
    searches: int = 400

    def scaled(self, scale: float) -> Plan:
        """Give a smaller or larger one."""
        sizes = (self.products, self.rows, self.orders, self.searches)
        return Plan(*(max(1, round(scale * size)) for size in sizes))


def measure(plan: Plan) -> dict[str, Any]:
    """Import, fill, search, fill with orders, and open the dashboard."""
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="veilmart-bench-")))
        (root / "bus").mkdir()
        bus = stack.enter_context(mosquitto.running(root / "bus"))
        homes = market.make(root, bus.ports)
        say(f"importing {plan.rows} rows")
        imported = _import(homes, plan)
        say(f"filling up to {plan.products} products")
        _fill(homes, plan)
        say(f"searching {plan.searches} times")
        found = _search(homes, root, plan)
        say(f"writing {plan.orders} orders")
        _write_orders(homes, plan.orders)
        say("opening the dashboard")
        opened = _open(homes)
    return {
        "search": {"products": plan.products, **found},
        "import": {"rows": plan.rows, **imported},
        "dashboard": {"orders": plan.orders, **opened},
        "conditions": conditions.describe(),
    }


# --- products ------------------------------------------------------------------------------------------


def _title(number: int) -> str:
    return f"{WORDS[number % 10].title()} {WORDS[number // 10 % 10]} {number:06}"


def _price(number: int) -> int:
    return 100 + 50 * (number % 40)


def _import(homes: Homes, plan: Plan) -> dict[str, Any]:
    lines = [
        f"P-{number:06},{_title(number)},{_price(number) / 100:.2f},{CATEGORIES[number % 5]},{FILE[0]}\n"
        for number in range(plan.rows)
    ]
    with Dashboard(homes.merchant) as dashboard:
        seconds, page = dashboard.bring("sku,title,price,category,file\n" + "".join(lines), FILE)
    if f"{plan.rows} added" not in page:
        raise RuntimeError("the table was not imported")
    return {"seconds": round(seconds, 2), "within_limit": seconds <= IMPORT_LIMIT_S}


def _fill(homes: Homes, plan: Plan) -> None:
    with Books.open(homes.merchant, clock.now_ms) as books:
        (first, *_) = books.inventory.products()
        entries = [
            Entry(
                row=number,
                sku=f"P-{number:06}",
                fields={
                    "title": _title(number),
                    "price": _price(number),
                    "category": CATEGORIES[number % 5],
                    "file_name": first.record.file_name,
                    "size": first.record.size,
                    "digest": first.record.digest,
                },
            )
            for number in range(plan.rows, plan.products)
        ]
        if entries:
            outcome = Bulk(books.shop, books.store, books.limits).write(entries)
            if outcome.added != len(entries):
                raise RuntimeError("the products were not added")


# --- searching -----------------------------------------------------------------------------------------


def _questions(plan: Plan) -> Iterator[dict[str, Any]]:
    """Everything, a word, two words and a category, one product, and pages further back, in each order."""
    chance = random.Random(1)  # noqa: S311 - the same questions each time
    for number in range(plan.searches):
        words = chance.sample(WORDS, 2)
        kinds: tuple[tuple[str, str], ...] = (
            ("", ""),
            (words[0], ""),
            (" ".join(words), chance.choice(CATEGORIES)),
            (f"{chance.randrange(plan.products):06}", ""),
        )
        search, category = kinds[number % len(kinds)]
        offset = 0 if number % 3 else 20 * chance.randrange(20)
        yield {"search": search, "category": category, "sort": chance.choice(SORTS), "offset": offset}


def _search(homes: Homes, root: Path, plan: Plan) -> dict[str, Any]:
    with ExitStack() as stack:
        ticket = root / "ticket"
        ticket.write_bytes(codec.pack([Treasury(homes).ticket()]))
        nodes = [stack.enter_context(node) for node in processes.nodes(homes.broker, homes.merchant)]
        searcher = stack.enter_context(Worker("customer", "bench.searcher", str(homes.market), str(ticket)))
        ((first, total),) = searcher.ask(questions=[_anything()])
        if total != plan.products:
            raise RuntimeError(f"{total} products are on sale")
        answers = searcher.ask(questions=list(_questions(plan)))
        memory = {node.name: node.peak_rss_mb for node in nodes}
    times = sorted(1000 * seconds for seconds, _ in answers)
    p95 = times[min(len(times) - 1, len(times) * 95 // 100)]
    return {
        "p50_ms": round(times[len(times) // 2], 1),
        "p95_ms": round(p95, 1),
        "longest_ms": round(times[-1], 1),
        "first_ms": round(1000 * first, 1),
        "within_limit": p95 <= SEARCH_LIMIT_MS,
        "peak_rss_mb": memory,
    }


def _anything() -> dict[str, Any]:
    return {"search": "", "category": "", "sort": "title", "offset": 0}


# --- orders --------------------------------------------------------------------------------------------


def _write_orders(homes: Homes, count: int) -> None:
    store, now = MerchantHome(homes.merchant).store(), clock.now_ms()
    with store.immediate() as tx:
        versions = [tuple(row) for row in tx.tuples(_SOLD.limit(1000))]
    for start in range(0, count, ORDERS_AT_ONCE):
        with store.immediate() as tx:
            _write_some(tx, versions, range(start, min(count, start + ORDERS_AT_ONCE)), count, now)
    store.close()


_SOLD = sa.select(schema.product_versions.c.id, schema.product_versions.c.sku)


def _write_some(tx: Tx, versions: list[tuple[Any, ...]], numbers: range, count: int, now: int) -> None:
    """Orders of a year, the newest of this minute, nearly all of them delivered."""
    orders, lines, sales = [], [], []
    for number in numbers:
        version, sku = versions[number % len(versions)]
        order_id, price = number.to_bytes(16), _price(number)
        at = minute_of(now - YEAR_MS + YEAR_MS * (number + 1) // count)
        orders.append(
            {
                "number": number + 1,
                "order_id": order_id,
                "content_hash": bytes(32),
                "state": "captured" if number % 100 == 0 else "delivered",
                "amount": price,
                "fetch_lock": bytes(32),
                "cells": 1,
                "at": at,
            }
        )
        lines.append(
            {
                "order_number": number + 1,
                "position": 0,
                "version": version,
                "sku": sku,
                "quantity": 1,
                "reserved": 0,
                "unit_price": price,
                "first_cell": 0,
                "cells": 1,
                "size": len(FILE[1]),
                "digest": bytes(32),
            }
        )
        sales.append({"order_number": number + 1, "at": at})
    tx.each(sa.insert(schema.orders), orders)
    tx.each(sa.insert(schema.order_lines), lines)
    tx.each(sa.insert(schema.sales), sales)


def _open(homes: Homes) -> dict[str, Any]:
    """Open the start page of a dashboard that has just started, then again, and other pages once."""
    with Dashboard(homes.merchant) as dashboard:
        times = [dashboard.open("/")[0] for _ in range(LOOKS)]
        pages = {path: round(dashboard.open(path)[0], 3) for path in ("/orders", "/products", "/plots")}
        memory = dashboard.peak_rss_mb
    return {
        "first_s": round(times[0], 3),
        "longest_s": round(max(times), 3),
        "within_limit": max(times) <= OPEN_LIMIT_S,
        "pages_s": pages,
        "peak_rss_mb": memory,
    }
