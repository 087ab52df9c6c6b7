"""The guard before every page: who may ask at all.

    Host ours? --> /static, /enter --> session? --> unsafe method: origin ours? size? CSRF token? --> page

Rule 1. A `Host` that is not ours is refused: a name of somebody else's that was made to point here
(DNS rebinding) reads nothing.

Rule 2. Whatever is not GET or HEAD carries the session's CSRF token, as the header `X-CSRF-Token` or as the
form's first field. The guard reads no further into a body than to that field, so that no handler can
forget it and no upload has to be held in memory.

Rule 3. A body has a limit before anything is parsed: `FORM_BYTES`, or what `uploads` says for a path.

Rule 4. /api/ takes the bearer token instead of a cookie, and nothing of a browser's: a page of another
site is refused with the token too. What is refused there is refused as programs read it.

Rule 5. Every answer forbids scripts, styles, frames and targets that are not ours, and caches nothing but
what says so itself.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Mapping
from http.cookies import CookieError, SimpleCookie
from typing import Any, Final, Literal, TypeAlias

from starlette.datastructures import Headers, MutableHeaders
from starlette.formparsers import MultiPartException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.config import KIB
from common.web import statuses
from common.web.api import ApiToken
from common.web.door import BrowserSession, Door

FORM_BYTES: Final = 64 * KIB
PEEKED: Final = 1024
"""How far into a body the CSRF token is looked for."""

SAFE: Final = frozenset({"GET", "HEAD"})
POLICY: Final = (
    "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS: Final = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # With `no-referrer` a form would be sent with the origin `null`, which is anybody's.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=()",
}

Refusal: TypeAlias = Literal["outside", "session_over", "forged", "too_large"]
Refuse: TypeAlias = Callable[[Scope, Refusal], ASGIApp]
"""Makes the page for a request that goes no further."""

_FORM: Final = re.compile(rb"\Acsrf=([A-Za-z0-9_-]{1,128})(?:&|\Z)")
_MULTIPART: Final = re.compile(
    rb'\A--[^\r\n]{1,100}\r\nContent-Disposition: form-data; name="csrf"\r\n\r\n'
    rb"([A-Za-z0-9_-]{1,128})\r\n",
    re.IGNORECASE,
)


class BodyTooLargeError(MultiPartException):
    """More came than a body may have; raised into whoever reads it.

    Of this family, since a parser that it interrupts closes its files for no other.
    """

    def __init__(self) -> None:
        super().__init__("more came than this path takes")


class Guard:
    """Stands around an application."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        door: Door,
        hosts: frozenset[str],
        cookie: str,
        refuse: Refuse,
        uploads: Mapping[str, int] | None = None,
        api_token: ApiToken | None = None,
    ) -> None:
        """`hosts` are ours, with ports; `uploads` are bytes by the beginning of a path."""
        self._app = app
        self._door = door
        self._hosts = hosts
        self._origins = frozenset(f"http://{host}" for host in hosts)
        self._cookie = cookie
        self._refuse = refuse
        self._uploads = dict(uploads or {})
        self._api_token = api_token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let the application answer."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._guarded(scope, receive, _with_headers(send))

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        path, answer = str(scope["path"]), self._app
        is_api = path.startswith("/api/")
        if headers.get("host", "") not in self._hosts:
            plain = PlainTextResponse("This server answers to its own address only.\n", status_code=421)
            answer = statuses.misdirected() if is_api else plain
        elif path.startswith("/static/") or path == "/enter":
            receive = _limited(receive, FORM_BYTES)
            if scope["method"] not in SAFE and not self._is_ours(headers):
                answer = self._refuse(scope, "forged")
        elif is_api:
            answer = self._for_a_program(path, headers)
            receive = _limited(receive, self._limit(path))
        else:
            answer, receive = await self._for_a_browser(scope, headers, receive)
        await answer(scope, receive, send)

    def _for_a_program(self, path: str, headers: Headers) -> ASGIApp:
        if not self._is_ours(headers):
            return statuses.foreign()
        if self._api_token is None or not self._api_token.opens(headers.get("authorization", "")):
            return statuses.no_token()
        return self._app if self._fits(path, headers) else statuses.too_large()

    async def _for_a_browser(
        self, scope: Scope, headers: Headers, receive: Receive
    ) -> tuple[ASGIApp, Receive]:
        cookie = _cookies(headers).get(self._cookie, "")
        session = self._door.find(cookie) if cookie else None
        if session is None:
            return self._refuse(scope, "session_over" if cookie else "outside"), receive
        scope.setdefault("state", {})["browser_session"] = session
        if scope["method"] in SAFE:
            return self._app, receive
        path = str(scope["path"])
        if not self._fits(path, headers):
            return self._refuse(scope, "too_large"), receive
        receive = _limited(receive, self._limit(path))
        if not self._is_ours(headers):
            return self._refuse(scope, "forged"), receive
        given = headers.get("x-csrf-token", "").encode()
        if not given:
            given, receive = await _peeked(receive)
        if not hmac.compare_digest(given, session.csrf.encode()):
            return self._refuse(scope, "forged"), receive
        return self._app, receive

    def _fits(self, path: str, headers: Headers) -> bool:
        """Tell whether a body is as small as it has to be, as far as its sender says."""
        length = headers.get("content-length", "0")
        return length.isdecimal() and int(length) <= self._limit(path)

    def _limit(self, path: str) -> int:
        allowed = [limit for beginning, limit in self._uploads.items() if path.startswith(beginning)]
        return max(allowed, default=FORM_BYTES)

    def _is_ours(self, headers: Headers) -> bool:
        """Tell whether one of our own pages asks, as far as the browser says."""
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        return (origin is None or origin in self._origins) and site in (None, "same-origin")


def _cookies(headers: Headers) -> dict[str, str]:
    jar: SimpleCookie = SimpleCookie()
    try:
        jar.load(headers.get("cookie", ""))
    except CookieError:
        return {}
    return {name: morsel.value for name, morsel in jar.items()}


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
            headers.setdefault("cache-control", "no-store")
        await send(message)

    return sending


def _limited(receive: Receive, limit: int) -> Receive:
    left = limit

    async def receiving() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise BodyTooLargeError
        return message

    return receiving


async def _peeked(receive: Receive) -> tuple[bytes, Receive]:
    """Read on until the first field is there; gives its value, and what reads all of it again."""
    read: list[Message] = []
    begun = b""
    while len(begun) < PEEKED:
        message = await receive()
        read.append(message)
        begun += message.get("body", b"")
        if message["type"] != "http.request" or not message.get("more_body", False):
            break
    found = _FORM.match(begun) or _MULTIPART.match(begun)

    async def again() -> Message:
        return read.pop(0) if read else await receive()

    return (found[1] if found else b""), again


def session_in(scope: Scope) -> BrowserSession | None:
    """Give the session that the guard has found for a request."""
    state: dict[str, Any] = scope.get("state", {})
    found = state.get("browser_session")
    return found if isinstance(found, BrowserSession) else None
