"""A program that speaks to `/api/v1` without a socket. Every answer is compared with the document."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asgi import Answer, Browser
from jsonschema import Draft202012Validator

from common.web.api import FILE, ApiToken
from common.web.door import Door
from common.web.server import Address
from customer_node import Market
from customer_node.web import storefront
from customer_node.web.desk import Desk

PREFIX = "/api/v1"


@dataclass(frozen=True)
class Reply:
    answer: Answer
    envelope: dict[str, Any]

    @property
    def status(self) -> int:
        return self.answer.status

    @property
    def data(self) -> Any:
        assert self.envelope["ok"] is True, self.envelope
        return self.envelope["data"]

    @property
    def error(self) -> dict[str, Any]:
        assert self.envelope["ok"] is False, self.envelope
        return dict(self.envelope["error"])

    @property
    def failed(self) -> tuple[int, str]:
        return self.status, str(self.error["code"])


@dataclass
class Program:
    browser: Browser
    token: str = field(repr=False)
    document: dict[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.document = json.loads(self.send("GET", "/openapi.json").body)

    def send(self, method: str, path: str, body: bytes = b"", media_type: str = "", **headers: str) -> Answer:
        """Send a request as it is; headers with underscores."""
        given = {"authorization": f"Bearer {self.token}", "content_type": media_type, **headers}
        return self.browser.send(method, PREFIX + path, body, given)

    def call(self, method: str, path: str, fields: object = None, **headers: str) -> Reply:
        """Send JSON, and read the answer's envelope."""
        body = b"" if fields is None else json.dumps(fields).encode()
        return self.read(method, path, self.send(method, path, body, "application/json", **headers))

    def read(self, method: str, path: str, answer: Answer) -> Reply:
        """Read an envelope that is what the document says of it."""
        envelope = json.loads(answer.body)
        validator(self.document, method, path, answer.status).validate(envelope)
        return Reply(answer, envelope)

    def get(self, path: str) -> Any:
        return self.call("GET", path).data


@dataclass
class Counter:
    """A storefront with no browser in it."""

    desk: Desk
    browser: Browser
    runner: asyncio.Runner
    token: str = field(repr=False)


@contextmanager
def opened_storefront(profile: Path, market: Callable[[], Market]) -> Iterator[Counter]:
    address, token = Address.free(), ApiToken(profile / FILE)
    desk = storefront.desk_of(storefront.make_site(Door(), address, token), market, profile)
    desk.start()
    with address.socket, asyncio.Runner() as runner:
        browser = Browser(storefront.storefront(desk), f"127.0.0.1:{address.port}", runner=runner)
        try:
            yield Counter(desk, browser, runner, token.path.read_text().strip())
        finally:
            runner.run(desk.stop())
            desk.worker.stop()


def template_of(document: Mapping[str, Any], path: str) -> str | None:
    """The path of the document that an address is of."""
    plain = path.partition("?")[0]
    for template in document["paths"]:
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), plain):
            return str(template)
    return None


def validator(document: dict[str, Any], method: str, path: str, status: int) -> Draft202012Validator:
    operation = document["paths"].get(template_of(document, path), {}).get(method.lower())
    place = "#/components/responses/failed/content/application~1json/schema"
    if operation is not None and str(status) in operation["responses"]:
        steps = [template_of(document, path), method.lower(), "responses", str(status), "content"]
        names = [str(step).replace("~", "~0").replace("/", "~1") for step in steps]
        place = "/".join(["#/paths", *names, "application~1json", "schema"])
    return Draft202012Validator({**document, "$ref": place})
