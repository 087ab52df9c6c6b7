"""What an order's pages are for, in a real browser: watching, saving, the invoice, keys, disputes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from playwright.sync_api import Page, expect
from pypdf import PdfReader
from shopfront import BY_SKU, Shopfront
from test_storefront_pages import ready_to_shop, saved, show

pytestmark = [pytest.mark.web, pytest.mark.timeout(180)]

Opened: TypeAlias = Callable[..., Page]
both = pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "plain"])

LONG_MS = 60_000
"""How long a large file may take on a busy machine."""

WATCH = """
window.chunks = [];
new MutationObserver(() => {
  const bar = document.getElementById("chunks");
  if (bar && bar.value !== window.chunks.at(-1)) {
    window.chunks.push(bar.value);
  }
}).observe(document, {childList: true, subtree: true});
"""
"""Writes down how many chunks the page has shown, one after the other."""


def kept(page: Page, button: str, folder: Path) -> Path:
    """Press a button that saves a file."""
    with page.expect_download() as download:
        page.get_by_role("button", name=button).click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


@both
def test_a_delivery_is_watched_and_its_invoice_opened(
    shopfront: Shopfront, opened: Opened, tmp_path: Path, *, scripts: bool
) -> None:
    page = opened(shopfront, java_script_enabled=scripts)
    if scripts:
        page.add_init_script(WATCH)
    ready_to_shop(page, f"watch-{scripts}".lower())
    show(page, "WAV-STORM")
    expect(page.get_by_text("wav-storm.bin")).to_be_visible()
    expect(page.get_by_text("15.3 MiB")).to_be_visible()
    page.get_by_label("Quantity").fill("2")
    page.get_by_role("button", name="Buy now").click()
    with shopfront.market.slowed("archive"):
        page.get_by_role("button", name="Pay 18.00 EUR").click()
        expect(page.locator("#order[data-state=complete]")).to_be_visible(timeout=LONG_MS)
    expect(page.get_by_text(re.compile(r"^(\d+) of \1 encrypted chunks are here"))).to_be_visible()
    if scripts:
        seen = page.evaluate("window.chunks")
        assert len(seen) > 1, "it was watched without being loaded again"
        assert seen == sorted(seen)
    assert saved(page, tmp_path) == BY_SKU["WAV-STORM"].content

    order = page.url.rsplit("/", 1)[1]
    page.get_by_role("link", name="Invoice", exact=True).click()
    page.get_by_label("Your name").fill("Ada Lovelace")
    page.get_by_label("Your address").fill("1 Main Street\nLondon")
    page.get_by_label("Keep both").check()
    pdf = kept(page, "Save as PDF", tmp_path)
    assert pdf.name == f"invoice-{order[:12]}.pdf"
    text = "".join(each.extract_text() for each in PdfReader(pdf).pages)
    for said in (
        "Ada Lovelace",
        "1 Main Street",
        "London",
        "Storm behind the hut",
        "Total: 18.00 EUR",
        order,
    ):
        assert said in text
    html = kept(page, "Save as HTML", tmp_path).read_text()
    assert "Ada Lovelace" in html
    # They were kept, until they are told not to be.
    page.goto(f"{shopfront.url}/orders/{order}/invoice")
    expect(page.get_by_label("Your address")).to_have_value("1 Main Street\nLondon")
    page.get_by_label("Keep both").uncheck()
    kept(page, "Save as PDF", tmp_path)
    page.goto(f"{shopfront.url}/orders/{order}/invoice")
    expect(page.get_by_label("Your name")).to_have_value("")


@both
def test_a_licence_key_is_sold_once_and_stands_on_its_orders_page(
    shopfront: Shopfront, opened: Opened, tmp_path: Path, *, scripts: bool
) -> None:
    keys, sku = tmp_path / "keys.txt", f"PRO-{scripts}"
    # A key is one shop's and of one sale, whatever it is sold under.
    listed = [f"AAAA-{scripts}", f"BBBB-{scripts}"]
    keys.write_text("\n".join(listed))
    words = ("merchant", "product", "add", "--merchant", "sports", "--sku", sku, "--title", f"Licence {sku}")
    shopfront.market.ran(*words, "--price", "2.00", "--keys", keys)
    page = opened(shopfront, java_script_enabled=scripts)
    ready_to_shop(page, f"licence-{scripts}".lower())
    given = []
    for _ in range(2):
        page.goto(f"{shopfront.url}/products/sports/{sku}")
        expect(page.get_by_text("one for each copy, given to you alone")).to_be_visible()
        page.get_by_role("button", name="Buy now").click()
        page.get_by_role("button", name="Pay 2.00 EUR").click()
        expect(page.locator("#order[data-state=complete]")).to_be_visible()
        given.append(page.locator(".keys li").inner_text())
        assert saved(page, tmp_path).decode().split() == [given[-1]]
    assert sorted(given) == listed
    page.goto(f"{shopfront.url}/products/sports/{sku}")
    expect(page.get_by_text("Sold out", exact=True)).to_be_visible()
    expect(page.get_by_role("button", name="Buy now")).to_be_disabled()


@both
def test_what_does_not_come_is_disputed_and_the_money_comes_back(
    shopfront: Shopfront, opened: Opened, *, scripts: bool
) -> None:
    page = opened(shopfront, java_script_enabled=scripts)
    ready_to_shop(page, f"dispute-{scripts}".lower())
    shopfront.end()
    # By command an order is paid for without being fetched.
    shopfront.market.customer(shopfront.profile, "buy", "sports", "GPX-RIDGE", "--yes")
    shopfront.start()
    page.goto(shopfront.link)
    page.get_by_role("link", name="Orders").click()
    page.get_by_role("link", name="Ridge in the morning").click()
    expect(page.get_by_role("button", name="Fetch the files")).to_be_visible()
    place = page.url
    page.get_by_role("link", name="Something is wrong").click()
    expect(page.get_by_text("Who you are: the operator sees a dispute of nobody")).to_be_visible()
    page.get_by_label("What shall the operator read?").fill("nothing came")
    page.get_by_role("button", name="Freeze the money").click()
    expect(page.locator("#fault-kind")).to_have_text("Choose what is wrong.")
    expect(page.locator("#fault-show")).to_have_text("Choose what the operator may see.")
    expect(page.get_by_label("What shall the operator read?")).to_have_value("nothing came")
    page.get_by_label("It was not delivered").check()
    page.get_by_label("The signed receipt, as proof").check()
    page.get_by_role("button", name="Freeze the money").click()
    expect(page.locator("#order[data-state=disputed]")).to_be_visible()
    expect(page.get_by_text("The operator decides by")).to_be_visible()
    assert page.url == place

    order = place.rsplit("/", 1)[1]
    shopfront.market.ran("broker", "dispute", "refund", order, "--reason", "it never came", "--yes")
    page.get_by_role("button", name="Ask where it stands").click()
    expect(page.locator("#order[data-state=refunded]")).to_be_visible()
    expect(page.get_by_text("4.50 EUR came back into your wallet.")).to_be_visible()
    expect(page.get_by_text("it never came")).to_be_visible()
    page.get_by_role("link", name="Wallet").click()
    expect(page.locator("[data-usable]")).to_have_text("40.00 EUR")
