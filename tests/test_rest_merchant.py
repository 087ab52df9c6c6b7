"""The merchant's `/api/v1` over a home in memory."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dashboards import Dashboard, File, multipart, opened_dashboard
from merchant_world import make_identities
from PIL import Image
from programs import Program


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    root = tmp_path_factory.mktemp("rest")
    (root / "home").mkdir()
    with opened_dashboard(root / "home", make_identities(root / "keys"), root / "keys") as dashboard:
        yield dashboard


@pytest.fixture
def program(shop: Dashboard) -> Program:
    return Program(shop.browser, shop.token)


def plan(shop: Dashboard, root: Path, sku: str, **more: object) -> None:
    file = root / "plan.md"
    file.write_text(f"the plan called {sku}")
    shop.world.inventory.add(file, sku, title=f"Plan {sku}", price=990, **more)  # type: ignore[arg-type]


def test_stock_is_set_and_changed(shop: Dashboard, program: Program, tmp_path: Path) -> None:
    plan(shop, tmp_path, "STOCK-1")
    assert program.get("/stock/STOCK-1") == {"sku": "STOCK-1", "stock": None, "keys": False}
    assert program.call("PATCH", "/stock/STOCK-1", {"change": 1}).failed == (422, "usage")
    assert program.call("PUT", "/stock/STOCK-1", {"stock": 5}).data["stock"] == 5
    assert program.call("PATCH", "/stock/STOCK-1", {"change": -2}).data["stock"] == 3
    refused = program.call("PATCH", "/stock/STOCK-1", {"change": -4})
    assert refused.failed == (409, "rejected")
    assert "Only 3" in refused.error["message"]
    assert program.get("/stock?limit=200")["products"] == [{"sku": "STOCK-1", "stock": 3, "keys": False}]
    assert program.call("PUT", "/stock/NOTHING", {"stock": 5}).failed == (404, "not_found")


# --- products ------------------------------------------------------------------------------------------


def form(product: dict[str, Any], *files: File) -> tuple[bytes, str]:
    return multipart({"product": json.dumps(product)}, files)


def picture(width: int = 400) -> bytes:
    out = io.BytesIO()
    Image.effect_noise((width, width), 90).convert("RGB").save(out, "PNG")
    return out.getvalue()


def test_a_product_comes_with_its_files_and_is_changed_and_removed(shop: Dashboard, program: Program) -> None:
    content = bytes(range(256)) * 600
    new = {"sku": "PLAN-1", "title": "A plan", "price": 990, "currency": "EUR", "tags": ["run"], "stock": 5}
    body, kind = form(new, ("file", "../../etc/plan x.pdf", content), ("image", "..\\me.png", picture()))
    added = program.read("POST", "/products", program.send("POST", "/products", body, kind))
    assert added.status == 201
    product = added.data
    assert (product["file_name"], product["size"], product["stock"]) == ("plan x.pdf", len(content), 5)
    assert product["sha256"] == hashlib.sha256(content).hexdigest()
    assert program.get("/products/PLAN-1") == product
    assert program.send("GET", "/products/PLAN-1/image").headers["content-type"] == "image/webp"
    again = program.read("POST", "/products", program.send("POST", "/products", body, kind))
    assert again.failed == (409, "exists")

    changed = program.call("PATCH", "/products/PLAN-1", {"price": 800, "stock": None}).data
    assert (changed["price"], changed["version"], changed["stock"], changed["title"]) == (
        800,
        2,
        None,
        "A plan",
    )
    place = "/products/PLAN-1/file?name=..%2F..%2Fother.txt"
    file = program.read("PUT", place, program.send("PUT", place, b"x" * 100_000, "application/octet-stream"))
    assert (file.data["file_name"], file.data["size"]) == ("other.txt", 100_000)
    before = program.send("GET", "/products/PLAN-1/image").body
    place = "/products/PLAN-1/image"
    assert program.read("PUT", place, program.send("PUT", place, picture(300), "image/png")).data["image"]
    assert program.send("GET", place).body != before
    wrong = program.read("PUT", place, program.send("PUT", place, b"GIF89a", "image/png"))
    assert wrong.error["faults"].keys() == {"image"}

    found = program.get("/products?text=plan&limit=1")
    assert [each["sku"] for each in found["products"]] == ["PLAN-1"]
    assert program.call("DELETE", "/products/PLAN-1").data == {"sku": "PLAN-1", "removed": True}
    for method in ("GET", "DELETE"):
        assert program.call(method, "/products/PLAN-1").failed == (404, "not_found")
    assert sorted(path.name for path in shop.world.home.parent.iterdir()) == ["home", "keys"]


def test_licence_keys_come_in_json_or_one_per_line(program: Program) -> None:
    new = {"sku": "PRO", "title": "Pro", "price": 400, "keys": ["AAAA-1", "BBBB-2"]}
    added = program.call("POST", "/products", new).data
    assert (added["keys"], added["stock"], added["size"]) == (True, 2, 0)
    place = "/products/PRO/keys"
    more = program.read("POST", place, program.send("POST", place, b"BBBB-2\nCCCC-3\n", "text/plain")).data
    assert more == {"added": 1, "known": 1, "left": 3}
    assert program.get(place) == {"left": 3, "given": 0}
    for wrong, field in (
        ({**new, "sku": "PRO-2", "keys": ["A\nB"]}, "keys[0]"),
        ({**new, "sku": "PRO-2", "stock": 4}, "stock"),
        ({"sku": "PRO-2", "title": "Pro", "price": 400}, "file"),
        ({**new, "sku": "PRO-2", "currency": "USD"}, "currency"),
        ({**new, "sku": "../PRO"}, "sku"),
        ({**new, "sku": "PRO-2", "price": -1}, "price"),
        ({**new, "sku": "PRO-2", "price": 10**30}, "price"),
        ({**new, "sku": "PRO-2", "price": 4.5}, "price"),
        ({**new, "sku": "PRO-2", "colour": "red"}, "colour"),
    ):
        refused = program.call("POST", "/products", wrong)
        assert (refused.failed, list(refused.error["faults"])) == ((422, "usage"), [field]), wrong
    body, kind = form({**new, "sku": "PRO-2"}, ("keys", "keys.txt", b"DDDD-4\n"))
    both = program.read("POST", "/products", program.send("POST", "/products", body, kind))
    assert both.error["faults"].keys() == {"keys"}
    assert program.call("GET", "/products/PRO-2").failed == (404, "not_found")


@pytest.mark.parametrize(
    ("files", "field"),
    [
        ([("other", "a.txt", b"x")], "other"),
        ([("file", "a.txt", b"x"), ("file", "b.txt", b"x")], "file"),
        ([("product", "a.json", b"{}"), ("file", "b.txt", b"x")], "product"),
    ],
)
def test_a_form_has_the_parts_that_are_known(program: Program, files: list[File], field: str) -> None:
    body, kind = form({"sku": "FORM", "title": "Form", "price": 1}, *files)
    refused = program.read("POST", "/products", program.send("POST", "/products", body, kind))
    assert list(refused.error["faults"]) == [field]


# --- orders and money ----------------------------------------------------------------------------------


def sell(shop: Dashboard, sku: str) -> str:
    if shop.world.card is None:
        shop.world.open_session()
    order, _ = shop.world.order((sku, 1))
    shop.world.ask(order)
    shop.world.captured(order)
    return order.order_id.hex()


def test_orders_are_listed_filtered_and_followed(shop: Dashboard, program: Program, tmp_path: Path) -> None:
    plan(shop, tmp_path, "SOLD")
    orders = [sell(shop, "SOLD") for _ in range(3)]
    first = program.get("/orders?sku=SOLD&limit=2")
    assert [each["order"] for each in first["orders"]] == orders[:0:-1]
    rest = program.get(f"/orders?sku=SOLD&limit=2&before={first['before']}")
    assert ([each["order"] for each in rest["orders"]], rest["before"]) == (orders[:1], None)
    shown = program.get(f"/orders/{orders[0]}")
    assert (shown["state"], shown["amount"], shown["currency"]) == ("captured", 990, "EUR")
    assert [(each["sku"], each["amount"]) for each in shown["lines"]] == [("SOLD", 990)]
    assert program.get("/orders?state=rejected")["orders"] == []
    assert program.get(f"/orders?order={orders[1][:12]}&since=0")["orders"][0]["order"] == orders[1]
    assert program.call("GET", f"/orders/{'0' * 32}").failed == (404, "not_found")

    sales = program.get("/sales?limit=2")
    assert len(sales["sales"]) == 2
    after = program.get(f"/sales?after={sales['last']}")
    assert [each["order"]["order"] for each in after["sales"]][-1] == orders[-1]
    assert program.get(f"/sales?after={after['last']}") == {"sales": [], "last": after["last"]}
    assert program.get("/shop")["merchant"] == "sports"
    assert program.get("/balance")["currency"] == "EUR"
    assert program.get("/statement?limit=1")["lines"] == []


def test_a_refund_is_asked_for_once(shop: Dashboard, program: Program, tmp_path: Path) -> None:
    plan(shop, tmp_path, "BACK")
    order = sell(shop, "BACK")
    place = f"/orders/{order}/refunds"
    part = {"amount": 400, "currency": "EUR", "reason": "late"}
    first = program.call("POST", place, part, idempotency_key="a")
    assert (first.status, first.data["state"], first.data["amount"]) == (201, "queued", 400)
    assert program.call("POST", place, part, idempotency_key="a").data == first.data
    for other in ({**part, "amount": 401}, {**part, "reason": "early"}, {**part, "amount": None}):
        refused = program.call("POST", place, other, idempotency_key="a")
        assert refused.failed == (409, "idempotency_conflict")
    assert program.get(place)["left"] == 590
    assert program.call("POST", place, part).error["faults"].keys() == {"Idempotency-Key"}
    too_much = program.call("POST", place, {**part, "amount": 591}, idempotency_key="b")
    assert too_much.failed == (409, "rejected")
    missing = {"currency": "EUR", "reason": "late"}
    assert program.call("POST", place, missing, idempotency_key="b").error["faults"].keys() == {"amount"}
    rest = program.call("POST", place, {**part, "amount": None}, idempotency_key="b").data
    assert (rest["amount"], program.get(place)["left"]) == (None, 0)
    assert len(program.get(place)["refunds"]) == 2
