"""The account's pages in a real browser: password, second factor, the end."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import TypeAlias

import pytest
from playwright.sync_api import Page, expect
from shopfront import Shopfront
from test_storefront_pages import PASSWORD, sign_up

from broker_node import totp
from common import clock

pytestmark = [pytest.mark.web, pytest.mark.timeout(180)]

Opened: TypeAlias = Callable[..., Page]
both = pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "plain"])
NEW = "battery staple at noon"


def code(secret: str, ahead: int = 0) -> str:
    return totp.code_at(base64.b32decode(secret), clock.now_ms() // totp.STEP_MS + ahead)


def log_in(page: Page, name: str, password: str, code_now: str = "") -> None:
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_label("Password", exact=True).fill(password)
    page.get_by_label("Code of your app").first.fill(code_now)
    page.get_by_role("button", name="Log in").click()


@both
def test_a_second_factor_another_password_and_the_end(
    shopfront: Shopfront, opened: Opened, *, scripts: bool
) -> None:
    page, name = opened(shopfront, java_script_enabled=scripts), f"changes-{scripts}".lower()
    sign_up(page, name)
    page.get_by_role("link", name="Second factor").click()
    expect(page.get_by_role("img", name="QR code for an authenticator app")).to_be_visible()
    secret = page.locator("#secret").inner_text().replace(" ", "")
    turning_on = page.locator("form[action$='/on']")
    turning_on.get_by_label("Code of your app").fill("000000")
    turning_on.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Turn it on").click()
    expect(page.locator("#fault-password")).to_contain_text("the code is wrong")
    assert page.locator("#secret").inner_text().replace(" ", "") == secret
    turning_on.get_by_label("Code of your app").fill(code(secret))
    turning_on.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Turn it on").click()
    expect(page.get_by_text("Each login asks for a code of your app from now on.")).to_be_visible()

    page.get_by_label("Present password").fill(PASSWORD)
    page.get_by_label("New password").fill(NEW)
    page.get_by_label("Code of your app").fill(code(secret, 1))
    page.get_by_role("button", name="Change it").click()
    expect(page.get_by_text("The password is changed.")).to_be_visible()
    log_in(page, name, NEW)
    expect(page.get_by_text("The name, the password or the code is wrong.")).to_be_visible()


@both
def test_an_account_is_closed_for_good(shopfront: Shopfront, opened: Opened, *, scripts: bool) -> None:
    page, name = opened(shopfront, java_script_enabled=scripts), f"closed-{scripts}".lower()
    sign_up(page, name)
    page.get_by_role("link", name="Close the account").click()
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Close the account for good").click()
    expect(page.locator("#fault-certain")).to_contain_text("there is no way back")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_label("I know that there is no way back.").check()
    page.get_by_role("button", name="Close the account for good").click()
    expect(page.get_by_text("The account is closed for good.")).to_be_visible()
    page.get_by_role("link", name="Account").click()
    log_in(page, name, PASSWORD)
    expect(page.get_by_text("The name, the password or the code is wrong.")).to_be_visible()
