"""A market of real processes, its storefront, and a browser that looks at it."""

from __future__ import annotations

import io
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cli import veilmart
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, sync_playwright
from real_market import environment

from mosquitto import free_ports
from veilmart.processes import NodeProcess, running

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 15_000
SHOPS = {"sports": "Sports shop", "archive": "Sound archive"}


@dataclass(frozen=True)
class Goods:
    merchant: str
    sku: str
    title: str
    price: str
    category: str
    content: bytes
    image: bool = False
    stock: str = ""


GOODS = (
    Goods("sports", "PLAN-10K", "Ten kilometres in eight weeks", "9.90", "plans", b"run\n" * 5000),
    Goods("sports", "GPX-RIDGE", "Ridge in the morning", "4.50", "routes", b"<gpx/>\n" * 90_000, image=True),
    Goods("sports", "GPX-LAKES", "Three lakes round", "4.50", "routes", b"<gpx></gpx>\n" * 400, stock="1"),
    Goods("archive", "WAV-BROOK", "A brook under ice", "12.00", "recordings", b"\x00\x01" * 2_000_000),
    Goods("archive", "WAV-STORM", "Storm behind the hut", "9.00", "recordings", b"\x02\x01" * 8_000_000),
    *(
        Goods("archive", f"NOTE-{number:02}", f"Field note {number:02}", "0.50", "notes", b"wind %d" % number)
        for number in range(25)
    ),
)
BY_SKU = {goods.sku: goods for goods in GOODS}


@dataclass(frozen=True)
class WebMarket:
    home: Path
    nodes: dict[str, NodeProcess]

    def ran(self, *words: str | Path) -> None:
        ran = veilmart(*words, "--json", home=self.home)
        assert ran.code == 0, (ran.out, ran.err)

    @contextmanager
    def without(self, *names: str) -> Iterator[None]:
        for name in names:
            self.nodes[name].stop()
        try:
            yield
        finally:
            for name in reversed(names):
                self.nodes[name].start()

    @contextmanager
    def slowed(self, name: str) -> Iterator[None]:
        """Let a node run for 5 ms of each 100: what takes it no time can be watched on any machine."""
        process, over = self.nodes[name].process, threading.Event()
        assert process is not None

        def slow() -> None:
            while not over.wait(0.005):
                process.send_signal(signal.SIGSTOP)
                over.wait(0.095)
                process.send_signal(signal.SIGCONT)

        thread = threading.Thread(target=slow)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def profile(self, name: str) -> Path:
        profile = self.home / "customers" / name
        self.customer(profile, "join", self.home / "market.json", "--no-passphrase")
        return profile

    def customer(self, profile: Path, *words: str | Path) -> Any:
        """Run a customer's command; no pages of this profile may be served meanwhile."""
        ran = veilmart(*words, "--json", home=self.home, VEILMART_PROFILE=str(profile))
        assert ran.code == 0, (ran.out, ran.err)
        return ran.data


@pytest.fixture(scope="session")
def web_market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebMarket]:
    home = tmp_path_factory.mktemp("web") / "market"
    public, nodes = free_ports(2)
    market = WebMarket(home, {})
    ports = ("--public-port", str(public), "--node-port", str(nodes))
    market.ran("init", *ports, "--minimum-age", "0", "--gateway", "sandbox")
    for merchant, name in SHOPS.items():
        _open_shop(market, merchant, name)
    names = {"bus": home / "bus", "broker": home / "broker"}
    names |= {merchant: home / "merchants" / merchant for merchant in SHOPS}
    market.nodes.update(
        {
            name: NodeProcess(
                name,
                ["merchant" if name in SHOPS else name, "run", "--home", str(place)],
                home / "logs" / name,
            )
            for name, place in names.items()
        }
    )
    with running(list(market.nodes.values())):
        yield market


def _open_shop(market: WebMarket, merchant: str, name: str) -> None:
    home = market.home
    market.ran("merchant", "init", merchant, "--name", name, "--description", f"All of {name}.")
    certificate = home / f"{merchant}.crt"
    market.ran("ca", "sign", home / f"merchants/{merchant}/identity.csr", "--out", certificate)
    market.ran("merchant", "install-cert", certificate, "--merchant", merchant)
    for goods in (each for each in GOODS if each.merchant == merchant):
        file = home / "goods" / f"{goods.sku.lower()}.bin"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(goods.content)
        words = ["merchant", "product", "add", file, "--merchant", merchant, "--sku", goods.sku]
        words += ["--title", goods.title, "--price", goods.price, "--category", goods.category]
        words += ["--description", f"{goods.title}: everything about it."]
        words += ["--stock", goods.stock] if goods.stock else []
        if goods.image:
            picture = file.with_suffix(".png")
            picture.write_bytes(_picture())
            words += ["--image", picture, "--image-alt", "A ridge under a morning sky"]
        market.ran(*words)


def _picture() -> bytes:
    image = Image.new("RGB", (640, 400), "#c9d8d0")
    draw = ImageDraw.Draw(image)
    for layer, colour in enumerate(("#8fae9f", "#5d8672", "#2f5d4b")):
        top = 170 + 70 * layer
        points = [(x, top + (x * (layer + 3) // 9) % 60) for x in range(0, 641, 80)]
        draw.polygon([(0, 400), *points, (640, 400)], fill=colour)
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


@dataclass
class Shopfront:
    """A storefront that runs. `link` is the newest one that it printed."""

    market: WebMarket
    profile: Path
    port: int = 0
    process: subprocess.Popen[str] = field(init=False)
    link: str = ""

    def start(self) -> None:
        words = [sys.executable, "-m", "veilmart", "customer", "web", "--port", str(self.port)]
        self.process = subprocess.Popen(
            [*words, "--timeout", "5"],
            env=environment(VEILMART_HOME=str(self.market.home), VEILMART_PROFILE=str(self.profile)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.read_link()
        self.port = int(self.link.split(":")[2].split("/")[0])

    def read_link(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line.startswith("api "):
            # What programs are told, after the first link.
            line = self.process.stdout.readline()
        found = re.fullmatch(r"ready (http://127\.0\.0\.1:\d+/enter\?token=\S+)\n", line)
        assert found, (line, self.process.stderr.read() if self.process.stderr else "")
        self.link = found[1]
        return self.link

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        _, err = self.process.communicate(timeout=30)
        assert (self.process.returncode, err) == (0, "")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture
def shopfront(web_market: WebMarket, request: pytest.FixtureRequest) -> Iterator[Shopfront]:
    """The storefront of a customer who has just joined, named after the test."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[-40:]
    front = Shopfront(web_market, web_market.profile(name))
    front.start()
    try:
        yield front
    finally:
        front.end()


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as running_one:
        yield running_one


@pytest.fixture(scope="session")
def browser(playwright: Playwright) -> Iterator[Browser]:
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
    yield browser
    browser.close()


@pytest.fixture
def opened(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens a storefront in a browser of its own, and fails if a page asks anybody else for anything."""
    strangers: list[str] = []
    complaints: list[str] = []
    with ExitStack() as stack:

        def open_(front: Shopfront, **options: object) -> Page:
            context: BrowserContext = browser.new_context(accept_downloads=True, **options)  # type: ignore[arg-type]
            stack.callback(context.close)
            context.set_default_timeout(PATIENCE_MS)
            watch(context, front, strangers, complaints)
            page = context.new_page()
            page.goto(front.link)
            return page

        yield open_
    assert strangers == [], strangers
    assert complaints == [], complaints


def watch(context: BrowserContext, front: Shopfront, strangers: list[str], complaints: list[str]) -> None:
    """Note every request to anybody else, and whatever the browser complains of."""
    context.on("request", lambda it: None if it.url.startswith(front.url) else strangers.append(it.url))
    context.on("console", lambda it: _complain(complaints, it.type, it.text))
    context.on("weberror", lambda it: complaints.append(str(it.error)))


def _complain(complaints: list[str], kind: str, text: str) -> None:
    # A page for an error has its status, which the console repeats.
    if kind in ("error", "warning") and "Failed to load resource" not in text:
        complaints.append(text)
