"""Calls an application without a socket, as a browser on 127.0.0.1 would, and keeps its cookies."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine, Mapping
from contextvars import copy_context
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from typing import Any, TypeVar
from urllib.parse import urlencode

Result = TypeVar("Result")


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def csrf(self) -> str:
        found = re.search(r'name="csrf" value="([^"]+)"', self.text)
        assert found, "no form in this page"
        return found[1]


@dataclass
class Browser:
    app: Any
    host: str
    cookies: dict[str, str] = field(default_factory=dict)
    runner: asyncio.Runner | None = None
    """Where what a request leaves behind goes on with the next one; without it, it ends."""

    def get(self, path: str, **headers: str) -> Answer:
        return self.send("GET", path, b"", headers)

    def post(self, path: str, fields: Mapping[str, str] | None = None, **headers: str) -> Answer:
        body = urlencode(fields or {}).encode()
        return self.send("POST", path, body, {"content_type": "application/x-www-form-urlencoded", **headers})

    def send(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """`headers` are named with underscores; one that is empty is left out."""
        given = {
            "host": self.host,
            "cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items()),
            "content-length": str(len(body)) if body else "",
        }
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in given.items() if value],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 1),
        }
        answer = self.run(_call(self.app, scope, body))
        jar: SimpleCookie = SimpleCookie(answer.headers.get("set-cookie", ""))
        self.cookies |= {name: morsel.value for name, morsel in jar.items()}
        return answer

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run something as a server runs a request: with context variables of its own."""
        if self.runner is None:
            return asyncio.run(work)
        return self.runner.run(work, context=copy_context())


async def _call(app: Any, scope: dict[str, Any], body: bytes) -> Answer:
    # In small pieces, as a network gives them.
    pieces = [body[start : start + 700] for start in range(0, len(body), 700)] or [b""]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if pieces:
            return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}
        # A browser stays until it has its answer; whoever waits for its leaving is cancelled then.
        await asyncio.Event().wait()
        raise AssertionError("an event that nobody sets")

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    start = sent[0]
    headers = {name.decode().lower(): value.decode() for name, value in start["headers"]}
    return Answer(start["status"], headers, b"".join(each.get("body", b"") for each in sent[1:]))
