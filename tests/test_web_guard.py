"""What stands before every page: host, link, session, origin, CSRF token, size, and the API's token."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from asgi import Answer, Browser
from PIL import Image
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from common.errors import NotFoundError, UntrustedError, UsageError
from common.web import door as doors
from common.web import events, forms, guard, images
from common.web.api import ApiToken
from common.web.door import Door
from common.web.server import Address
from common.web.site import Site, local, size_text

BIG = 300_000


class Place:
    """A site with a form, an upload, a mistake and an API."""

    def __init__(self, token_file: Path) -> None:
        self.seconds = 0.0
        self.announced: list[str] = []
        self.address = Address.free()
        self.door = Door(self.announced.append, lambda: self.seconds)
        self.site = Site(
            name="test",
            title="Test",
            package="common.web",
            door=self.door,
            address=self.address,
            uploads={"/upload": BIG},
            api_token=ApiToken(token_file),
        )
        self.app = self.site.app(
            [
                Route("/", self.page),
                Route("/save", self.save, methods=["POST"]),
                Route("/upload", self.upload, methods=["POST"]),
                Route("/mistake", self.mistake),
                Route("/missing", self.missing),
                Route("/api/v1/thing", self.thing, methods=["GET", "POST"]),
            ]
        )

    async def page(self, request: Request) -> Response:
        return self.site.render(request, "page.html")

    async def save(self, request: Request) -> Response:
        form = await forms.read(request)
        self.site.notice(request, f"saved {form.text('name')} & co", "good")
        return self.site.redirect("/")

    async def upload(self, request: Request) -> Response:
        form = await forms.read(request)
        (file,) = form.files("file")
        return PlainTextResponse(f"{len(await file.read())}")

    async def mistake(self, _: Request) -> Response:
        raise RuntimeError("the secret is opensesame")

    async def missing(self, _: Request) -> Response:
        raise NotFoundError("There is no such <thing>.", "`veilmart search` lists products.")

    async def thing(self, _: Request) -> Response:
        return JSONResponse({"is": "here"})

    def browser(self) -> Browser:
        return Browser(self.app, f"127.0.0.1:{self.address.port}")

    def inside(self) -> Browser:
        browser = self.browser()
        assert browser.get(f"/enter?token={self.door.token()}").status == 303
        return browser


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    made = Place(tmp_path / "token")
    made.site.env.loader = _with_page(made.site.env.loader)
    with made.address.socket:
        yield made


def _with_page(loader: object) -> object:
    import jinja2  # noqa: PLC0415 - this one place

    text = (
        '{% extends "base.html" %}{% block content %}<form method="post" action="/save">'
        "{{ parts.csrf() }}</form>{% endblock %}"
    )
    return jinja2.ChoiceLoader([jinja2.DictLoader({"page.html": text}), loader])  # type: ignore[list-item]


def multipart(csrf: str, size: int) -> tuple[bytes, str]:
    line = "----b"
    head = (
        f'--{line}\r\nContent-Disposition: form-data; name="csrf"\r\n\r\n{csrf}\r\n'
        f'--{line}\r\nContent-Disposition: form-data; name="file"; filename="../../etc/x"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    return (
        head.encode() + b"x" * size + f"\r\n--{line}--\r\n".encode(),
        f"multipart/form-data; boundary={line}",
    )


def is_outside(answer: Answer, why: str) -> bool:
    return answer.status == 401 and f'data-outside="{why}"' in answer.text


def test_a_link_lets_one_browser_in_once(place: Place) -> None:
    token, browser = place.door.token(), place.browser()
    assert is_outside(browser.get("/"), "outside")
    assert is_outside(browser.get("/enter?token=wrong"), "used")
    entered = browser.get(f"/enter?token={token}")
    assert (entered.status, entered.headers["location"]) == (303, "/")
    assert all(each in entered.headers["set-cookie"] for each in ("HttpOnly", "SameSite=strict", "Path=/"))
    assert browser.get("/").status == 200
    assert is_outside(place.browser().get(f"/enter?token={token}"), "used")


def test_a_new_link_is_shown_in_the_terminal_alone(place: Place) -> None:
    place.inside()
    answer = place.browser().post("/enter")
    (shown,) = place.announced
    assert is_outside(answer, "announced")
    assert shown not in answer.text
    assert shown == place.door.token()
    # Asking again makes no second one, and another site cannot ask at all.
    place.browser().post("/enter")
    assert set(place.announced) == {shown}
    assert place.browser().post("/enter", origin="http://evil.example").status == 403


def test_a_session_ends_when_it_is_not_used(place: Place) -> None:
    browser = place.inside()
    place.seconds = doors.IDLE_S - 1
    assert browser.get("/").status == 200
    place.seconds += doors.IDLE_S + 1
    assert is_outside(browser.get("/"), "session_over")
    assert browser.get("/", hx_request="true").headers["hx-refresh"] == "true"


def test_the_oldest_sessions_make_room(place: Place) -> None:
    browsers = []
    for _ in range(doors.MOST_SESSIONS + 1):
        place.seconds += 1
        browsers.append(place.inside())
    assert browsers[0].get("/").status == 401
    assert all(browser.get("/").status == 200 for browser in browsers[1:])


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "localhost", ""])
def test_another_host_is_refused(place: Place, host: str) -> None:
    browser = place.inside()
    browser.host = host
    assert browser.get("/").status == 421
    assert browser.get("/static/style.css").status == 421


def test_localhost_is_ours_too(place: Place) -> None:
    browser = place.inside()
    browser.host = f"localhost:{place.address.port}"
    assert browser.get("/").status == 200


def test_a_form_needs_its_sessions_token(place: Place) -> None:
    browser, other = place.inside(), place.inside()
    csrf = browser.get("/").csrf
    assert browser.post("/save", {"csrf": csrf, "name": "a"}).status == 303
    for fields in ({"name": "a"}, {"csrf": "", "name": "a"}, {"csrf": other.get("/").csrf, "name": "a"}):
        assert browser.post("/save", fields).status == 403
    # Only as the first field: nothing further is read.
    assert browser.post("/save", {"name": "x" * 2000, "csrf": csrf}).status == 403
    assert browser.post("/save", {"name": "a"}, x_csrf_token=csrf).status == 303
    assert browser.post("/save", {"name": "a"}, x_csrf_token="wrong").status == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ],
)
def test_another_sites_form_is_refused(place: Place, headers: dict[str, str]) -> None:
    browser = place.inside()
    fields = {"csrf": browser.get("/").csrf, "name": "a"}
    assert browser.post("/save", fields, **headers).status == 403
    own = f"http://127.0.0.1:{place.address.port}"
    assert browser.post("/save", fields, origin=own, sec_fetch_site="same-origin").status == 303


def test_a_notice_is_shown_once_and_escaped(place: Place) -> None:
    browser = place.inside()
    browser.post("/save", {"csrf": browser.get("/").csrf, "name": "<b>"})
    assert "saved &lt;b&gt; &amp; co" in browser.get("/").text
    assert "saved" not in browser.get("/").text


def test_bodies_have_limits(place: Place) -> None:
    browser = place.inside()
    csrf = browser.get("/").csrf
    assert browser.post("/save", {"csrf": csrf, "name": "x" * guard.FORM_BYTES}).status == 413
    for size, status in ((BIG // 2, 200), (BIG, 413)):
        body, kind = multipart(csrf, size)
        answer = browser.send("POST", "/upload", body, {"content_type": kind})
        assert answer.status == status
        # Without a length the bytes are counted as they come.
        chunked = browser.send("POST", "/upload", body, {"content_type": kind, "content_length": ""})
        assert chunked.status == status
    body, kind = multipart("wrong", 10)
    assert browser.send("POST", "/upload", body, {"content_type": kind}).status == 403


def test_every_answer_forbids_what_is_not_ours(place: Place) -> None:
    browser = place.inside()
    for answer in (
        browser.get("/"),
        place.browser().get("/"),
        browser.get("/nowhere"),
        browser.get("/mistake"),
    ):
        assert answer.headers["content-security-policy"] == guard.POLICY
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "<style" not in answer.text
        assert ' style="' not in answer.text
        assert "<script>" not in answer.text
        assert "https://" not in answer.text
    assert "unsafe" not in guard.POLICY


def test_errors_are_pages(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    # Another test of this process may have set logging up for a node, on a stream that is gone.
    structlog.reset_defaults()
    browser = place.inside()
    missing = browser.get("/missing")
    assert missing.status == 404
    assert "There is no such &lt;thing&gt;." in missing.text
    assert "veilmart search" not in missing.text
    assert browser.get("/nowhere").status == 404
    assert browser.get("/save").status == 404
    mistake = browser.get("/mistake")
    assert mistake.status == 500
    printed = capsys.readouterr()
    assert "opensesame" not in mistake.text + printed.out + printed.err
    assert "test_web_guard.py" in printed.out + printed.err
    part = browser.get("/missing", hx_request="true")
    assert (part.headers["hx-retarget"], part.headers["hx-reselect"]) == ("#main", "#main")


def test_static_files_are_those_of_the_package(place: Place) -> None:
    browser = place.browser()
    style = browser.get(place.site.static("style.css"))
    assert (style.status, style.headers["content-type"]) == (200, "text/css; charset=utf-8")
    assert "immutable" in style.headers["cache-control"]
    assert browser.get("/static/../site.py").status == 404
    assert browser.get("/static/site.py").status == 404


def test_the_api_takes_its_token_and_no_cookie(place: Place, tmp_path: Path) -> None:
    browser = place.inside()
    token = (tmp_path / "token").read_text().strip()
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600
    assert browser.get("/api/v1/thing").status == 401
    assert browser.get("/api/v1/thing", authorization="Bearer nothing").status == 401
    assert place.browser().get("/api/v1/thing", authorization=f"Bearer {token}").text == '{"is":"here"}'
    assert place.browser().post("/api/v1/thing", authorization=f"bearer {token}").status == 200
    assert ApiToken(tmp_path / "token").opens(f"Bearer {token}")


def test_a_port_that_is_taken_is_said(place: Place) -> None:
    with pytest.raises(UsageError, match="cannot be used"):
        Address.free(place.address.port)


@pytest.mark.parametrize(
    "path",
    [
        "//evil.example",
        "https://evil.example",
        "javascript:alert(1)",
        "\\\\evil",
        "/\\evil",
        "/a\nb",
        "x",
        "",
    ],
)
def test_nobody_is_sent_elsewhere(path: str) -> None:
    assert local(path) == "/"
    assert local("/cart?x=1") == "/cart?x=1"


def test_an_event_holds_every_line() -> None:
    assert events.event("piece", "<p>\n\nx</p>") == "event: piece\ndata: <p>\ndata: \ndata: x</p>\n\n"


def test_sizes_are_written_for_people() -> None:
    assert [size_text(each) for each in (0, 1023, 1024, 64 * 1024**2)] == [
        "0 bytes",
        "1023 bytes",
        "1.0 KiB",
        "64.0 MiB",
    ]


def picture(width: int, height: int, form: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(out, form)
    return out.getvalue()


def test_pictures_are_scaled_down_and_never_up() -> None:
    small = images.scaled(picture(1200, 600), 240)
    assert (small.width, small.height, small.media_type) == (240, 120, "image/webp")
    with Image.open(io.BytesIO(small.data)) as opened:
        assert opened.size == (240, 120)
    assert images.scaled(picture(100, 50, "JPEG"), 240).width == 100
    assert [images.width_for(each) for each in (1, 100, 5000)] == [96, 240, 960]


@pytest.mark.parametrize("data", [b"", b"<svg/>", picture(40, 40)[:60], picture(40, 40, "GIF")])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(UntrustedError):
        images.scaled(data, 240)


def test_a_picture_of_too_many_pixels_is_not_unpacked() -> None:
    head = bytearray(picture(10, 10))
    head[16:24] = (60_000).to_bytes(4, "big") * 2
    with pytest.raises(UntrustedError):
        images.scaled(bytes(head), 240)
