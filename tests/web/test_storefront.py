"""The storefront in a real browser, against real nodes: a customer's whole way, with and without scripts."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from playwright.sync_api import Page, expect
from shopfront import BY_SKU, Shopfront

pytestmark = [pytest.mark.web, pytest.mark.timeout(180)]

PASSWORD = "a quiet ridge at dawn"
CARD = {"number": "4242 4242 4242 4242", "expiry": "12/34", "security_code": "123", "name": "A. Lovelace"}

Opened: TypeAlias = Callable[..., Page]
both = pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "plain"])


# --- steps of a visit ----------------------------------------------------------------------------------


def sign_up(page: Page, name: str = "ada") -> None:
    page.get_by_role("link", name="Account").click()
    page.get_by_label("Choose a name").fill(name)
    page.get_by_label("Choose a password").fill(PASSWORD)
    page.get_by_role("button", name="Open it").click()
    expect(page.get_by_text("Your account is open, and you are logged in.")).to_be_visible()


def fill_card(page: Page, **changed: str) -> None:
    for name, value in {**CARD, **changed}.items():
        page.locator(f"#field-{name}").fill(value)


def top_up(page: Page, amount: str = "40.00 EUR") -> None:
    page.get_by_role("link", name="Top up by card").click()
    page.get_by_label(amount, exact=True).check()
    fill_card(page)
    page.get_by_role("button", name="Pay in").click()
    expect(page.get_by_text(f"{amount} were charged to your visa ending in 4242.")).to_be_visible()


def go_shopping(page: Page) -> None:
    page.get_by_role("button", name="Log out and go shopping").click()
    expect(page.get_by_role("heading", name="New in all shops")).to_be_visible()


def ready_to_shop(page: Page, name: str) -> None:
    sign_up(page, name)
    top_up(page)
    go_shopping(page)


def show(page: Page, sku: str) -> None:
    page.goto(f"{page.url.split('/', 3)[0]}//{page.url.split('/')[2]}/products/{BY_SKU[sku].merchant}/{sku}")


def put(page: Page, sku: str) -> None:
    show(page, sku)
    page.get_by_role("button", name="Put into the cart").click()
    expect(page.get_by_text(f"{BY_SKU[sku].title} is in your cart.")).to_be_visible()


def saved(page: Page, folder: Path) -> bytes:
    with page.expect_download() as download:
        page.get_by_role("link", name="Save").first.click()
    path = folder / "saved"
    download.value.save_as(path)
    return path.read_bytes()


# --- the way -------------------------------------------------------------------------------------------


@both
def test_a_stranger_buys_something(
    shopfront: Shopfront, opened: Opened, tmp_path: Path, *, scripts: bool
) -> None:
    page = opened(shopfront, java_script_enabled=scripts)
    expect(page.get_by_role("heading", name="Welcome")).to_be_visible()
    ready_to_shop(page, f"stranger-{scripts}".lower())

    page.get_by_role("searchbox", name="Search all products").fill("ridge")
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_text("1 product", exact=True)).to_be_visible()
    page.get_by_role("link", name="Ridge in the morning").click()
    picture = page.get_by_role("img", name="A ridge under a morning sky")
    expect(picture).to_be_visible()
    if scripts:
        assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 640
    expect(page.get_by_text("In stock")).to_be_visible()

    page.get_by_role("button", name="Buy now").click()
    expect(page.get_by_role("heading", name="Review and pay")).to_be_visible()
    page.get_by_role("button", name="Pay 4.50 EUR").click()
    page.wait_for_url(re.compile("/orders/[0-9a-f]{32}"))
    expect(page.locator("#order[data-state=complete]")).to_be_visible()
    expect(page.locator(".step-done")).to_have_count(5)
    assert saved(page, tmp_path) == BY_SKU["GPX-RIDGE"].content

    page.get_by_role("link", name="Library").click()
    expect(page.get_by_role("heading", name="Ridge in the morning")).to_be_visible()
    assert saved(page, tmp_path) == BY_SKU["GPX-RIDGE"].content
    page.get_by_role("link", name="Wallet").click()
    expect(page.locator("[data-usable]")).to_have_text("35.50 EUR")
