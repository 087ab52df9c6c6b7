"""The dashboard where money moves: refunds, disputes, payouts; and discounts, privacy, settings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from dashboards import Dashboard, opened_dashboard
from merchant_world import Identities, make_identities

from common import messages
from common.config import DAY_MS
from merchant_node import schema
from merchant_node.home import PROFILE, Profile
from merchant_node.treasury import Treasury
from merchant_node.trends import percentile
from merchant_node.web.drawing import WIDTH, columns


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("market")


@pytest.fixture(scope="module")
def identities(keys: Path) -> Identities:
    return make_identities(keys)


@pytest.fixture
def dash(identities: Identities, keys: Path, tmp_path: Path) -> Iterator[Dashboard]:
    with opened_dashboard(tmp_path, identities, keys) as dashboard:
        (tmp_path / "plan").write_bytes(b"plan")
        dashboard.world.inventory.add(tmp_path / "plan", "PLAN-1", title="A plan", price=990)
        dashboard.world.open_session()
        yield dashboard


def sold(dash: Dashboard) -> messages.ForwardOrder:
    order, _ = dash.world.order(("PLAN-1", 1))
    dash.world.ask(order)
    dash.world.captured(order)
    return order


def hidden(text: str) -> dict[str, str]:
    """The fields that a page sends back as they are."""
    found = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', text))
    found.pop("csrf")
    return found


# --- refunds and disputes ------------------------------------------------------------------------------


def test_a_refund_is_confirmed_first_and_asked_for_once(dash: Dashboard) -> None:
    order = sold(dash).order_id.hex()
    form = f"/orders/{order}/refund"
    assert "Give money back" in dash.text(f"/orders/{order}")
    wrong = dash.post(form, {"how": "part", "amount": "10.00", "reason": ""}, status=422, page=form)
    assert set(re.findall(r'id="fault-(\w+)"', wrong.text)) == {"amount", "reason"}
    shown = dash.post(form, {"how": "part", "amount": "4.00", "reason": "late"}, status=200, page=form)
    assert "5.90 EUR stay with you" in shown.text
    assert dash.desk.books.refunds.listing() == []
    for _ in range(2):
        answer = dash.post(form, hidden(shown.text), page=form)
    assert "on its way" in dash.follow(answer)
    (refund,) = dash.desk.books.refunds.listing()
    assert (refund.amount, refund.reason, refund.order_id.hex()) == (400, "late", order)
    assert "late" in dash.text("/refunds")
    # What is left is known, and more than that is refused by the store as well.
    assert "5.90 EUR are left" in dash.text(form)
    late = {"how": "part", "amount": "6.00", "reason": "x", "confirmed": "yes", "key": "ab" * 16}
    dash.post(form, late, status=409, page=form)
    rest = dash.post(form, {"how": "all", "reason": "rest"}, status=200, page=form)
    dash.post(form, hidden(rest.text), page=form)
    assert "nothing left" in dash.text(form)


def test_a_dispute_is_answered_once(dash: Dashboard) -> None:
    order = sold(dash)
    assert "No open dispute" in dash.text("/disputes")
    decide_by = dash.world.now + DAY_MS
    claimed = messages.Arrived(
        cells=1, expected=2, wrong=[messages.WrongFile(sku="PLAN", keys=True, digest=b"\xab" * 32)]
    )
    notice = messages.DisputeOpened(
        order_id=order.order_id, kind="not_delivered", decide_by=decide_by, arrived=[claimed]
    )
    dash.world.ask(notice)
    assert "1 dispute to answer" in dash.text("/")
    shown = dash.text("/disputes")
    assert "1 of 2 cells came" in shown
    assert "ab" * 32 in shown
    assert "Nothing proves this" in shown
    page, address = "/disputes", f"/orders/{order.order_id.hex()}/dispute"
    dash.post(address, {"statement": " "}, status=422, page=page)
    shown = dash.post(address, {"statement": "It was <fetched>."}, status=200, page=page)
    assert "It was &lt;fetched&gt;." in shown.text
    confirmed = {"statement": "It was <fetched>.", "confirmed": "yes"}
    assert "on its way" in dash.follow(dash.post(address, confirmed, page=page))
    dash.post(address, confirmed, status=409, page="/discounts")
    (dispute,) = dash.desk.books.disputes.listing()
    assert dispute.answer == "It was <fetched>."


# --- payouts -------------------------------------------------------------------------------------------


def earn(dash: Dashboard) -> None:
    """The broker's statement: two orders, one of them settled with a commission."""
    lines = [
        ("captured", 1000, 0, 0),
        ("captured", 3000, 0, 0),
        ("settled", 2000, 950, 0),
    ]
    dash.world.tick()
    dash.world.answers()
    question = next(each for each in dash.world.questions if isinstance(each, messages.GetStatement))
    dash.world.ask(
        messages.Statement(
            request=question.request,
            after=0,
            last=len(lines),
            commission_basis_points=500,
            lines=[
                messages.StatementLine(
                    line=number,
                    at=dash.world.now,
                    kind=kind,  # type: ignore[arg-type]
                    reference=bytes([number]) * 16,
                    pending=pending,
                    available=available,
                    reserved=reserved,
                )
                for number, (kind, pending, available, reserved) in enumerate(lines, 1)
            ],
        )
    )


def test_a_payout_is_confirmed_first_and_asked_for_once(dash: Dashboard) -> None:
    assert "There is no line yet" in dash.text("/money")
    assert "Nothing is available" in dash.text("/money/payout")
    earn(dash)
    shown = dash.get("/money")
    assert 'data-available="950"' in shown.text
    text = dash.text("/money")
    assert text.index("commission") < text.index("settled", text.index("Statement"))
    form = "/money/payout"
    wrong = dash.post(form, {"how": "part", "amount": "9.51", "destination": ""}, status=422, page=form)
    assert set(re.findall(r'id="fault-(\w+)"', wrong.text)) == {"amount", "destination"}
    wish = {"how": "part", "amount": "5.00", "destination": "DE02 1203 0000 0000 2020 51"}
    confirm = dash.post(form, wish, status=200, page=form)
    assert "4.50 EUR stay available" in confirm.text
    assert dash.desk.books.treasury.payouts() == []
    for _ in range(2):
        answer = dash.post(form, hidden(confirm.text), page=form)
    assert "DE02 1203" in dash.follow(answer)
    (payout,) = dash.desk.books.treasury.payouts()
    assert (payout.amount, payout.state) == (500, "asked")
    # The next form knows what is left, and where the last one went.
    again = dash.get(form).text
    assert "4.50 EUR are available" in again
    assert 'value="DE02 1203' in again
    # Without the running node nobody asks the broker, and the page says so.
    assert "not heard" in dash.follow(dash.post("/money/read", {}, page="/money"))


def test_the_newest_lines_of_a_statement_are_those_of_the_whole(dash: Dashboard) -> None:
    earn(dash)
    treasury = Treasury(dash.desk.books.store)
    whole = treasury.statement()[::-1]
    first, more = treasury.newest(2**40, 2)
    rest, end = treasury.newest(more, 2)
    assert ([*first, *rest], end) == (whole, 0)
    assert [line.kind for line in whole] == ["commission", "settled", "captured", "captured"]


# --- discounts, privacy, settings ----------------------------------------------------------------------


def test_a_code_is_made_listed_and_removed(dash: Dashboard) -> None:
    page = "/discounts"
    fields = {"code": "no", "percent": "101", "from": "soon", "limit": "0", "minimum": "x"}
    wrong = dash.post(page, fields, status=422, page=page)
    assert set(re.findall(r'id="fault-(\w+)"', wrong.text)) == {"percent", "from", "limit", "minimum"}
    assert "either a percentage or an amount" in dash.post(page, {"code": "BOTH"}, status=422, page=page).text
    assert "fault-code" in dash.post(page, {"code": "no", "percent": "5"}, status=422, page=page).text
    missing = {"code": "SUMMER", "percent": "5", "sku": "GONE"}
    assert "fault-sku" in dash.post(page, missing, status=422, page=page).text
    fields = {"code": "summer", "percent": "10", "until": "2027-06-30", "limit": "5"}
    assert "SUMMER counts from now on" in dash.follow(dash.post(page, fields, page=page))
    assert all(each in dash.text(page) for each in ("SUMMER", "10 %", "0 of 5", "30 Jun 2027"))
    # The report shows what the code makes of the price.
    assert "8.91 EUR" in dash.text("/privacy")
    dash.post("/discounts/SUMMER/remove", {}, page=page)
    assert "no discount code yet" in dash.text(page)


def test_the_privacy_report_says_what_to_change(dash: Dashboard) -> None:
    text = dash.text("/privacy")
    assert "1 of 1 hide among too few" in text
    assert "offer 3 more at the same price" in text


def test_settings_are_written_for_the_next_start(dash: Dashboard) -> None:
    wrong = dash.post("/settings", {"name": "", "tax": "x"}, status=422, page="/settings")
    assert set(re.findall(r'id="fault-(\w+)"', wrong.text)) == {"name", "tax"}
    fields = {"name": 'A "new" name', "description": "Line\nby line", "tax": "7"}
    assert "Saved." in dash.follow(dash.post("/settings", fields, page="/settings"))
    saved = Profile.load(dash.world.home / PROFILE)
    assert (saved.name, saved.tax_rate) == ('A "new" name', 700)
    assert "Without it, the shop's: 7 %" in dash.get("/products/new").text.replace("&#39;", "'")


# --- plots ---------------------------------------------------------------------------------------------


def test_plots_and_their_tables_say_the_same_without_a_style(dash: Dashboard) -> None:
    first = sold(dash)
    dash.world.now += DAY_MS
    dash.world.open_session()
    sold(dash)
    refused, _ = dash.world.order_of(
        [messages.OrderLine(sku="GONE", record=bytes(32), quantity=1, unit_price=1, discount=0)]
    )
    dash.world.ask(refused)
    dash.desk.books.refunds.ask(first.order_id, 400, "late", dash.world.now, dash.world.random)
    (refund,) = dash.desk.books.refunds.listing()
    dash.world.ask(messages.RefundTaken(refund=refund.refund, amount=400, left=590))
    shop = dash.desk.books.store
    with shop.immediate() as tx:
        lines = [(1, "captured", 990, 0), (2, "settled", 0, 990)]
        for number, kind, pending, available in lines:
            row = {"line": number, "at": dash.world.now, "kind": kind, "reference": first.order_id}
            sums = {"pending": pending, "available": available, "reserved": 0}
            tx.insert(schema.statement_lines.insert(), row | sums)
    page = dash.get("/plots?days=7")
    assert "style=" not in page.text
    text = dash.text("/plots?days=7")
    assert "came in 3 100.0 % accepted 2 66.7 % paid 2 66.7 % delivered 0 0.0 %" in text
    assert "1 9.90 EUR" in text
    assert "1 24 h 24 h" in text
    assert "1 4.00 EUR" in text
    titles = re.findall(r"<title>([^<]*: [^<]*)</title>", page.text)
    assert sorted(each.split(": ")[1] for each in titles) == sorted(
        ["9.90 EUR", "9.90 EUR", "3", "2", "2", "24 h", "24 h", "4.00 EUR"]
    )
    assert page.text.count('<th scope="row">') == 7 * 3 + 4
    assert dash.get("/plots?days=1000").status == 200


@pytest.mark.parametrize(
    ("values", "part", "found"),
    [([], 0.5, None), ([7], 0.95, 7), ([1, 2, 3, 4], 0.5, 2), (list(range(1, 101)), 0.95, 95)],
)
def test_a_percentile_is_a_value_that_occurred(values: list[int], part: float, found: int | None) -> None:
    assert percentile(values, part) == found


def test_columns_fit_under_their_highest_tick() -> None:
    drawn = columns("x", ["a", "b", "c"], [[0, 7, 43], [None, 1, 12]], str)
    assert [mark.text for mark in drawn.ticks] == ["0", "20", "40", "60"]
    assert [bar.said for bar in drawn.bars] == ["b: 7", "c: 43", "b: 1", "c: 12"]
    assert all(bar.y >= drawn.ticks[-1].at and bar.x + bar.width <= WIDTH for bar in drawn.bars)
    assert columns("x", ["a"], [[0]], str).bars == []
