"""The merchant's books: orders, sales as they happen, takings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from merchant_world import Identities, World, make_identities
from old_stores import bring_to

from common.config import DAY_MS, MINUTE_MS
from common.errors import NotFoundError
from common.messages import OrderOutcome
from common.store import Store
from merchant_node import migrations, schema
from merchant_node.promotions import Promotions
from merchant_node.reports import OrderLineReport, Reports, Takings


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Identities:
    return make_identities(tmp_path_factory.mktemp("market"))


@pytest.fixture
def world(identities: Identities, tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path, identities)
    for sku, price, tax_rate in (("plan", 999, 1900), ("route", 250, 0)):
        (tmp_path / sku).write_bytes(sku.encode())
        world.inventory.add(tmp_path / sku, sku, title=sku, price=price, tax_rate=tax_rate)
    world.open_session()
    yield world
    world.close()


def sell(world: World, *cart: tuple[str, int]) -> bytes:
    order, _ = world.order(*cart)
    world.ask(order)
    world.captured(order)
    return order.order_id


def test_orders_newest_first_and_by_state(world: World) -> None:
    sold = sell(world, ("plan", 1), ("route", 2))
    order, _ = world.order(("route", 1))
    world.ask(order)
    world.now += MINUTE_MS
    reports = Reports(world.store)
    assert [each.order_id for each in reports.orders()] == [order.order_id, sold]
    assert [each.order_id for each in reports.orders(state="captured")] == [sold]
    assert [each.order_id for each in reports.orders(limit=1)] == [order.order_id]
    report = reports.order(sold)
    assert (report.state, report.amount, report.at % MINUTE_MS) == ("captured", 1499, 0)
    assert list(report.lines) == [
        OrderLineReport("plan", 1, 999, discount=0, amount=999, tax_rate=1900, tax=160, cells=1),
        OrderLineReport("route", 2, 250, discount=0, amount=500, tax_rate=0, tax=0, cells=1),
    ]
    with pytest.raises(NotFoundError):
        reports.order(bytes(16))


def test_sales_are_followed_from_where_one_stopped(world: World) -> None:
    reports = Reports(world.store)
    assert reports.last_sale() == 0
    first = sell(world, ("plan", 1))
    unpaid, _ = world.order(("plan", 1))
    world.ask(unpaid)
    start = reports.last_sale()
    second = sell(world, ("route", 1))
    assert [sale.order.order_id for sale in reports.sales_since(0)] == [first, second]
    (new,) = reports.sales_since(start)
    assert (new.order.order_id, new.order.amount) == (second, 250)
    assert reports.sales_since(new.number) == []
    assert reports.last_sale() == new.number


def test_takings_per_product_and_day(world: World) -> None:
    sell(world, ("plan", 1), ("route", 2))
    sell(world, ("plan", 3))
    void, _ = world.order(("plan", 1))
    world.ask(void)
    world.ask(OrderOutcome(order_id=void.order_id, outcome="void"))
    world.tick(DAY_MS)
    world.open_session()
    sell(world, ("route", 1))
    reports = Reports(world.store)
    assert reports.takings() == [
        Takings("2027-01-16", "route", 1, 250, tax=0),
        # 160 of one, 479 of three, as each of the two lines rounds.
        Takings("2027-01-15", "plan", 4, 3996, tax=160 + 479),
        Takings("2027-01-15", "route", 2, 500, tax=0),
    ]
    assert reports.takings(since=world.now - MINUTE_MS) == [Takings("2027-01-16", "route", 1, 250, tax=0)]


def test_what_a_code_takes_off_is_not_revenue(world: World) -> None:
    Promotions(world.store, lambda: world.now).add("TENTH", rate=1000)
    order, _ = world.order(("plan", 2), ("route", 1), code="TENTH")
    world.ask(order)
    world.captured(order)
    reports = Reports(world.store)
    plan, route = reports.order(order.order_id).lines
    assert (plan.discount, plan.amount, plan.tax) == (200, 1798, 287)
    assert (route.discount, route.amount, route.tax) == (25, 225, 0)
    assert sum(taken.revenue for taken in reports.takings()) == order.amount == 1798 + 225


# --- a store from before -------------------------------------------------------------------------------

TO_MOVE = (schema.order_answers, schema.order_lines, schema.sales)


def test_what_belonged_to_an_order_by_its_id_belongs_to_it_by_its_number(tmp_path: Path) -> None:
    """The migration keeps every row and every figure, and adds none to an order without lines or a sale."""
    ids = {7: b"\xff" * 16, 8: b"\x01" * 16, 9: b"\x80" * 16}
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'merchant.db'}")
    orders = [(n, ids[n], bytes(32), "captured", 100 * n, bytes(32), 2, n * MINUTE_MS) for n in ids]
    lines = [(7, 0), (7, 1), (8, 0)]
    kept = [(3, "plan", n, 1, 100, 5, 700, at, 1, 9, bytes([at]), 2) for n, at in lines]
    with engine.begin() as connection:
        bring_to(connection, migrations, "0006")
        insert = connection.exec_driver_sql
        insert("INSERT INTO product_versions VALUES (3, 'plan', 1, x'00', x'00')")
        insert("INSERT INTO orders VALUES (?, ?, ?, ?, ?, ?, ?, ?)", orders)
        answers = [(ids[n], "accepted", bytes([n])) for n in ids]
        insert("INSERT INTO order_answers VALUES (?, ?, ?)", answers)
        # By name: columns that came later stand at the end of a store that has been migrated.
        insert(
            "INSERT INTO order_lines (order_id, position, version, sku, quantity, reserved, unit_price, "
            "discount, tax_rate, first_cell, cells, size, digest, key_count) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [(ids[n], at, *rest) for (n, at), rest in zip(lines, kept, strict=True)],
        )
        # In the order of their capture, which is not that of the orders.
        insert("INSERT INTO sales VALUES (?, ?, ?)", [(1, ids[8], 60000), (2, ids[7], 120000)])
    engine.dispose()
    store = Store.in_home(tmp_path, "merchant.db", "merchant_node.migrations")
    with store.snapshot() as tx:
        moved = [list(tx.tuples(sa.select(table))) for table in TO_MOVE]
    assert moved == [
        [(n, "accepted", bytes([n])) for n in ids],
        [(n, at, *rest) for (n, at), rest in zip(lines, kept, strict=True)],
        [(1, 8, 60000), (2, 7, 120000)],
    ]
    reports = Reports(store)
    assert [sale.order.order_id for sale in reports.sales_since(0)] == [ids[8], ids[7]]
    assert [len(report.lines) for report in reports.orders()] == [0, 1, 2]
    sold = {(each.day, each.sku): (each.quantity, each.revenue) for each in reports.takings()}
    assert sold == {("1970-01-01", "plan"): (7 + 7 + 8, 2 * (700 - 5) + 800 - 5)}
    store.close()


def test_a_migration_that_would_lose_a_row_changes_nothing(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'merchant.db'}")
    with engine.begin() as connection:
        bring_to(connection, migrations, "0006")
        connection.exec_driver_sql("INSERT INTO sales VALUES (1, ?, 60000)", (b"nobody's id here",))
    with pytest.raises(ValueError, match="rows of sales that belong to no order: 1"):
        Store.in_home(tmp_path, "merchant.db", "merchant_node.migrations")
    with engine.begin() as connection:
        kept = connection.exec_driver_sql("SELECT * FROM sales").all()
        assert [tuple(row) for row in kept] == [(1, b"nobody's id here", 60000)]
        connection.exec_driver_sql("DELETE FROM sales")
    engine.dispose()
    Store.in_home(tmp_path, "merchant.db", "merchant_node.migrations").close()
