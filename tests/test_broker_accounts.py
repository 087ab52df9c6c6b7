"""Accounts at the broker: who may sign up, whom delays hit, what a password alone does not do."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from client import Customer, Session, blinded, dump, fresh, log_in, settle, sign_up
from conftest import Time
from world import World

from broker_node import accounts, administration, books, delays, devices, invites, schema, totp
from broker_node.audit import Audit
from common import clock, messages
from common.config import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS, Limits
from common.errors import NotFoundError, RejectedError

PASSWORD = "correct horse"
MINE, THEIRS = b"m" * 32, b"t" * 32
SECRET = b"12345678901234567890"
AUDIT = Audit(bytes(16), Limits())


def greet(world: World, credential: Any) -> messages.HelloAnswer:
    return Session(world).greet(credential)


def opened(world: World, credential: Any) -> Session:
    session = Session(world)
    assert isinstance(session.greet(credential), messages.Welcome)
    return session


def refusal(answer: messages.HelloAnswer) -> str:
    assert isinstance(answer, messages.HelloRefused), answer
    return answer.code


def waits(answer: messages.HelloAnswer) -> int:
    assert isinstance(answer, messages.HelloRefused), answer
    return answer.retry_after_ms


def code(ahead: int = 0) -> str:
    return totp.code_at(SECRET, clock.now_ms() // totp.STEP_MS + ahead)


@pytest.fixture
def held_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Every password of strangers takes until the end, that of known devices its own time."""
    free, check, make = threading.Event(), accounts.check_password, accounts.hash_password

    def slow(of: Callable[..., Any]) -> Callable[..., Any]:
        def work(*arguments: Any) -> Any:
            if "strangers" in threading.current_thread().name:
                free.wait(20)
            return of(*arguments)

        return work

    monkeypatch.setattr(accounts, "check_password", slow(check))
    monkeypatch.setattr(accounts, "hash_password", slow(make))
    yield free.set
    free.set()


# --- delays --------------------------------------------------------------------------------------------


def test_strangers_cannot_keep_the_owner_out(world: World) -> None:
    world.account("alice", PASSWORD, 0)
    opened(world, log_in("alice", PASSWORD, device=MINE))
    with world.broker.store.immediate() as tx:
        for _ in range(world.broker.limits.login_free_tries_in_total + 20):
            delays.count_stranger(tx, "alice", clock.now_ms(), world.broker.limits)
        assert delays.of_name(tx, "alice", clock.now_ms()) > HOUR_MS - MINUTE_MS
    stranger = greet(world, log_in("alice", PASSWORD, device=THEIRS))
    assert (refusal(stranger), waits(stranger) > HOUR_MS - MINUTE_MS) == ("authentication", True)
    opened(world, log_in("alice", PASSWORD, device=MINE))
    # Nor does the owner's login let strangers guess on.
    assert waits(greet(world, log_in("alice", PASSWORD, device=THEIRS))) > HOUR_MS - MINUTE_MS


def test_a_known_device_waits_for_its_own_failures_alone(world: World, time: Time) -> None:
    world.account("alice", PASSWORD, 0)
    opened(world, log_in("alice", PASSWORD, device=MINE))
    tries = world.broker.limits.login_free_tries
    last = [waits(greet(world, log_in("alice", "wrong horse", device=MINE))) for _ in range(tries)]
    assert last == [0] * (tries - 1) + [SECOND_MS]
    assert waits(greet(world, log_in("alice", PASSWORD, device=MINE))) > 0
    with world.broker.store.immediate() as tx:
        assert tx.all(sa.select(schema.login_delays)) == []
    opened(world, log_in("alice", PASSWORD, device=THEIRS))
    time.advance(SECOND_MS)
    opened(world, log_in("alice", PASSWORD, device=MINE))
    assert waits(greet(world, log_in("alice", "wrong horse", device=MINE))) == 0, "a success forgets"


def test_who_is_right_in_its_time_ends_the_delay_of_its_name(world: World, time: Time) -> None:
    world.account("alice", PASSWORD, 0)
    for _ in range(world.broker.limits.login_free_tries):
        greet(world, log_in("alice", "wrong horse", device=THEIRS))
    assert waits(greet(world, log_in("alice", PASSWORD, device=MINE))) > 0
    time.advance(SECOND_MS)
    opened(world, log_in("alice", PASSWORD, device=MINE))
    assert waits(greet(world, log_in("alice", "wrong horse", device=THEIRS))) == 0


def test_a_device_secret_counts_for_its_account_alone_and_only_after_a_success(world: World) -> None:
    for name in ("alice", "bob"):
        world.account(name, PASSWORD, 0)
    opened(world, log_in("alice", PASSWORD, device=MINE))
    greet(world, log_in("bob", "wrong horse", device=MINE))
    greet(world, log_in("bob", "wrong horse", device=THEIRS))
    with world.broker.store.immediate() as tx:
        rows = {row["name"]: row["failures"] for row in tx.all(sa.select(schema.login_delays))}
        known = tx.all(sa.select(schema.devices))
    assert rows == {"": 2, "bob": 2}
    assert len(known) == 1
    assert MINE not in known[0].values()


def test_an_account_knows_so_many_devices_those_used_last(world: World) -> None:
    most = world.broker.limits.devices_per_account
    with world.broker.store.immediate() as tx:
        account = accounts.create(tx, "alice", "", 1)
        for n in range(most + 3):
            devices.remember(tx, account, bytes([n]) * 32, 100 + n, most)
            devices.remember(tx, account, bytes(32), 100 + n, most)
        known = [n for n in range(most + 3) if devices.find(tx, account, bytes([n]) * 32)]
    assert known == [0, *range(4, most + 3)]


def test_rows_about_names_go_and_the_total_is_halved(world: World) -> None:
    now, limits = clock.now_ms(), world.broker.limits
    with world.broker.store.immediate() as tx:
        for n in range(5):
            delays.count_stranger(tx, f"name {n}", now, limits)
        delays.decay(tx, now + HOUR_MS)
        assert len(tx.all(sa.select(schema.login_delays))) == 6
        delays.decay(tx, now + DAY_MS + HOUR_MS)
        rows = tx.all(sa.select(schema.login_delays))
        assert [(row["name"], row["failures"]) for row in rows] == [("", 1)]


# --- the pools -----------------------------------------------------------------------------------------


@pytest.fixture
def narrow(tmp_path: Path) -> Iterator[World]:
    """A market in which few may wait."""
    world = World(tmp_path, limits={"password_queue": 4, "sign_up_queue": 2})
    yield world
    world.close()


def test_strangers_that_fill_their_queue_keep_no_known_device_waiting(
    narrow: World, held_up: Callable[[], None]
) -> None:
    world = narrow
    world.account("alice", PASSWORD, 0)
    with world.broker.store.immediate() as tx:
        account = accounts.existing(tx, "alice")["id"]
        devices.remember(tx, account, MINE, clock.now_ms(), 16)
    limits = world.broker.limits
    guesses = [Session(world) for _ in range(limits.password_queue + 1)]
    for n, session in enumerate(guesses):
        session.put_hello(log_in("alice" if n == 0 else f"name {n}", "a guess"))
    joining = [Session(world) for _ in range(limits.sign_up_queue + 1)]
    for n, session in enumerate(joining):
        session.put_hello(sign_up(f"new {n}", "long enough"))
    assert refusal(guesses[-1].answer()) == refusal(joining[-1].answer()) == "busy"
    # The owner's name is among those being checked, and the owner logs in all the same.
    owner = opened(world, log_in("alice", PASSWORD, device=MINE))
    assert not any(session.connection.inbox for session in (*guesses[:-1], *joining[:-1]))
    shown = messages.CloseAccount(request=fresh(), password=PASSWORD, code="")
    owner.ask(shown, messages.AccountChanged)
    held_up()
    assert isinstance(joining[0].answer(), messages.Welcome)


def test_sign_ups_leave_room_for_logins(narrow: World, held_up: Callable[[], None]) -> None:
    world = narrow
    world.account("alice", PASSWORD, 0)
    for n in range(world.broker.limits.sign_up_queue):
        Session(world).put_hello(sign_up(f"new {n}", "long enough"))
    refused = Session(world)
    assert refusal(refused.greet(sign_up("one more", "long enough"))) == "busy"
    session = Session(world)
    session.put_hello(log_in("alice", PASSWORD))
    settle(world)
    held_up()
    assert isinstance(session.answer(), messages.Welcome)


# --- sign-up -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("carol", "2 short"),
        ("carol", "password"),
        ("carol", "Password123!"),
        ("carol", "drowssap"),
        ("carol", "ababababab"),
        ("caroline", "Caroline"),
        ("caroline", "caroline1"),
        ("caroline", "enilorac"),
    ],
)
def test_an_easy_password_is_refused(world: World, name: str, password: str) -> None:
    assert refusal(greet(world, sign_up(name, password))) == "policy"
    with world.broker.store.immediate() as tx, pytest.raises(RejectedError):
        accounts.add(tx, name, password, 1)
    assert dump(world)["accounts"] == []


@pytest.fixture
def invited(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path, limits={"sign_up": "invite"})
    yield world
    world.close()


def invite(world: World, life_ms: int = DAY_MS) -> bytes:
    with world.broker.store.immediate() as tx:
        return invites.create(tx, clock.now_ms(), life_ms, "a test", secrets.token_bytes)


def test_an_invite_opens_one_account(invited: World) -> None:
    made = invite(invited)
    for wrong in (b"", bytes(16), made[:-1]):
        assert refusal(greet(invited, sign_up("alice", "long enough", invite=wrong))) == "invite"
    # A refused name or password leaves the code as it was.
    assert refusal(greet(invited, sign_up("alice", "password", invite=made))) == "policy"
    opened(invited, sign_up("alice", "long enough", invite=made))
    assert refusal(greet(invited, sign_up("bob", "long enough", invite=made))) == "invite"
    assert [row["name"] for row in everybody(invited)] == ["alice"]
    assert not any(made in row for row in dump(invited)["invites"]), "stored hashed"


def everybody(world: World) -> Any:
    with world.broker.store.immediate() as tx:
        return tx.all(sa.select(schema.accounts))


def test_an_invite_used_twice_at_one_instant_opens_one_account(
    invited: World, held_up: Callable[[], None]
) -> None:
    made = invite(invited)
    first, second = Session(invited), Session(invited)
    first.put_hello(sign_up("alice", "long enough", invite=made))
    second.put_hello(sign_up("bob", "long enough", invite=made))
    settle(invited)
    held_up()
    answers = [first.answer(), second.answer()]
    assert sorted(type(answer).__name__ for answer in answers) == ["HelloRefused", "Welcome"]
    assert [answer.code for answer in answers if isinstance(answer, messages.HelloRefused)] == ["invite"]
    assert len(everybody(invited)) == 1


def test_an_invite_ends_by_time_and_by_revocation(invited: World, time: Time) -> None:
    old, given_up = invite(invited), invite(invited, 10 * DAY_MS)
    with invited.broker.store.immediate() as tx:
        until = {each.expires: each.id for each in invites.listing(tx, clock.now_ms())}
        invites.revoke(tx, until[max(until)], clock.now_ms())
        with pytest.raises(NotFoundError):
            invites.revoke(tx, "00000000", clock.now_ms())
    assert refusal(greet(invited, sign_up("alice", "long enough", invite=given_up))) == "invite"
    time.advance(DAY_MS)
    settle(invited)
    assert refusal(greet(invited, sign_up("alice", "long enough", invite=old))) == "invite"
    with invited.broker.store.immediate() as tx:
        assert {each.state for each in invites.listing(tx, clock.now_ms())} == {"expired", "revoked"}


def test_a_closed_market_takes_no_sign_up_and_costs_no_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, limits={"sign_up": "closed"})
    monkeypatch.setattr(accounts, "hash_password", None)
    try:
        world.account("alice", PASSWORD, 0)
        # Nor does it tell which names there are.
        for name in ("alice", "bob"):
            assert refusal(greet(world, sign_up(name, "long enough"))) == "sign_up_closed"
        opened(world, log_in("alice", PASSWORD))
    finally:
        world.close()


# --- the second factor ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "published"),
    [
        (59, "94287082"),
        (1111111109, "07081804"),
        (1111111111, "14050471"),
        (1234567890, "89005924"),
        (2000000000, "69279037"),
        (20000000000, "65353130"),
    ],
)
def test_codes_are_those_of_rfc_6238(seconds: int, published: str) -> None:
    """Appendix B, SHA-1; its eight digits end in our six."""
    now = seconds * 1000
    assert totp.code_at(SECRET, now // totp.STEP_MS) == published[-6:]
    for early_or_late in (-30_000, 0, 30_000):
        assert totp.step_of(SECRET, published[-6:], now + early_or_late) == now // totp.STEP_MS
    for out in (-60_000, 60_000):
        assert totp.step_of(SECRET, published[-6:], now + out) is None


def with_totp(world: World) -> Session:
    world.account("alice", PASSWORD, 0)
    session = opened(world, log_in("alice", PASSWORD, device=MINE))
    change(session, messages.EnableTotp(request=fresh(), password=PASSWORD, secret=SECRET, code=code(-1)))
    return session


def change(session: Session, request: Any) -> None:
    session.ask(request, messages.AccountChanged)


def test_a_password_without_the_code_is_like_a_wrong_password(world: World) -> None:
    with_totp(world)
    world.account("bob", PASSWORD, 0)
    tries = [
        ("alice", "wrong horse", ""),
        ("alice", PASSWORD, ""),
        ("alice", PASSWORD, "000000" if code() != "000000" else "111111"),
        ("alice", "wrong horse", code()),
        ("bob", "wrong horse", ""),
        ("nobody", PASSWORD, code()),
    ]
    answers = [greet(world, log_in(name, password, code=shown)) for name, password, shown in tries]
    assert answers == [messages.HelloRefused(code="authentication", retry_after_ms=0)] * len(tries)
    with world.broker.store.immediate() as tx:
        rows = {row["name"]: row["failures"] for row in tx.all(sa.select(schema.login_delays))}
    assert rows == {"": 6, "alice": 4, "bob": 1, "nobody": 1}
    # The code that came with a wrong password is not used up.
    opened(world, log_in("alice", PASSWORD, code=code()))


def test_guessing_the_code_is_delayed_also_from_a_known_device(world: World) -> None:
    with_totp(world)
    wrong = "000000" if code() not in {"000000", code(1)} else "111111"
    for _ in range(world.broker.limits.login_free_tries):
        last = greet(world, log_in("alice", PASSWORD, device=MINE, code=wrong))
    assert waits(last) == SECOND_MS
    assert waits(greet(world, log_in("alice", PASSWORD, device=MINE, code=code()))) > 0


def test_a_code_is_used_once(world: World, time: Time) -> None:
    with_totp(world)
    shown = code()
    opened(world, log_in("alice", PASSWORD, code=shown))
    assert refusal(greet(world, log_in("alice", PASSWORD, code=shown))) == "authentication"
    assert refusal(greet(world, log_in("alice", PASSWORD, code=code(-1)))) == "authentication", "older"
    time.advance(totp.STEP_MS)
    opened(world, log_in("alice", PASSWORD, code=code()))


def test_one_code_shown_twice_at_one_instant_opens_one_session(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_totp(world)
    shown, free, check = code(), threading.Event(), accounts.check_password
    monkeypatch.setattr(accounts, "check_password", lambda *a: (free.wait(10), check(*a))[1])
    sessions = [Session(world), Session(world)]
    for session, device in zip(sessions, (MINE, THEIRS), strict=True):
        session.put_hello(log_in("alice", PASSWORD, device=device, code=shown))
    settle(world)
    free.set()
    answers = [session.answer() for session in sessions]
    assert sorted(type(answer).__name__ for answer in answers) == ["HelloRefused", "Welcome"]


def test_turning_it_on_and_off_needs_password_and_code(world: World, time: Time) -> None:
    world.account("alice", PASSWORD, 0)
    session = opened(world, log_in("alice", PASSWORD))

    def enable(password: str, shown: str) -> messages.EnableTotp:
        return messages.EnableTotp(request=fresh(), password=password, secret=SECRET, code=shown)

    def disable(password: str, shown: str) -> messages.DisableTotp:
        return messages.DisableTotp(request=fresh(), password=password, code=shown)

    assert session.refused(disable(PASSWORD, code())) == "wrong_state"
    assert session.refused(enable("wrong horse", code())) == "authentication"
    assert session.refused(enable(PASSWORD, code(5))) == "authentication"
    change(session, enable(PASSWORD, code()))
    time.advance(totp.STEP_MS)
    assert session.refused(enable(PASSWORD, code())) == "wrong_state"
    assert session.refused(disable("wrong horse", code())) == "authentication"
    assert session.refused(disable(PASSWORD, code(5))) == "authentication"
    change(session, disable(PASSWORD, code()))
    opened(world, log_in("alice", PASSWORD))


def test_the_operator_resets_a_lost_second_factor_with_a_reason(world: World) -> None:
    with_totp(world)
    now, random = clock.now_ms(), clock.random_bytes
    with world.broker.store.immediate() as tx:
        administration.reset_totp(tx, AUDIT, "alice", "came with her passport", now, random)
    opened(world, log_in("alice", PASSWORD))
    with world.broker.store.immediate() as tx, pytest.raises(RejectedError):
        administration.reset_totp(tx, AUDIT, "alice", "again", now, random)


# --- another password ----------------------------------------------------------------------------------


def another(password: str = PASSWORD, new: str = "battery staple", **more: Any) -> messages.ChangePassword:
    fields = {"request": fresh(), "device": MINE, "code": ""} | more
    return messages.ChangePassword(password=password, new_password=new, **fields)


def test_another_password_ends_every_session_and_forgets_other_devices(world: World) -> None:
    world.account("alice", PASSWORD, 0)
    mine = opened(world, log_in("alice", PASSWORD, device=MINE))
    theirs = opened(world, log_in("alice", PASSWORD, device=THEIRS))
    request = another()
    change(mine, request)
    for session in (mine, theirs):
        assert session.refused(messages.GetBalance(request=fresh())) == "session_over"
        assert session.refused(another("battery staple", "yet another one")) == "session_over"
    # The answer may have been lost: the same question gets it again, from this session alone.
    before = dump(world)
    change(mine, request)
    assert theirs.refused(request) == "session_over"
    assert dump(world) == before
    assert refusal(greet(world, log_in("alice", PASSWORD, device=MINE))) == "authentication"
    opened(world, log_in("alice", "battery staple", device=MINE))
    with world.broker.store.immediate() as tx:
        assert devices.find(tx, 1, THEIRS) is None
        assert devices.find(tx, 1, MINE) is not None


def test_a_session_alone_changes_nothing_and_its_guesses_are_counted(world: World, time: Time) -> None:
    world.account("alice", PASSWORD, 0)
    thief = opened(world, log_in("alice", PASSWORD, device=MINE))
    before = dump(world)["accounts"]
    assert thief.refused(another(PASSWORD, "password")) == "policy"
    assert thief.refused(another(PASSWORD, "alice")) == "policy"
    guess = another("a guess here")
    for _ in range(3):
        assert thief.refused(guess) == "authentication"
    with world.broker.store.immediate() as tx:
        (row,) = tx.all(sa.select(schema.login_delays))
    assert (row["name"], row["failures"]) == (delays.inside(1), 1), "one guess, however often it is sent"
    for _ in range(world.broker.limits.login_free_tries - 1):
        assert thief.refused(another("a guess here")) == "authentication"
    assert thief.refused(another()) == "authentication", "right, and too early"
    assert dump(world)["accounts"] == before
    opened(world, log_in("alice", PASSWORD))
    time.advance(SECOND_MS)
    change(thief, another(new="battery staple"))
    again = opened(world, log_in("alice", "battery staple", device=MINE))
    # A success forgets: the next wrong one is the first, and delays nothing.
    assert again.refused(another("a guess here")) == "authentication"
    change(again, another("battery staple", "clip of paper"))


def test_a_change_that_a_change_overtakes_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.account("alice", PASSWORD, 0)
    sessions = [opened(world, log_in("alice", PASSWORD, device=MINE)) for _ in range(2)]
    free, check = threading.Event(), accounts.check_password
    monkeypatch.setattr(accounts, "check_password", lambda *a: (free.wait(10), check(*a))[1])
    sessions[0].say(another(new="battery staple"))
    sessions[0].say(another(new="never looked at"))
    sessions[1].say(another(new="clip of paper"))
    settle(world)
    free.set()
    assert sessions[0].hear(messages.Refused).code == "busy"
    assert sessions[0].hear(messages.AccountChanged)
    assert sessions[1].hear(messages.Refused).code == "session_over"
    opened(world, log_in("alice", "battery staple"))


def test_a_login_that_a_change_overtakes_is_refused(world: World, held_up: Callable[[], None]) -> None:
    """The old password was right when it was looked at, and is no more when the session would open."""
    world.account("alice", PASSWORD, 0)
    with world.broker.store.immediate() as tx:
        devices.remember(tx, accounts.existing(tx, "alice")["id"], MINE, clock.now_ms(), 16)
    owner, thief = opened(world, log_in("alice", PASSWORD, device=MINE)), Session(world)
    thief.put_hello(log_in("alice", PASSWORD, device=THEIRS))
    settle(world)
    change(owner, another())
    held_up()
    assert refusal(thief.answer()) == "authentication"


def test_answers_about_an_account_go_with_their_session(world: World, time: Time) -> None:
    world.account("alice", PASSWORD, 0)
    session = opened(world, log_in("alice", PASSWORD))
    change(session, another())
    assert len(dump(world)["account_answers"]) == 1
    time.advance(2 * HOUR_MS)
    settle(world)
    assert dump(world)["account_answers"] == []


# --- the end -------------------------------------------------------------------------------------------


def close(password: str = PASSWORD) -> messages.CloseAccount:
    return messages.CloseAccount(request=fresh(), password=password, code="")


def test_an_account_is_closed_once_nothing_is_left_on_it(world: World) -> None:
    customer = Customer(world, extra=5)
    session = customer.account()
    assert session.refused(close("wrong horse")) == "authentication"
    assert session.refused(close()) == "balance_left"
    customer.withdraw(session, [4, 1])
    pending = messages.Withdraw(operation=fresh(), coins=[], tickets=blinded(world, [0]).tokens)
    request = close()
    change(session, request)
    change(session, request)
    for question in (pending, messages.GetBalance(request=fresh()), close()):
        assert session.refused(question) == "session_over"
    assert refusal(greet(world, sign_up("alice", "long enough"))) == "name_taken"
    (row,) = everybody(world)
    assert row["state"] == "closed"
    with world.broker.store.immediate() as tx:
        assert books.check(tx).faults == ()
        for act in (administration.enable, administration.disable, administration.close):
            with pytest.raises(RejectedError):
                act(tx, AUDIT, "alice", "a test", 1, clock.random_bytes)


def test_no_account_is_closed_while_a_charge_for_it_is_under_way(world: World) -> None:
    world.account("alice", PASSWORD, 0)
    session = opened(world, log_in("alice", PASSWORD))
    row = {"id": fresh(), "account": 1, "amount": 500, "brand": "visa", "last_four": "4242", "charge": ""}
    row |= {"state": "unknown", "code": "", "created": 1, "ended": None, "due": None, "attempts": 0}
    with world.broker.store.immediate() as tx:
        tx.insert(sa.insert(schema.top_ups), row)
    assert session.refused(close()) == "balance_left"
    with pytest.raises(RejectedError), world.broker.store.immediate() as tx:
        administration.close(tx, AUDIT, "alice", "a test", 1, clock.random_bytes, settle=True)
    with world.broker.store.immediate() as tx:
        tx.execute(sa.update(schema.top_ups).values(state="declined"))
    change(session, close())


def test_the_operator_closes_an_account_and_settles_what_is_left(world: World) -> None:
    world.account("alice", PASSWORD, 700)
    session = opened(world, log_in("alice", PASSWORD))
    now, random = clock.now_ms(), clock.random_bytes
    with pytest.raises(RejectedError), world.broker.store.immediate() as tx:
        administration.close(tx, AUDIT, "alice", "a test", now, random)
    with world.broker.store.immediate() as tx:
        assert administration.close(tx, AUDIT, "alice", "paid out by bank", now, random, settle=True) == 700
        report = books.check(tx)
    assert report.faults == ()
    assert {book: total for book, total in report.books.items() if total} == {}
    assert session.refused(messages.GetBalance(request=fresh())) == "session_over"
    assert refusal(greet(world, log_in("alice", PASSWORD))) == "authentication"


def test_a_disabled_account_changes_nothing_about_itself(world: World) -> None:
    world.account("alice", PASSWORD, 0)
    session = opened(world, log_in("alice", PASSWORD))
    with world.broker.store.immediate() as tx:
        administration.disable(tx, AUDIT, "alice", "a test", 1, clock.random_bytes)
    before = dump(world)
    for request in (another(), close()):
        assert session.refused(request) == "session_over"
    assert dump(world) == before
