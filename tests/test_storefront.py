"""The storefront's pages over a market in memory: what a browser's test could not bring about."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from conftest import Time
from customer_shop import PASSWORD, PRICES, Bazaar, build, content, home, lose
from fronts import Front, bazaar, front, gate, opened
from test_customer_refunds import deaf
from test_storefront_account import code, secret_on

from broker_node import totp
from common import clock, config
from common.config import HOUR_MS
from common.errors import NotFoundError
from customer_node import schema
from customer_node.views import OrderView
from customer_node.web.desk import SIDE, BothOpenError, Delivery, Side
from customer_node.web.orders import timeline
from customer_node.web.words import explain

__all__ = ["bazaar", "front"]  # fixtures

CARD = {"number": "4242424242424242", "expiry": "12/34", "security_code": "123", "name": "A. Lovelace"}


# --- account and visits --------------------------------------------------------------------------------


def test_account_and_visits_are_never_open_together(front: Front) -> None:
    assert front.desk.reading.logged_in()
    for path in ("/", "/catalog", "/products/sports/PLAN", "/pictures/sports/PLAN", "/merchants"):
        assert (front.browser.get(path).status, gate(front.browser.get(path))) == (409, "account")
    assert gate(front.post("/cart/add", merchant="sports", sku="PLAN", quantity="1")) == "account"
    assert front.desk.reading.visit() is None

    front.log_out()
    assert "New in all shops" in front.browser.get("/").text
    for path in ("/account", "/wallet/top-up"):
        assert gate(front.browser.get(path)) == "shop"
    for path in ("/account/login", "/account/signup", "/wallet/top-up"):
        assert gate(front.post(path)) == "shop"
    assert not front.desk.reading.logged_in()
    # What lies here is shown in either mode, and opens nothing.
    for path in ("/cart", "/orders", "/library", "/wallet"):
        assert front.browser.get(path).status == 200
    left = front.post("/visit/leave", onward="/account")
    assert (left.status, left.headers["location"]) == (303, "/account")
    assert front.desk.reading.visit() is None
    assert "Choose a name" in front.browser.get("/account").text


def test_two_tabs_that_race_open_one_side_at_most(front: Front) -> None:
    async def asked(side: Side) -> object:
        SIDE.set(side)
        return await front.desk.ask(lambda market: market.merchants())

    with pytest.raises(BothOpenError):
        front.browser.run(asked("shop"))
    front.log_out()
    assert front.browser.run(asked("shop"))
    front.browser.get("/catalog")
    with pytest.raises(BothOpenError):
        front.browser.run(asked("account"))
    assert "opened meanwhile" in explain(BothOpenError("It was opened meanwhile.")).happened


def test_whoever_leaves_the_shops_lets_deliveries_pause(front: Front) -> None:
    front.log_out()
    front.bazaar.add("sports", "LONG", 500, content("long", 9_000_000))
    front.add("sports", "LONG")
    front.post("/pay", key=front.review())
    while not front.desk._deliveries:
        front.browser.get("/orders")
    assert front.post("/visit/leave", onward="/account").status == 303
    (order,) = front.desk.reading.orders()
    assert order.state in ("accepted", "downloading")
    assert front.desk.reading.visit() is None
    assert "Fetch the files" in front.browser.get(f"/orders/{order.order_id}").text
    front.post(f"/orders/{order.order_id}/deliver")
    front.settled()
    assert front.desk.reading.order(order.order_id).state == "complete"


def test_chunks_are_shown_as_they_come(front: Front) -> None:
    front.log_out()
    front.bazaar.add("sports", "LONG", 500, content("long", 4_000_000))
    front.add("sports", "LONG")
    place = front.post("/pay", key=front.review()).headers["location"]
    shown: list[int] = []
    while not shown or front.desk.reading.orders()[0].state != "complete":
        page = front.browser.get(place).text
        shown += [int(each) for each in re.findall(r"(\d+) of \d+ (?:encrypted )?chunks", page)]
    assert shown == sorted(shown)
    assert len({*shown}) > 2, "more than the first and the last"


def test_deliveries_of_two_merchants_take_turns(front: Front) -> None:
    front.log_out()
    for merchant in ("sports", "maps"):
        front.bazaar.add(merchant, f"LONG-{merchant}", 500, content(merchant, 3_000_000))
        front.add(merchant, f"LONG-{merchant}")
    front.post("/pay", key=front.review())
    # Each change of merchant is a new connection, on which what was under way does not come.
    seen: set[tuple[bool, ...]] = set()
    while not front.desk._deliveries or any(each.running for each in front.desk._deliveries.values()):
        front.browser.get("/orders")
        begun = [each.progress for each in front.desk._deliveries.values() if each.progress]
        seen.add(tuple(0 < each.cells_done < each.cells for each in begun))
    assert (True, True) not in seen
    assert {(True,), (True, False)} & seen, "it was looked at while it went on"
    assert [each.state for each in front.desk.reading.orders()] == ["complete"] * 2


def test_waiting_ends_when_the_visit_has(front: Front, time: Time) -> None:
    front.log_out()
    front.browser.get("/catalog")
    visit = front.desk.reading.visit()
    assert visit is not None
    waiting = front.post("/visit/wait", onward="/wallet/top-up").headers["location"]
    page = front.browser.get(waiting)
    assert "Waiting for the visit to end" in page.text
    assert '<meta http-equiv="refresh"' in page.text
    time.advance(visit.until - clock.now_ms())
    onward = front.browser.get(waiting)
    assert (onward.status, onward.headers["location"]) == (303, "/wallet/top-up")


@pytest.fixture
def slow(tmp_path: Path, time: Time) -> Iterator[Front]:
    """A shop in a market whose coins rest for an hour; the profile's have rested."""
    built = build(tmp_path, minimum_age_seconds=3600)
    with built.customer(clock=clock.now_ms) as market:
        profile = home(market)
        market.log_out()
        built.world.fund(profile.name, 4000)
    time.advance(2 * HOUR_MS)
    yield from opened(built, profile)
    built.world.close()


def test_the_account_keeps_the_minimum_age_after_a_visit(slow: Front, time: Time) -> None:
    visited = clock.now_ms()
    assert slow.browser.get("/catalog").status == 200
    visit = slow.desk.reading.visit()
    assert visit is not None
    time.advance(visit.until - clock.now_ms())
    # The visit is over by itself, and not for long enough.
    assert slow.desk.reading.visit() is None
    page = slow.browser.get("/account")
    assert (gate(page), "You have just been in the shops" in page.text) == ("shop", True)
    waiting = slow.post("/visit/wait", onward="/account").headers["location"]
    assert visited + HOUR_MS <= slow.desk.wait_until <= clock.now_ms() + 2 * HOUR_MS
    time.advance(slow.desk.wait_until - clock.now_ms() - 1000)
    assert "Waiting until the visit is far enough away" in slow.browser.get(waiting).text
    time.advance(1000)
    assert slow.browser.get(waiting).headers["location"] == "/account"
    assert gate(slow.browser.get("/account")) == ""


def test_whoever_does_not_want_to_wait_is_asked_once_for_each_visit(slow: Front) -> None:
    slow.browser.get("/catalog")
    assert gate(slow.browser.get("/account")) == "shop"
    slow.post("/visit/leave", onward="/account")
    login = {"login-name": "customer1", "password": PASSWORD}
    assert slow.post("/account/login", **login).status == 303
    assert slow.post("/account/withdraw", bundles="1").status == 303
    slow.log_out()
    assert gate(slow.browser.get("/account")) == ""
    slow.browser.get("/catalog")
    assert gate(slow.browser.get("/account")) == "shop"


def test_nobody_is_led_elsewhere_by_a_form(front: Front) -> None:
    assert front.post("/account/logout", onward="https://evil.example/").headers["location"] == "/"


# --- paying --------------------------------------------------------------------------------------------


def test_an_expired_quote_is_not_paid(front: Front, time: Time) -> None:
    front.log_out()
    front.add()
    key = front.review()
    time.advance(config.HOUR_MS)
    again = front.post("/pay", key=key)
    assert (again.status, again.headers["location"]) == (303, "/review")
    assert "These prices have expired. Nothing was paid" in front.browser.get("/cart").text
    assert front.desk.reading.orders() == ()
    assert front.post("/pay", key="0" * 32).headers["location"] == "/review"
    assert front.browser.get("/purchases/" + "0" * 32).headers["location"] == "/review"


def test_a_quote_is_bought_once_however_often_it_is_sent(front: Front) -> None:
    front.log_out()
    front.add("sports", "PLAN", 2)
    front.add("maps", "ROUTE")
    key = front.review()
    first = front.post("/pay", key=key)
    assert first.headers["location"] == f"/purchases/{key}"
    front.settled()
    assert front.post("/pay", key=key).headers["location"] == f"/purchases/{key}"
    front.settled()
    orders = front.desk.reading.orders()
    assert [(each.merchant, each.state, each.total) for each in orders] == [
        ("sports", "complete", 2 * PRICES["PLAN"]),
        ("maps", "complete", PRICES["ROUTE"]),
    ]
    page = front.browser.get(f"/purchases/{key}")
    assert page.text.count('data-state="complete"') == 2
    events = front.browser.get(f"/purchases/{key}/events")
    assert events.headers["content-type"].startswith("text/event-stream")
    assert events.text.startswith("event: piece\n")
    assert events.text.endswith("event: done\ndata:\n\n")


def test_a_purchase_of_an_earlier_run_is_found_under_its_address(front: Front) -> None:
    front.log_out()
    front.add()
    key = front.review()
    front.post("/pay", key=key)
    front.settled()
    front.desk._purchases.clear()
    assert 'data-state="complete"' in front.browser.get(f"/purchases/{key}").text


def test_a_changed_price_is_shown_before_it_is_paid(front: Front) -> None:
    front.log_out()
    front.add()
    front.bazaar.world.merchants["sports"].inventory.edit("PLAN", price=1500)
    page = front.browser.get("/review").text
    assert "A price has changed" in page
    assert "was <del>12.34 EUR</del>" in page
    assert "Pay 15.00 EUR" in page


def test_what_is_missing_is_said_before_anything_is_paid(front: Front) -> None:
    front.log_out()
    front.add("sports", "PLAN", 4)
    page = front.browser.get("/review").text
    assert "9.36 EUR are missing." in page
    assert 'action="/pay"' not in page


def test_a_code_that_is_not_taken_is_said_at_its_field(front: Front) -> None:
    front.log_out()
    front.add()
    page = front.browser.get("/review?code.sports=SUMMER-99").text
    assert 'aria-invalid="true"' in page
    assert "knows no such discount code" in page
    assert "Pay 12.34 EUR" in page


# --- orders --------------------------------------------------------------------------------------------


def test_an_order_that_waits_says_for_whom_and_is_called_off(front: Front) -> None:
    front.log_out()
    front.add()
    key = front.review()
    with deaf(front.bazaar, front.market, "sports/in"):
        place = front.post("/pay", key=key).headers["location"]
        front.settled()
    (order,) = front.desk.reading.orders()
    assert place in (f"/orders/{order.order_id}", f"/purchases/{key}")
    page = front.browser.get(f"/orders/{order.order_id}").text
    assert 'data-state="placed"' in page
    assert "Waiting for the merchant" in page
    assert "Without an answer the money comes back by itself." in page
    assert f'sse-connect="/orders/{order.order_id}/events"' in page
    called_off = front.post(f"/orders/{order.order_id}/cancel")
    assert called_off.headers["location"] == f"/orders/{order.order_id}"
    page = front.browser.get(f"/orders/{order.order_id}").text
    assert "You called it off." in page
    assert "sse-connect" not in page
    assert front.desk.reading.wallet().usable == 4000


def test_an_open_order_is_taken_up_again(front: Front, time: Time) -> None:
    front.log_out()
    front.add()
    key = front.review()
    with deaf(front.bazaar, front.market, "sports/in"):
        front.post("/pay", key=key)
        front.settled()
    # The broker says it again after a while.
    time.advance(config.MINUTE_MS)
    assert front.post("/orders/resume", onward="/orders").status == 303
    front.settled()
    assert [each.state for each in front.desk.reading.orders()] == ["complete"]


def test_a_delivery_that_stops_says_so_and_goes_on(front: Front) -> None:
    front.log_out()
    front.add()
    key = front.review()
    with front.bazaar.tampering(lose("sports/cells")):
        front.post("/pay", key=key)
        front.settled()
    (order,) = front.desk.reading.orders()
    page = front.browser.get(f"/orders/{order.order_id}").text
    assert "What has come is kept" in page
    assert 'class="step step-bad"' in page
    front.post(f"/orders/{order.order_id}/deliver")
    front.settled()
    assert front.desk.reading.order(order.order_id).state == "complete"


def test_files_are_asked_for_by_number(front: Front) -> None:
    front.log_out()
    front.add()
    front.post("/pay", key=front.review())
    front.settled()
    (order,) = front.desk.reading.orders()
    file = front.browser.get(f"/orders/{order.order_id}/files/1")
    assert file.body == content("sports PLAN", 150_000)
    assert file.headers["content-disposition"] == 'attachment; filename="plan.bin"'
    for path in ("0", "2", "-1", "..%2Fseed", "../seed"):
        assert front.browser.get(f"/orders/{order.order_id}/files/{path}").status == 404
    for order_id in ("0" * 32, "zz", order.order_id[:8]):
        assert front.browser.get(f"/orders/{order_id}").status == 404
        assert front.browser.get(f"/orders/{order_id}/events").status == 404
    receipt = front.browser.get(f"/orders/{order.order_id}/receipt.json")
    assert receipt.headers["content-type"] == "application/json"
    assert receipt.status == 200


STATES = {
    "draft": "now later later later later",
    "placed": "done done now later later",
    "accepted": "done done done now later",
    "downloading": "done done done now later",
    "complete": "done done done done done",
    "disputed": "done done done now later now",
    "refused": "done bad",
    "refundable": "done done bad now",
    "refunded": "done done bad done",
}


@pytest.mark.parametrize(("state", "steps"), STATES.items())
def test_every_state_of_an_order_has_its_road(state: Any, steps: str) -> None:
    order = OrderView(
        order_id="00",
        merchant="sports",
        state=state,
        lines=(),
        code="",
        subtotal=0,
        discount=0,
        taxes=(),
        total=0,
        currency="EUR",
        created=0,
        deadline=0,
        idempotency_key="",
        audit=None,
        failure=None,
        refunded=0,
        claimed=0,
        decision="",
        waits_for=None,
        waits_until=None,
        cells_done=3,
        cells=8,
        files=(),
    )
    assert " ".join(step.state for step in timeline(order)) == steps
    broken = timeline(order, Delivery(error=NotFoundError("gone")))
    assert ("bad" in [step.state for step in broken]) == (
        state in ("accepted", "downloading", "disputed", "refused", "refundable", "refunded")
    )
    assert "12 of 12" not in timeline(replace(order, cells=None))[-1].text


def test_a_dispute_says_by_when_it_is_decided_and_that_it_is_overdue(front: Front, time: Time) -> None:
    front.log_out()
    front.add()
    front.post("/pay", key=front.review())
    front.settled()
    (order,) = front.desk.reading.orders()
    with front.desk.reading._context.profile.store.immediate() as tx:
        disputed = {"state": "disputed", "standing": "disputed", "decide_by": clock.now_ms() + config.HOUR_MS}
        tx.execute(sa.update(schema.orders).values(disputed))
    path = f"/orders/{order.order_id}"
    assert "The operator decides by " in front.browser.get(path).text
    time.advance(2 * config.HOUR_MS)
    assert "It is overdue since " in front.browser.get(path).text


# --- account -------------------------------------------------------------------------------------------


def test_money_is_moved_in_bundles(front: Front) -> None:
    name = front.profile.name
    front.bazaar.world.fund(name, 2500)
    page = front.browser.get("/account").text
    assert 'data-balance="2500"' in page
    assert '<option value="1">20.00 EUR</option>' in page
    assert front.post("/account/withdraw", bundles="1").status == 303
    assert 'data-balance="500"' in front.browser.get("/account").text
    assert front.post("/account/withdraw", bundles="0").status == 400
    assert front.post("/account/withdraw", bundles="1").status == 409


def test_a_declined_card_keeps_what_was_typed_but_its_security_code(front: Front) -> None:
    answer = front.post("/wallet/top-up", amount="2000", move="yes", **CARD | {"number": "4000000000000002"})
    assert answer.status == 422
    assert "The card was declined." in answer.text
    assert 'value="A. Lovelace"' in answer.text
    field = answer.text.split('id="field-security_code"')[1].split("</div>")[0]
    assert "value" not in field
    # The same form is charged once, however often it is sent.
    for _ in range(2):
        assert front.post("/wallet/top-up", amount="2500", key="k" * 32, **CARD).status == 303
    assert 'data-balance="2500"' in front.browser.get("/account").text
    (refused, charged) = front.desk.reading.top_ups()
    assert (refused.state, charged.state, charged.last_four) == ("refused", "charged", "4242")


@pytest.mark.parametrize("amount", ["99999999999999999999", "1000000000001", "-5", "²"])
def test_no_card_is_charged_an_amount_that_is_none(front: Front, amount: str) -> None:
    card = {"number": "4242424242424242", "expiry": "12/34", "security_code": "123", "name": "Alice"}
    for fields in ({"amount": amount}, {"amount": "other", "other": amount}):
        refused = front.post("/wallet/top-up", **fields, **card)
        assert refused.status == 422
        assert "Choose an amount" in refused.text
    assert front.desk.reading.top_ups() == ()


def test_a_charge_that_is_not_known_yet_says_not_to_pay_again(front: Front) -> None:
    answer = front.post("/wallet/top-up", amount="2000", **CARD | {"number": "4000000000002008"})
    assert answer.status == 504
    assert "It is not known yet whether the card was charged" in answer.text
    assert "Do not pay again before it is known" in answer.text
    wallet = front.browser.get("/wallet").text
    assert "Not known yet" in wallet
    assert "<td>A payment by card</td>" in wallet
    assert "<td>the payment gateway, without a limit</td>" in wallet
    assert 'action="/account/resume"' in wallet
    assert front.post("/account/resume").headers["location"] == "/account"


def test_whoever_has_no_ticket_is_welcomed(bazaar: Bazaar) -> None:
    with bazaar.customer(bundles=0) as market:
        market.log_out()
        profile = home(market)
    for new in opened(bazaar, profile):
        page = new.browser.get("/").text
        assert "Welcome" in page
        assert "sports" in page
        assert new.browser.get("/catalog").status == 409
        assert "No ticket is left" in new.browser.get("/catalog").text


def test_no_login_asks_for_a_code_once_it_is_turned_off(front: Front, time: Time) -> None:
    secret = secret_on(front.browser.get("/account/second-factor").text)
    front.post("/account/second-factor/on", password=PASSWORD, code=code(secret))
    time.advance(2 * totp.STEP_MS)
    off = front.post("/account/second-factor/off", password=PASSWORD, code=code(secret))
    assert (off.status, off.headers["location"]) == (303, "/account")
    front.post("/account/logout", onward="/account")
    front.log_in()


def test_coins_that_end_are_swapped_and_what_is_lost_is_said(front: Front, time: Time) -> None:
    wallet = front.desk.reading.wallet()
    while not wallet.ending:
        time.advance(config.DAY_MS)
        wallet = front.desk.reading.wallet()
    page = front.browser.get("/wallet").text
    assert "Swap them now" in page
    assert 'value="/wallet"' in page


# --- what pages read beside the market -----------------------------------------------------------------


def test_what_lies_here_is_read_while_the_market_is_busy(front: Front) -> None:
    market = front.market
    front.log_out()
    front.add()
    assert front.desk.reading.cart() == market.cart.view()
    assert replace(market.wallet(), due=()) == front.desk.reading.wallet()
    assert front.desk.reading.top_ups() == market.top_ups() == ()
    with pytest.raises(NotFoundError):
        front.desk.reading.order("00")


def test_pages_of_a_search_hold_every_product_once(front: Front) -> None:
    for number in range(30):
        front.bazaar.add("maps", f"MAP-{number:02}", 100 + number, b"map")
    front.log_out()
    seen: list[tuple[str, str]] = []
    for offset in range(0, 40, 8):
        found = front.market.search(sort="price", limit=8, offset=offset)
        seen += [(each.merchant, each.sku) for each in found.products]
        assert found.total == 36
    assert len(seen) == len(set(seen)) == 36
    alone = [front.market.search(merchant="maps", limit=5, offset=offset).products for offset in (0, 5)]
    assert [each.sku for page in alone for each in page] == [
        each.sku for each in front.market.search(merchant="maps", limit=10).products
    ]
