"""What both interfaces for programs refuse, and what their documents promise. No bus is there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from dashboards import opened_dashboard
from merchant_world import make_identities
from programs import PREFIX, Program, opened_storefront, validator
from starlette.routing import Mount
from structlog.testing import capture_logs
from test_readme import families

from common import errors
from common.errors import VeilmartError
from common.web import endpoints as api
from common.web import explained, rest, statuses
from common.web.bodies import JSON_BYTES
from common.web.endpoints import Endpoint
from common.web.statuses import HINTS, STATUSES
from customer_node import Market
from customer_node.web.api.interface import endpoints as customers
from customer_node.web.desk import BothOpenError
from merchant_node.web.api.interface import endpoints as merchants
from veilmart import output

WRITES = {"customer": ("/quote", "POST"), "merchant": ("/products", "POST")}


class Both:
    """Both servers, each with its endpoints."""

    def __init__(self, root: Path, stack: ExitStack) -> None:
        identities = make_identities(root / "keys")
        market_file, profile = root / "market.json", root / "profile"
        identities.market.save(market_file)
        (root / "home").mkdir()
        shop = stack.enter_context(opened_dashboard(root / "home", identities, root / "keys"))
        Market.join(profile, market_file)
        counter = stack.enter_context(opened_storefront(profile, lambda: Market(profile)))
        shop.browser.cookies.clear()
        self.doors = {"customer": counter.desk.site._door, "merchant": shop.desk.site._door}
        self.programs = {
            "customer": Program(counter.browser, counter.token),
            "merchant": Program(shop.browser, shop.token),
        }
        self.endpoints = {"customer": customers(counter.desk), "merchant": merchants(shop.desk)}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    with ExitStack() as stack:
        yield Both(tmp_path_factory.mktemp("both"), stack)


@pytest.fixture(params=["customer", "merchant"])
def side(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def program(both: Both, side: str) -> Program:
    return both.programs[side]


def failed(program: Program, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, str]:
    return program.read(method, path, program.send(method, path, body, **headers)).failed


# --- who may ask ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer ", "Bearer wrong", "Basic {token}", "{token}", "Bearer {token}x", "bearer" * 100],
)
def test_the_token_alone_opens(program: Program, authorization: str) -> None:
    given = authorization.format(token=program.token)
    for method, path in (
        ("GET", "/openapi.json"),
        ("POST", "/orders"),
        ("GET", "/nothing"),
        ("OPTIONS", "/cart"),
    ):
        answer = program.send(method, path, authorization=given)
        assert program.read(method, path, answer).failed == (401, "authentication")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert program.token not in answer.text
    assert program.send("GET", "/openapi.json", authorization=f"bearer {program.token}").status == 200


def test_neither_a_query_nor_a_cookie_opens(both: Both, side: str, program: Program) -> None:
    assert program.send("GET", f"/openapi.json?token={program.token}", authorization="").status == 401
    assert program.send("GET", f"/openapi.json?access_token={program.token}", authorization="").status == 401
    browser = program.browser
    assert browser.get(f"/enter?token={both.doors[side].token()}").status == 303
    try:
        assert browser.cookies
        assert browser.get("/orders").status == 200
        assert browser.get(f"{PREFIX}/openapi.json").status == 401
    finally:
        browser.cookies.clear()
    # Nor does the token open a page.
    assert browser.get("/orders", authorization=f"Bearer {program.token}").status == 401


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", ""])
def test_another_host_reads_nothing(program: Program, host: str) -> None:
    assert failed(program, "GET", "/openapi.json", host=host) == (421, "misdirected")


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ],
)
def test_a_page_of_another_site_is_refused_even_with_the_token(
    program: Program, headers: dict[str, str]
) -> None:
    for method in ("GET", "POST", "OPTIONS"):
        answer = program.send(method, "/orders", **headers)
        assert program.read(method, "/orders", answer).failed == (403, "foreign")
        assert not any(name.startswith("access-control") for name in answer.headers)


def test_whoever_is_outside_is_told_so_in_pages_of_both_servers(both: Both, side: str) -> None:
    browser = both.programs[side].browser
    for method, path, headers, status in (
        ("GET", "/static/nothing", {}, 404),
        ("GET", "/static/../api-token", {}, 404),
        ("PUT", "/enter", {}, 404),
        ("POST", "/enter", {"origin": "http://evil.example"}, 403),
        ("GET", "/nowhere", {}, 401),
    ):
        answer = browser.send(method, path, b"", headers)
        assert answer.status == status, (method, path)
        assert 'href="/orders"' not in answer.text, "the layout is of those inside"


# --- what may be sent ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("media_type", "headers"),
    [
        ("", {}),
        ("text/plain", {}),
        ("application/x-www-form-urlencoded", {}),
        ("application/jsonp", {}),
        ("application/json", {"content_encoding": "gzip"}),
    ],
)
def test_a_body_is_of_a_type_that_is_taken(
    program: Program, side: str, media_type: str, headers: dict[str, str]
) -> None:
    path, method = WRITES[side]
    assert failed(program, method, path, b"{}", content_type=media_type, **headers) == (415, "media_type")


def test_a_body_has_a_limit(both: Both, program: Program, side: str) -> None:
    path, method = WRITES[side]
    large = json.dumps({"title": "x" * JSON_BYTES}).encode()
    sent = {"content_type": "application/json"}
    assert failed(program, method, path, large, **sent) == (413, "too_large")
    # Whatever it says of its length.
    assert failed(program, method, path, large, content_length="", **sent) == (413, "too_large")
    assert failed(program, method, path, large, content_length="2", **sent) == (413, "too_large")
    assert failed(program, method, path, b"{}", content_length=str(2**60), **sent) == (413, "too_large")
    assert failed(program, method, path, b"{}", content_length="-1", **sent) == (413, "too_large")
    assert failed(program, "DELETE", "/nothing", b"x" * 10**6)[0] in (404, 413)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff\xfe", b"[" * 50_000, b'{"a":' * 10_000, b'{"line": ' + b"[" * 60_000, b"{} {}"]
)
def test_what_is_no_json_is_said_to_be_none(program: Program, side: str, body: bytes) -> None:
    path, method = WRITES[side]
    status, code = failed(program, method, path, body, content_type="application/json")
    assert (status, code) in {(400, "unreadable"), (422, "usage")}


def test_a_torn_form_is_said_to_be_one(both: Both) -> None:
    program = both.programs["merchant"]
    for body in (b"", b"--x\r\n", b"--x\r\nContent-Disposition: nonsense\r\n\r\n", b"x" * 5000):
        sent = {"content_type": "multipart/form-data; boundary=x"}
        assert failed(program, "POST", "/products", body, **sent)[0] in (400, 422), body
    assert failed(program, "POST", "/products", b"x", content_type="multipart/form-data")[0] == 400


@pytest.mark.parametrize(
    ("side", "method", "path", "fields", "field"),
    [
        ("customer", "PUT", "/cart/sports/PLAN", {"quantity": 1, "colour": "red"}, "colour"),
        ("customer", "PUT", "/cart/sports/PLAN", {"quantity": -1}, "quantity"),
        ("customer", "PUT", "/cart/sports/PLAN", {"quantity": 10**40}, "quantity"),
        ("customer", "PUT", "/cart/sports/PLAN", {"quantity": "1"}, "quantity"),
        ("customer", "PUT", "/cart/sports/PLAN", {"quantity": True}, "quantity"),
        ("customer", "PUT", "/cart/sports/PLAN", [], "body"),
        ("customer", "POST", "/quote", {"codes": {"../x": "SUMMER"}}, "codes"),
        ("customer", "GET", "/products?limit=0", None, "limit"),
        ("customer", "GET", "/products?limit=201", None, "limit"),
        ("customer", "GET", "/products?offset=-1", None, "offset"),
        ("customer", "GET", "/products?sort=dearest", None, "sort"),
        ("customer", "GET", "/products?limit=1&limit=2", None, "limit"),
        ("customer", "GET", "/products?txet=run", None, "txet"),
        ("customer", "GET", "/cart?text=run", None, "text"),
        ("merchant", "PUT", "/stock/PLAN", {"stock": -1}, "stock"),
        ("merchant", "PUT", "/stock/PLAN", {"stock": 2**31}, "stock"),
        ("merchant", "PUT", "/stock/PLAN", {}, "stock"),
        ("merchant", "PATCH", "/stock/PLAN", {"change": 10**30}, "change"),
        ("merchant", "GET", "/orders?order=xyz", None, "order"),
        ("merchant", "GET", f"/orders?since={2**60}", None, "since"),
    ],
)
def test_what_is_wrong_is_named(
    both: Both, side: str, method: str, path: str, fields: object, field: str
) -> None:
    refused = both.programs[side].call(method, path, fields)
    assert (refused.failed, list(refused.error["faults"])) == ((422, "usage"), [field])


@pytest.mark.parametrize(
    ("side", "path"),
    [
        ("customer", "/products/sports/.."),
        ("customer", "/products/../api-token"),
        ("customer", "/products/SPORTS/PLAN"),
        ("customer", "/products/sports/a%2f..%2fb"),
        ("customer", "/orders/../../api-token"),
        ("customer", f"/orders/{'A' * 32}"),
        ("customer", f"/orders/{'0' * 32}/files/..%2fseed"),
        ("customer", f"/orders/{'0' * 32}/files/-1"),
        ("customer", f"/orders/{'0' * 32}/files/{10**30}"),
        ("merchant", "/products/.hidden"),
        ("merchant", "/products/..%2f..%2fidentity.key"),
        ("merchant", "/products/a b"),
        ("merchant", "/products/" + "a" * 65),
        ("merchant", "/stock/PLAN\n"),
        ("merchant", "/orders/0"),
        ("merchant", "/nothing"),
        ("merchant", "/"),
        ("merchant", ""),
    ],
)
def test_no_path_comes_from_an_address(both: Both, side: str, path: str) -> None:
    program = both.programs[side]
    for given in (path, path.replace("%2f", "/")):
        assert program.read("GET", given, program.send("GET", given)).failed == (404, "not_found")


def test_another_method_is_told_which_there_are(program: Program) -> None:
    answer = program.send("PUT", "/orders", b"{}")
    assert program.read("PUT", "/orders", answer).failed == (405, "method_not_allowed")
    assert "GET" in answer.headers["allow"]
    assert failed(program, "GET", "/orders/", b"") == (404, "not_found")
    assert program.send("HEAD", "/orders").status == 200


# --- what is promised ----------------------------------------------------------------------------------


def test_every_code_has_a_status() -> None:
    known = [errors, output, statuses]
    real = {
        kind.code for kind in families(VeilmartError) if kind.__module__ in {each.__name__ for each in known}
    }
    ours = {kind.code for kind in families(BothOpenError)}
    assert STATUSES.keys() - {"interrupted"} == (real | ours) - {"interrupted"}
    assert set(HINTS) < set(STATUSES)
    # Whatever a node adds has a code that is in the table.
    assert {kind.code for kind in families(VeilmartError)} - {"interrupted"} <= STATUSES.keys()


@pytest.mark.parametrize(
    "hint",
    [
        "`veilmart search` lists products.",
        "`product keys add` adds some.",
        "Try again, or allow more time (`--timeout`).",
        "Say where to with --to, an IBAN for example.",
        "--now uses them at once.",
    ],
)
def test_no_page_and_no_program_is_told_of_commands_and_options(hint: str) -> None:
    for said in (errors.NotFoundError("No.", hint), errors.DeadlineError("No.", hint, hop="broker")):
        for told in (statuses.failure(said).hint, explained.explain(said).next):
            assert told
            assert not re.search("veilmart|product keys|--", told)
        assert explained.said(said) == "No."


def test_other_hints_are_told_as_they_are() -> None:
    said = errors.UsageError("No.", "Try another - or none.")
    assert statuses.failure(said).hint == explained.explain(said).next == said.hint
    assert explained.said(said) == f"No. {said.hint}"


def test_the_document_has_every_endpoint_and_no_other(both: Both, side: str, program: Program) -> None:
    document = program.document
    described = {
        (method.upper(), path)
        for path, methods in document["paths"].items()
        for method in methods
        if path != "/openapi.json"
    }
    assert described == {(each.method, each.path) for each in both.endpoints[side]}
    routes = routes_of(rest.mounted("x", both.endpoints[side]))
    assert described == routes - {("GET", "/openapi.json")}
    assert document["openapi"] == "3.1.0"
    names = [each["operationId"] for methods in document["paths"].values() for each in methods.values()]
    assert len(set(names)) == len(names)
    assert all(each["summary"] for methods in document["paths"].values() for each in methods.values())
    text = json.dumps(document)
    assert "\\A" not in text
    assert "\\Z" not in text
    for reference in references(document):
        assert found(document, reference), reference


def test_an_answer_that_is_not_as_described_is_found(both: Both) -> None:
    program = both.programs["customer"]
    genuine = program.call("GET", "/cart").envelope
    described = validator(program.document, "GET", "/cart", 200)
    for wrong in ({**genuine["data"], "total": "0"}, {**genuine["data"], "lines": [{}]}, {}, None):
        assert not described.is_valid({"ok": True, "data": wrong})
    assert not described.is_valid({**genuine, "ok": False})
    assert described.is_valid(genuine)


def routes_of(mount: Mount) -> set[tuple[str, str]]:
    found = set()
    for route in mount.routes:
        for method in route.methods - {"HEAD"}:  # type: ignore[attr-defined]
            found.add((method, route.path.removeprefix(rest.VERSION)))  # type: ignore[attr-defined]
    return found


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from ([value["$ref"]] if "$ref" in value else [])
        for each in value.values():
            yield from references(each)
    elif isinstance(value, list):
        for each in value:
            yield from references(each)


def found(document: dict[str, Any], reference: str) -> object:
    value: Any = document
    for step in reference.removeprefix("#/").split("/"):
        value = value[step]
    return value


def test_a_handler_whose_argument_nothing_gives_is_found() -> None:
    async def handler(colour: str) -> str:
        return colour

    with pytest.raises(TypeError, match="colour"):
        rest.mounted("x", [Endpoint("GET", "/cart", handler)])
    assert api.PREFIX == PREFIX


def test_a_mistake_of_ours_is_told_without_its_words(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    program = both.programs["merchant"]
    import merchant_node.web.api.stock as module  # noqa: PLC0415 - this one place

    def mistake(*_: object) -> None:
        raise RuntimeError("the secret is opensesame")

    monkeypatch.setattr(module, "_stock", mistake)
    with capture_logs() as logs:
        refused = program.call("GET", "/stock/PLAN")
    assert refused.failed == (500, "internal")
    assert "opensesame" not in json.dumps(refused.envelope) + json.dumps(logs)
    assert "RuntimeError" in json.dumps(logs)
