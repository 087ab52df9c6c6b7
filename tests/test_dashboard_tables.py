"""Tables of products and orders: tried, imported all or nothing, exported so that they come back the same."""

from __future__ import annotations

import csv
import io
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dashboards import Dashboard, File, opened_dashboard, plain
from merchant_world import Identities, make_identities

from common.config import CELL_CONTENT
from merchant_node.inventory import Listed


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


def imported(dash: Dashboard, table: str, *files: File, mode: str = "import") -> str:
    sent = [("table", "table.csv", table.encode()), *files]
    answer = dash.post("/import", {"mode": mode}, sent, page="/import")
    return dash.follow(answer)


def listed(dash: Dashboard) -> dict[str, Listed]:
    return {each.record.sku: each for each in dash.desk.books.inventory.products()}


NEW = 'sku;title;price;stock;tags;file\nA-1;First;1.50;3;"x, y";../one.txt\nA-2;Second;2;;;two.txt\n'
FILES: tuple[File, File] = (
    ("files", "one.txt", b"one"),
    ("files", "c:\\in\\two.txt", b"x" * 3 * CELL_CONTENT),
)


def test_a_table_is_tried_then_imported(dash: Dashboard) -> None:
    text = imported(dash, NEW, *FILES, mode="try")
    assert "would add 2, change 0" in text
    assert listed(dash) == {}
    assert list((dash.world.home / "content").iterdir()) == []
    assert "2 added, 0 changed" in imported(dash, NEW, *FILES)
    found = listed(dash)
    one, two = found["A-1"], found["A-2"]
    assert (one.record.price, one.stock, one.record.tags, one.record.file_name) == (
        150,
        3,
        ["x", "y"],
        "one.txt",
    )
    assert (two.record.price, two.stock, two.record.cells, two.record.version) == (200, None, 3, 1)
    assert dash.desk.books.content.piece(one.record.digest, 0).startswith(b"one\0")
    # The running node sells what was imported.
    dash.world.open_session()
    assert dash.world.product("A-2")[0] == two.record


def test_every_fault_is_told_by_row_and_nothing_is_written(dash: Dashboard) -> None:
    imported(dash, NEW, *FILES)
    before = listed(dash)
    table = (
        "sku,title,price,stock,tax,currency,sha256\n"
        "A-1,,1,0,5,EUR,\n"
        "../x,T,1,1,5,EUR,\n"
        'A-2,"long, really",1.234,-1,200,USD,zz\n'
        "A-1,T,1,,,,\n"
        "A-3,T,1,,,,\n"
        f"A-4,T,1,,,,{'0' * 64}\n"
    )
    sent = [("table", "table.csv", table.encode())]
    answer = dash.post("/import", {"mode": "import"}, sent, page="/import")
    page = dash.get(answer.headers["location"])
    assert "Nothing was changed" in plain(page)
    rows = re.findall(r'<td class="number">(\d+)</td><td class="mono">[^<]*</td><td>(\w*)</td>', page.text)
    found = {(int(row), column) for row, column in rows}
    assert found == {
        (2, "title"),
        (3, "sku"),
        *((4, name) for name in ("price", "stock", "tax", "currency", "sha256")),
        (5, "sku"),
        (6, ""),
        (7, "sha256"),
    }
    assert listed(dash) == before


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("sku,prize\nA,1\n", "Unknown columns: prize."),
        ("sku,title\n", "has no row"),
        ("sku,sku\nA,B\n", "one name"),
        ("sku\nA,B\n", "more cells"),
        ('sku,title\nA,"b\n', "no CSV"),
        ("[1]", "no list of objects"),
        ("{", "no JSON"),
        ("\xff", "not in UTF-8"),
    ],
)
def test_what_is_no_table_is_said(dash: Dashboard, table: str, said: str) -> None:
    answer = dash.post(
        "/import", {"mode": "try"}, [("table", "t", table.encode("latin-1"))], status=422, page="/import"
    )
    assert said in plain(answer)


def test_what_was_exported_comes_back_the_same(dash: Dashboard) -> None:
    imported(dash, NEW, *FILES)
    before = listed(dash)
    as_csv = dash.get("/export/products.csv")
    assert as_csv.headers["content-disposition"] == 'attachment; filename="products.csv"'
    assert "0 added, 0 changed, 2 left" in imported(dash, as_csv.text)
    first_json = dash.get("/export/products.json").text
    assert "0 added, 0 changed, 2 left" in imported(dash, first_json)
    for sku in before:
        dash.desk.books.inventory.remove(sku)
    assert "2 added" in imported(dash, first_json)
    after = listed(dash)
    assert {sku: (each.record.digest, each.record.price, each.stock) for sku, each in after.items()} == {
        sku: (each.record.digest, each.record.price, each.stock) for sku, each in before.items()
    }
    changed = json.loads(first_json)
    changed[0]["price"] = 9.9
    answer = dash.post(
        "/import", {"mode": "try"}, [("table", "t", json.dumps(changed).encode())], page="/import"
    )
    report = dash.get(answer.headers["location"])
    assert "change 1 and leave 1" in plain(report)
    # What was tried is imported without being chosen again.
    again = report.text.split('name="again" value="')[1].split('"')[0]
    answer = dash.post("/import", {"mode": "import", "again": again}, page="/import")
    assert "1 changed" in dash.follow(answer)
    assert listed(dash)["A-1"].record.price == 990
    dash.get("/export/products.xml", status=404)


def test_a_sold_file_keeps_its_bucket_beside_an_import(dash: Dashboard) -> None:
    rows = "".join(f"B-{number},T,1.00,two.txt\n" for number in range(4))
    imported(dash, f"sku,title,price,file\nA-1,T,1.00,one.txt\n{rows}", *FILES)
    found = listed(dash)
    # One cell is too few to be alone: all five are delivered in three.
    assert {each.record.cells for each in found.values()} == {3}
    dash.world.open_session()
    order, _ = dash.world.order(("A-1", 1))
    dash.world.ask(order)
    imported(dash, "sku,price\n" + "".join(f"B-{number},2.00\n" for number in range(4)))
    assert listed(dash)["A-1"].record == found["A-1"].record


def test_orders_are_exported_as_they_are_filtered(dash: Dashboard) -> None:
    imported(dash, NEW, *FILES)
    dash.world.open_session()
    order, _ = dash.world.order(("A-1", 2), ("A-2", 1))
    dash.world.ask(order)
    rows = list(csv.DictReader(io.StringIO(dash.get("/export/orders.csv").text)))
    assert [(each["sku"], each["quantity"], each["line_amount"]) for each in rows] == [
        ("A-1", "2", "3.00"),
        ("A-2", "1", "2.00"),
    ]
    assert {(each["order"], each["amount"], each["state"]) for each in rows} == {
        (order.order_id.hex(), "5.00", "accepted")
    }
    (found,) = json.loads(dash.get("/export/orders.json").text)
    assert [line["sku"] for line in found["lines"]] == ["A-1", "A-2"]
    assert json.loads(dash.get("/export/orders.json?state=captured").text) == []
    dash.get("/export/orders.csv?from=soon", status=400)


def test_ten_thousand_rows_take_seconds(dash: Dashboard) -> None:
    rows = "".join(f"N-{number:05},Title {number},{1 + number % 9}.00,one.txt\n" for number in range(10_000))
    begun = time.monotonic()
    assert "10000 added" in imported(dash, f"sku,title,price,file\n{rows}", FILES[0])
    assert time.monotonic() - begun < 10
