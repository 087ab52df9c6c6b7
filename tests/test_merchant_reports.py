"""The merchant's books: orders, sales as they happen, takings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from merchant_world import Identities, World, make_identities

from common.config import DAY_MS, MINUTE_MS
from common.errors import NotFoundError
from common.messages import OrderOutcome
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
