"""Accounts as their owners use them: password, device, second factor, the end; by API and by command."""

from __future__ import annotations

import base64
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from cli import Terminal, veilmart
from customer_shop import PASSWORD, Bazaar, home
from hypothesis import given
from hypothesis import strategies as st
from test_closed_accounts import draws_unheard
from world import World

from broker_node import books, delays, ledger, schema, totp
from common import clock, config, invites, passwords
from common.errors import AuthenticationError, DeadlineError, RejectedError, UsageError
from customer_node import Market
from customer_node.account import _exactly
from customer_node.refusals import AccountClosedError

NEW = "battery staple"


@pytest.fixture
def bazaar(tmp_path: Path) -> Any:
    made = Bazaar(World(tmp_path))
    yield made
    made.world.close()


@pytest.fixture
def run(bazaar: Bazaar, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The command, on the world in memory."""
    monkeypatch.setattr("veilmart.cli.profiles.Market", partial(Market, connect=bazaar.world.connect))
    return lambda market, *words: veilmart(*words, "--profile", home(market), "--json")


def code(secret: str, ahead: int = 0) -> str:
    return totp.code_at(base64.b32decode(secret), clock.now_ms() // totp.STEP_MS + ahead)


def file_with(folder: Path, text: str) -> Path:
    path = folder / f"file-{len(list(folder.iterdir()))}"
    path.write_text(text + "\n")
    return path


# --- passwords and devices -----------------------------------------------------------------------------


def test_an_easy_password_is_refused_before_anything_is_sent(bazaar: Bazaar) -> None:
    with bazaar.world.customer("alice") as market:
        before = len(bazaar.world.bus.passed)
        for easy in ("short", "iloveyou2", "alice", "aaaaaaaa"):
            with pytest.raises(RejectedError) as refused:
                market.sign_up("alice", easy)
            assert easy not in f"{refused.value.message} {refused.value.hint}"
        assert len(bazaar.world.bus.passed) == before
        market.sign_up("alice", PASSWORD)
        before = len(bazaar.world.bus.passed)
        with pytest.raises(RejectedError):
            market.account.change_password(PASSWORD, "password1")
        assert len(bazaar.world.bus.passed) == before


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=40))
def test_no_text_breaks_the_rules_about_passwords(text: str) -> None:
    try:
        passwords.check_password(text, "alice")
    except RejectedError:
        return
    assert len(text) >= passwords.SHORTEST


def test_the_owner_goes_past_delays_that_strangers_caused(bazaar: Bazaar) -> None:
    world = bazaar.world
    with bazaar.customer(bundles=0) as market:
        name = home(market).name
        market.log_out()
        with world.broker.store.immediate() as tx:
            for _ in range(50):
                delays.count_stranger(tx, name, clock.now_ms(), world.broker.limits)
        market.log_in(name, PASSWORD)
        assert market.balance().amount == 0
        with world.customer("elsewhere") as other:
            with pytest.raises(AuthenticationError) as refused:
                other.log_in(name, PASSWORD)
            assert "next try in" in refused.value.hint
            assert clock.now_ms() < (refused.value.retry_at or 0) <= clock.now_ms() + config.HOUR_MS


def test_a_device_shows_each_account_another_secret(bazaar: Bazaar) -> None:
    with bazaar.world.customer("alice") as market:
        for name in ("alice", "alice-second"):
            market.sign_up(name, PASSWORD)
    with bazaar.world.broker.store.immediate() as tx:
        rows = tx.all(sa.select(schema.devices))
    assert len({row["secret_hash"] for row in rows}) == 2


def test_another_password_ends_the_session_here_and_elsewhere(
    bazaar: Bazaar, run: Any, tmp_path: Path
) -> None:
    with bazaar.customer(bundles=0) as market:
        name = home(market).name
    with bazaar.world.customer("elsewhere") as other:
        other.log_in(name, PASSWORD)
        old, new = file_with(tmp_path, PASSWORD), file_with(tmp_path, NEW)
        wrong = run(market, "passwd", "--password-file", new, "--new-password-file", old)
        assert (wrong.code, wrong.error["code"]) == (5, "authentication")
        ran = run(market, "passwd", "--password-file", old, "--new-password-file", new)
        assert ran.data == {"logged_in": False}
        assert run(market, "balance").error["code"] == "authentication"
        with pytest.raises(AuthenticationError):
            other.balance()
        assert run(market, "login", name, "--password-file", old).error["code"] == "authentication"
        assert run(market, "login", name, "--password-file", new).code == 0


def test_a_lost_answer_to_a_new_password_is_asked_for_again(bazaar: Bazaar) -> None:
    with bazaar.customer(bundles=0, timeout_s=8.0) as market:
        lost: list[Any] = []

        def lose_first(publish: Any) -> list[Any]:
            if publish.topic.endswith("/down") and not lost:
                lost.append(publish)
                return []
            return [publish]

        with bazaar.tampering(lose_first):
            market.account.change_password(PASSWORD, NEW)
        assert lost
        market.log_in(home(market).name, NEW)


def test_silence_says_that_either_password_may_be_right(bazaar: Bazaar) -> None:
    with bazaar.customer(bundles=0) as market:
        pass
    with (
        bazaar.again(market, timeout_s=0.5) as hurried,
        bazaar.tampering(lambda p: [] if p.topic.endswith("/down") else [p]),
        pytest.raises(DeadlineError) as silent,
    ):
        hurried.account.change_password(PASSWORD, NEW)
    assert "the new one" in silent.value.hint


# --- the second factor ---------------------------------------------------------------------------------


def test_a_second_factor_from_the_command_line(
    bazaar: Bazaar, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bazaar.customer(bundles=0) as market:
        name = home(market).name
    made = run(market, "totp", "secret").data
    assert made["address"] == (
        f"otpauth://totp/Veilmart%3A{bazaar.world.market.market_id.hex()[:8]}"
        f"?secret={made['secret']}&issuer=Veilmart"
    )
    secret, password = file_with(tmp_path, made["secret"]), file_with(tmp_path, PASSWORD)
    given_code = ("--password-file", password, "--code")
    assert run(market, "totp", "enable", *given_code, "123 45").error["code"] == "usage"
    enable = ("totp", "enable", "--secret-file", secret, *given_code)
    assert run(market, *enable, code(made["secret"], 9)).error["code"] == "authentication"
    assert run(market, *enable, code(made["secret"], -1)).data == {"totp": True}
    assert run(market, "logout").code == 0
    login = ("login", name, "--password-file", password)
    assert run(market, *login).error["code"] == "authentication"
    spaced = code(made["secret"])
    assert run(market, *login, "--code", f"{spaced[:3]} {spaced[3:]}").code == 0
    assert run(market, "totp", "disable", *given_code, code(made["secret"], 1)).data == {"totp": False}
    assert run(market, *login).code == 0
    # At a terminal it makes the secret, shows it, and asks for the code.
    monkeypatch.setattr("sys.stdin", Terminal("0\n"))
    monkeypatch.setattr("getpass.getpass", lambda *_, **__: PASSWORD)
    asked = veilmart("totp", "enable", "--profile", home(market), terminal=True)
    assert asked.code == 2
    assert "otpauth://totp/" in asked.err


# --- the end -------------------------------------------------------------------------------------------


@given(st.integers(0, 10**7), st.integers(0, 14))
def test_the_rest_is_drawn_exactly(amount: int, top: int) -> None:
    values, left, requests = [2**n for n in range(top + 1)], amount, 0
    while left and requests < 50:
        coins = _exactly(left, values)
        assert 0 < len(coins) <= 64
        left -= sum(coins)
        requests += 1
    assert left == 0 or left == amount - 50 * 64 * 2**top


def test_closing_draws_the_rest_to_the_last_unit(bazaar: Bazaar, run: Any, tmp_path: Path) -> None:
    world = bazaar.world
    with bazaar.customer() as market:
        name = home(market).name
        world.fund(name, 1_000_003)
        held = market.wallet().usable
    close = ("account", "close", "--password-file", file_with(tmp_path, PASSWORD))
    assert run(market, *close).error["code"] == "usage", "nobody confirmed"
    ran = run(market, *close, "--yes").data
    assert (ran["closed"], ran["drawn"]["amount"], ran["drawn"]["balance"]) == (True, 1_000_003, 0)
    assert run(market, "balance").error["code"] == "authentication"
    with bazaar.again(market) as again:
        assert again.wallet().usable == held + 1_000_003
        again.log_in(name, PASSWORD)
        with pytest.raises(AccountClosedError):
            again.balance()
    with world.broker.store.immediate() as tx:
        report = books.check(tx)
    assert report.faults == ()
    assert report.books.get(ledger.account_book(1), 0) == 0


def test_closing_first_completes_a_withdrawal_whose_answer_was_lost(bazaar: Bazaar) -> None:
    with bazaar.customer(bundles=0) as market:
        pass
    draws_unheard(bazaar, market)
    with bazaar.again(market) as again:
        assert again.wallet().usable == 0
        assert again.account.close(PASSWORD) is None
        assert again.wallet().usable == 2000


def test_a_wrong_password_closes_and_draws_nothing(bazaar: Bazaar) -> None:
    with bazaar.customer(bundles=0) as market:
        bazaar.world.fund(home(market).name, 5)
        with pytest.raises(AuthenticationError):
            market.account.close("wrong horse")
        assert market.balance().amount == 5


# --- invites -------------------------------------------------------------------------------------------


@given(st.binary(min_size=16, max_size=16))
def test_an_invite_code_is_read_as_it_was_written(made: bytes) -> None:
    text = invites.text_of(made)
    assert invites.read(text) == invites.read(text.upper()) == made
    assert invites.read(f" {text.replace('-', ' ')} ") == made
    for wrong in (text[:-1], f"{text}a", text.replace(text[0], "1"), ""):
        with pytest.raises(UsageError):
            invites.read(wrong)


def test_a_market_by_invitation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path, limits={"sign_up": "invite"})
    monkeypatch.setattr("veilmart.cli.profiles.Market", partial(Market, connect=world.connect))
    broker = ("--home", world.broker_home, "--json")
    password = file_with(tmp_path, PASSWORD)
    try:
        made = veilmart("broker", "invite", "create", "--note", "for alice", *broker).data
        spare = veilmart("broker", "invite", "create", "--days", "1", *broker).data
        shown = veilmart("broker", "invite", "list", *broker).data
        assert {each["state"] for each in shown} == {"open"}
        assert made["code"] not in str(shown)
        (spare_id,) = (each["id"] for each in shown if not each["note"])
        assert veilmart("broker", "invite", "revoke", spare_id, *broker).code == 0
        assert veilmart("broker", "invite", "revoke", spare_id, *broker).error["code"] == "not_found"

        profile = world.root / "customers" / "alice"
        Market.join(profile, world.market_path)
        sign_up = ("signup", "alice", "--password-file", password, "--profile", profile, "--json")
        assert veilmart(*sign_up).error["code"] == "rejected"
        assert veilmart(*sign_up, "--invite", "abc").error["code"] == "usage"
        assert veilmart(*sign_up, "--invite", spare["code"]).error["code"] == "rejected"
        assert veilmart(*sign_up, "--invite", made["code"]).data == {"logged_in": True}
        states = [each["state"] for each in veilmart("broker", "invite", "list", *broker).data]
        assert sorted(states) == ["revoked", "used"]
    finally:
        world.close()
