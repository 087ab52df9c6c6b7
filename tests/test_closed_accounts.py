"""A closed account answers again what it answered, and nothing else, while something drawn from it counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from client import Customer, Session, blinded, dump, fresh, log_in, settle, sign_up
from conftest import Time
from customer_shop import PASSWORD, Bazaar, build, home
from months import to_grace_end
from racing import Replica
from test_broker_accounts import AUDIT, SECRET, another, change, close, code, opened, refusal, waits
from test_broker_settlement import books
from test_customer_restore import LIMITS, by_value, published, restored
from world import World

from broker_node import accounts, administration, charges, schema
from broker_node.sends import Session as Sender
from common import clock, messages, slots
from common.config import DAY_MS, SECOND_MS
from common.core import Arrival, Job
from common.errors import AuthenticationError, DeadlineError, OutOfTicketsError
from customer_node import Market
from customer_node.account import Account, AccountSession
from customer_node.refusals import AccountClosedError
from customer_node.views import WithdrawalView


def withdrawal(world: World, values: list[int]) -> messages.Withdraw:
    return messages.Withdraw(operation=fresh(), coins=blinded(world, values).tokens, tickets=[])


def account(world: World) -> Any:
    with world.broker.store.immediate() as tx:
        return tx.one(sa.select(schema.accounts))


@pytest.fixture
def lost(world: World) -> tuple[Customer, Session, messages.Withdraw, messages.Withdrawn]:
    """Somebody has drawn 64 on one device, which did not hear it, and closed the account on another."""
    customer = Customer(world, extra=64)
    session, request = customer.account(), withdrawal(world, [64])
    answer = session.ask(request, messages.Withdrawn)
    change(opened(world, log_in(customer.name, customer.password)), close(customer.password))
    return customer, session, request, answer


Lost = tuple[Customer, Session, messages.Withdraw, messages.Withdrawn]


# --- at the broker -------------------------------------------------------------------------------------


def test_what_was_drawn_before_is_answered_again(world: World, lost: Lost) -> None:
    customer, session, request, answer = lost
    assert session.refused(request) == "session_over"
    session = customer.account()
    before = dump(world)
    assert session.ask(request, messages.Withdrawn) == answer
    other = msgspec.structs.replace(request, coins=blinded(world, [64]).tokens)
    assert session.refused(other) == "idempotency_conflict"
    issued = session.ask(messages.FetchIssued(request=fresh(), after=0), messages.Issued)
    assert answer.coins in [batch.coins for batch in issued.batches]
    assert dump(world) == before
    begun = session.ask(messages.BeginRestore(operation=fresh()), messages.RestoreBegun)
    assert begun.count == 1


def test_nothing_else_is_done(world: World, lost: Lost) -> None:
    customer, _, _, _ = lost
    session = customer.account()
    card = messages.PaymentCard(
        number="4242424242424242", month=12, year=2034, security_code="123", name="Augusta King"
    )
    wishes = [
        withdrawal(world, [1]),
        messages.Withdraw(operation=fresh(), coins=[], tickets=blinded(world, [0]).tokens),
        messages.GetBalance(request=fresh()),
        messages.TopUp(operation=fresh(), amount=500, currency="EUR", card=card),
        messages.AskTopUp(operation=fresh()),
        another(),
        messages.EnableTotp(request=fresh(), password=customer.password, secret=SECRET, code=code()),
        messages.DisableTotp(request=fresh(), password=customer.password, code="000000"),
        close(customer.password),
    ]
    before = dump(world)
    for wish in wishes:
        assert session.refused(wish) == "account_closed", wish
    assert dump(world) == before
    assert session.ask(messages.LogOut(request=fresh()), messages.LoggedOut)
    assert refusal(Session(world).greet(sign_up(customer.name, "long enough"))) == "name_taken"
    books(world)


def test_what_became_of_a_charge_is_still_said(world: World, lost: Lost) -> None:
    customer, operation, number = lost[0], fresh(), account(world)["id"]
    row = charges.new_row(charges.top_up_id(number, operation), number, 1) | {"amount": 500, "brand": "visa"}
    row |= {"last_four": "4242", "charge": "ch_1", "state": "charged", "ended": 1, "due": None}
    with world.broker.store.immediate() as tx:
        tx.insert(charges.INSERT, row)
    session, before = customer.account(), dump(world)["top_ups"]
    card = messages.PaymentCard(
        number="4242424242424242", month=12, year=2034, security_code="123", name="Augusta King"
    )
    top_up = messages.TopUp(operation=operation, amount=500, currency="EUR", card=card)
    for question in (messages.AskTopUp(operation=operation), top_up):
        answer = session.ask(question, messages.TopUpAnswer)
        assert (answer.state, answer.amount, answer.balance) == ("charged", 500, 0)
    other = msgspec.structs.replace(top_up, amount=501)
    assert session.refused(other) == "idempotency_conflict"
    assert dump(world)["top_ups"] == before


def test_a_withdrawal_that_is_being_signed_when_the_account_is_closed_is_not_made(world: World) -> None:
    """And it is told so in the next session, so that nobody waits for it."""
    customer = Customer(world)
    session, before = customer.account(), dump(world)["issued"]
    request = messages.Withdraw(operation=fresh(), coins=[], tickets=blinded(world, [0]).tokens)
    with world.broker.store.immediate() as tx:
        row = tx.one(sa.select(schema.sessions).where(schema.sessions.c.sid == session.sid))
    assert row is not None
    sender = Sender(row["sid"], "account", row["account"], row["generation"], None)
    world.stop("broker")
    replica = Replica(world.broker_home)
    (job,) = [send for send in replica.decide(Arrival(sender, fresh(), request)) if isinstance(send, Job)]
    signed = job.done(job.work())
    with replica._node.store.immediate() as tx:
        administration.close(tx, AUDIT, customer.name, "a test", 1, clock.random_bytes)
    (refused,) = replica.decide(signed[0])
    assert refused.body.code == "session_over"
    replica.close()
    world.start_broker()
    assert opened(world, customer.credential).refused(request) == "account_closed"
    assert dump(world)["issued"] == before


def test_what_it_logs_in_with_is_erased_when_nothing_counts_any_more(
    world: World, lost: Lost, time: Time
) -> None:
    customer, _, _, _ = lost
    month = slots.month_of(clock.now_ms())
    time.advance(slots.grace_end(month) - DAY_MS - clock.now_ms())
    settle(world)
    assert account(world)["password_hash"]
    session = opened(world, customer.credential)
    to_grace_end(world, time, month)
    assert (account(world)["state"], account(world)["password_hash"]) == ("closed", "")
    assert (dump(world)["devices"], dump(world)["second_factors"]) == ([], [])
    assert refusal(Session(world).greet(customer.credential)) == "authentication"
    with world.broker.store.immediate() as tx:
        found = tx.one(sa.select(schema.sessions).where(schema.sessions.c.sid == session.sid))
        assert found is None or found["generation"] != account(world)["generation"]
    assert refusal(Session(world).greet(sign_up(customer.name, "long enough"))) == "name_taken"


def test_it_is_kept_for_as_long_as_its_coins_are_exchanged(world: World, lost: Lost) -> None:
    last = slots.grace_end(slots.month_of(clock.now_ms()))
    for now, kept in ((last + 2 * DAY_MS, True), (last + 3 * DAY_MS, False)):
        with world.broker.store.immediate() as tx:
            accounts.sweep(tx, now, 3 * DAY_MS)
        assert bool(account(world)["password_hash"]) == kept


def test_an_account_that_drew_nothing_keeps_nothing(world: World) -> None:
    world.account("alice", PASSWORD, 0)
    session = opened(world, log_in("alice", PASSWORD))
    change(session, messages.EnableTotp(request=fresh(), password=PASSWORD, secret=SECRET, code=code()))
    change(session, messages.CloseAccount(request=fresh(), password=PASSWORD, code=code(1)))
    assert account(world)["password_hash"] == ""
    assert (dump(world)["devices"], dump(world)["second_factors"]) == ([], [])


def test_the_sweep_leaves_every_other_account_alone(world: World) -> None:
    Customer(world, extra=5)
    with world.broker.store.immediate() as tx:
        accounts.sweep(tx, 2**50, 0)
    assert account(world)["password_hash"]


def test_the_operator_closes_it_alike(world: World) -> None:
    customer = Customer(world, extra=64)
    session, request = customer.account(), withdrawal(world, [16])
    answer = session.ask(request, messages.Withdrawn)
    with world.broker.store.immediate() as tx:
        left = administration.close(tx, AUDIT, "alice", "paid out", 1, clock.random_bytes, settle=True)
    assert left == 48
    session = customer.account()
    assert session.ask(request, messages.Withdrawn) == answer
    assert session.refused(withdrawal(world, [1])) == "account_closed"
    books(world)


def test_strangers_guesses_are_delayed_as_for_others(world: World, lost: Lost, time: Time) -> None:
    customer, _, _, _ = lost
    tries = world.broker.limits.login_free_tries
    guesses = [waits(Session(world).greet(log_in(customer.name, "wrong horse"))) for _ in range(tries)]
    assert guesses == [0] * (tries - 1) + [SECOND_MS]
    # The right one too, from where nobody is known; a known device goes past.
    assert waits(Session(world).greet(log_in(customer.name, customer.password))) > 0
    customer.account()


def test_its_second_factor_is_asked_for(world: World, time: Time) -> None:
    customer = Customer(world)
    session = customer.account()
    change(
        session,
        messages.EnableTotp(request=fresh(), password=customer.password, secret=SECRET, code=code()),
    )
    change(session, messages.CloseAccount(request=fresh(), password=customer.password, code=code(1)))
    assert refusal(Session(world).greet(customer.credential)) == "authentication"
    time.advance(60 * SECOND_MS)
    opened(world, log_in(customer.name, customer.password, device=customer.device, code=code()))


# --- in the wallet -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bazaar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bazaar]:
    built = build(tmp_path_factory.mktemp("bazaar"), limits=LIMITS)
    yield built
    built.world.close()


def draws_unheard(bazaar: Bazaar, market: Market) -> None:
    """Draw a bundle, whose answer is lost."""
    bazaar.world.fund(home(market).name, 2000)
    with (
        bazaar.again(market, timeout_s=0.5) as hurried,
        bazaar.tampering(lambda p: [] if p.topic.endswith("/down") and len(p.payload) > 4000 else [p]),
        pytest.raises(DeadlineError),
    ):
        hurried.withdraw()


def closes_elsewhere(bazaar: Bazaar, name: str) -> None:
    with bazaar.world.customer(f"{name}'s other device") as other:
        other.log_in(name, PASSWORD)
        assert other.account.close(PASSWORD) is None
        # Asked again, since its answer was lost: it is closed.
        other.log_in(name, PASSWORD)
        assert other.account.close(PASSWORD) is None


def test_resume_on_the_first_device_brings_the_coins(bazaar: Bazaar) -> None:
    with bazaar.customer(bundles=0) as market:
        name = home(market).name
    draws_unheard(bazaar, market)
    closes_elsewhere(bazaar, name)
    with bazaar.again(market) as again:
        (item,) = again.resume()
        assert item.outcome == "open", "the session is over"
        again.log_in(name, PASSWORD)
        assert [(item.kind, item.outcome) for item in again.resume()] == [("withdrawal", "done")]
        assert again.wallet().usable == 2000
        for ask in (again.balance, again.withdraw):
            with pytest.raises(AccountClosedError, match="closed"):
                ask()
        again.log_out()
        again.buy_now("sports", "PLAN")
    books(bazaar.world)


def test_a_withdrawal_that_came_too_late_is_given_up(bazaar: Bazaar) -> None:
    with bazaar.customer(bundles=1) as market:
        name, held = home(market).name, market.wallet().usable
        bazaar.world.fund(name, 2000)
    with (
        bazaar.again(market, timeout_s=0.5) as hurried,
        bazaar.tampering(lambda p: [] if p.topic.endswith("/up") and len(p.payload) > 4000 else [p]),
        pytest.raises(DeadlineError),
    ):
        hurried.withdraw()
    with bazaar.world.customer(f"{name} elsewhere") as other:
        other.log_in(name, PASSWORD)
        drawn = other.account.close(PASSWORD)
        assert drawn is not None
        assert drawn.amount == 2000
    with bazaar.again(market) as again:
        again.log_in(name, PASSWORD)
        (item,) = again.resume()
        assert isinstance(item.error, AccountClosedError)
        assert (again.wallet().usable, again.wallet().open_operations) == (held, 0)
        assert again.resume() == []


def test_another_device_closes_while_this_one_draws_the_rest(
    bazaar: Bazaar, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bazaar.customer(bundles=1) as market:
        name, held = home(market).name, market.wallet().usable
        bazaar.world.fund(name, 2000)
        draw_rest = Account.draw_rest

        def overtaken(account: Account, session: AccountSession) -> WithdrawalView:
            monkeypatch.undo()
            with bazaar.world.customer(f"{name} overtakes") as other:
                other.log_in(name, PASSWORD)
                other.account.close(PASSWORD)
            return draw_rest(account, session)

        monkeypatch.setattr(Account, "draw_rest", overtaken)
        # Its session ended with the account's state: why is said to whoever logs in again.
        with pytest.raises(AuthenticationError, match="No account session"):
            market.account.close(PASSWORD)
        market.log_in(name, PASSWORD)
        assert market.account.close(PASSWORD) is None
        with pytest.raises(AuthenticationError, match="No account session"):
            market.balance()
        assert (market.wallet().usable, market.wallet().open_operations) == (held, 0)


def test_words_bring_the_coins_back(bazaar: Bazaar) -> None:
    with bazaar.customer(bundles=1) as market:
        name, spelled = home(market).name, market.words()
        market.buy_now("sports", "ROUTE")
        published(bazaar)
        before = by_value(market)
    draws_unheard(bazaar, market)
    closes_elsewhere(bazaar, name)
    bazaar.world.forget_customer(name)
    with restored(bazaar, f"new disk of {name}", spelled) as market:
        market.log_in(name, PASSWORD)
        shown = market.recover(name)
        assert shown.complete, shown
        assert sum(value * n for value, n in by_value(market).items()) == 2000 + sum(
            value * n for value, n in before.items()
        )


def test_without_a_ticket_another_accounts_will_do(bazaar: Bazaar) -> None:
    with bazaar.customer(bundles=1) as market:
        name, spelled = home(market).name, market.words()
        for merchant in ("sports", "maps"):
            market.buy_now(merchant, "EMPTY")
            market.leave_shops()
        market.buy_now("sports", "EMPTY")
        published(bazaar)
        before = by_value(market)
        market.account.close(PASSWORD)
    with restored(bazaar, f"new disk of {name}", spelled) as market:
        market.log_in(name, PASSWORD)
        shown = market.recover(name)
        assert isinstance(shown.error, OutOfTicketsError)
        assert "another one" in shown.error.hint
        market.log_out()
        market.sign_up("a new name", PASSWORD)
        bazaar.world.fund("a new name", 4000)
        market.withdraw(2)
        shown = market.recover()
        assert shown.complete, shown
        assert market.wallet().usable == 4000 + sum(value * n for value, n in before.items())
