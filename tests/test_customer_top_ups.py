"""Topping up as a customer: charged once whoever dies, whenever, and nobody keeps the card."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import crashing
import pytest
import sqlalchemy as sa
from crashing import PASSWORD, Crash, Moment, Point, crash, last, stepping
from crashing_world import CrashingWorld
from customer_shop import home
from test_broker_top_ups import check_books, install
from world import World

from broker_node import ledger, schema
from broker_node.gateways import sandbox
from broker_node.gateways.sandbox import SandboxGateway
from common import clock, codec, messages, payment_cards, topics
from common.errors import (
    AuthenticationError,
    CardDeclinedError,
    DeadlineError,
    GatewayUnreachableError,
    IdempotencyConflictError,
    InvalidCardError,
    RefusedError,
    RejectedError,
    UsageError,
    VeilmartError,
)
from common.messages import PaymentCard
from customer_node import Market
from customer_node.views import TopUpView

AMOUNT = 5000
NUMBER = "4242424242424242"


def card(number: str = NUMBER, **changes: str) -> PaymentCard:
    fields = {"expiry": "12/34", "security_code": "987", "name": "Augusta King"}
    return payment_cards.card(number, **(fields | changes))


@pytest.fixture
def market(world: World) -> Iterator[Market]:
    with world.customer("alice", timeout_s=5.0) as opened:
        opened.sign_up("alice", PASSWORD)
        yield opened


def again(world: World, market: Market, **options: Any) -> Market:
    return Market(home(market), connect=world.connect, **options)


# --- one top-up ----------------------------------------------------------------------------------------


def test_a_top_up_pays_for_coins(world: World, market: Market) -> None:
    view = market.top_up(AMOUNT, card())
    assert (view.state, view.amount, view.balance, view.resumed) == ("charged", AMOUNT, AMOUNT, False)
    assert (view.brand, view.last_four, view.currency) == ("visa", "4242", "EUR")
    assert view.charge.startswith("sandbox_")
    assert market.balance().amount == AMOUNT
    market.withdraw(2)
    assert market.wallet().usable == 4000
    (listed,) = market.top_ups()
    assert (listed.operation, listed.state, listed.charge) == (view.operation, "charged", view.charge)
    assert market.resume() == []
    check_books(world, AMOUNT)


@pytest.mark.parametrize(
    ("number", "reason"),
    [*sandbox.DECLINED.items()],
)
def test_a_declined_card_says_why(world: World, market: Market, number: str, reason: str) -> None:
    with pytest.raises(CardDeclinedError) as raised:
        market.top_up(AMOUNT, card(number))
    assert raised.value.reason == reason
    assert raised.value.hint
    assert [each.state for each in market.top_ups()] == ["refused"]
    assert market.top_up(AMOUNT, card()).balance == AMOUNT
    check_books(world, AMOUNT)


@pytest.mark.parametrize(
    "wrong",
    [
        PaymentCard(number="4242424242424241", month=12, year=2034, security_code="123", name="A B"),
        PaymentCard(number=NUMBER, month=1, year=2020, security_code="123", name="A B"),
        PaymentCard(number=NUMBER, month=1, year=2034, security_code="1234", name="A B"),
        PaymentCard(number=NUMBER, month=1, year=2034, security_code="123", name="4242"),
    ],
)
def test_a_wrong_card_is_never_sent(world: World, market: Market, wrong: PaymentCard) -> None:
    before = len(world.bus.passed)
    with pytest.raises(InvalidCardError):
        market.top_up(AMOUNT, wrong)
    assert len(world.bus.passed) == before
    assert market.top_ups() == ()


def test_amounts_out_of_bounds(world: World, market: Market) -> None:
    for amount in (-1, 0, 10**12 + 1, 10**30):
        with pytest.raises(UsageError):
            market.top_up(amount, card())
    assert market.top_ups() == ()
    for amount in (99, 100_001):
        with pytest.raises(RejectedError, match="amount"):
            market.top_up(amount, card())
    check_books(world, 0)


def test_nobody_tops_up_who_is_not_logged_in(market: Market) -> None:
    market.log_out()
    with pytest.raises(AuthenticationError):
        market.top_up(AMOUNT, card())


def test_a_market_without_a_gateway_says_so(world: World, market: Market) -> None:
    world.broker.broker._top_ups._gateway = None
    with pytest.raises(RejectedError, match="takes no cards"):
        market.top_up(AMOUNT, card())


def test_a_gateway_that_is_away_charges_nothing(world: World, market: Market) -> None:
    install(world).lost_there.add("open")
    with pytest.raises(GatewayUnreachableError):
        market.top_up(AMOUNT, card())
    install(world)
    assert market.top_up(AMOUNT, card()).balance == AMOUNT


# --- keys ----------------------------------------------------------------------------------------------


def test_a_key_charges_once(world: World, market: Market) -> None:
    first = market.top_up(AMOUNT, card(), "tuesday")
    second = market.top_up(AMOUNT, card(), "tuesday")
    assert (second.operation, second.resumed) == (first.operation, True)
    assert market.top_up(AMOUNT, card(), "wednesday").balance == 2 * AMOUNT
    with pytest.raises(IdempotencyConflictError):
        market.top_up(AMOUNT + 1, card(), "tuesday")
    with pytest.raises(IdempotencyConflictError):
        market.top_up(AMOUNT, card("5555555555554444"), "tuesday")
    check_books(world, 2 * AMOUNT)


def test_a_key_may_be_tried_again_after_a_refusal(world: World, market: Market) -> None:
    for number in ("4000000000000002", "4000000000009995"):
        with pytest.raises(CardDeclinedError):
            market.top_up(AMOUNT, card(number), "tuesday")
    assert market.top_up(AMOUNT, card(), "tuesday").balance == AMOUNT
    assert market.top_up(AMOUNT, card(), "tuesday").resumed
    check_books(world, AMOUNT)


# --- silence -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [sandbox.CHARGED_LATE, sandbox.NEVER_ANSWERED])
def test_a_time_out_is_found_out_by_resume(
    world: World, market: Market, number: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "LATE_MS", 200)
    limits = world.broker.broker._top_ups._limits
    world.broker.broker._top_ups._limits = type(limits)(top_up_ask_first_ms=300)
    with again(world, market, timeout_s=0.2) if market.close() is None else market as impatient:
        with pytest.raises(DeadlineError) as raised:
            impatient.top_up(AMOUNT, card(number))
        assert raised.value.hop == "gateway"
        (open_one,) = impatient.top_ups()
        assert (open_one.state, open_one.waits_for, open_one.waits_until) == ("open", "gateway", None)
        (pending,) = impatient.wallet().pending
        assert (pending.kind, pending.since, pending.waits_for) == ("top_up", open_one.created, "gateway")
        # Another one would not begin before this one is known.
        with pytest.raises(DeadlineError):
            impatient.top_up(AMOUNT, card())
    late = number == sandbox.CHARGED_LATE
    with again(world, market, timeout_s=10.0) as patient:
        (done,) = patient.resume()
        assert (done.kind, done.outcome) == ("top-up", "charged" if late else "refused")
        assert late == (done.error is None)
        assert patient.wallet().pending == ()
        assert patient.top_ups()[0].waits_for is None
        assert patient.balance().amount == (AMOUNT if late else 0)
        assert patient.resume() == []
    check_books(world, AMOUNT if late else 0)


def test_what_was_interrupted_and_charged_is_not_charged_again(world: World, market: Market) -> None:
    gateway = install(world)
    die_at_first_answer(market)
    with again(world, market) as reborn:
        # Somebody who saw nothing but a crash types the same again.
        view = reborn.top_up(AMOUNT, card())
        assert view.resumed
        assert reborn.balance().amount == AMOUNT
        assert reborn.top_up(AMOUNT, card()).balance == 2 * AMOUNT
    assert gateway.received() == 2 * AMOUNT


def test_a_key_of_its_own_asks_for_another_charge_of_the_same(world: World, market: Market) -> None:
    gateway = install(world)
    die_at_first_answer(market, "monday")
    with again(world, market) as reborn:
        view = reborn.top_up(AMOUNT, card(), "tuesday")
        assert (view.resumed, view.balance) == (False, 2 * AMOUNT)
        assert reborn.top_up(AMOUNT, card(), "monday").resumed
    assert gateway.received() == 2 * AMOUNT


def die_at_first_answer(market: Market, key: str | None = None) -> None:
    """The broker has taken it, and the customer dies before hearing of it."""
    session_type = type(market._account._session())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session_type, "receive", lambda *_: crash())
        with pytest.raises(Crash):
            market.top_up(AMOUNT, card(), key)
    market.close()


def balance(world: World, account: int) -> int:
    with world.broker.store.snapshot() as tx:
        return ledger.balance(tx, account)


def test_closing_the_account_asks_what_became_of_a_top_up(world: World, market: Market) -> None:
    die_at_first_answer(market)
    with world.broker.store.snapshot() as tx:
        (account,) = tx.all(sa.select(schema.accounts.c.id))
    assert world.pump(lambda: balance(world, account["id"]) == AMOUNT)
    with again(world, market) as reborn:
        drawn = reborn.account.close(PASSWORD)
        assert drawn is not None
        assert (drawn.amount, reborn.wallet().usable) == (AMOUNT, AMOUNT)
        assert [each.state for each in reborn.top_ups()] == ["charged"]
        assert reborn.resume() == [], "nobody could be asked any more"
    check_books(world, AMOUNT)


def test_a_top_up_of_another_account_waits_for_it(world: World, market: Market) -> None:
    die_at_first_answer(market)
    with again(world, market) as reborn:
        reborn.log_out()
        reborn.sign_up("bob", PASSWORD)
        (told,) = reborn.resume()
        assert isinstance(told.error, AuthenticationError)
        assert reborn.top_up(700, card()).balance == 700
        reborn.log_out()
        reborn.log_in("alice", PASSWORD)
        (done,) = reborn.resume()
        assert (done.outcome, done.error) == ("charged", None)
    check_books(world, AMOUNT + 700)


def test_the_card_is_sent_until_the_first_answer_and_never_again(world: World, market: Market) -> None:
    gateway, sent = install(world), []
    gateway.lost_back.add("pay")
    limits = world.broker.broker._top_ups._limits
    world.broker.broker._top_ups._limits = type(limits)(top_up_ask_first_ms=300)
    post = type(market._account._session()).post

    def watched(session: Any, *bodies: messages.Message) -> None:
        sent.extend(type(body).__name__ for body in bodies)
        post(session, *bodies)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(market._account._session()), "post", watched)
        assert market.top_up(AMOUNT, card()).state == "charged"
    assert sent.count("TopUp") == 1
    assert sent.count("AskTopUp") >= 1
    check_books(world, AMOUNT)


def test_refusals_that_the_broker_does_not_keep_leave_it_open(world: World, market: Market) -> None:
    """A second copy of the message may be taken when the broker takes top-ups again."""
    for code in ("too_many_top_ups", "payments_stopped"):
        top_ups = world.broker.broker._handlers[messages.TopUp]

        def refuse(*_: Any, code: str = code) -> Any:
            raise RefusedError(code)

        world.broker.broker._handlers = {**world.broker.broker._handlers, messages.TopUp: refuse}
        with pytest.raises(RejectedError):
            market.top_up(AMOUNT, card())
        assert [each.state for each in market.top_ups()][-1] == "open"
        world.broker.broker._handlers = {**world.broker.broker._handlers, messages.TopUp: top_ups}
        # Asked about first, so that no copy of it can be charged any more.
        market.top_up(AMOUNT, card())
        assert [each.state for each in market.top_ups()][-2:] == ["refused", "charged"]
    check_books(world, 2 * AMOUNT)


# --- privacy -------------------------------------------------------------------------------------------


def test_nobody_keeps_the_card_and_it_travels_sealed(
    world: World, market: Market, capfd: pytest.CaptureFixture[str]
) -> None:
    gateway = install(world)
    gateway.fails.add("pay")
    limits = world.broker.broker._top_ups._limits
    world.broker.broker._top_ups._limits = type(limits)(top_up_ask_first_ms=200)
    errors: list[str] = []
    for number in (NUMBER, "5555555555554444", "4000000000000002"):
        try:
            market.top_up(AMOUNT, card(number))
        except VeilmartError as error:
            errors.append(f"{error!r} {error.message} {error.hint}")
        gateway.fails.clear()
    assert len(errors) == 2
    market.close()
    stores = [*world.broker_home.glob("*.db"), *home(market).glob("*.db")]
    texts = [dumped(path) for path in stores]
    out, err = capfd.readouterr()
    passed = b"".join(publish.topic.encode() + publish.payload for publish in world.bus.passed)
    files = b"".join(path.read_bytes() for path in world.root.rglob("*") if path.is_file())
    assert "mastercard" in "".join(texts)
    assert "gateway failed" in out + err
    for secret in (NUMBER, "5555555555554444", "4000000000000002", "555555555555", "Augusta King"):
        assert secret not in "".join([*texts, *errors, out, err])
        assert secret.encode() not in files + passed
        assert secret.encode().hex() not in "".join(texts).lower()


def dumped(path: Path) -> str:
    with closing(sqlite3.connect(path)) as store:
        return "\n".join(store.iterdump())


def test_a_top_up_looks_like_any_short_question(world: World, market: Market) -> None:
    before = len(world.bus.passed)
    market.top_up(AMOUNT, card())
    ups = [p for p in world.bus.passed[before:] if isinstance(topics.parse(p.topic), topics.SessionUp)]
    assert {len(publish.payload) for publish in ups} == {1024}
    assert len(codec.pack(messages.TopUp(operation=bytes(16), amount=1, currency="EUR", card=card()))) < 300


# --- whoever dies --------------------------------------------------------------------------------------

LIMITS = crashing.LIMITS + "top_up_ask_first_ms = 200\n"
BROKER_MESSAGES = ("TopUp", "Opened", "Ended", "AskTopUp")


@pytest.fixture
def dying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CrashingWorld]:
    for module, name, milliseconds in crashing.IMPATIENCE:
        monkeypatch.setattr(module, name, milliseconds)
    made = CrashingWorld(tmp_path, LIMITS)
    yield made
    made.close()


def joined(world: World, name: str) -> Path:
    profile = world.root / "customers" / name
    Market.join(profile, world.market_path)
    world.account(name, PASSWORD, 0)
    return profile


def pay_in(market: Market, name: str, number: str = NUMBER) -> TopUpView:
    """Top up once, as somebody does who tries again after every error."""
    for _ in range(20):
        try:
            if not market.wallet().logged_in:
                market.log_in(name, PASSWORD)
            return market.top_up(AMOUNT, card(number), "rent")
        except VeilmartError as error:
            failure = error
    raise AssertionError("it never ended") from failure


def check_all(world: World, names: list[str]) -> None:
    """Each customer was charged exactly once, and has exactly that on the account."""
    check_books(world, AMOUNT * len(names))
    with world.broker.store.immediate() as tx:
        books = ledger.check(tx).books
    accounts = {book: amount for book, amount in books.items() if book.startswith("account:")}
    assert list(accounts.values()) == [AMOUNT] * len(names)
    for name in names:
        with Market(world.root / "customers" / name) as market:
            assert [each.state for each in market.top_ups()].count("charged") == 1
            assert "open" not in [each.state for each in market.top_ups()]


@pytest.mark.parametrize("moment", crashing.MOMENTS)
@pytest.mark.parametrize("message", BROKER_MESSAGES)
def test_a_broker_that_dies_at_a_step(dying: CrashingWorld, message: str, moment: Moment) -> None:
    profile = joined(dying, "alice")
    dying.deadly["broker"].add(Point(message, moment))
    with Market(profile, connect=dying.connect, timeout_s=5.0) as market:
        if message == "AskTopUp":
            market.log_in("alice", PASSWORD)
            die_at_first_answer(market, "rent")
    with Market(profile, connect=dying.connect, timeout_s=5.0) as market:
        pay_in(market, "alice")
    assert not dying.deadly["broker"], "a point that no top-up came to"
    check_all(dying, ["alice"])


def live(world: World, profile: Path, die: Callable[[int], None]) -> bool:
    """Let a customer's process top up until a step; tells whether it came to its end before."""
    with Market(profile, connect=world.connect, timeout_s=5.0) as market:
        if not market.wallet().logged_in:
            market.log_in(profile.name, PASSWORD)
    with Market(profile, connect=world.connect, timeout_s=5.0) as market:
        try:
            with stepping(market, die):
                pay_in(market, profile.name)
        except Crash:
            return False
    return True


def test_a_customer_that_dies_at_each_step(dying: CrashingWorld) -> None:
    names: list[str] = []
    while True:
        names.append(f"customer{len(names) + 1}")
        profile = joined(dying, names[-1])
        if live(dying, profile, last(len(names), crash)):
            break
        assert live(dying, profile, last(0, crash))
    assert len(names) > 6, "too few steps for this test to mean anything"
    check_all(dying, names)


@pytest.mark.parametrize("seed", [1, 3, 4])
def test_both_die_again_and_again(dying: CrashingWorld, seed: int) -> None:
    chance, profile, died = Random(seed), joined(dying, "alice"), 0  # noqa: S311 - to be repeated, not secret
    while not live(dying, profile, last(chance.randint(1, 10), crash)):
        died += 1
        assert died < 40
        point = Point(chance.choice(BROKER_MESSAGES), chance.choice(crashing.MOMENTS))
        dying.deadly["broker"] = {point}
    assert died, "it lived too long for this test to mean anything"
    dying.deadly["broker"].clear()
    check_all(dying, ["alice"])


def test_an_answer_that_is_lost_with_its_broker(dying: CrashingWorld) -> None:
    """The gateway has charged, and the broker dies while the answer is on its way."""
    profile, reached = joined(dying, "alice"), threading.Event()
    pay = SandboxGateway.pay

    def slow(gateway: SandboxGateway, charge: str, paid_by: PaymentCard) -> Any:
        outcome = pay(gateway, charge, paid_by)
        reached.set()
        return outcome

    with pytest.MonkeyPatch.context() as patch, Market(profile, connect=dying.connect) as market:
        patch.setattr(SandboxGateway, "pay", slow)
        market.log_in("alice", PASSWORD)
        die_at_first_answer(market)
        assert dying.pump(reached.is_set)
        dying.stop("broker")
        assert SandboxGateway(dying.broker_home, clock.now_ms).received() == AMOUNT
        dying.start_broker()
    with Market(profile, connect=dying.connect, timeout_s=5.0) as market:
        (done,) = market.resume()
        assert (done.outcome, done.error) == ("charged", None)
    check_all(dying, ["alice"])
