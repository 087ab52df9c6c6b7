"""An order's own pages over a market in memory: invoice, dispute, licence keys, and how it stands."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from client import order_state
from customer_shop import Bazaar, build
from fronts import Front, front, gate
from pypdf import PdfReader
from test_customer_disputes import decide, seen_by_operator
from test_customer_refunds import asked, deaf

from customer_node import Buyer
from customer_node.web.desk import Purchase

__all__ = ["front"]  # a fixture

STATEMENT = "nothing came\r\nin three days"
COMPLAINT = {"kind": "not_delivered", "show": "withhold", "statement": STATEMENT}
FOREIGN = ("0" * 32, "zz", "..%2F..%2Fseed", "a" * 31)


@pytest.fixture(scope="module")
def bazaar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bazaar]:
    built = build(tmp_path_factory.mktemp("market"))
    yield built
    built.world.close()


def faults(text: str) -> set[str]:
    return set(re.findall(r'id="fault-([\w-]+)"', text))


# --- the invoice ---------------------------------------------------------------------------------------


def test_an_invoice_has_the_buyers_own_words_and_keeps_them_only_where_that_is_wished(front: Front) -> None:
    order_id = front.bought()
    place = f"/orders/{order_id}/invoice"
    assert f'href="{place}"' in front.browser.get(f"/orders/{order_id}").text
    assert 'name="keep" value="yes">' in front.browser.get(place).text
    words = {"name": "Ada <Lovelace>", "address": "1 Main Street\r\nLondon"}

    drawn = front.post(place, **words, **{"as": "pdf"})
    assert drawn.headers["content-type"] == "application/pdf"
    assert drawn.headers["content-disposition"] == f'attachment; filename="invoice-{order_id[:12]}.pdf"'
    text = "".join(page.extract_text() for page in PdfReader(io.BytesIO(drawn.body)).pages)
    for said in ("Ada <Lovelace>", "1 Main Street", "London", "PLAN of sports", "Total: 12.34 EUR", order_id):
        assert said in text
    assert front.market.buyer == Buyer()

    page = front.post(place, **words, **{"as": "html", "keep": "yes"})
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["content-disposition"].startswith("attachment;")
    assert "Ada &lt;Lovelace&gt;" in page.text
    assert front.market.buyer == Buyer("Ada <Lovelace>", "1 Main Street\nLondon")
    form = front.browser.get(place).text
    assert 'value="Ada &lt;Lovelace&gt;"' in form
    assert ">1 Main Street\nLondon</textarea>" in form
    assert 'name="keep" value="yes" checked>' in form
    # Without the tick what was kept is forgotten; the invoice has it all the same.
    assert front.post(place, **words).body.startswith(b"%PDF")
    assert front.market.buyer == Buyer()


def test_what_does_not_fit_on_an_invoice_is_said_at_its_field(front: Front) -> None:
    place = f"/orders/{front.bought()}/invoice"
    answer = front.post(place, name="x" * 201, address="\r\n".join("abcdefghijklmnop"), keep="yes")
    assert (answer.status, faults(answer.text)) == (422, {"name", "address"})
    assert ">a\r\nb" in answer.text
    assert front.market.buyer == Buyer()


def test_an_invoice_is_made_in_either_mode_and_of_no_order_but_this_profiles(front: Front) -> None:
    order_id = front.bought()
    front.post("/visit/leave", onward="/account")
    assert front.post(f"/orders/{order_id}/invoice").body.startswith(b"%PDF")
    assert front.desk.reading.visit() is None
    for other in FOREIGN:
        assert front.browser.get(f"/orders/{other}/invoice").status == 404
        assert front.post(f"/orders/{other}/invoice").status == 404


def test_an_order_without_a_receipt_has_no_invoice(front: Front) -> None:
    order_id = placed_only(front)
    assert "invoice" not in front.browser.get(f"/orders/{order_id}").text
    assert front.browser.get(f"/orders/{order_id}/invoice").status == 404
    assert front.post(f"/orders/{order_id}/invoice").status == 404


def placed_only(front: Front) -> str:
    """Buy from a merchant that does not hear of it."""
    front.log_out()
    front.add()
    key = front.review()
    with deaf(front.bazaar, front.market, "sports/in"):
        front.post("/pay", key=key)
        front.settled()
    (order,) = front.desk.reading.orders()
    return order.order_id


# --- the dispute ---------------------------------------------------------------------------------------


def test_a_dispute_is_opened_followed_and_decided(front: Front) -> None:
    order_id = front.bought(fetched=False)
    place = f"/orders/{order_id}"
    assert f'href="{place}/dispute"' in front.browser.get(place).text
    form = front.browser.get(f"{place}/dispute").text
    assert "checked" not in form, "nobody has said yet what the operator may see"
    assert "The money is frozen" in form

    opened = front.post(f"{place}/dispute", **COMPLAINT)
    assert (opened.status, opened.headers["location"]) == (303, place)
    page = front.browser.get(place).text
    assert 'data-state="disputed"' in page
    assert "your words alone" in page
    assert "nothing came\nin three days" in page
    assert "The operator decides by" in page
    assert "/dispute" not in page
    assert "Fetch the files" not in page
    seen = seen_by_operator(front.bazaar, order_id)
    assert (seen.statement, seen.evidence) == ("nothing came\nin three days", None)
    # Sent once more, in another way, it is what was said first.
    assert front.post(f"{place}/dispute", **COMPLAINT | {"show": "reveal"}).status in (303, 409)
    assert seen_by_operator(front.bazaar, order_id).evidence is None
    assert front.browser.get(f"{place}/dispute").headers["location"] == place

    front.post(f"{place}/ask")
    assert 'data-state="disputed"' in front.browser.get(place).text
    decide(front.bazaar, order_id, "refunded", "the merchant never served it")
    assert front.post(f"{place}/ask").headers["location"] == place
    page = front.browser.get(place).text
    assert "12.34 EUR came back into your wallet." in page
    assert "the merchant never served it" in page
    assert 'data-state="refunded"' in page
    assert front.desk.reading.wallet().usable == 4000


def test_what_a_dispute_lacks_is_said_at_its_field_and_nothing_is_sent(front: Front) -> None:
    order_id = front.bought(fetched=False)
    answer = front.post(f"/orders/{order_id}/dispute", kind="else", statement="x" * 1001)
    assert (answer.status, faults(answer.text)) == (422, {"kind", "show", "statement"})
    assert "x" * 1001 in answer.text
    assert front.desk.reading.dispute(order_id) is None
    assert order_state(front.bazaar.world, bytes.fromhex(order_id)) == "captured"


def test_a_dispute_is_the_shops_side_and_of_this_profiles_orders(front: Front) -> None:
    order_id = front.bought(fetched=False)
    for other in FOREIGN:
        assert front.browser.get(f"/orders/{other}/dispute").status == 404
        assert front.post(f"/orders/{other}/dispute", **COMPLAINT).status == 404
        assert front.post(f"/orders/{other}/ask").status == 404
        assert front.post(f"/orders/{other}/cancel").status == 404
    forged = front.browser.post(f"/orders/{order_id}/dispute", {"csrf": "x" * 43, **COMPLAINT})
    assert (forged.status, front.desk.reading.dispute(order_id)) == (403, None)
    front.post("/visit/leave", onward="/account")
    front.log_in()
    for answer in (
        front.browser.get(f"/orders/{order_id}/dispute"),
        front.post(f"/orders/{order_id}/dispute", **COMPLAINT),
        front.post(f"/orders/{order_id}/ask"),
        front.post(f"/orders/{order_id}/cancel"),
    ):
        assert (answer.status, gate(answer)) == (409, "account")
    assert front.desk.reading.visit() is None


def test_what_is_delivered_is_not_disputed(front: Front) -> None:
    order_id = front.bought()
    assert "/dispute" not in front.browser.get(f"/orders/{order_id}").text
    assert front.browser.get(f"/orders/{order_id}/dispute").status == 303
    refused = front.post(f"/orders/{order_id}/dispute", **COMPLAINT)
    assert refused.status == 409
    assert "there is nothing to dispute" in refused.text


def test_a_dispute_that_got_no_answer_is_said_again_before_anything_is_fetched(front: Front) -> None:
    order_id = front.bought(fetched=False)
    with front.bazaar.tampering(lambda it: [] if it.topic.endswith("/up") else [it]):
        assert front.post(f"/orders/{order_id}/dispute", **COMPLAINT).status == 504
    page = front.browser.get(f"/orders/{order_id}").text
    assert "The broker has not answered yet." in page
    assert "Say it again" in page
    stopped = front.desk.delivery(order_id)
    with front.bazaar.tampering(lambda it: [] if it.topic.endswith("/up") else [it]):
        front.post("/orders/resume")
        front.settled()
    assert front.desk.delivery(order_id) is stopped, "nothing arrives behind the dispute's back"
    front.post("/orders/resume", onward=f"/orders/{order_id}")
    front.settled()
    assert front.desk.reading.order(order_id).state == "disputed"


def test_between_purchase_and_delivery_a_page_goes_on_by_itself(front: Front) -> None:
    order_id = front.bought(fetched=False)
    assert "Something is wrong" in front.browser.get(f"/orders/{order_id}").text

    async def in_between() -> None:
        """Stand for the end of a purchase, whose deliveries are not begun."""
        front.desk._purchases[front.desk.reading.order(order_id).idempotency_key] = purchase
        purchase.task = asyncio.get_running_loop().create_task(asyncio.Event().wait())  # type: ignore[arg-type] # it never ends

    purchase = Purchase()
    front.browser.run(in_between())
    page = front.browser.get(f"/orders/{order_id}").text
    assert '<noscript><meta http-equiv="refresh"' in page
    assert "sse-connect=" in page
    assert "Fetch the files" not in page
    assert purchase.task is not None
    purchase.task.cancel()


# --- money and keys ------------------------------------------------------------------------------------


def test_money_that_a_merchant_gave_back_is_seen_and_fetched(front: Front) -> None:
    order_id = front.bought()
    assert asked(front.bazaar, order_id, 234).state == "done"
    before = front.desk.reading.wallet().usable
    front.post(f"/orders/{order_id}/ask")
    page = front.browser.get(f"/orders/{order_id}").text
    assert "2.34 EUR came back into your wallet." in page
    assert front.desk.reading.wallet().usable == before + 234
    front.post(f"/orders/{order_id}/ask")
    assert "this is how the order stands" in front.browser.get(f"/orders/{order_id}").text


def test_licence_keys_stand_on_the_orders_page(front: Front, tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text("AAAA-<1>\nBBBB-2\n")
    inventory = front.bazaar.world.merchants["sports"].inventory
    inventory.add(None, "PRO", title="Pro licence", price=100, keys=keys)
    front.log_out()
    page = front.browser.get("/products/sports/PRO").text
    assert "one for each copy, given to you alone" in page
    assert "SHA-256" not in page
    front.add("sports", "PRO")
    front.post("/pay", key=front.review())
    front.settled()
    (order,) = front.desk.reading.orders()
    page = front.browser.get(f"/orders/{order.order_id}").text
    given = re.findall(r'<li class="mono">([^<]+)</li>', page)[1:]  # after the crumb
    assert given in (["AAAA-&lt;1&gt;"], ["BBBB-2"])
    assert "Pro licence" in page
    receipt = json.loads(front.browser.get(f"/orders/{order.order_id}/receipt.json").body)
    assert "AAAA" not in json.dumps(receipt)


# --- variants ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", ["Ridge map", ""], ids=["grouped", "alike"])
def test_a_product_shows_its_variants_and_no_stranger(front: Front, group: str) -> None:
    inventory = front.bazaar.world.merchants["maps"].inventory
    file = front.bazaar.world.root / "originals" / "maps" / "ROUTE" / "route.bin"
    mark, title = ("G", "Ridge map") if group else ("T", "Lake map")
    for sku, named, of_group, variant in (
        ("GPX", title, group, "as GPX"),
        ("PDF", f"{title} to print" if group else title, group, "as PDF"),
        ("ALIEN", title if group else f"{title} of Mars", "", "as GPX"),
        ("PLAIN", title, "", ""),
    ):
        inventory.add(file, mark + sku, title=named, price=77, group=of_group, variant=variant)
    front.log_out()
    page = front.browser.get(f"/products/maps/{mark}GPX").text
    shown = re.findall(r'class="chip" href="/products/maps/(\w+)"( aria-current="true")?>', page)
    assert sorted(shown) == [(f"{mark}GPX", ' aria-current="true"'), (f"{mark}PDF", "")]
    assert 'aria-label="Variants"' not in front.browser.get(f"/products/maps/{mark}PLAIN").text
