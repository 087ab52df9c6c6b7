"""Public events: what they say, what they never say, and that none is lost."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from client import (
    Customer,
    Session,
    Shopkeeper,
    accept,
    blinded,
    broker_card,
    fresh,
    reject,
    settle,
    sign_up,
)
from conftest import Time
from world import World

from broker_node import audit, schema
from broker_node.broker import QUIET
from common import clock, messages, topics
from common.config import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS, Limits

ORDER_EVENTS = ("held", "captured", "refundable", "refunded")


def events(world: World) -> list[dict[str, Any]]:
    """Give every event that crossed the bus, once for each time."""
    found: list[dict[str, Any]] = []
    for publish in world.bus.passed:
        if publish.topic.startswith("veilmart/v1/audit/event/"):
            content = json.loads(publish.payload)
            batch = content if isinstance(content, list) else [content]
            kind = publish.topic.rpartition("/")[2]
            assert {event["type"] for event in batch} == {f"veilmart.{kind}"}
            assert not publish.retain
            found += batch
    return found


def of_kind(world: World, kind: str) -> list[dict[str, Any]]:
    return [event for event in events(world) if event["type"] == f"veilmart.{kind}"]


def placed(customer: Customer, session: Session, keeper: Shopkeeper, amount: int = 1) -> Any:
    order = customer.order(amount)
    session.say(order.place)
    return order, keeper.hear(messages.ForwardOrder)


def test_events_are_cloudevents(world: World, customer: Customer, keeper: Shopkeeper) -> None:
    session = customer.shop()
    _, forward = placed(customer, session, keeper)
    keeper.say(accept(forward))
    settle(world)
    found = events(world)
    # CloudEvents 1.0, section 3: required attributes, and those that we add.
    for event in found:
        assert event.keys() == {
            "specversion", "id", "source", "type", "time", "datacontenttype", "data",
        }  # fmt: skip
        assert (event["specversion"], event["datacontenttype"]) == ("1.0", "application/json")
        assert event["source"] == f"urn:veilmart:market:{world.market.market_id.hex()}"
        assert re.fullmatch(r"[0-9a-f]{32}", event["id"])
        assert datetime.fromisoformat(event["time"]).second == 0
    assert len({event["id"] for event in found}) == len(found)


def test_each_step_of_an_order_is_an_event_under_one_pseudonym(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    order, forward = placed(customer, session, keeper, 100)
    keeper.say(reject(forward))
    answer = session.hear(messages.OrderAnswer)
    session.ask(order.claim(blinded(world, [64, 32, 4])), messages.RefundIssued)
    settle(world)
    steps = {kind: of_kind(world, f"order.{kind}") for kind in ORDER_EVENTS}
    assert {kind: len(found) for kind, found in steps.items()} == {
        "held": 1, "captured": 0, "refundable": 1, "refunded": 1,
    }  # fmt: skip
    data = {kind: found[0]["data"] for kind, found in steps.items() if found}
    assert {facts["order"] for facts in data.values()} == {answer.audit.hex()}
    assert {facts["merchant"] for facts in data.values()} == {"sports"}
    assert data["held"].keys() == {"order", "merchant", "commitment"}
    assert data["refundable"].keys() == data["refunded"].keys() == {"order", "merchant"}


def test_the_commitment_opens_with_its_salt_alone(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    order, _ = placed(customer, customer.shop(), keeper)
    settle(world)
    (event,) = of_kind(world, "order.held")
    with world.broker.store.immediate() as tx:
        salt = tx.scalar(sa.select(schema.orders.c.salt))
    assert len(salt) == 16
    assert event["data"]["commitment"] == audit.commitment(salt, order.id, "sports", 1)
    assert event["data"]["commitment"] != audit.commitment(salt, order.id, "sports", 2)


def test_no_id_amount_or_name_is_in_any_event(world: World, customer: Customer, keeper: Shopkeeper) -> None:
    session = customer.shop()
    order, forward = placed(customer, session, keeper, 777)
    keeper.say(accept(forward))
    session.hear(messages.OrderAnswer)
    Session(world).greet(sign_up("bartholomew", "long enough"))
    settle(world)
    text = "\n".join(p.payload.decode() for p in world.bus.passed if "/audit/" in p.topic)
    assert order.place.merchant in text
    secrets = [order.id.hex(), session.sid.hex(), order.place.coins[0].serial.hex(), "bartholomew", "alice"]
    assert not [secret for secret in secrets if secret in text]
    numbers = set(re.findall(r"(?<=[:, \[])\d+(?=[,\]}])", text))
    # Denominations and nothing else.
    assert numbers <= {"0", *(str(2**n) for n in range(15))}


def test_new_merchants_are_events(world: World, keeper: Shopkeeper) -> None:
    settle(world)
    (admitted,) = of_kind(world, "merchant.admitted")
    assert admitted["data"] == {"merchant": "sports"}
    keeper.log_in()
    settle(world)
    assert len(of_kind(world, "merchant.admitted")) == 1


# --- none is lost --------------------------------------------------------------------------------------


def waiting(world: World) -> int:
    with world.broker.store.immediate() as tx:
        return int(tx.scalar(sa.select(sa.func.count()).select_from(schema.unpublished)))


def test_an_event_is_published_once_and_then_no_more(
    world: World, customer: Customer, keeper: Shopkeeper, time: Time
) -> None:
    placed(customer, customer.shop(), keeper)
    for _ in range(5):
        time.advance(MINUTE_MS)
        settle(world)
    assert len(of_kind(world, "order.held")) == 1
    assert waiting(world) == 0


def test_a_busy_round_leaves_its_events_to_the_tick(
    world: World, time: Time, customer: Customer, keeper: Shopkeeper
) -> None:
    world.fund(customer.name, 100)
    customer.coins = customer.withdraw(customer.account(), [1] * (2 * QUIET + 1), 0)[0]
    session = customer.shop()
    for count, at_once in ((QUIET, QUIET), (QUIET + 1, 0)):
        time.advance(SECOND_MS)
        settle(world)
        before = len(of_kind(world, "order.held"))
        session.say(*(customer.order(1).place for _ in range(count)))
        keeper.hear(messages.ForwardOrder)
        settle(world)
        assert len(of_kind(world, "order.held")) == before + at_once
    time.advance(SECOND_MS)
    settle(world)
    assert len(of_kind(world, "order.held")) == 2 * QUIET + 1


def test_events_of_a_lost_connection_are_published_on_the_next(
    world: World, customer: Customer, keeper: Shopkeeper, time: Time
) -> None:
    session = customer.shop()
    settle(world)
    main = world.running["broker"].lanes["main"]
    session.say(customer.order(1).place)
    # The connection breaks in the very round that publishes: `put` finds nobody.
    take = main.take
    main.take = lambda limit: (take(limit), main.abandon())[0]  # type: ignore[method-assign]
    world.pump(lambda: False, 0.0)
    main.take = take  # type: ignore[method-assign]
    time.advance(MINUTE_MS)
    settle(world)
    assert of_kind(world, "order.held") == []
    main.connect()
    settle(world)
    assert len(of_kind(world, "order.held")) == 1
    time.advance(MINUTE_MS)
    settle(world)
    assert waiting(world) == 0


def test_events_that_a_crash_left_are_published_at_the_next_start(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    settle(world)
    session.say(customer.order(1).place)
    running = world.running["broker"]
    running.loop.deliver = lambda *_: None  # type: ignore[method-assign]
    world.pump(lambda: False, 0.0)
    assert waiting(world) == 1
    world.stop("broker")
    assert of_kind(world, "order.held") == []
    world.start_broker()
    settle(world)
    assert len(of_kind(world, "order.held")) == 1


# --- totals --------------------------------------------------------------------------------------------


def to_boundary(time: Time) -> None:
    time.advance(HOUR_MS - clock.now_ms() % HOUR_MS)


def test_totals_come_at_a_boundary_and_over_twenty_orders_at_least(tmp_path: Any, time: Time) -> None:
    world = World(tmp_path)
    try:
        customer, keeper = Customer(world, values=[1] * 48), Shopkeeper(world)
        to_boundary(time)
        settle(world)
        session = customer.shop()
        buy(world, customer, session, 19)
        to_boundary(time)
        settle(world)
        assert of_kind(world, "coins.totals") == []
        session = customer.shop()
        buy(world, customer, session, 1)
        assert of_kind(world, "coins.totals") == [], "not between two boundaries"
        assert (broker_card(world).totals_at, broker_card(world).totals) == (0, [])
        to_boundary(time)
        boundary = clock.now_ms()
        settle(world)
        (event,) = of_kind(world, "coins.totals")
        of_one = next(row for row in event["data"]["coins"] if row["value"] == 1)
        assert (of_one["issued"], of_one["spent"]) == (48, 20)
        assert {row["issued"] for row in event["data"]["coins"] if row["value"] != 1} == {0}
        assert datetime.fromisoformat(event["time"]).timestamp() * 1000 == boundary - boundary % HOUR_MS
        assert on_card(world) == (boundary - boundary % HOUR_MS, event["data"]["coins"])
        buy(world, customer, customer.shop(), 19)
        to_boundary(time)
        settle(world)
        assert len(of_kind(world, "coins.totals")) == 1, "counted from the last totals on"
        world.stop("broker")
        world.start_broker()
        time.advance(DAY_MS)
        settle(world)
        # A new card, of another day: it repeats what was published, not what happened since.
        assert broker_card(world).issued > boundary + DAY_MS
        assert on_card(world) == (boundary - boundary % HOUR_MS, event["data"]["coins"])
        assert keeper.collect()
    finally:
        world.close()


def on_card(world: World) -> tuple[int, list[dict[str, Any]]]:
    card = broker_card(world)
    return card.totals_at, [msgspec.structs.asdict(total) for total in card.totals]


def test_totals_that_are_rolled_back_come_in_the_next_round(
    world: World, customer: Customer, keeper: Shopkeeper, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    to_boundary(time)
    settle(world)
    monkeypatch.setattr(world.broker.broker._audit, "_limits", Limits(totals_minimum_orders=1))
    placed(customer, customer.shop(), keeper)
    to_boundary(time)

    def fail(*_: Any) -> None:
        raise RuntimeError("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(audit.Audit, "outbox", fail)
        with pytest.raises(RuntimeError):
            settle(world)
    time.advance(1_000)
    settle(world)
    (event,) = of_kind(world, "coins.totals")
    assert on_card(world)[1] == event["data"]["coins"]


def buy(world: World, customer: Customer, session: Session, count: int) -> None:
    session.say(*(customer.order(1).place for _ in range(count)))
    settle(world)


@pytest.mark.parametrize("bodies", [[b"{}"], [b"{}", b'{"a":1}'], [b'"' + b"x" * 30_000 + b'"'] * 5])
def test_several_events_travel_as_a_batch(bodies: Sequence[bytes]) -> None:
    typed = audit._payloads(bodies)
    payloads = [payload for _, payload in typed]
    kind = "application/cloudevents+json" if len(bodies) == 1 else "application/cloudevents-batch+json"
    assert {content_type for content_type, _ in typed} == {kind}
    assert all(len(payload) <= 64 * 1024 for payload in payloads)
    parsed = [json.loads(payload) for payload in payloads]
    flat = [each for part in parsed for each in (part if isinstance(part, list) else [part])]
    assert flat == [json.loads(body) for body in bodies]
    assert (len(bodies) == 1) == isinstance(parsed[0], dict)


def test_the_order_of_rows_says_nothing_about_the_order_of_events(world: World) -> None:
    kinds = [f"step.{n}" for n in range(12)]
    with world.broker.store.immediate() as tx:
        for kind in kinds:
            world.broker.broker._audit.record(tx, kind, {}, 0, clock.random_bytes)
        stored = [row["type"] for row in tx.all(sa.select(schema.events).order_by(schema.events.c.id))]
    assert [kind for kind in stored if kind in kinds] != kinds


def test_an_event_topic_is_one_that_everybody_can_parse(world: World, keeper: Shopkeeper) -> None:
    settle(world)
    seen = {p.topic for p in world.bus.passed if "/audit/" in p.topic}
    assert seen == {topics.audit_event("key.announced"), topics.audit_event("merchant.admitted")}
    assert fresh() not in {p.payload for p in world.bus.passed}
