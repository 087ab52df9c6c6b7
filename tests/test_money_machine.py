"""Nothing is made or lost: random histories of a market, each of which must end balanced.

An honest customer with a real wallet shops at a real merchant; a thief tries everything twice and claims what
is not its own; a second merchant answers when it is too late. Between any two steps somebody may die, and the
bus loses, repeats and reorders. At the end all of it is taken to its end, and every party's records are
compared with every other's.

That the comparison sees is shown by bugs: each is planted into the product, and the same machine finds it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from random import Random
from typing import Any

import pytest
import sqlalchemy as sa
from client import fresh
from crashing import (
    BOUGHT,
    BROKER_MESSAGES,
    FUNDS,
    MERCHANT,
    MERCHANT_MESSAGES,
    MOMENTS,
    PASSWORD,
    REFUSED,
    Crash,
    Moment,
    Point,
    all_done,
    check_books,
    crash,
    draw,
    last,
    sandbox_card,
    stepping,
)
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from parties import FILMS, Films, OtherDevice, Thief
from planted import PLANTED
from simulation import HONEST, PURSE, THIEF, THIEFS_BALANCE, TIME, Simulation, Weather, install
from test_books import forged

from broker_node import disputes, ledger, payments, payouts, schema
from broker_node.audit import Audit
from broker_node.gateways import sandbox
from broker_node.postings import head
from common import coins
from common.clock import random_bytes
from common.config import HOUR_MS, MINUTE_MS
from common.errors import RejectedError, UntrustedError, VeilmartError
from common.store import Store
from customer_node import Market
from merchant_node import schema as merchant_schema
from merchant_node.home import MerchantHome
from merchant_node.money import STATEMENT_EVERY_MS
from merchant_node.refunds import Refunds
from merchant_node.treasury import Treasury

AMOUNTS = st.sampled_from([1, 3, 29, 64, 77, 100, 333])
CARDS = ["4242424242424242", "4242424242424242", "4000000000000002", sandbox.CHARGED_LATE]
"""Two that are charged, one that is declined, and one that is charged later than anybody waits."""
STEPS = st.one_of(st.just(0), st.integers(1, 40))
"""At which step of its process the customer dies; 0 is never."""
PAID = ("captured", "disputed", "settled")
GIVEN_BACK = ("refundable", "refunded")


class FoundError(BaseException):
    """Something is wrong, and no further history is needed to show it: passes through Hypothesis at once."""


def seen(function: Callable[..., None]) -> Callable[..., None]:
    """Let a machine that hunts stop at the first thing that is wrong."""

    @functools.wraps(function)
    def seeing(machine: MoneyMachine, **drawn: Any) -> None:
        try:
            function(machine, **drawn)
        except Exception as error:
            machine.broken = True
            if machine.hunts:
                raise FoundError(str(error)) from error
            raise

    return seeing


class MoneyMachine(RuleBasedStateMachine):
    """See the module; each rule is one thing that somebody does."""

    hunts = False

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.world, customer = self.stack.enter_context(Simulation.begun())
        self.films = Films(self.world)
        self.thief = Thief(self.world, customer)
        self.other_device = OtherDevice(self.world, HONEST, PASSWORD)
        self.broken = False
        self.granted = FUNDS
        self.bought = 0
        self.late: set[bytes] = set()
        """Orders seen open after their deadline: nothing may capture them any more."""

    # --- the honest customer ---------------------------------------------------------------------------

    def honest(self, action: Callable[[Market], Any], dies_at: int = 0) -> None:
        """Let the customer's process do something, and die at a step of it."""
        market = Market(self.world.profile, connect=self.world.connect, clock=TIME.now, timeout_s=4.0)
        with market, stepping(market, last(dies_at, crash)):
            try:
                action(market)
            except Crash:
                pass
            except UntrustedError:
                raise  # nobody has lied to it
            except VeilmartError:
                pass  # refused, or not in time: it goes on later

    @rule(sku=st.sampled_from([BOUGHT, BOUGHT, REFUSED]), quantity=st.integers(1, 2), dies_at=STEPS)
    @seen
    def buy(self, sku: str, quantity: int, dies_at: int) -> None:
        self.bought += 1
        key, deadline = f"purchase {self.bought}", HOUR_MS
        self.honest(
            lambda market: market.buy_now(MERCHANT, sku, quantity, key, deadline_ms=deadline), dies_at
        )

    @rule(credit=AMOUNTS, dies_at=st.integers(0, 12))
    @seen
    def withdraw(self, credit: int, dies_at: int) -> None:
        self.granted += credit
        self.world.fund(HONEST, credit)
        self.honest(self.log_in_and_withdraw, dies_at)

    @rule(amount=AMOUNTS, number=st.sampled_from(CARDS), dies_at=st.integers(0, 12))
    @seen
    def top_up(self, amount: int, number: str, dies_at: int) -> None:
        def action(market: Market) -> None:
            if not market.wallet().logged_in:
                market.log_in(HONEST, PASSWORD)
            market.top_up(100 + amount, sandbox_card(number))

        self.honest(action, dies_at)

    @rule(dies_at=STEPS)
    @seen
    def resume(self, dies_at: int) -> None:
        self.honest(lambda market: market.resume(self.world.root / "bought"), dies_at)

    # --- what was refused comes again ------------------------------------------------------------------

    @rule(restarts=st.booleans())
    @seen
    def another_device_draws_first(self, restarts: bool) -> None:  # noqa: FBT001 - drawn by name
        """A withdrawal finds nothing left; then the account is filled again, and copies of it arrive."""
        drawn = 0

        def action(market: Market) -> None:
            begin = market._account._begin

            def begin_and_lose(*arguments: Any) -> Any:
                nonlocal drawn
                operation = begin(*arguments)
                drawn += self.other_device.draw()
                return operation

            market._account._begin = begin_and_lose  # type: ignore[method-assign]
            self.log_in_and_withdraw(market)

        def credit() -> None:
            self.granted += drawn
            self.world.fund(HONEST, drawn)

        self.comes_again(lambda: self.honest(action), credit, restarts=restarts)

    @rule(surplus=st.sampled_from([1, 29]), restarts=st.booleans())
    @seen
    def films_wants_more_than_there_is(self, surplus: int, restarts: bool) -> None:  # noqa: FBT001 - drawn by name
        """A payout is refused; then something is sold, and copies of the request arrive."""

        def sell() -> None:
            self.films_sells(64)
            for order in self.thief.paid.values():
                self.thief.shop().say(order.confirmed)
            self.happen()

        def ask() -> None:
            self.films.want_more_than_there_is(surplus)
            self.happen()

        self.comes_again(ask, sell, restarts=restarts)

    def comes_again(
        self, ask: Callable[[], None], take_the_reason_away: Callable[[], None], *, restarts: bool
    ) -> None:
        before = len(self.world.bus.passed)
        ask()
        asked = [each for each in self.world.bus.passed[before:] if each.topic.endswith(("/up", "/out"))]
        if restarts:
            self.world.stop("broker")
            self.world.start_broker()
        take_the_reason_away()
        for publish in asked:
            self.world.bus.deliver(publish)
        self.happen()

    # --- the thief, and the merchant that it buys from -------------------------------------------------

    def happen(self) -> None:
        self.world.settle()
        self.films.listen()
        self.thief.listen()

    @rule(
        orders=st.lists(
            st.tuples(AMOUNTS, st.sampled_from([FILMS, FILMS, FILMS, MERCHANT]), st.sampled_from([1, 1, 0])),
            min_size=1,
            max_size=3,
        ),
        late=st.sampled_from([0, 0, 0, 1]),
        claims=st.sampled_from([0, 1]),
    )
    @seen
    def thief_orders(self, orders: list[tuple[int, str, int]], late: int, claims: int) -> None:
        for amount, merchant, yes in orders:
            self.thief.pay(merchant, self.thief.choose(amount))
            self.happen()
            if not late:
                self.films.decide(yes=bool(yes), late=False)
        if late:
            self.an_accept_comes_at_the_deadline()
        self.happen()
        if claims:
            self.thief_claims()

    def an_accept_comes_at_the_deadline(self) -> None:
        """And is looked at in the very moment in which the order ends."""
        TIME.ms += HOUR_MS
        self.books_are_right()
        self.films.decide(yes=True, late=False)

    @rule(yes=st.booleans(), late=st.booleans())
    @seen
    def films_answers(self, yes: bool, late: bool) -> None:  # noqa: FBT001 - drawn by name
        self.films.decide(yes=yes, late=late)
        self.happen()

    @rule(amount=AMOUNTS, used=st.booleans(), surplus=st.sampled_from([0, 0, 1, 64]))
    @seen
    def thief_spends_twice(self, amount: int, used: bool, surplus: int) -> None:  # noqa: FBT001 - drawn by name
        paid = self.thief.choose(amount, used=used)
        self.thief.pay(FILMS, paid)
        self.thief.pay(FILMS, paid)
        self.happen()
        self.thief.swap(self.thief.choose(amount, used=used), surplus)
        self.thief.swap(paid)
        self.happen()
        # As a wallet does that came back from an old copy: what it has would be paid for twice.
        self.thief.swap_for_the_same()
        self.happen()
        # And once more, by what it had on the bus before its wallet was restored.
        self.thief.is_restored(amount, swaps=used)
        self.happen()

    @rule(amount=st.sampled_from([64, 200, 300]))
    @seen
    def thief_withdraws_in_two_sessions(self, amount: int) -> None:
        for account in (0, 1):
            request = self.thief.withdraw(amount, account)
            self.thief.account(account).say(request)
        self.happen()
        self.thief.account().say(request)
        self.happen()

    @rule(cancels=st.sampled_from([0, 0, 1]))
    @seen
    def thief_wants_everything_back(self, cancels: int) -> None:
        if cancels:
            self.thief.cancel_all()
            self.happen()
        self.thief_claims()

    def thief_claims(self) -> None:
        for order in list(self.thief.paid.values())[-4:]:
            self.thief.claim(order)
            self.thief.claim(order)
            self.happen()
            self.thief.claim(order, 1 + order.place.amount // 2, fresh())
            self.thief.shop().say(order.confirmed)
        self.happen()

    # --- merchants' money ------------------------------------------------------------------------------

    def films_sells(self, amount: int) -> None:
        self.thief.pay(FILMS, self.thief.choose(amount))
        self.happen()
        self.films.decide(yes=True, late=False)
        self.happen()

    @rule(amount=AMOUNTS, share=st.sampled_from([30, 70, 100]))
    @seen
    def films_gives_back(self, amount: int, share: int) -> None:
        self.films_sells(amount)
        self.films.give_back(share)
        self.happen()
        self.thief_claims()

    @rule(part=st.booleans())
    @seen
    def the_merchant_gives_back(self, part: bool) -> None:  # noqa: FBT001 - drawn by name
        with self.merchant_store() as store, store.immediate() as tx:
            orders, sales = merchant_schema.orders, merchant_schema.sales
            paid = tx.all(sa.select(orders.c.order_id).join(sales, sales.c.order_number == orders.c.number))
        with self.merchant_store() as store, contextlib.suppress(VeilmartError):
            for row in paid:
                Refunds(store).ask(row["order_id"], 10 if part else None, "why not", TIME.ms, random_bytes)
        self.world.pump(lambda: False, 1.0)

    @rule(amount=st.sampled_from([1, 3, 29]), confirms=st.booleans())
    @seen
    def payouts_are_asked_for(self, amount: int, confirms: bool) -> None:  # noqa: FBT001 - drawn by name
        self.films_sells(64)
        for order in self.thief.paid.values():
            self.thief.shop().say(order.confirmed)
        TIME.ms += STATEMENT_EVERY_MS
        self.happen()
        self.films.want_payout(amount)
        with self.merchant_store() as store, contextlib.suppress(VeilmartError):
            Treasury(store).ask(amount, "a bank", TIME.ms, random_bytes)
        self.world.pump(lambda: False, 1.0)
        self.happen()
        self.operator_decides(confirms=confirms)

    @rule(amount=st.sampled_from([1, 3, 29]), pick=st.integers(0, 200))
    @seen
    def ids_are_chosen_to_collide(self, amount: int, pick: int) -> None:
        """An order is called like something else that was posted, and a payout like an order."""
        self.films_sells(64)
        for order in self.thief.paid.values():
            self.thief.shop().say(order.confirmed)
        self.thief.account().say(self.thief.withdraw(1))
        self.happen()
        names = self.thief.names()
        called = [self.films.want_payout(amount), names[pick % len(names)], names[-1]]
        paid = list(self.thief.paid)
        self.films.want_payout(amount, paid[pick % len(paid)])
        self.happen()
        for name in called:
            if name not in self.thief.paid:
                self.thief.pay(FILMS, self.thief.choose(amount), name)
        self.happen()
        self.books_are_right()

    def operator_decides(self, *, confirms: bool) -> None:
        """Decide about every payout that waits; what was decided stays so."""
        with self.world.broker.store.immediate() as tx:
            for view in payouts.listing(tx):
                decision: payouts.Decision = "confirmed" if confirms else "rejected"
                with contextlib.suppress(RejectedError):
                    payouts.decide(
                        tx, self.audit, view.payout_id, decision, "as it is", TIME.ms, random_bytes
                    )

    @rule(amount=AMOUNTS, decision=st.sampled_from(["refunded", "settled", "later"]))
    @seen
    def thief_disputes_everything(self, amount: int, decision: str) -> None:
        self.films_sells(amount)
        self.thief.dispute_all()
        self.happen()
        self.films.give_back(30)
        self.happen()
        self.thief_claims()
        if decision != "later":
            self.disputes_are_decided("refunded" if decision == "refunded" else "settled")

    def disputes_are_decided(self, decision: disputes.Decision) -> None:
        with self.world.broker.store.immediate() as tx:
            for view in disputes.listing(tx, everything=True):
                with contextlib.suppress(RejectedError):
                    limits = self.world.broker.limits
                    disputes.decide(
                        tx, self.audit, limits, view.order_id, decision, "so it is", TIME.ms, random_bytes
                    )
        self.happen()

    @property
    def audit(self) -> Audit:
        return Audit(self.world.market.market_id, self.world.broker.limits)

    @contextmanager
    def merchant_store(self) -> Iterator[Store]:
        """The merchant's store, as a command beside its running node opens it."""
        store = MerchantHome(self.world.root / "merchants" / MERCHANT).store()
        try:
            yield store
        finally:
            store.close()

    # --- wrong books -----------------------------------------------------------------------------------

    @rule(sku=st.sampled_from([BOUGHT, REFUSED]), dies_at=st.integers(1, 40), draws=st.booleans())
    @seen
    def payments_stop_and_are_mended(self, sku: str, dies_at: int, draws: bool) -> None:  # noqa: FBT001 - drawn by name
        """While something is under way the books are found wrong; everybody goes on, and asks again."""
        if draws:
            self.honest(self.log_in_and_withdraw, dies_at % 12)
        else:
            self.honest(lambda market: market.buy_now(MERCHANT, sku, 1, deadline_ms=HOUR_MS), dies_at)
        with self.world.broker.store.immediate() as tx:
            forged(tx, {ledger.OPERATOR: -5})
        assert self.examine() == "stopped"
        with self.world.broker.store.immediate() as tx:
            before = head(tx)
        for _ in range(2):
            self.honest(lambda market: market.resume(self.world.root / "bought"))
        self.thief.repeat_all()
        self.films.give_back(30)
        self.happen()
        with self.world.broker.store.immediate() as tx:
            assert head(tx) == before, "money moved while payments were stopped"
            for table in (schema.ledger, schema.postings):
                tx.execute(sa.delete(table).where(table.c.posting == before.posting))
        assert self.examine() == "running"

    def log_in_and_withdraw(self, market: Market) -> None:
        if not market.wallet().logged_in:
            market.log_in(HONEST, PASSWORD)
        market.withdraw()

    def examine(self) -> str:
        """What `veilmart broker ledger check` does."""
        with self.world.broker.store.immediate() as tx:
            return payments.act_on(tx, ledger.check(tx), self.audit, TIME.ms, random_bytes)

    # --- time, and accidents ---------------------------------------------------------------------------

    @rule(minutes=st.sampled_from([1, 20, 70]))
    @seen
    def time_passes(self, minutes: int) -> None:
        TIME.ms += minutes * MINUTE_MS
        self.happen()

    @rule(picks=st.lists(st.integers(0, 200), min_size=1, max_size=5))
    @seen
    def old_messages_come_again(self, picks: list[int]) -> None:
        passed = [publish for publish in self.world.bus.passed if not publish.retain]
        for pick in picks:
            self.world.bus.deliver(passed[-1 - pick % len(passed)])
        self.happen()

    @rule(
        point=st.one_of(
            st.tuples(st.just("broker"), st.sampled_from(BROKER_MESSAGES), st.sampled_from(MOMENTS)),
            st.tuples(st.just(MERCHANT), st.sampled_from(MERCHANT_MESSAGES), st.sampled_from(MOMENTS)),
        ),
        lost=st.sampled_from([0, 0, 10]),
        repeated=st.sampled_from([0, 20, 50]),
        held_back=st.sampled_from([0, 20, 50]),
        seed=st.integers(0, 1000),
    )
    @seen
    def bad_times_begin(
        self, point: tuple[str, str, Moment], lost: int, repeated: int, held_back: int, seed: int
    ) -> None:
        """A node will die at the next message of a kind, and the bus has other weather."""
        name, message, moment = point
        self.world.deadly[name].add(Point(message, moment))
        self.world.clear_up()
        chance = Random(seed)  # noqa: S311 - to be repeated, not to be secret
        self.world.weather = Weather(lost, repeated, held_back, chance)

    # --- what must be true all the time ----------------------------------------------------------------

    @invariant()
    @seen
    def books_are_right(self) -> None:
        for name, running in self.world.running.items():
            assert running.loop.quarantined == 0, f"{name} failed in its own code"
        with self.world.broker.store.immediate() as tx:
            report = ledger.check(tx)
            orders = {row["order_id"]: row for row in tx.all(sa.select(schema.orders))}
        assert report.faults == ()
        assert sum(report.books.values()) == 0
        assert not self.films.refusals & self.films.done, "refused, and done after all"
        for order_id, row in orders.items():
            if row["state"] == "held" and row["deadline"] <= TIME.ms:
                self.late.add(order_id)
            assert row["state"] not in PAID or order_id not in self.late, "captured after its deadline"
            told = self.films.told[order_id]
            paid = told - {"void"}
            assert not (paid and "void" in told), "a merchant was told both"
            assert not paid or row["captured_at"] is not None, "told that it is paid, and is not"
        self.no_order_is_both(orders)

    def no_order_is_both(self, orders: dict[bytes, Any]) -> None:
        with self.world.merchants[MERCHANT].store.immediate() as tx:
            served = tx.all(sa.select(merchant_schema.orders))
        for row in served:
            if row["state"] in ("captured", "delivered"):
                order = orders[row["order_id"]]
                assert order["captured_at"] is not None, f"{row['state']} at the merchant, never paid for"

    # --- the end ---------------------------------------------------------------------------------------

    @seen
    def teardown(self) -> None:
        with self.stack:
            if self.broken:
                return
            self.take_all_to_its_end()
            self.compare()

    def take_all_to_its_end(self) -> None:
        world = self.world
        world.weather.lost = world.weather.repeated = world.weather.held_back = 0
        for points in world.deadly.values():
            points.clear()
        self.happen()
        TIME.ms += 2 * HOUR_MS
        world.pump(lambda: False, 2.0)
        self.films.decide(yes=True, late=False)
        self.films.decide(yes=True, late=True)
        self.happen()
        self.thief.repeat_all()
        self.disputes_are_decided("refunded")
        self.thief.claim_all()
        self.operator_decides(confirms=True)
        self.account_is_closed_elsewhere()
        for _ in range(8):
            self.honest(self.carry_on)
            if self.honest_is_done():
                break
            world.pump(lambda: False, 30.0)
        for _ in range(2):
            # The merchant reads its statement every few minutes, and then asks what became of a payout.
            TIME.ms += 10 * MINUTE_MS
            world.pump(lambda: False, 1.0)

    def account_is_closed_elsewhere(self) -> None:
        """A withdrawal is cut short, and the account closed from another device: what was drawn comes anyway.

        Only with tickets in hand for all that is still to be done, since there will be no more.
        """
        with Market(self.world.profile) as market:
            if market.wallet().tickets < 2 * len(market.orders()):
                return
        self.withdraw(credit=sum(coins.BUNDLE), dies_at=4 + self.bought % 8)
        self.other_device.close()

    def carry_on(self, market: Market) -> None:
        if not market.wallet().logged_in and any(each.state == "open" for each in market.top_ups()):
            market.log_in(HONEST, PASSWORD)
        draw(market, HONEST)
        market.resume(self.world.root / "bought")
        for order in market.orders():
            if order.state in ("complete", "refunded"):
                market.ask(order.order_id)

    def honest_is_done(self) -> bool:
        with Market(self.world.profile) as market:
            wallet = market.wallet()
            claimable = any(order.refunded > order.claimed for order in market.orders())
            charges = {each.state for each in market.top_ups()}
            return (
                all_done(market)
                and (wallet.open_operations, wallet.reserved) == (0, 0)
                and "open" not in charges
                and not claimable
            )

    def compare(self) -> None:
        world, thief = self.world, self.thief
        self.books_are_right()
        with world.broker.store.immediate() as tx:
            books = ledger.check(tx).books
            orders = {row["order_id"]: row for row in tx.all(sa.select(schema.orders))}
            accounts = {
                row["name"]: row["amount"]
                for row in tx.all(
                    sa.select(schema.accounts.c.name, schema.balances.c.amount).join(
                        schema.balances, schema.balances.c.account == schema.accounts.c.id
                    )
                )
            }
        thiefs = sum(PURSE) + THIEFS_BALANCE
        assert books[ledger.OPERATOR] == -(self.granted + thiefs), "other credit than the operator gave"
        held, elsewhere = thief.holds(), self.other_device.holds
        theirs = set(thief.paid) & set(orders)
        drawn = {HONEST: sum(value * count for value, count in elsewhere.items())}
        check_books(world.homes(), others_hold=held + elsewhere, others_ordered=theirs, drawn_elsewhere=drawn)
        paid = sum(orders[order_id]["amount"] - orders[order_id]["claimed"] for order_id in theirs)
        worth = accounts[THIEF] + sum(value * count for value, count in held.items()) + paid
        assert worth == thiefs, "the thief has another sum than it was given"


@pytest.fixture(autouse=True)
def virtual_time(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)


def histories(examples: int, steps: int = 20, *, derandomize: bool = True) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        derandomize=derandomize,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def test_nothing_is_made_or_lost() -> None:
    run_state_machine_as_test(MoneyMachine, settings=histories(4, 25))


EVERY_TIME = 3
"""Planted bugs that every run of the tests looks for; the others are looked for with the exhaustive set."""


@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
def test_nothing_is_made_or_lost_in_many_long_histories() -> None:
    run_state_machine_as_test(MoneyMachine, settings=histories(100, 60))


ROUNDS, AT_ONCE = 16, 3
"""A bug is found in so many rounds of so many histories, or the test fails; with ten or more Hypothesis would
begin with the simplest histories, in which nothing happens."""
IN_THE_FOURTH = (
    *("release_a_late_accept", "see_no_double_spend", "skip_swaps", "pay_for_a_void_order"),
    *("free_the_winners_coins", "compare_no_sums", "let_ids_collide"),
)
FOUND_IN = {**dict.fromkeys(IN_THE_FOURTH, 3), "refuse_stored_answers": 14, "sign_a_value_again": 4}
"""The round that found it last is tried first: a change of the machine makes a hunt longer, not different."""


@pytest.mark.parametrize(
    "bug",
    [
        pytest.param(bug, marks=[] if number < EVERY_TIME else [pytest.mark.exhaustive])
        for number, bug in enumerate(PLANTED)
    ],
)
def test_a_planted_bug_is_found(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, says = PLANTED[bug]
    monkeypatch.setattr(MoneyMachine, "hunts", True)
    plant(monkeypatch)
    with pytest.raises(FoundError, match=says):
        hunt(FOUND_IN.get(bug, 0))


def hunt(first: int) -> None:
    for number in sorted(range(ROUNDS), key=lambda number: number != first):
        machine = seed(number)(MoneyMachine)
        run_state_machine_as_test(machine, settings=histories(AT_ONCE, derandomize=False))
