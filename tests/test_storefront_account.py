"""The account's own pages over a market in memory: password, second factor, the end; and the wallet's."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator

import pytest
from customer_shop import PASSWORD, Bazaar, build
from fronts import Front, front, gate
from test_customer_refunds import asked
from world import Publish

from broker_node import totp
from common import clock

__all__ = ["front"]  # a fixture

NEW = "battery staple"
PAGES = ("/account/second-factor", "/account/close")
FORMS = ("/account/second-factor/on", "/account/second-factor/off", "/account/close", "/account/password")


@pytest.fixture(scope="module")
def bazaar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bazaar]:
    built = build(tmp_path_factory.mktemp("market"))
    yield built
    built.world.close()


def faults(text: str) -> set[str]:
    return set(re.findall(r'id="((?:off-)?fault-[\w-]+)"', text))


def secret_on(page: str) -> str:
    found = re.search(r'id="secret">([A-Z2-7 ]+)<', page)
    assert found, page
    return found[1].replace(" ", "")


def code(secret: str, ahead: int = 0) -> str:
    return totp.code_at(base64.b32decode(secret), clock.now_ms() // totp.STEP_MS + ahead)


# --- the second factor ---------------------------------------------------------------------------------


def test_the_second_factor_is_turned_on_asked_for_and_turned_off(front: Front) -> None:
    page = front.browser.get("/account/second-factor").text
    secret = secret_on(page)
    assert '<svg viewBox="0 0' in page.split('class="qr"')[1]
    assert "style=" not in page
    assert secret_on(front.browser.get("/account/second-factor").text) == secret, "the app has read it"

    wrong = front.post("/account/second-factor/on", password=PASSWORD, code="000000")
    assert (wrong.status, faults(wrong.text)) == (422, {"fault-password"})
    assert secret_on(wrong.text) == secret
    empty = front.post("/account/second-factor/on")
    assert faults(empty.text) == {"fault-password", "fault-code"}
    letters = front.post("/account/second-factor/on", password=PASSWORD, code="abc")
    assert faults(letters.text) == {"fault-code"}
    done = front.post("/account/second-factor/on", password=PASSWORD, code=code(secret))
    assert (done.status, done.headers["location"]) == (303, "/account")
    # Sent again it is no form of a secret that is shown any more.
    again = front.post("/account/second-factor/on", password=PASSWORD, code=code(secret))
    assert again.headers["location"] == "/account?onward=/account/second-factor"
    assert secret_on(front.browser.get("/account/second-factor").text) != secret

    front.post("/account/logout", onward="/account")
    fields = {"login-name": front.profile.name, "password": PASSWORD}
    assert front.post("/account/login", **fields).status == 403
    assert front.post("/account/login", **fields, code=code(secret, 1)).status == 303
    assert front.desk.reading.logged_in()

    assert faults(front.post("/account/second-factor/off", password=PASSWORD).text) == {"off-fault-code"}
    assert front.post("/account/second-factor/off", password=PASSWORD, code="000000").status == 422


# --- the password --------------------------------------------------------------------------------------


def test_another_password_ends_the_session(front: Front) -> None:
    fields = {"password": PASSWORD, "new-password": NEW}
    weak = front.post("/account/password", **fields | {"new-password": "password1"})
    assert (weak.status, faults(weak.text)) == (422, {"fault-new-password"})
    wrong = front.post("/account/password", **fields | {"password": "another one"})
    assert (wrong.status, faults(wrong.text)) == (422, {"fault-password"})
    assert front.desk.reading.logged_in()
    assert front.post("/account/password", **fields).status == 303
    assert not front.desk.reading.logged_in()
    assert "Log in with the new one." in front.browser.get("/account").text
    assert front.post("/account/password", **fields).status == 403
    assert front.post("/account/login", **{"login-name": front.profile.name, "password": NEW}).status == 303


# --- the end -------------------------------------------------------------------------------------------


def test_an_account_is_closed_and_its_rest_is_in_the_wallet(front: Front) -> None:
    front.bazaar.world.fund(front.profile.name, 777)
    before = front.desk.reading.wallet().usable
    page = front.browser.get("/account/close").text
    assert "The 7.77 EUR in it are drawn into your wallet" in page
    for fields, wrong in (
        ({}, {"fault-password", "fault-certain"}),
        ({"password": PASSWORD}, {"fault-certain"}),
        ({"password": "another one", "certain": "yes"}, {"fault-password"}),
    ):
        answer = front.post("/account/close", **fields)
        assert (answer.status, faults(answer.text)) == (422, wrong)
    closed = front.post("/account/close", password=PASSWORD, certain="yes")
    assert (closed.status, closed.headers["location"]) == (303, "/wallet")
    assert front.desk.reading.wallet().usable == before + 777
    assert "The account is closed for good." in front.browser.get("/wallet").text
    # Sent again: nobody is logged in any more.
    assert front.post("/account/close", password=PASSWORD, certain="yes").status == 303
    # Logged in to again, it offers to fetch what did not arrive, and nothing else.
    front.post("/account/login", **{"login-name": front.profile.name, "password": PASSWORD})
    page = front.browser.get("/account").text
    assert "This account is closed" in page
    assert 'action="/account/resume"' in page
    assert "/account/withdraw" not in page
    assert front.browser.get("/account/close").headers["location"] == "/account"
    assert front.post("/account/resume").headers["location"] == "/account"
    front.post("/account/logout", onward="/")
    front.add()
    assert "Pay 12.34 EUR" in front.browser.get("/review").text


# --- account and visits apart --------------------------------------------------------------------------


def test_the_accounts_pages_open_only_while_no_visit_is_open(front: Front) -> None:
    for path in FORMS:
        assert front.browser.post(path, {"csrf": "x" * 43, "password": PASSWORD}).status == 403
    front.log_out()
    for path in PAGES:
        to_the_door = front.browser.get(path)
        assert to_the_door.headers["location"] == f"/account?onward={path}"
    front.browser.get("/catalog")
    for path in PAGES:
        assert (front.browser.get(path).status, gate(front.browser.get(path))) == (409, "shop")
    for path in FORMS:
        assert gate(front.post(path, password=PASSWORD, certain="yes", code="123456")) == "shop"
    assert not front.desk.reading.logged_in()


def test_a_secret_is_shown_to_no_later_login(front: Front) -> None:
    first = secret_on(front.browser.get("/account/second-factor").text)
    front.post("/account/logout", onward="/account")
    front.browser.get("/account/second-factor")
    front.log_in()
    assert secret_on(front.browser.get("/account/second-factor").text) != first


def test_who_topped_up_for_a_cart_is_led_back_to_it(front: Front) -> None:
    front.log_out()
    front.add()
    front.post("/visit/leave", onward="/account")
    front.log_in()
    page = front.browser.get("/account").text
    assert "Log out and pay for the cart" in page
    assert front.post("/account/logout", onward="/review").headers["location"] == "/review"
    assert "Pay 12.34 EUR" in front.browser.get("/review").text


# --- the wallet ----------------------------------------------------------------------------------------


def first_answer_alone() -> Callable[[Publish], list[Publish]]:
    """Lose every later answer of the broker: that to what is asked for in earnest."""
    answers: list[Publish] = []

    def losing(publish: Publish) -> list[Publish]:
        if not publish.topic.endswith("/down"):
            return [publish]
        answers.append(publish)
        return [publish] if len(answers) == 1 else []

    return losing


def test_the_wallet_says_what_is_under_way_and_on_which_side_it_goes_on(front: Front) -> None:
    page = front.browser.get("/wallet").text
    assert "veilmart wallet backup" in page
    assert "begun, and not answered" not in page
    front.bazaar.world.fund(front.profile.name, 2000)
    with front.bazaar.tampering(first_answer_alone()):
        assert front.post("/account/withdraw", bundles="1").status == 504
    page = front.browser.get("/wallet").text
    assert "1 withdrawal from the account: begun, and not answered yet." in page
    assert ('action="/account/resume"' in page, 'action="/orders/resume"' in page) == (True, False)
    assert front.post("/account/resume").status == 303
    assert "begun, and not answered" not in front.browser.get("/wallet").text

    order_id = front.bought()
    assert asked(front.bazaar, order_id, 100).state == "done"
    with front.bazaar.tampering(first_answer_alone()):
        assert front.post(f"/orders/{order_id}/ask").status == 504
    page = front.browser.get("/wallet").text
    assert "1 refund: begun, and not answered yet." in page
    assert ('action="/account/resume"' in page, 'action="/orders/resume"' in page) == (False, True)
    assert "Fetch the money" in front.browser.get(f"/orders/{order_id}").text
    assert front.post("/orders/resume", onward="/wallet").headers["location"] == "/wallet"
    assert "begun, and not answered" not in front.browser.get("/wallet").text
