"""Every page, in both themes, through axe-core, and as narrow as a phone; a whole purchase without a mouse.

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
from test_storefront_pages import CARD, PASSWORD, put, ready_to_shop, sign_up, top_up

pytestmark = [pytest.mark.web, pytest.mark.timeout(240)]

Opened: TypeAlias = Callable[..., Page]
AXE = (Path(__file__).parent / "axe" / "axe.min.js").read_text()
SERIOUS = ("serious", "critical")
THEMES = ("light", "dark")
NARROW = 320
OVERHANGING = """() => {
  const page = document.documentElement;
  if (page.scrollWidth <= page.clientWidth) return [];
  const far = [...document.querySelectorAll("body *")]
    .filter(each => each.getBoundingClientRect().right > page.clientWidth + 1)
    .map(each => `${each.tagName.toLowerCase()}.${each.className}`).slice(0, 5);
  return [`${page.scrollWidth} of ${page.clientWidth} pixels`, ...far];
}"""

SHOP_PAGES = ("/", "/merchants", "/catalog", "/products/sports/GPX-RIDGE", "/cart", "/review", "/orders")
SHOP_PAGES += ("/library", "/wallet", "/account", "/products/sports/NOTHING", "/no-such-page")
ACCOUNT_PAGES = ("/account", "/wallet", "/wallet/top-up", "/account/second-factor", "/account/close")
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
    """Visit each of these pages, in both themes and narrow; gives what was found, by page and which."""
    found: dict[str, list[str]] = {}
    for path in paths:
        page.goto(url + path)
        for theme in THEMES:
            if wrong := violations_in(page, theme):
                found[f"{path} {theme}"] = wrong
        if wide := sticking_out(page):
            found[f"{path} narrow"] = wide
    return found


def sticking_out(page: Page) -> list[str]:
    """What makes a page scroll sideways where it is as narrow as WCAG 1.4.10 (reflow) has it."""
    before = page.viewport_size
    page.set_viewport_size({"width": NARROW, "height": 640})
    found: list[str] = page.evaluate(OVERHANGING)
    if before is not None:
        page.set_viewport_size(before)
    return found


def test_what_is_too_wide_is_seen(shopfront: Shopfront, opened: Opened) -> None:
    page = opened(shopfront)
    assert sticking_out(page) == []
    page.evaluate("document.querySelector('main').innerHTML = '<pre>' + 'x'.repeat(300)")
    assert sticking_out(page)


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
    for path, button in (
        ("/account/second-factor", "Turn it on"),
        ("/account/second-factor", "Turn it off"),
        ("/account/close", "Close the account for good"),
        ("/wallet/top-up", "Pay in"),
    ):
        page.goto(shopfront.url + path)
        found |= refused(page, button)
    # By command an order is paid for without being fetched: it can be disputed.
    shopfront.end()
    shopfront.market.customer(shopfront.profile, "logout")
    shopfront.market.customer(shopfront.profile, "buy", "sports", "PLAN-10K", "--yes")
    shopfront.start()
    page.goto(shopfront.link)
    put(page, "GPX-RIDGE")
    found |= look(page, shopfront.url, SHOP_PAGES)
    page.goto(f"{shopfront.url}/review")
    page.get_by_role("button", name="Pay 4.50 EUR").click()
    expect(page.locator("#order[data-state=complete]")).to_be_visible()
    order = page.url
    found |= look(page, "", (order, f"{order}/invoice", f"{shopfront.url}/library"))
    page.goto(f"{shopfront.url}/orders")
    page.get_by_role("link", name="Ten kilometres").click()
    expect(page.get_by_role("link", name="Something is wrong")).to_be_visible()
    unfetched = page.url
    found |= look(page, "", (unfetched, f"{unfetched}/dispute"))
    found |= refused(page, "Freeze the money")
    page.get_by_label("It was not delivered").check()
    page.get_by_label("My words alone").check()
    page.get_by_role("button", name="Freeze the money").click()
    expect(page.locator("#order[data-state=disputed]")).to_be_visible()
    found |= look(page, "", (unfetched, f"{shopfront.url}/orders"))
    page.goto(f"{shopfront.url}/account")
    expect(page.get_by_role("heading", name="You are in the middle of a visit")).to_be_visible()
    found |= look(page, "", (page.url,))
    assert found == {}


def refused(page: Page, button: str) -> dict[str, list[str]]:
    """Send a form that lacks something; gives what axe finds where the faults are shown."""
    page.get_by_role("button", name=button).click()
    expect(page.locator(".fault").first).to_be_visible()
    wrong = {theme: violations_in(page, theme) for theme in THEMES}
    return {f"{button} refused {theme}": found for theme, found in wrong.items() if found}


def violations_in(page: Page, theme: str) -> list[str]:
    page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
    return violations(page)


def test_no_page_of_the_dashboard_shuts_anybody_out(
    backoffice: Backoffice, shopfront: Shopfront, opened: Opened
) -> None:
    customer = opened(shopfront)
    ready_to_shop(customer, "access-office")
    shopfront.end()
    run, profile = shopfront.market.customer, shopfront.profile
    (bought,) = run(profile, "buy", "sports", "PLAN-10K", "--yes")["orders"]
    words = ("--because", "not-delivered", "--statement", "nothing came", "--yes")
    run(profile, "order", "dispute", bought["order_id"], *words)
    shopfront.start()
    page = opened(backoffice)
    disputed = page.get_by_text("it was not delivered")
    for _ in range(200):
        page.goto(f"{backoffice.url}/disputes")
        if disputed.count():
            break
    page.goto(f"{backoffice.url}/orders")
    order = page.locator("tbody a").first.get_attribute("href") or ""
    paths = (*OFFICE_PAGES, order, f"{order}/refund", "/orders?order=xyz", "/orders?state=rejected")
    assert look(page, backoffice.url, paths) == {}


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
