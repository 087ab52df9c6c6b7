"""The merchant's dashboard: what its pages show, and what their forms do to the store."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from dashboards import Dashboard, opened_dashboard
from merchant_world import Identities, make_identities
from PIL import Image

from common.config import CELL_CONTENT, DAY_MS
from common.errors import UsageError
from merchant_node import figures
from merchant_node.figures import Figures, Wanted
from merchant_node.reports import Reports
from merchant_node.web import products
from merchant_node.web.dashboard import run_dashboard

FIELDS = {"sku": "PLAN-1", "title": "A plan", "price": "9.90", "category": "plans", "tags": "run, slow"}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("market")


@pytest.fixture(scope="module")
def identities(keys: Path) -> Identities:
    return make_identities(keys)


@pytest.fixture
def dash(identities: Identities, keys: Path, tmp_path: Path) -> Iterator[Dashboard]:
    with opened_dashboard(tmp_path, identities, keys) as dashboard:
        yield dashboard


def add(dash: Dashboard, sku: str, price: str = "9.90", content: bytes = b"plan", **fields: str) -> None:
    fields = {**FIELDS, "sku": sku, "title": f"About {sku}", "price": price, **fields}
    dash.post("/products/new", fields, [("file", "plan.md", content)])


def sell(dash: Dashboard, *cart: tuple[str, int], paid: bool = True) -> str:
    if dash.world.card is None:
        dash.world.open_session()
    order, _ = dash.world.order(*cart)
    dash.world.ask(order)
    if paid:
        dash.world.captured(order)
    return order.order_id.hex()


def picture(width: int = 400) -> bytes:
    out = io.BytesIO()
    Image.effect_noise((width, width), 90).convert("RGB").save(out, "PNG")
    return out.getvalue()


# --- products ------------------------------------------------------------------------------------------


def test_a_product_is_added_with_its_file_and_a_picture_that_is_scaled(dash: Dashboard) -> None:
    content = bytes(range(256)) * 600
    files = [("file", "../../etc/plan x.pdf", content), ("image", "../me.png", picture())]
    answer = dash.post("/products/new", {**FIELDS, "stock": "5", "tax": "7.7"}, files)
    page = dash.follow(answer)
    assert "A plan is on sale for 9.90 EUR." in page
    assert all(each in page for each in ("PLAN-1", "plan x.pdf", "150.0 KiB", "5 left"))
    (listed,) = dash.desk.books.inventory.products()
    record = listed.record
    assert (record.file_name, record.size, record.tax_rate) == ("plan x.pdf", len(content), 770)
    assert (record.tags, listed.stock) == (["run", "slow"], 5)
    content_folder = dash.desk.books.content
    assert content_folder.piece(record.digest, 0) == content[:CELL_CONTENT]
    kept = dash.desk.books.content.image(record.image_digest)
    assert kept.startswith(b"RIFF")
    shown = dash.get("/products/PLAN-1/picture?width=96")
    assert (shown.headers["content-type"], shown.body[:4]) == ("image/webp", b"RIFF")
    # The running node sees it at once.
    dash.world.open_session()
    assert dash.world.product("PLAN-1")[0] == record


def test_every_fault_of_a_product_is_told_at_its_field(dash: Dashboard) -> None:
    fields = {"sku": "../x", "price": "9,90", "stock": "-1", "tax": "200", "title": ""}
    answer = dash.post("/products/new", fields, [("image", "a.png", b"no picture")], status=422)
    faults = re.findall(r'id="fault-(\w+)"', answer.text)
    assert set(faults) == {"sku", "price", "stock", "tax", "title", "file", "image"}
    assert 'value="9,90"' in answer.text
    add(dash, "PLAN-1")
    again = dash.post("/products/new", FIELDS, [("file", "a", b"a")], status=422)
    assert "on sale already" in again.text


def test_a_product_is_edited_and_keeps_what_was_not_touched(dash: Dashboard) -> None:
    add(dash, "PLAN-1", stock="5")
    sell(dash, ("PLAN-1", 2))
    page = dash.get("/products/PLAN-1")
    entered = dict(re.findall(r'name="(\w+)"[^>]*value="([^"]*)"', page.text))
    assert (entered["price"], entered["stock"], entered["stock_before"]) == ("9.90", "3", "3")
    # One more is sold while the page is open: a stock that nobody touched stays counted.
    sell(dash, ("PLAN-1", 1))
    answer = dash.post("/products/PLAN-1", {**entered, "price": "8.00", "description": "<b>New</b>"})
    assert "is at version 2" in dash.follow(answer)
    (listed,) = dash.desk.books.inventory.products()
    assert (listed.record.price, listed.stock, listed.record.file_name) == (800, 2, "plan.md")
    assert "&lt;b&gt;New&lt;/b&gt;" in dash.get("/products/PLAN-1").text


def test_stock_is_set_in_the_list_and_a_product_taken_off_sale(dash: Dashboard) -> None:
    add(dash, "PLAN-1")
    dash.post("/products/PLAN-1/stock", {"stock": "2", "back": "https://evil.example/"})
    assert "2 left" in dash.text("/products")
    assert dash.post("/products/PLAN-1/stock", {"stock": "2,5"}, status=400).status == 400
    dash.post("/products/PLAN-1/stock", {"stock": ""})
    assert "no limit" in dash.text("/products")
    assert "whoever bought it" in dash.text("/products/PLAN-1/remove")
    assert dash.desk.books.inventory.products()
    answer = dash.post("/products/PLAN-1/remove", {}, page="/products/PLAN-1/remove")
    assert "no longer on sale" in dash.follow(answer)
    assert dash.desk.books.inventory.products() == []
    dash.get("/products/PLAN-1", status=404)


def test_the_list_is_searched_sorted_and_cut_into_pages(
    dash: Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "PER_PAGE", 4)
    for number in range(6):
        source = dash.world.home / "x"
        source.write_bytes(b"%d" % number)
        dash.world.inventory.add(source, f"P-{number:02}", title=f"Plan {number}", price=100 + number)
    page = dash.text("/products?sort=price&page=2")
    assert "6 products" in page
    assert [each in page for each in ("P-03", "P-04", "P-05", "Page 2 of 2")] == [False, True, True, True]
    assert "1 product" in dash.text("/products?q=plan+5")
    assert "Nothing found" in dash.text("/products?q=nowhere&sort=what")


def test_what_has_not_changed_is_not_read_again(dash: Dashboard) -> None:
    assert dash.browser.run(dash.desk.ask(lambda books: books.shelf._version)) >= 0, "read before it is asked"
    for sku in ("A-1", "B-2", "C-3"):
        add(dash, sku)
    shelf = dash.desk.books.shelf
    dash.get("/products")
    before = dict(shelf._products)
    add(dash, "D-4")
    dash.world.inventory.edit("B-2", title="Another title")
    dash.world.inventory.remove("C-3")
    page = dash.text("/products")
    assert [each in page for each in ("A-1", "Another title", "C-3", "D-4")] == [True, True, False, True]
    assert shelf._products["A-1"] is before["A-1"]
    assert shelf._products["B-2"] is not before["B-2"]


# --- the day and its orders ----------------------------------------------------------------------------


def test_today_sums_up_what_came_in_since_midnight(dash: Dashboard) -> None:
    assert "Nothing is on sale yet" in dash.text("/")
    add(dash, "PLAN-1", stock="5")
    sell(dash, ("PLAN-1", 1))
    dash.world.now += DAY_MS
    dash.world.open_session()
    sell(dash, ("PLAN-1", 2))
    sell(dash, ("PLAN-1", 1), paid=False)
    page = dash.get("/")
    assert 'data-revenue="1980"' in page.text
    text = dash.text("/")
    assert "19.80 EUR today; 9.90 EUR yesterday 1 paid order today 1 open" in text
    assert "1 left" in text
    assert "The shop is closed" in text
    assert text.index("2 \u00d7 PLAN-1") < text.index("1 \u00d7 PLAN-1")


def test_orders_are_filtered_and_shown(dash: Dashboard) -> None:
    add(dash, "PLAN-1")
    add(dash, "PLAN-2")
    old = sell(dash, ("PLAN-1", 1))
    dash.world.now += 2 * DAY_MS
    dash.world.open_session()
    new, unpaid = sell(dash, ("PLAN-2", 1), ("PLAN-1", 1)), sell(dash, ("PLAN-2", 1), paid=False)

    def found(query: str) -> list[str]:
        return re.findall(r'href="/orders/([0-9a-f]{32})"', dash.get(f"/orders?{query}").text)

    assert found("") == [unpaid, new, old]
    assert found("state=accepted") == [unpaid]
    assert found("sku=PLAN-1") == [new, old]
    assert found("sku=NEVER") == []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "FEW", 1)
        assert found("sku=PLAN-1") == [new, old]
    assert found(f"order={old[:7].upper()}") == [old]
    assert found("from=2027-01-16") == [unpaid, new]
    assert found("to=2027-01-16") == [old]
    assert found("to=2027-01-15&state=captured&sku=PLAN-2") == []
    wrong = dash.get("/orders?from=yesterday&order=xyz", status=422)
    assert set(re.findall(r'id="fault-(\w+)"', wrong.text)) == {"from", "order"}
    shown = dash.text(f"/orders/{new}")
    assert all(each in shown for each in (new, "19.80 EUR", "PLAN-1", "PLAN-2"))
    dash.get("/orders/00", status=404)
    dash.get(f"/orders/{'0' * 32}", status=404)


def test_pages_of_orders_are_ranges_of_numbers(dash: Dashboard) -> None:
    add(dash, "PLAN-1")
    sold = [sell(dash, ("PLAN-1", 1), paid=False) for _ in range(5)]
    reader = Figures(dash.desk.books.store)
    first = reader.orders(Wanted(), limit=2)
    second = reader.orders(Wanted(), before=first.before, limit=2)
    last = reader.orders(Wanted(), before=second.before, limit=2)
    ids = [each.order_id.hex() for page in (first, second, last) for each in page.orders]
    assert (ids, last.before) == (sold[::-1], 0)
    assert list(reader.all_orders(Wanted())) == [Reports(dash.desk.books.store).orders()]


def test_a_product_of_keys_is_added_sold_and_restocked(dash: Dashboard) -> None:
    fields = {**FIELDS, "sku": "KEY-1"}
    keys = b"AAAA-1\nAAAA-2\nAAAA-3\n"
    wrong = dash.post("/products/new", {**fields, "stock": "9"}, [("keys", "k.txt", keys)], status=422)
    assert "fault-stock" in wrong.text
    dash.post("/products/new", fields, [("keys", "k.txt", keys)])
    assert "3 left keys" in dash.text("/products")
    assert "3 left" in dash.text("/")
    sell(dash, ("KEY-1", 1))
    page = dash.get("/products/KEY-1")
    assert "2 keys left" in page.text
    entered = dict(re.findall(r'name="(\w+)"[^>]*value="([^"]*)"', page.text))
    answer = dash.post("/products/KEY-1", {**entered, "price": "5"}, [("keys", "k", b"AAAA-1\nBBBB-1\n")])
    assert "1 keys were added, 1 were known already; 3 are left." in dash.follow(answer)
    (listed,) = dash.desk.books.inventory.products()
    assert (listed.stock, listed.record.price, listed.record.keys) == (3, 500, True)
    dash.post("/products/KEY-1/stock", {"stock": "7"}, status=400)
    table = [("table", "t.csv", b"sku,price,stock\nKEY-1,6,7\n")]
    answer = dash.post("/import", {"mode": "import"}, table, page="/import")
    assert "what is left of its keys" in dash.follow(answer)


# --- where there is no merchant ------------------------------------------------------------------------


def test_a_folder_that_is_no_merchants_home_is_named_and_left_alone(tmp_path: Path) -> None:
    for folder in (tmp_path / "mistyped", tmp_path):
        with pytest.raises(UsageError, match="market file") as refused:
            run_dashboard(folder, 0, print)
        assert str(folder) in refused.value.message
        assert refused.value.hint
    assert list(tmp_path.iterdir()) == []
