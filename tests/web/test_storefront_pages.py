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
    shop = "/".join(page.context.pages[0].url.split("/")[:3])
    page.goto(f"{shop}/products/{BY_SKU[sku].merchant}/{sku}")


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


@both
def test_several_merchants_in_one_cart_are_several_orders(
    shopfront: Shopfront, opened: Opened, tmp_path: Path, *, scripts: bool
) -> None:
    page = opened(shopfront, java_script_enabled=scripts)
    ready_to_shop(page, f"several-{scripts}".lower())
    put(page, "GPX-RIDGE")
    put(page, "NOTE-03")
    put(page, "PLAN-10K")
    page.get_by_role("link", name="Cart").click()
    expect(page.locator(".sum-total dd")).to_have_text("14.90 EUR")

    more = page.get_by_role("button", name="One more: Ridge in the morning")
    more.click()
    expect(page.locator(".sum-total dd")).to_have_text("19.40 EUR")
    expect(page.locator("#cart-link .count")).to_have_text("holds 4")
    if scripts:
        expect(more).to_be_focused()
    page.get_by_role("button", name="One fewer: Ridge in the morning").click()
    expect(page.locator(".sum-total dd")).to_have_text("14.90 EUR")
    expect(page.get_by_role("button", name="One fewer: Ridge in the morning")).to_be_disabled()
    page.get_by_role("button", name="Remove Ten kilometres in eight weeks").click()
    expect(page.locator(".sum-total dd")).to_have_text("5.00 EUR")

    page.get_by_role("link", name="Review and pay").click()
    expect(page.get_by_role("heading", name="Order at Sound archive")).to_be_visible()
    page.get_by_role("button", name="Pay 5.00 EUR").click()
    expect(page.get_by_role("heading", name="Your purchase")).to_be_visible()
    expect(page.locator("[data-state=complete]")).to_have_count(2)
    page.get_by_role("link", name="Order at Sound archive").click()
    assert saved(page, tmp_path) == BY_SKU["NOTE-03"].content
    page.get_by_role("link", name="Cart").click()
    expect(page.get_by_role("heading", name="Your cart is empty")).to_be_visible()


@both
def test_the_catalog_is_searched_sorted_and_turned(
    shopfront: Shopfront, opened: Opened, *, scripts: bool
) -> None:
    page = opened(shopfront, java_script_enabled=scripts)
    ready_to_shop(page, f"catalog-{scripts}".lower())
    # Other tests put more on sale, at the sports shop alone.
    page.get_by_role("link", name="Catalog", exact=True).click()
    expect(page.get_by_text(re.compile(r"^\d+ products, page 1 of \d$"))).to_be_visible()
    expect(page.locator(".tile")).to_have_count(20)
    page.get_by_role("link", name="Next").click()
    expect(page.get_by_text(re.compile(r"^\d+ products, page 2 of \d$"))).to_be_visible()
    page.get_by_label("Merchant").select_option("Sound archive")
    if not scripts:
        page.get_by_role("button", name="Show", exact=True).click()
    expect(page.get_by_text("27 products, page 1 of 2")).to_be_visible()
    page.get_by_label("Category").select_option("notes")
    if not scripts:
        page.get_by_role("button", name="Show", exact=True).click()
    expect(page.get_by_text("25 products, page 1 of 2")).to_be_visible()
    page.get_by_label("Category").select_option("All")
    if not scripts:
        page.get_by_role("button", name="Show", exact=True).click()
    expect(page.get_by_text("27 products, page 1 of 2")).to_be_visible()
    page.get_by_label("Order", exact=True).select_option("Cheapest first")
    if not scripts:
        page.get_by_role("button", name="Show", exact=True).click()
    expect(page.locator(".tile .price").first).to_have_text("0.50 EUR")
    page.get_by_role("link", name="Next").click()
    expect(page.locator(".tile")).to_have_count(7)
    expect(page.locator(".tile .price").last).to_have_text("12.00 EUR")
    page.get_by_label("Words").fill("nothing of that kind")
    page.get_by_role("button", name="Show", exact=True).click()
    expect(page.get_by_role("heading", name="Nothing found")).to_be_visible()
    page.goto(f"{shopfront.url}/merchants")
    page.get_by_role("link", name="Sports shop").click()
    expect(page.get_by_role("heading", name="Sports shop", level=1)).to_be_visible()
    expect(page.get_by_role("link", name="Three lakes round")).to_be_visible()
    expect(page.get_by_role("link", name="A brook under ice")).to_have_count(0)
    show(page, "GPX-LAKES")
    expect(page.get_by_text("Few left")).to_be_visible()


@both
def test_every_field_of_a_card_says_what_to_do(
    shopfront: Shopfront, opened: Opened, *, scripts: bool
) -> None:
    page = opened(shopfront, java_script_enabled=scripts)
    sign_up(page, f"card-{scripts}".lower())
    page.get_by_role("link", name="Top up by card").click()
    pay = page.get_by_role("button", name="Pay in")

    fill_card(page, number="4242", expiry="next year", security_code="12", name="")
    pay.click()
    for field, said in {
        "number": "12 to 19 digits",
        "expiry": "like 04/29",
        "security_code": "three digits",
        "name": "holder's name",
    }.items():
        expect(page.locator(f"#fault-{field}")).to_contain_text(said)
    fill_card(page, number="4242 4242 4242 4241", expiry="01/20")
    pay.click()
    expect(page.locator("#fault-number")).to_contain_text("One digit of the card number is mistyped")
    expect(page.locator("#fault-expiry")).to_contain_text("The card has expired")
    expect(page.get_by_label("Card number")).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_label("Card number")).to_have_value("4242 4242 4242 4241")
    expect(page.get_by_label("Security code")).to_have_value("")

    fill_card(page, number="4000 0000 0000 0127")
    pay.click()
    expect(page.locator("#fault-security_code")).to_contain_text("The security code is wrong")
    fill_card(page, number="4000 0000 0000 0002")
    pay.click()
    expect(page.get_by_text("The card was declined.")).to_be_visible()
    page.get_by_role("radio", name="Another amount").check()
    page.locator("#field-other").fill("12,5o")
    fill_card(page)
    pay.click()
    expect(page.locator("#fault-amount")).to_contain_text("Choose an amount")
    page.locator("#field-other").fill("25.50")
    fill_card(page)
    pay.click()
    expect(page.get_by_text("25.50 EUR were charged")).to_be_visible()
    expect(page.locator("[data-balance]")).to_have_text("5.50 EUR")
    expect(page.locator("[data-usable]")).to_have_text("20.00 EUR")


@both
def test_names_and_passwords_say_what_is_wrong(
    shopfront: Shopfront, opened: Opened, *, scripts: bool
) -> None:
    page = opened(shopfront, java_script_enabled=scripts)
    name = f"door-{scripts}".lower()
    page.get_by_role("link", name="Account").click()
    page.get_by_label("Choose a name").fill(name)
    page.get_by_label("Choose a password").fill("password1")
    page.get_by_role("button", name="Open it").click()
    expect(page.locator("#fault-new-password")).to_contain_text("most common passwords")
    expect(page.get_by_label("Choose a name")).to_have_value(name)
    sign_up(page, name)
    page.get_by_role("button", name="Log out and go shopping").click()

    sign_up_again(page, name)
    expect(page.locator("#fault-name")).to_contain_text("exists already")
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_label("Password", exact=True).fill("not the password")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_text("The name, the password or the code is wrong.")).to_be_visible()
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    expect(page.locator("[data-balance]")).to_have_text("0.00 EUR")


def sign_up_again(page: Page, name: str) -> None:
    page.get_by_role("link", name="Account").click()
    page.get_by_label("Choose a name").fill(name)
    page.get_by_label("Choose a password").fill(PASSWORD)
    page.get_by_role("button", name="Open it").click()


# --- account and visit apart ---------------------------------------------------------------------------


@both
def test_a_top_up_within_a_checkout_says_what_it_costs_and_offers_to_wait(
    shopfront: Shopfront, opened: Opened, *, scripts: bool
) -> None:
    page = opened(shopfront, java_script_enabled=scripts)
    sign_up(page, f"apart-{scripts}".lower())
    top_up(page, "20.00 EUR")
    show(page, "GPX-RIDGE")
    # The account is open: the shops are not.
    expect(page.get_by_role("heading", name="Log out, then go in")).to_be_visible()
    page.get_by_role("button", name="Log out and go shopping").click()
    expect(page.get_by_role("heading", name="Ridge in the morning")).to_be_visible()
    put(page, "WAV-BROOK")
    put(page, "PLAN-10K")
    page.goto(f"{shopfront.url}/review")
    expect(page.get_by_text("1.90 EUR are missing.")).to_be_visible()
    expect(page.get_by_role("button", name=re.compile("Pay"))).to_have_count(0)

    page.get_by_role("link", name="Top up by card").click()
    expect(page.get_by_role("heading", name="You are in the middle of a visit")).to_be_visible()
    expect(page.get_by_text("Some of your privacy")).to_be_visible()
    page.get_by_role("button", name="Wait, then go on").click()
    expect(page.get_by_role("heading", name="Waiting for the visit to end")).to_be_visible()
    # Nothing was opened meanwhile: the shops still are.
    expect(page.get_by_text("You are in the shops under no name.")).to_be_visible()
    page.get_by_role("button", name="Leave the shops and go on now").click()
    page.get_by_label("Name", exact=True).fill(f"apart-{scripts}".lower())
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name="Top up by card")).to_be_visible()
    fill_card(page)
    page.get_by_role("button", name="Pay in").click()
    expect(page.get_by_text("20.00 EUR were charged")).to_be_visible()
    page.get_by_role("button", name="Log out and go shopping").click()
    page.goto(f"{shopfront.url}/review")
    page.get_by_role("button", name="Pay 21.90 EUR").click()
    expect(page.locator("[data-state=complete]")).to_have_count(2)


# --- two tabs, back, sessions --------------------------------------------------------------------------


@both
def test_two_tabs_buy_one_cart_once(shopfront: Shopfront, opened: Opened, *, scripts: bool) -> None:
    page = opened(shopfront, java_script_enabled=scripts)
    ready_to_shop(page, f"two-tabs-{scripts}".lower())
    put(page, "GPX-RIDGE")
    page.goto(f"{shopfront.url}/review")
    other = page.context.new_page()
    other.goto(f"{shopfront.url}/review")
    # A change in one tab is a change in the other: what is paid is what was shown.
    third = page.context.new_page()
    put(third, "PLAN-10K")
    other.get_by_role("button", name="Pay 4.50 EUR").click()
    expect(other.get_by_text("The cart has changed since.")).to_be_visible()
    other.get_by_role("button", name="Pay 14.40 EUR").click()
    expect(other.locator("#order[data-state=complete]")).to_be_visible()
    page.get_by_role("button", name="Pay 4.50 EUR").click()
    expect(page.get_by_role("heading", name="Your cart is empty")).to_be_visible()
    page.goto(f"{shopfront.url}/orders")
    expect(page.get_by_role("row")).to_have_count(2)
    # A line that another tab has removed stays removed.
    put(page, "NOTE-01")
    for tab in (page, other):
        tab.goto(f"{shopfront.url}/cart")
    page.get_by_role("button", name="Remove Field note 01").click()
    expect(page.get_by_role("heading", name="Your cart is empty")).to_be_visible()
    other.get_by_role("button", name="One more: Field note 01").click()
    expect(other.get_by_role("heading", name="Your cart is empty")).to_be_visible()


@both
def test_going_back_after_paying_pays_nothing_twice(
    shopfront: Shopfront, opened: Opened, *, scripts: bool
) -> None:
    page = opened(shopfront, java_script_enabled=scripts)
    ready_to_shop(page, f"back-{scripts}".lower())
    put(page, "GPX-RIDGE")
    page.goto(f"{shopfront.url}/review")
    key = page.locator("form[action='/pay'] input[name=key]").get_attribute("value")
    csrf = page.locator("form[action='/pay'] input[name=csrf]").get_attribute("value")
    page.get_by_role("button", name="Pay 4.50 EUR").click()
    expect(page.locator("#order[data-state=complete]")).to_be_visible()
    order = page.url
    page.go_back()
    expect(page.get_by_role("heading", name="Your cart is empty")).to_be_visible()
    # Also a browser that shows the old form again, and sends it, is led to the order that there is.
    sent = page.request.post(f"{shopfront.url}/pay", form={"csrf": csrf or "", "key": key or ""})
    assert sent.url == order
    page.goto(f"{shopfront.url}/wallet")
    expect(page.locator("[data-usable]")).to_have_text("35.50 EUR")


@both
def test_a_session_that_is_over_says_so_and_loses_nothing(
    shopfront: Shopfront, opened: Opened, *, scripts: bool
) -> None:
    page = opened(shopfront, java_script_enabled=scripts)
    ready_to_shop(page, f"session-over-{scripts}".lower())
    put(page, "GPX-RIDGE")
    page.goto(f"{shopfront.url}/cart")
    shopfront.end()
    shopfront.start()
    # The page is of the server that was ended.
    page.get_by_role("button", name="One more: Ridge in the morning").click()
    expect(page.get_by_role("heading", name="Your session has expired")).to_be_visible()
    printed = shopfront.link
    page.get_by_role("button", name="Show a new link in the terminal").click()
    expect(page.get_by_role("heading", name="Look into the terminal")).to_be_visible()
    assert shopfront.read_link() == printed
    page.goto(printed)
    page.get_by_role("link", name="Cart").click()
    expect(page.locator(".sum-total dd")).to_have_text("4.50 EUR")
    page.goto(printed)
    expect(page.get_by_role("heading", name="This link was used already")).to_be_visible()


# --- what goes wrong -----------------------------------------------------------------------------------


@both
def test_a_merchant_who_is_away_holds_up_nobody_else(
    shopfront: Shopfront, opened: Opened, *, scripts: bool
) -> None:
    page = opened(shopfront, java_script_enabled=scripts)
    ready_to_shop(page, f"away-{scripts}".lower())
    put(page, "GPX-RIDGE")
    put(page, "NOTE-02")
    page.goto(f"{shopfront.url}/review")
    with shopfront.market.without("sports"):
        page.get_by_role("button", name="Pay 5.00 EUR").click()
        expect(page.get_by_text("Sports shop: the merchant is away.")).to_be_visible()
        expect(page.locator("[data-state=complete]")).to_have_count(1)
        page.goto(f"{shopfront.url}/")
        expect(page.get_by_text("could not be asked")).to_be_visible()
        expect(page.locator(".tile").first).to_contain_text("Sound archive")
        show(page, "GPX-RIDGE")
        expect(page.get_by_role("heading", name="The merchant is away")).to_be_visible()
        page.get_by_role("link", name="Cart").click()
        expect(page.locator(".sum-total dd")).to_have_text("4.50 EUR")
    page.goto(f"{shopfront.url}/review")
    page.get_by_role("button", name="Pay 4.50 EUR").click()
    expect(page.locator("#order[data-state=complete]")).to_be_visible()


def test_without_the_bus_everything_local_goes_on(shopfront: Shopfront, opened: Opened) -> None:
    page = opened(shopfront)
    ready_to_shop(page, "no-bus")
    put(page, "GPX-RIDGE")
    with shopfront.market.without("bus"):
        page.goto(f"{shopfront.url}/catalog")
        expect(page.get_by_role("heading", name="The market's bus is away")).to_be_visible()
        expect(page.get_by_text("What was kept")).to_be_visible()
        page.get_by_role("link", name="Cart").click()
        page.get_by_role("button", name="One more: Ridge in the morning").click()
        expect(page.locator(".sum-total dd")).to_have_text("9.00 EUR")
        page.get_by_role("link", name="Wallet").click()
        expect(page.locator("[data-usable]")).to_have_text("40.00 EUR")
    # Broker and merchants come back to the bus by themselves, each in its own time.
    page.goto(f"{shopfront.url}/catalog")
    found, again = page.get_by_text(re.compile(r"^\d+ products")), page.get_by_role("link", name="Try again")
    for _ in range(60):
        expect(found.or_(page.get_by_role("heading", level=1)).first).to_be_visible()
        if found.is_visible():
            break
        if again.is_visible():
            again.click()
        else:
            page.reload()
    expect(found).to_be_visible()


def test_files_that_are_gone_are_fetched_again(shopfront: Shopfront, opened: Opened, tmp_path: Path) -> None:
    page = opened(shopfront)
    ready_to_shop(page, "gone")
    show(page, "WAV-BROOK")
    page.get_by_role("button", name="Buy now").click()
    page.get_by_role("button", name="Pay 12.00 EUR").click()
    expect(page.locator("#order[data-state=complete]")).to_be_visible()
    (file,) = (shopfront.profile / "downloads").rglob("*.bin")
    file.unlink()
    page.get_by_role("link", name="Library").click()
    expect(page.get_by_text("not on this machine any more")).to_be_visible()
    page.get_by_role("button", name="Fetch again").click()
    expect(page.get_by_role("link", name="Save")).to_be_visible()
    assert saved(page, tmp_path) == BY_SKU["WAV-BROOK"].content
    with page.expect_download() as download:
        page.get_by_role("link", name="Signed receipt").click()
    receipt = tmp_path / "receipt.json"
    download.value.save_as(receipt)
    assert '"WAV-BROOK"' in receipt.read_text()
