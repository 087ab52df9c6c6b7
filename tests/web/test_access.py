"""Every page, in both themes, through axe-core; and a whole purchase without a mouse.

`axe/axe.min.js` is axe-core 4.14.1 as Deque publishes it (MPL 2.0).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from backoffice import Backoffice
from playwright.sync_api import Page, expect
from shopfront import Shopfront
from test_storefront_pages import CARD, PASSWORD, go_shopping, put, sign_up, top_up

pytestmark = [pytest.mark.web, pytest.mark.timeout(240)]

Opened: TypeAlias = Callable[..., Page]
AXE = (Path(__file__).parent / "axe" / "axe.min.js").read_text()
SERIOUS = ("serious", "critical")
THEMES = ("light", "dark")

SHOP_PAGES = ("/", "/merchants", "/catalog", "/products/sports/GPX-RIDGE", "/cart", "/review", "/orders")
SHOP_PAGES += ("/library", "/wallet", "/account", "/products/sports/NOTHING", "/no-such-page")
ACCOUNT_PAGES = ("/account", "/wallet", "/wallet/top-up")
OFFICE_PAGES = ("/", "/orders", "/products", "/products/new", "/products/GPX-RIDGE")
OFFICE_PAGES += (
    "/products/GPX-RIDGE/remove",
    "/discounts",
    "/refunds",
    "/disputes",
    "/money",
    "/money/payout",
)
OFFICE_PAGES += ("/import", "/plots", "/privacy", "/settings", "/no-such-page")


def violations(page: Page) -> list[str]:
    """What axe finds on the page as it stands, in words: only what is serious or worse."""
    page.evaluate(AXE)
    found: dict[str, Any] = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{each['id']} at {', '.join(str(node['target'][0]) for node in each['nodes'][:5])}: {each['help']}"
        for each in found["violations"]
        if each["impact"] in SERIOUS
    ]


def look(page: Page, url: str, paths: tuple[str, ...]) -> dict[str, list[str]]:
    """Visit each of these pages in both themes; gives what was found, by page and theme."""
    found: dict[str, list[str]] = {}
    for path in paths:
        page.goto(url + path)
        for theme in THEMES:
            page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
            if wrong := violations(page):
                found[f"{path} {theme}"] = wrong
    return found


def test_axe_sees_what_is_wrong(shopfront: Shopfront, opened: Opened) -> None:
    page = opened(shopfront)
    page.evaluate(
        "document.querySelector('main').innerHTML = '<img src=\"/static/mark.svg\"><a href=\"/\"></a>'"
    )
    assert [each.split(" ")[0] for each in violations(page)] == ["image-alt", "link-name"]


def test_no_page_of_the_storefront_shuts_anybody_out(shopfront: Shopfront, opened: Opened) -> None:
    page = opened(shopfront)
    found = look(page, shopfront.url, ("/", "/account"))
    sign_up(page, "access")
    top_up(page)
    found |= look(page, shopfront.url, ACCOUNT_PAGES)
    page.goto(f"{shopfront.url}/account")
    go_shopping(page)
    put(page, "GPX-RIDGE")
    found |= look(page, shopfront.url, SHOP_PAGES)
    page.goto(f"{shopfront.url}/review")
    page.get_by_role("button", name="Pay 4.50 EUR").click()
    expect(page.locator("#order[data-state=complete]")).to_be_visible()
    found |= look(page, "", (page.url, f"{shopfront.url}/library", f"{shopfront.url}/orders"))
    assert found == {}


def test_no_page_of_the_dashboard_shuts_anybody_out(backoffice: Backoffice, opened: Opened) -> None:
    assert look(opened(backoffice), backoffice.url, OFFICE_PAGES) == {}


# --- without a mouse -----------------------------------------------------------------------------------


@contextmanager
def seen_focus(page: Page) -> Iterator[None]:
    yield
    width = page.evaluate("parseFloat(getComputedStyle(document.activeElement).outlineWidth)")
    assert width >= 2, "where one is can be seen"


def tab_to(page: Page, name: str) -> None:
    """Press Tab until what has the focus is called so."""
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate(
            "name => { const it = document.activeElement; const label = it.labels && it.labels[0];"
            " return [it.getAttribute('aria-label'), it.textContent, label && label.textContent]"
            ".some(text => text && text.trim().startsWith(name)) }",
            name,
        ):
            with seen_focus(page):
                return
    raise AssertionError(f"Tab never comes to {name!r}")


def press(page: Page, name: str) -> None:
    tab_to(page, name)
    page.keyboard.press("Enter")


def write(page: Page, name: str, text: str) -> None:
    tab_to(page, name)
    page.keyboard.type(text)


def test_a_whole_purchase_by_keyboard(shopfront: Shopfront, opened: Opened) -> None:
    page = opened(shopfront)
    press(page, "Account")
    expect(page.get_by_label("Choose a name")).to_be_visible()
    write(page, "Choose a name", "keys")
    write(page, "Choose a password", PASSWORD)
    press(page, "Open it")
    expect(page.get_by_text("Your account is open, and you are logged in.")).to_be_visible()
    press(page, "Top up by card")
    expect(page.get_by_role("heading", name="Top up by card")).to_be_visible()
    for label, field in (("Card number", "number"), ("Expiry", "expiry"), ("Security code", "security_code")):
        write(page, label, CARD[field])
    write(page, "Name on the card", CARD["name"])
    press(page, "Pay in")
    expect(page.get_by_text("were charged to your visa")).to_be_visible()
    press(page, "Log out and go shopping")
    expect(page.get_by_role("heading", name="New in all shops")).to_be_visible()
    write(page, "Search all products", "ridge")
    page.keyboard.press("Enter")
    expect(page.get_by_text("1 product", exact=True)).to_be_visible()
    press(page, "Ridge in the morning")
    expect(page.get_by_role("heading", name="Ridge in the morning")).to_be_visible()
    press(page, "Put into the cart")
    expect(page.get_by_text("is in your cart")).to_be_visible()
    press(page, "Cart")
    expect(page.get_by_role("heading", name="Cart", exact=True)).to_be_visible()
    press(page, "Review and pay")
    expect(page.get_by_role("heading", name="Review and pay")).to_be_visible()
    press(page, "Pay 4.50 EUR")
    expect(page.locator("#order[data-state=complete]")).to_be_visible()
    tab_to(page, "Save")
