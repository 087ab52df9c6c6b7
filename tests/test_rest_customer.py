"""The customer's `/api/v1` over a market in memory, as a program uses it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from customer_shop import PASSWORD, PRICES, Bazaar, build, content, home
from programs import Counter, Program, opened_storefront
from test_customer_refunds import deaf

from customer_node import Market

PLAN = PRICES["PLAN"]


@pytest.fixture(scope="module")
def bazaar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bazaar]:
    built = build(tmp_path_factory.mktemp("rest"))
    yield built
    built.world.close()


@pytest.fixture(scope="module")
def counter(bazaar: Bazaar) -> Iterator[Counter]:
    """Its customer has coins, and no account open."""
    with bazaar.customer(4) as market:
        profile = home(market)
        market.log_out()

    def opened() -> Market:
        return Market(profile, connect=bazaar.world.connect, timeout_s=2.0)

    with opened_storefront(profile, opened) as found:
        yield found


@pytest.fixture
def program(counter: Counter) -> Iterator[Program]:
    found = Program(counter.browser, counter.token)
    yield found
    found.call("DELETE", "/session/account")
    found.call("DELETE", "/cart")


def line(sku: str = "PLAN", quantity: int = 1, merchant: str = "sports", **more: Any) -> dict[str, Any]:
    """An order of one line, at its price."""
    wanted = {"merchant": merchant, "sku": sku, "quantity": quantity}
    return {"line": wanted, "totals": {merchant: PRICES[sku] * quantity}, "currency": "EUR", **more}


def buy(program: Program, key: str, fields: dict[str, Any]) -> Any:
    return program.call("POST", "/orders", fields, idempotency_key=key)


# --- products and the cart -----------------------------------------------------------------------------


def test_products_of_all_merchants_are_found_page_by_page(program: Program) -> None:
    assert {each["id"] for each in program.get("/merchants")["merchants"]} == {"sports", "maps"}
    found = program.get("/products?sort=price&limit=4")
    assert (found["total"], found["offset"], found["limit"]) == (6, 0, 4)
    assert [each["price"] for each in found["products"]] == [3, 3, 77, 77]
    assert [each["sku"] for each in program.get("/products?offset=4&limit=4")["products"]] == ["ROUTE"] * 2
    (plan,) = program.get("/products?text=plan&merchant=maps&category=things")["products"]
    assert (plan["merchant"], plan["sku"], plan["currency"]) == ("maps", "PLAN", "EUR")
    shown = program.get("/products/maps/PLAN")
    assert (shown["price"], shown["size"], shown["file_name"]) == (PLAN, 150_000, "plan.bin")
    assert program.call("GET", "/products/maps/NOTHING").failed == (404, "not_found")
    assert program.call("GET", "/products/maps/PLAN/image").failed == (404, "not_found")


def test_a_search_over_many_merchants_takes_no_more_tickets_than_agreed(program: Program) -> None:
    program.call("DELETE", "/session/visits")
    before = program.get("/wallet")["tickets"]
    assert program.call("GET", "/products?max_tickets=1").failed == (409, "rejected")
    assert program.get("/wallet")["tickets"] == before
    assert program.get("/session") == {"account": False, "visits": 0, "visits_until": None}


def test_the_cart_is_put_together_and_quoted(program: Program) -> None:
    for _ in range(2):
        cart = program.call("PUT", "/cart/sports/PLAN", {"quantity": 2}).data
        assert [(each["sku"], each["quantity"], each["amount"]) for each in cart["lines"]] == [
            ("PLAN", 2, 2 * PLAN)
        ]
    program.call("PUT", "/cart/sports/PLAN", {"quantity": 1})
    program.call("PUT", "/cart/maps/ROUTE", {"quantity": 3})
    quote = program.call("POST", "/quote", {}).data
    assert (quote["totals"], quote["total"]) == ({"sports": PLAN, "maps": 231}, PLAN + 231)
    assert program.call("PUT", "/cart/maps/NOTHING", {"quantity": 1}).failed == (404, "not_found")
    for _ in range(2):
        assert len(program.call("DELETE", "/cart/maps/ROUTE").data["lines"]) == 1
    assert program.call("DELETE", "/cart").data["lines"] == program.get("/cart")["lines"] == []
    past = {"line": {"merchant": "maps", "sku": "ROUTE", "quantity": 2}}
    assert program.call("POST", "/quote", past).data["total"] == 154
    unknown = {**past, "codes": {"maps": "SUMMER"}}
    refused = program.call("POST", "/quote", unknown)
    assert (refused.failed, refused.error["reason"]) == ((409, "discount_refused"), "code_unknown")


# --- buying --------------------------------------------------------------------------------------------


def test_a_line_is_bought_fetched_and_proven(bazaar: Bazaar, counter: Counter, program: Program) -> None:
    bought = buy(program, "tuesday", line())
    assert bought.status == 201
    (order,) = bought.data["orders"]
    assert (order["state"], order["total"], order["files"]) == ("accepted", PLAN, [])
    place = f"/orders/{order['order_id']}"
    assert program.call("GET", f"{place}/files/1").failed == (404, "not_found")

    fetched = program.call("POST", f"{place}/download?wait=30").data
    assert (fetched["state"], fetched["delivery"]["failure"]) == ("complete", None)
    assert fetched["files"] == [{"number": 1, "name": "plan.bin", "size": 150_000}]
    file = program.send("GET", f"{place}/files/1")
    assert file.body == content_of(bazaar, "PLAN")
    assert 'filename="plan.bin"' in file.headers["content-disposition"]
    part = program.send("GET", f"{place}/files/1", range="bytes=10-19")
    assert (part.status, part.body) == (206, file.body[10:20])
    assert program.call("GET", f"{place}/files/2").failed == (404, "not_found")

    assert program.get(f"{place}/receipt")["total"] == PLAN
    bundle = program.send("GET", f"{place}/receipt.json").body
    said = program.read(
        "POST", "/receipts/verify", program.send("POST", "/receipts/verify", bundle, "application/json")
    ).data
    assert (said["valid"], said["receipt"]["order_id"]) == (True, order["order_id"])
    # What is there is not fetched again; what is gone is.
    (path,) = counter.desk.reading.order(order["order_id"]).files
    path.unlink()
    assert program.get(place)["files"][0]["size"] is None
    assert program.call("POST", f"{place}/download?wait=30").data["files"][0]["size"] == 150_000
    assert program.get("/orders?state=complete&limit=1")["total"] >= 1


def content_of(bazaar: Bazaar, sku: str) -> bytes:
    (found,) = bazaar.world.root.glob(f"originals/sports/{sku}/*")
    return found.read_bytes()


def test_a_key_is_one_purchase(program: Program) -> None:
    first = buy(program, "one", line("ROUTE")).data["orders"]
    held = program.get("/wallet")["usable"]
    assert [each["order_id"] for each in buy(program, "one", line("ROUTE")).data["orders"]] == [
        each["order_id"] for each in first
    ]
    other_total = line("ROUTE", totals={"sports": PRICES["ROUTE"] + 1})
    for other in (line("ROUTE", 2), line("EMPTY"), line("ROUTE", merchant="maps"), other_total):
        assert buy(program, "one", other).failed == (409, "idempotency_conflict"), other
    assert program.get("/wallet")["usable"] == held
    assert program.call("POST", "/orders", line()).error["faults"].keys() == {"Idempotency-Key"}
    assert buy(program, "k" * 65, line()).failed == (422, "usage")


def test_the_cart_is_bought_for_what_was_agreed_to_and_nothing_else(program: Program) -> None:
    program.call("PUT", "/cart/sports/ROUTE", {"quantity": 1})
    program.call("PUT", "/cart/maps/ROUTE", {"quantity": 2})
    agreed = {"totals": {"sports": 77, "maps": 154}, "currency": "EUR"}
    for wrong, code in (
        ({"totals": {"sports": 77}}, "price_changed"),
        ({"totals": {**agreed["totals"], "archive": 5}}, "price_changed"),
        ({"currency": "USD"}, "usage"),
        ({"codes": {"archive": "SUMMER"}}, "usage"),
    ):
        assert buy(program, "cart", {**agreed, **wrong}).error["code"] == code
    assert program.get("/wallet")["reserved"] == 0
    partly = buy(program, "cart", {**agreed, "totals": {"sports": 77, "maps": 153}})
    assert partly.failed == (409, "price_changed")
    assert partly.envelope["data"]["failures"].keys() == {"maps"}
    assert [each["merchant"] for each in partly.envelope["data"]["orders"]] == ["sports"]
    # The same key goes on with what was not bought, and buys nothing twice.
    bought = buy(program, "cart", agreed).data
    assert sorted((each["merchant"], each["total"]) for each in bought["orders"]) == [
        ("maps", 154),
        ("sports", 77),
    ]
    assert program.get("/cart")["lines"] == []
    assert buy(program, "cart", agreed).data["orders"] == bought["orders"]
    assert buy(program, "another", agreed).failed == (422, "usage")


def test_silence_leaves_an_order_that_is_called_off(
    bazaar: Bazaar, counter: Counter, program: Program
) -> None:
    market = counter.desk.worker._owned
    assert market is not None
    with deaf(bazaar, market, "maps/in"):
        silent = buy(program, "silent", line("ROUTE", merchant="maps"))
    assert silent.status == 504
    assert (silent.error["hop"], silent.error["retryable"]) == ("merchant", True)
    (order,) = silent.envelope["data"]["orders"]
    assert (order["state"], order["waits_for"]) == ("placed", "merchant")
    place = f"/orders/{order['order_id']}"
    assert program.call("POST", f"{place}/download").failed == (409, "rejected")
    assert program.call("POST", f"{place}/ask").data["state"] == "placed"
    for _ in range(2):  # said again it is as it was
        assert program.call("POST", f"{place}/cancel").data["state"] == "refunded"
    assert program.call("POST", "/resume").data["resumed"] == []
    missing = f"/orders/{'0' * 32}"
    for path in (missing, f"{missing}/receipt", f"{missing}/files/1"):
        assert program.call("GET", path).failed == (404, "not_found")
    assert program.call("POST", f"{missing}/cancel").failed == (404, "not_found")


def test_a_paid_order_is_disputed(program: Program) -> None:
    (order,) = buy(program, "bad", line("ROUTE")).data["orders"]
    place = f"/orders/{order['order_id']}/dispute"
    assert program.call("POST", place, {"kind": "not_delivered"}).error["faults"].keys() == {"reveal"}
    said = {"kind": "not_delivered", "reveal": False, "statement": "nothing came"}
    disputed = program.call("POST", place, said).data
    assert disputed["state"] == "disputed"
    assert program.call("POST", place, said).data == disputed


def test_what_is_disputed_does_not_go_on_arriving(bazaar: Bazaar, counter: Counter, program: Program) -> None:
    bazaar.add("sports", "LONG", 5, content("long", 6_000_000))
    fields = {"line": line()["line"] | {"sku": "LONG"}, "totals": {"sports": 5}, "currency": "EUR"}
    (order,) = buy(program, "long", fields).data["orders"]
    place = f"/orders/{order['order_id']}"
    assert program.call("POST", f"{place}/download").data["delivery"]["running"]
    said = {"kind": "not_delivered", "reveal": False}
    disputed = program.call("POST", f"{place}/dispute", said).data
    assert (disputed["state"], disputed["files"]) == ("disputed", [])
    assert disputed["delivery"] == {"running": False, "failure": None}
    assert disputed["cells_done"] < disputed["cells"]
    assert program.call("POST", f"{place}/download").failed == (409, "rejected")


# --- account and visits --------------------------------------------------------------------------------


def test_no_endpoint_opens_a_visit_while_the_account_is_open(counter: Counter, program: Program) -> None:
    (order,) = buy(program, "before", line("ROUTE")).data["orders"]
    program.call("DELETE", "/session/visits")
    counter.runner.run(counter.desk.worker.call(lambda market: market.log_in("customer1", PASSWORD)))
    assert program.get("/session") == {"account": True, "visits": 0, "visits_until": None}
    bodies = {"/orders": line(), "/quote": {"line": line()["line"]}}
    refused = set()
    for path, methods in program.document["paths"].items():
        if path == "/session/account":
            continue
        for method in methods:
            fields = {"quantity": 1} if method == "put" else bodies.get(path) if method == "post" else None
            if path.endswith("/dispute"):
                fields = {"kind": "not_delivered", "reveal": False}
            place = path.format(merchant="sports", sku="PLAN", order=order["order_id"], number=1)
            answer = program.send(
                method.upper(),
                place,
                json.dumps(fields).encode() if fields else b"",
                "application/json",
                idempotency_key="during",
            )
            if answer.status == 409:
                assert json.loads(answer.body)["error"]["code"] == "account_open"
                refused.add(f"{method} {path}")
            assert counter.desk.reading.visit() is None, (method, path)
    assert refused == {
        "get /merchants",
        "get /products",
        "get /products/{merchant}/{sku}",
        "get /products/{merchant}/{sku}/image",
        "put /cart/{merchant}/{sku}",
        "post /quote",
        "post /orders",
        "post /orders/{order}/ask",
        "post /orders/{order}/cancel",
        "post /orders/{order}/dispute",
        "post /orders/{order}/download",
        "post /resume",
    }
    assert "Log out" in program.call("GET", "/merchants").error["hint"]
    assert program.call("DELETE", "/session/account").data["account"] is False
    assert program.get("/merchants")["merchants"]


def test_receipts_that_prove_nothing_are_said_to(program: Program) -> None:
    for data in (b"{}", b"nonsense", b"[" * 200_000, b'{"order": ' * 20_000):
        answer = program.send("POST", "/receipts/verify", data, "application/json")
        said = program.read("POST", "/receipts/verify", answer).data
        assert (said["valid"], said["receipt"]) == (False, None)
        assert said["reason"]
