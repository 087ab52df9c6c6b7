"""Quotes and discount codes at the merchant: what they take off, when they count, and how often."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from merchant_world import MERCHANT, NOON, Identities, World, make_identities
from old_stores import bring_to

from common import codec, config, messages
from common.amounts import line_amounts, total_of
from common.config import DAY_MS, HOUR_MS, MINUTE_MS
from common.errors import NotFoundError, UsageError
from common.messages import OrderOutcome, OrderRejected, Quote
from common.sealing import AnswerKey
from common.store import Store
from merchant_node import migrations, schema
from merchant_node.inventory import Inventory
from merchant_node.pricing import QUOTE_LIFE_MS
from merchant_node.promotions import Promotions
from merchant_node.reports import Reports

GOODS = (("plan", 999, 1900, "plans"), ("route", 250, 700, "routes"), ("photo", 1, 0, "photos"))


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Identities:
    return make_identities(tmp_path_factory.mktemp("market"))


@pytest.fixture
def world(identities: Identities, tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path, identities)
    for sku, price, tax_rate, category in GOODS:
        (tmp_path / sku).write_bytes(sku.encode())
        world.inventory.add(
            tmp_path / sku, sku, title=sku, price=price, tax_rate=tax_rate, category=category, stock=100
        )
    world.open_session()
    yield world
    world.close()


@pytest.fixture
def promotions(world: World) -> Promotions:
    return Promotions(world.store, lambda: world.now)


def uses(promotions: Promotions) -> dict[str, int]:
    return {each.code: each.used for each in promotions.all()}


def verdict(world: World, order: messages.ForwardOrder, key: AnswerKey) -> Any:
    (answer,) = world.ask(order)
    assert answer.verdict == ("accepted" if world.state(order.order_id) == "accepted" else "rejected")
    return key.unseal(answer.answer)


def rows(world: World) -> int:
    """How many rows there are of what an accepted order leaves."""
    tables = (schema.order_lines, schema.discount_uses, schema.sales)
    with world.store.immediate() as tx:
        return sum(int(tx.scalar(sa.select(sa.func.count()).select_from(table))) for table in tables)


# --- quotes --------------------------------------------------------------------------------------------


def test_a_quote_adds_up_and_reserves_nothing(world: World, promotions: Promotions):
    promotions.add("TENTH", rate=1000, use_limit=1)
    for _ in range(3):
        quote = world.quote(("plan", 2), ("route", 1), code="TENTH")
        assert isinstance(quote, Quote)
        assert [(line.discount, line.amount) for line in quote.lines] == [(200, 1798), (25, 225)]
        assert quote.lines[0].tax == messages.Tax(rate=1900, base=1511, amount=287)
        assert quote.taxes == [messages.Tax(rate=700, base=210, amount=15), quote.lines[0].tax]
        assert (quote.subtotal, quote.discount, quote.total, quote.currency) == (2248, 225, 2023, "EUR")
        assert quote.valid_until == world.clock + QUOTE_LIFE_MS
    assert uses(promotions) == {"TENTH": 0}
    assert {listed.stock for listed in world.inventory.products()} == {100}
    record, digest = world.product("plan")
    assert (quote.lines[0].record, quote.lines[0].unit_price) == (digest, record.price)


def test_without_a_code_a_quote_takes_nothing_off(world: World):
    quote = world.quote(("plan", 1))
    assert (quote.subtotal, quote.discount, quote.total) == (999, 0, 999)
    assert quote.lines[0].stock == "in"


def test_a_quote_ends_with_its_code(world: World, promotions: Promotions):
    promotions.add("SOON", rate=1000, ends=world.now + MINUTE_MS)
    assert world.quote(("plan", 1), code="SOON").valid_until == world.now + MINUTE_MS


def test_a_quote_for_what_is_not_sold(world: World):
    assert world.quote(("plan", 1), ("none", 1)) == OrderRejected(
        code="not_found", sku="none", price=0, available=0
    )


def test_quotes_and_their_refusals_have_the_size_of_a_product(world: World, promotions: Promotions):
    promotions.add("TENTH", rate=1000)
    for n, sku in enumerate(f"s{n}".ljust(64, "x") for n in range(20)):
        (world.home / sku).write_bytes(b"x")
        world.inventory.add(world.home / sku, sku, title=sku, price=49_999_999, tax_rate=9999 - n)
    large = [messages.QuoteLine(sku=f"s{n}".ljust(64, "x"), quantity=1000) for n in range(20)]
    for lines, code in ((large, "TENTH"), (large[:1], "NONE"), (large[:1], "")):
        forward, key = world.forward(messages.GetQuote(lines=lines, code=code))
        (answer,) = world.ask(forward)
        assert len(answer.answer) == 32 + config.PRODUCT_ANSWER + 16
        assert isinstance(key.unseal(answer.answer), OrderRejected if code == "NONE" else Quote)


# --- orders --------------------------------------------------------------------------------------------


def test_an_order_at_its_quote_is_accepted_and_its_receipt_adds_up(world: World, promotions: Promotions):
    promotions.add("FIVER", amount=500)
    order, key = world.order(("plan", 1), ("route", 2), code="FIVER")
    assert order.amount == 1499 - 500
    accepted = verdict(world, order, key)
    receipt = codec.RECEIPT.unpack(accepted.receipt)
    figures = [
        line_amounts(line.unit_price, line.quantity, line.discount, line.tax.rate) for line in receipt.lines
    ]
    assert [(line.amount, line.tax) for line in receipt.lines] == [(f.amount, f.tax) for f in figures]
    sums = total_of(figures)
    shown = (receipt.subtotal, receipt.discount, tuple(receipt.taxes), receipt.total)
    assert shown == (sums.subtotal, 500, sums.taxes, order.amount)
    assert uses(promotions) == {"FIVER": 1}


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.sampled_from([g[0] for g in GOODS]), st.integers(1, 9)), min_size=1, max_size=6),
    st.one_of(st.tuples(st.integers(1, 9_999), st.just(0)), st.tuples(st.just(0), st.integers(1, 3_000))),
    st.sampled_from(["", "plan", "photo"]),
)
def test_whatever_is_quoted_is_accepted_and_adds_up(
    world: World, promotions: Promotions, cart: list[tuple[str, int]], off: tuple[int, int], sku: str
):
    world.start()
    world.open_session()
    for listed in world.inventory.products():
        world.inventory.edit(listed.record.sku, stock=100)
    for each in promotions.all():
        promotions.remove(each.code)
    promotions.add("CODE", rate=off[0], amount=off[1], sku=sku)
    quote = world.quote(*cart, code="CODE")
    if isinstance(quote, OrderRejected):
        assert quote.code == ("code_unfit" if sku and sku not in dict(cart) else "nothing_to_pay")
        return
    assert all(0 <= line.discount <= line.quantity * line.unit_price for line in quote.lines)
    assert sum(line.amount for line in quote.lines) == quote.total
    assert sum(tax.base + tax.amount for tax in quote.taxes) == quote.total
    order, key = world.order(*cart, code="CODE")
    accepted = verdict(world, order, key)
    assert codec.RECEIPT.unpack(accepted.receipt).total == order.amount == quote.total


def test_the_largest_receipt_fits(world: World):
    largest = {"title": "ä" * 200, "category": "c", "tax_rate": 9999}
    skus = [f"s{n}".ljust(64, "x") for n in range(20)]
    for n, sku in enumerate(skus):
        file = world.home / ("ä" * 116 + f"{n:02}.x")
        file.write_bytes(b"x")
        world.inventory.add(file, sku, price=49_999_999, **{**largest, "tax_rate": 9999 - n})
    order, key = world.order(*((sku, 1000) for sku in skus))
    accepted = verdict(world, order, key)
    assert isinstance(accepted, messages.OrderAccepted)
    assert len(codec.RECEIPT.unpack(accepted.receipt).taxes) == 20


# --- refused, each for its own reason ------------------------------------------------------------------


def test_a_code_that_does_not_count(world: World, promotions: Promotions):
    now = world.now
    promotions.add("LATER", rate=100, starts=now + HOUR_MS)
    promotions.add("OVER", rate=100, ends=now + 1)
    promotions.add("ONCE", rate=100, use_limit=1)
    promotions.add("LARGE", rate=100, minimum=5000)
    promotions.add("ROUTES", rate=100, category="routes")
    promotions.add("ALL-OF-IT", rate=config.WHOLE_IN_BASIS_POINTS)
    promotions.add("GONE", rate=100)
    promotions.remove("GONE")
    world.ask(world.order(("plan", 1), code="ONCE")[0])
    world.now += 1
    before = rows(world)
    for code, reason, price in (
        ("NEVER", "code_unknown", 0),
        ("GONE", "code_unknown", 0),
        ("LATER", "code_unknown", 0),
        ("OVER", "code_expired", 0),
        ("ONCE", "code_used_up", 0),
        ("LARGE", "code_minimum", 5000),
        ("ROUTES", "code_unfit", 0),
        ("ALL-OF-IT", "nothing_to_pay", 0),
    ):
        assert world.quote(("plan", 1), code=code) == OrderRejected(
            code=reason, sku="", price=price, available=0
        )
        record, digest = world.product("plan")
        line = messages.OrderLine(sku="plan", record=digest, quantity=1, unit_price=record.price, discount=99)
        rejected = verdict(world, *world.order_of([line], code=code))
        assert (rejected.code, rejected.price) == (reason, price)
    assert rows(world) == before
    assert uses(promotions)["ONCE"] == 1


@pytest.mark.parametrize("discount", [0, 99, 101, 999])
def test_a_discount_that_is_not_the_codes(world: World, promotions: Promotions, discount: int):
    promotions.add("TENTH", rate=1000)
    record, digest = world.product("plan")
    line = messages.OrderLine(
        sku="plan", record=digest, quantity=1, unit_price=record.price, discount=discount
    )
    order, key = world.order_of([line], code="TENTH", **({"amount": 1} if discount == 999 else {}))
    before = rows(world)
    rejected = verdict(world, order, key)
    assert (rejected.code, rejected.sku, rejected.price) == ("price_changed", "", 899)
    assert rows(world) == before
    assert uses(promotions) == {"TENTH": 0}


@pytest.mark.parametrize("discount", [1, 10**12])
def test_a_discount_without_a_code(world: World, discount: int):
    record, digest = world.product("plan")
    line = messages.OrderLine(
        sku="plan", record=digest, quantity=1, unit_price=record.price, discount=discount
    )
    rejected = verdict(world, *world.order_of([line], amount=998))
    assert (rejected.code, rejected.price) == ("price_changed", 999)


def test_lines_beyond_what_a_market_can_handle(world: World):
    world.inventory.edit("photo", price=config.MAXIMUM_AMOUNT)
    refused = OrderRejected(code="wrong_amount", sku="", price=config.MAXIMUM_AMOUNT, available=0)
    assert world.quote(("photo", 2)) == refused
    assert world.quote(("photo", 1), ("plan", 1)) == refused
    before = rows(world)
    order, key = world.order(("photo", 2), amount=config.MAXIMUM_AMOUNT)
    assert verdict(world, order, key) == refused
    assert rows(world) == before


def test_a_changed_tax_rate_is_a_changed_record(world: World):
    order, key = world.order(("plan", 1))
    world.inventory.edit("plan", tax_rate=700)
    assert verdict(world, order, key).code == "price_changed"


# --- counting ------------------------------------------------------------------------------------------


def test_two_orders_at_the_same_instant_and_one_use_left(world: World, promotions: Promotions):
    promotions.add("ONCE", rate=1000, use_limit=1)
    orders = [world.order(("plan", 1), code="ONCE") for _ in range(2)]
    answers = {answer.order_id: answer for answer in world.ask(*(order for order, _ in orders))}
    assert sorted(answer.verdict for answer in answers.values()) == ["accepted", "rejected"]
    bodies = [key.unseal(answers[order.order_id].answer) for order, key in orders]
    assert {getattr(body, "code", "accepted") for body in bodies} == {"accepted", "code_used_up"}
    assert uses(promotions) == {"ONCE": 1}


def test_two_processes_on_one_store_and_one_use_left(
    world: World, identities: Identities, promotions: Promotions
):
    promotions.add("ONCE", rate=1000, use_limit=1)
    orders = [world.order(("plan", 1), code="ONCE")[0] for _ in range(2)]
    other = World(world.home, identities)
    other.merchant.session = world.merchant.session
    verdicts: list[str] = []
    at_once = threading.Barrier(2)

    def accept(one: World, order: messages.ForwardOrder) -> None:
        at_once.wait()
        with one.store.immediate() as tx:
            (answer,) = one.merchant._fulfilment.answer_all(
                tx, [order], one.now, one.random, one.merchant.refused
            )
        assert isinstance(answer, messages.AnswerOrder)
        verdicts.append(answer.verdict)

    other.prekeys.refresh(other.now)
    threads = [
        threading.Thread(target=accept, args=pair) for pair in zip((world, other), orders, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other.close()
    assert sorted(verdicts) == ["accepted", "rejected"]
    assert uses(promotions) == {"ONCE": 1}


def test_a_use_is_given_back_once_when_its_order_is_void(world: World, promotions: Promotions):
    promotions.add("TWICE", rate=1000, use_limit=2)
    (void, _), (paid, _) = (world.order(("plan", 1), code="TWICE") for _ in range(2))
    world.ask(void, paid)
    assert uses(promotions) == {"TWICE": 2}
    for _ in range(2):
        world.ask(OrderOutcome(order_id=void.order_id, outcome="void"))
        world.ask(OrderOutcome(order_id=paid.order_id, outcome="captured"))
        assert uses(promotions) == {"TWICE": 1}
    repeated, _ = world.order(("plan", 1), code="TWICE")
    for _ in range(3):
        world.ask(repeated)
        assert uses(promotions) == {"TWICE": 2}


def test_a_code_made_anew_gets_nothing_back_from_its_namesake(world: World, promotions: Promotions):
    promotions.add("AGAIN", rate=1000)
    order, _ = world.order(("plan", 1), code="AGAIN")
    world.ask(order)
    promotions.remove("AGAIN")
    promotions.add("AGAIN", rate=2000)
    world.ask(world.order(("plan", 1), code="AGAIN")[0])
    world.ask(OrderOutcome(order_id=order.order_id, outcome="void"))
    assert uses(promotions) == {"AGAIN": 1}


# --- the merchant's side -------------------------------------------------------------------------------


def test_codes_are_listed_and_removed(promotions: Promotions):
    made = promotions.add("B-CODE", amount=100, ends=NOON + DAY_MS, use_limit=5, minimum=300, sku="plan")
    promotions.add("A-CODE", rate=5)
    assert [each.code for each in promotions.all()] == ["A-CODE", "B-CODE"]
    assert promotions.all()[1] == made
    promotions.remove("A-CODE")
    assert promotions.all() == [made]
    with pytest.raises(NotFoundError):
        promotions.remove("A-CODE")


@pytest.mark.parametrize(
    ("code", "terms"),
    [
        ("ABC", {"rate": 1}),
        ("lower", {"rate": 1}),
        ("A" * 33, {"rate": 1}),
        ("CODE", {}),
        ("CODE", {"rate": 1, "amount": 1}),
        ("CODE", {"rate": 10_001}),
        ("CODE", {"rate": -1}),
        ("CODE", {"amount": -1}),
        ("CODE", {"amount": config.MAXIMUM_AMOUNT + 1}),
        ("CODE", {"rate": 1, "ends": NOON}),
        ("CODE", {"rate": 1, "starts": NOON + 5, "ends": NOON + 5}),
        ("CODE", {"rate": 1, "use_limit": 0}),
        ("CODE", {"rate": 1, "minimum": -1}),
        ("THERE", {"rate": 1}),
    ],
)
def test_terms_that_make_no_sense(promotions: Promotions, code: str, terms: dict[str, Any]):
    promotions.add("THERE", rate=1)
    with pytest.raises(UsageError):
        promotions.add(code, **terms)
    assert [each.code for each in promotions.all()] == ["THERE"]


@pytest.mark.parametrize(
    "covers", [{"sku": "none"}, {"category": "none"}, {"sku": "plan", "category": "routes"}]
)
def test_a_code_that_covers_nothing(promotions: Promotions, covers: dict[str, str]):
    with pytest.raises(NotFoundError, match="nothing that is on sale"):
        promotions.add("CODE", rate=1, **covers)
    assert promotions.all() == []


def test_a_discounted_price_narrows_the_crowd_and_the_merchant_is_told(world: World, promotions: Promotions):
    for n in range(4):
        (world.home / f"map{n}").write_bytes(b"x")
        world.inventory.add(world.home / f"map{n}", f"map{n}", title="m", price=400, category="maps")
    promotions.add("MAPS", rate=5000, category="maps")
    promotions.add("PLAN", amount=599, sku="plan")
    promotions.add("ALL-OF-IT", rate=config.WHOLE_IN_BASIS_POINTS)
    found = {(each.sku, each.code): each for each in world.inventory.privacy()}
    assert {key for key in found if key[1]} == {("plan", "PLAN"), *((f"map{n}", "MAPS") for n in range(4))}
    assert (found["map0", "MAPS"].price, found["map0", "MAPS"].others, found["map0", "MAPS"].advice) == (
        200,
        3,
        "",
    )
    # The plan costs with its code what the maps cost without.
    assert (found["plan", "PLAN"].price, found["plan", "PLAN"].others) == (400, 4)
    assert found["plan", ""].others == 0
    promotions.remove("MAPS")
    promotions.add("ONE-MAP", amount=1, sku="map0")
    (lonely,) = [each for each in world.inventory.privacy() if each.code == "ONE-MAP"]
    assert (lonely.price, lonely.others) == (399, 0)
    assert "percentage" in lonely.advice


# --- a store from before -------------------------------------------------------------------------------


def test_the_migrations_make_exactly_the_schema(tmp_path: Path):
    Store.in_home(tmp_path, "merchant.db", "merchant_node.migrations").close()
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'merchant.db'}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []
    engine.dispose()


def test_a_shop_from_before_taxes_goes_on(identities: Identities, tmp_path: Path):
    """Its store is migrated, its sales keep their lines, and what is on sale is signed anew."""
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'merchant.db'}")
    fields = ["sports", "plan", 3, "Plan", "", "plans", ["run"], "", "", 999, "EUR", "plan.pdf", 14]
    record = codec.pack([*fields, bytes(32), 1, b"", ""])
    with engine.begin() as connection:
        bring_to(connection, migrations, "0001")
        for statement in (
            "INSERT INTO product_versions VALUES (7, 'plan', 3, :record, :signature)",
            "INSERT INTO products VALUES ('plan', 7, 1)",
            "INSERT INTO orders VALUES (1, :id, :id, 'captured', 1998, :id, 1, 60000)",
            "INSERT INTO order_lines VALUES (:id, 0, 7, 'plan', 2, 0, 999, 0, 1, 14, :id)",
            "INSERT INTO sales VALUES (1, :id, 60000)",
        ):
            values = {"record": record, "signature": bytes(64), "id": bytes(32)}
            named = {name: value for name, value in values.items() if f":{name}" in statement}
            connection.execute(sa.text(statement), named)
    engine.dispose()
    world = World(tmp_path, identities)
    shop = dataclasses.replace(world.shop, tax_rate=700)
    world.inventory = Inventory(shop, world.store, world.content, world.limits, lambda: world.now)
    try:
        world.inventory.renew()
        (listed,) = world.inventory.products()
        assert (listed.record.version, listed.record.price, listed.record.tax_rate) == (4, 999, 700)
        assert (listed.record.title, listed.record.tags, listed.record.merchant) == (
            "Plan",
            ["run"],
            MERCHANT,
        )
        world.inventory.renew()
        assert world.inventory.products() == [listed]
        world.open_session()
        order, key = world.order(("plan", 1))
        assert isinstance(verdict(world, order, key), messages.OrderAccepted)
        assert [[line.quantity for line in each.lines] for each in Reports(world.store).orders()] == [
            [1],
            [2],
        ]
    finally:
        world.close()


def test_a_shop_of_another_currency_is_refused(world: World, identities: Identities):
    elsewhere = msgspec.structs.replace(identities.market, currency="JPY")
    assert elsewhere.market_id == identities.market.market_id
    other = World(world.home, dataclasses.replace(identities, market=elsewhere))
    with pytest.raises(UsageError, match="prices are in EUR, the market's currency is JPY"):
        other.inventory.renew()
    other.close()
