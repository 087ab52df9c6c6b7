"""A site: its templates, its static files, its pages for what goes wrong, and its application.

    site = Site(name="shop", title="Veilmart", package="customer_node.web", door=door, address=address)
    app = site.app([Route("/", home)])
    serve(site, app, address, announce)

Handlers end in `site.render(request, "home.html", products=...)`, after a form in `site.redirect("/cart")`,
or raise a `VeilmartError`, which becomes a page.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

import jinja2
import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from common.config import KIB
from common.errors import VeilmartError
from common.logs import places
from common.money import format_amount, format_rate
from common.web import explained, forms
from common.web.api import ApiToken
from common.web.door import Door, Kind, session_of
from common.web.explained import Explained, explain
from common.web.guard import BodyTooLargeError, Guard, Refusal
from common.web.server import Address

SHARED: Final = "common.web"
A_YEAR: Final = "private, max-age=31536000, immutable"
MEDIA_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
LONGEST_PATH: Final = 500
PLAIN_LAYOUT: Final = "base.html"

Lifespan: TypeAlias = Callable[[Starlette], AbstractAsyncContextManager[None]]


class Site:
    """One server's pages. `stopping` is set when it is about to end."""

    def __init__(
        self,
        *,
        name: str,
        title: str,
        package: str,
        door: Door,
        address: Address,
        uploads: Mapping[str, int] | None = None,
        explain: Callable[[VeilmartError], Explained] = explain,
        api_token: ApiToken | None = None,
        layout: str = PLAIN_LAYOUT,
    ) -> None:
        """Take templates and static files from `package` first, then from this one.

        `uploads` are the bytes that a path which begins so may be sent, where that is more than a form.
        `layout` is the template around the pages for errors too.
        """
        self.name = name
        self.title = title
        self.stopping = False
        self.frame: Callable[[], Mapping[str, Any]] = dict
        """Gives what every page of a session has beside its own values: what its layout shows."""
        self._door = door
        self._address = address
        self._uploads = dict(uploads or {})
        self._explain = explain
        self._api_token = api_token
        # A cookie belongs to a host and not to a port: two servers of one machine keep theirs apart by name.
        self._cookie = f"veilmart-{name}-{address.port}"
        self._packages = (package, SHARED)
        self._static = _static_files(self._packages)
        self.env = jinja2.Environment(
            loader=jinja2.ChoiceLoader([jinja2.PackageLoader(each) for each in self._packages]),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.env.filters.update(money=format_amount, rate=format_rate, moment=moment, size=size_text)
        self.env.globals.update(site=self, static=self.static, layout=layout)

    # --- pages -----------------------------------------------------------------------------------------

    def render(self, request: Request, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
        """Make a page. Beside `values` it has the frame's, `request`, `path`, `csrf_token` and `notices`."""
        session = session_of(request)
        # What a part of the page is asked for by htmx shows no notices: the next whole page does.
        whole = session is not None and "hx-request" not in request.headers
        # A site's own layout shows what is inside, and needs the frame for it.
        frame = self.frame() if session is not None else {"layout": PLAIN_LAYOUT}
        page = self.env.get_template(template).render(
            request=request,
            path=request.url.path,
            csrf_token=session.csrf if session else "",
            notices=session.take_notices() if session and whole else [],
            **{**frame, **values},
        )
        return HTMLResponse(page, status_code=status)

    def piece(self, template: str, request: Request, **values: Any) -> str:
        """Make a part of a page, for an event; it may hold forms of its session."""
        session = session_of(request)
        token = session.csrf if session else ""
        frame = {**self.frame(), **values}
        return self.env.get_template(template).render(request=request, csrf_token=token, **frame)

    def redirect(self, path: str) -> RedirectResponse:
        """Go on elsewhere after a form, so that nothing is sent twice by looking at it again."""
        return RedirectResponse(local(path), status_code=303)

    def notice(self, request: Request, text: str, kind: Kind = "info") -> None:
        """Say something on the next page."""
        session = session_of(request)
        if session is not None:
            session.add_notice(text, kind)

    def explained(self, request: Request, words: Explained) -> Response:
        """Make the page for something that went wrong."""
        page = self.render(request, "error.html", status=words.status, words=words)
        if "hx-request" in request.headers:
            # The part that was asked for is not in this page: its main part takes the place of the old one.
            page.headers.update({"hx-retarget": "#main", "hx-reselect": "#main", "hx-reswap": "outerHTML"})
        return page

    def static(self, name: str) -> str:
        """Give the address of a static file; it changes with what the file holds."""
        return f"/static/{name}?{self._static[name].digest}"

    # --- the application -------------------------------------------------------------------------------

    def app(self, routes: Sequence[BaseRoute], lifespan: Lifespan | None = None) -> ASGIApp:
        """Give the application, the guard around it."""
        inner = Starlette(
            routes=[
                Route("/static/{name}", self._send_static, methods=["GET"]),
                Route("/enter", self._enter, methods=["GET"]),
                Route("/enter", self._again, methods=["POST"]),
                *routes,
            ],
            lifespan=lifespan,
            exception_handlers={
                VeilmartError: self._on_veilmart_error,
                HTTPException: self._on_http_error,
                BodyTooLargeError: self._on_too_large,
                Exception: self._on_mistake,
            },
        )
        return Guard(
            _quiet(inner),
            door=self._door,
            hosts=self._address.hosts,
            cookie=self._cookie,
            refuse=self._refuse,
            uploads=self._uploads,
            api_token=self._api_token,
        )

    async def _send_static(self, request: Request) -> Response:
        found = self._static.get(request.path_params["name"])
        if found is None:
            return self.explained(request, explained.missing())
        return Response(found.content, media_type=found.media_type, headers={"cache-control": A_YEAR})

    async def _enter(self, request: Request) -> Response:
        cookie = self._door.enter(request.query_params.get("token", ""))
        if cookie is None:
            return self._outside(request, "used")
        answer = self.redirect("/")
        answer.set_cookie(self._cookie, cookie, httponly=True, samesite="strict", path="/")
        return answer

    async def _again(self, request: Request) -> Response:
        """Show a link where the server was started: only whoever can read there gets in by it."""
        self._door.announce()
        return self._outside(request, "announced")

    def _outside(self, request: Request, why: str) -> Response:
        answer = self.render(request, "outside.html", status=401, why=why)
        if "hx-request" in request.headers:
            answer.headers["hx-refresh"] = "true"
        return answer

    def _refuse(self, scope: Scope, refusal: Refusal) -> ASGIApp:
        request = Request(scope)
        match refusal:
            case "outside" | "session_over":
                return self._outside(request, refusal)
            case "forged":
                return self.explained(request, explained.forged())
            case "too_large":
                return self.explained(request, explained.too_large())

    async def _on_veilmart_error(self, request: Request, error: Exception) -> Response:
        if not isinstance(error, VeilmartError):
            raise error
        return self.explained(request, self._explain(error))

    async def _on_http_error(self, request: Request, error: Exception) -> Response:
        if isinstance(error.__context__, BodyTooLargeError):
            return self.explained(request, explained.too_large())
        status = error.status_code if isinstance(error, HTTPException) else 500
        words = {404: explained.missing, 405: explained.missing, 400: explained.unreadable}
        return self.explained(request, words.get(status, explained.unexpected)())

    async def _on_too_large(self, request: Request, _error: Exception) -> Response:
        return self.explained(request, explained.too_large())

    async def _on_mistake(self, request: Request, _error: Exception) -> Response:
        return self.explained(request, explained.unexpected())


def local(path: str) -> str:
    """Give a path of this site, `/` for whatever would lead elsewhere."""
    parts = urlsplit(path)
    is_ours = not parts.scheme and not parts.netloc and path.startswith("/")
    is_plain = path.isprintable() and "\\" not in path and not path.startswith("//")
    return path if is_ours and is_plain and len(path) <= LONGEST_PATH else "/"


def moment(milliseconds: int, form: str = "%-d %b %Y, %H:%M") -> str:
    """Write a time for a person, in this machine's time zone."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).astimezone().strftime(form)


def size_text(count: int) -> str:
    """Write a number of bytes for a person."""
    amount, units = float(count), ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while amount >= KIB and len(units) > 1:
        amount, units = amount / KIB, units[1:]
    return f"{count} bytes" if units[0] == "bytes" else f"{amount:.1f} {units[0]}"


class _StaticFile:
    def __init__(self, content: bytes, media_type: str) -> None:
        self.content = content
        self.media_type = media_type
        self.digest = hashlib.sha256(content).hexdigest()[:12]


@cache
def _static_files(packages: tuple[str, ...]) -> dict[str, _StaticFile]:
    """Read every static file once: no request names a path."""
    found: dict[str, _StaticFile] = {}
    for package in reversed(packages):
        folder = resources.files(package) / "static"
        for entry in _entries(folder):
            kind = MEDIA_TYPES.get(Path(entry.name).suffix)
            if kind is not None:
                found[entry.name] = _StaticFile(entry.read_bytes(), kind)
    return found


def _entries(folder: Traversable) -> list[Traversable]:
    return [entry for entry in folder.iterdir() if entry.is_file()] if folder.is_dir() else []


def _quiet(app: ASGIApp) -> ASGIApp:
    """Log the place of a mistake and nothing of what was in hand there; its page has been sent."""

    async def quietly(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except Exception as error:
            structlog.get_logger("veilmart.web").error("mistake", at=places(error))
            if scope["type"] == "lifespan":
                raise
        finally:
            await forms.close(scope)

    return quietly
