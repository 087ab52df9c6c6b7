"""Two broker processes on one store, asked for the same money at the same instant: exactly one gives it.

All duels are fought in one race, each kind with money of its own; every test looks at its kind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec
import pytest
import sqlalchemy as sa
from client import Customer, Order, Shopkeeper, accept, blinded, fresh, reject
from racing import Duel, Move, race
from world import World

from broker_node import ledger, schema
from broker_node.sends import Session
from common import messages

ROUNDS = 12
AMOUNT = 8

Answers: TypeAlias = tuple[list[Any], list[Any]]


# --- the duels -----------------------------------------------------------------------------------------


class Ground:
    """A market with one merchant, and what two attackers have in it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.keeper = Shopkeeper(world)
        self.customer = Customer(world, values=[4] * 48, tickets_wanted=2, extra=4 * 4 * 48)
        account = self.customer.account()
        for _ in "1234":
            self.customer.coins += self.customer.withdraw(account, [4] * 48)[0]
        self.visit = self.customer.shop()
        self.one, self.two = self.sender(self.visit.sid), self.sender(self.customer.shop().sid)

    def sender(self, sid: bytes) -> Session:
        """Give a session as every broker reads it from the store."""
        with self.world.broker.store.immediate() as tx:
            row = tx.one(sa.select(schema.sessions).where(schema.sessions.c.sid == sid))
        assert row is not None
        return Session(row["sid"], row["scope"], row["account"], row["generation"], row["merchant"])

    def accounts(self, name: str, amount: int) -> tuple[Session, Session]:
        """Give two sessions of a new account that holds so much."""
        someone = Customer(self.world, name, values=[], tickets_wanted=1, extra=amount)
        return self.sender(someone.account().sid), self.sender(someone.account().sid)

    def held(self) -> Order:
        order = self.customer.order(AMOUNT)
        self.visit.say(order.place)
        self.keeper.hear(messages.ForwardOrder)
        return order

    def paid(self) -> Order:
        order = self.customer.order(AMOUNT)
        self.visit.say(order.place)
        self.keeper.say(accept(self.keeper.hear(messages.ForwardOrder)))
        self.visit.hear(messages.OrderAnswer)
        return order

    @property
    def shopkeeper(self) -> Session:
        assert self.keeper.welcome is not None
        return self.sender(self.keeper.welcome.session)

    def withdrawal(self) -> messages.Withdraw:
        return messages.Withdraw(operation=fresh(), coins=blinded(self.world, [AMOUNT]).tokens, tickets=[])

    def swap(self, paid: list[messages.Token]) -> messages.Swap:
        return messages.Swap(operation=fresh(), coins=paid, blinded=blinded(self.world, [AMOUNT]).tokens)


def same_coins_for_two_orders(ground: Ground) -> Iterator[Duel]:
    for _ in range(ROUNDS):
        paid = ground.customer.pay(AMOUNT)
        one, two = (ground.customer.order(AMOUNT, coins=paid).place for _ in "12")
        yield Move(ground.one, one), Move(ground.two, two)


def orders_that_share_a_coin(ground: Ground) -> Iterator[Duel]:
    for _ in range(ROUNDS):
        shared, left, right = (ground.customer.pay(4) for _ in range(3))
        one = ground.customer.order(AMOUNT, coins=left + shared).place
        two = ground.customer.order(AMOUNT, coins=shared + right).place
        yield Move(ground.one, one), Move(ground.two, two)


def an_order_and_a_swap_of_the_same_coins(ground: Ground) -> Iterator[Duel]:
    for _ in range(ROUNDS):
        paid = ground.customer.pay(AMOUNT)
        yield (
            Move(ground.one, ground.swap(paid)),
            Move(ground.two, ground.customer.order(AMOUNT, coins=paid).place),
        )


def two_swaps_of_the_same_coins(ground: Ground) -> Iterator[Duel]:
    for _ in range(ROUNDS):
        paid = ground.customer.pay(AMOUNT)
        yield Move(ground.one, ground.swap(paid)), Move(ground.two, ground.swap(paid))


def one_value_for_two_swaps(ground: Ground) -> Iterator[Duel]:
    for _ in range(ROUNDS):
        one = ground.swap(ground.customer.pay(AMOUNT))
        two = msgspec.structs.replace(ground.swap(ground.customer.pay(AMOUNT)), blinded=one.blinded)
        yield Move(ground.one, one), Move(ground.two, two)


def an_order_and_the_search_for_it(ground: Ground) -> Iterator[Duel]:
    for _ in range(ROUNDS // 2):
        order = ground.customer.order(AMOUNT)
        yield Move(ground.one, order.place), Move(ground.two, order.find())


def a_swap_and_the_search_for_it(ground: Ground) -> Iterator[Duel]:
    for _ in range(ROUNDS // 3):
        wanted = ground.swap(ground.customer.pay(AMOUNT))
        yield Move(ground.one, wanted), Move(ground.two, messages.RepeatSwap(operation=wanted.operation))


def withdrawals_of_twice_the_balance(ground: Ground) -> Iterator[Duel]:
    one, two = ground.accounts("rich once", AMOUNT * ROUNDS + 3)
    for _ in range(ROUNDS):
        yield Move(one, ground.withdrawal()), Move(two, ground.withdrawal())


def one_withdrawal_twice(ground: Ground) -> Iterator[Duel]:
    one, two = ground.accounts("replaying", AMOUNT * ROUNDS)
    for _ in range(ROUNDS):
        wanted = ground.withdrawal()
        yield Move(one, wanted), Move(two, wanted)


def two_refunds_of_one_order(ground: Ground) -> Iterator[Duel]:
    for _ in range(ROUNDS // 2):
        order = ground.customer.order(AMOUNT)
        ground.visit.say(order.place)
        ground.keeper.say(reject(ground.keeper.hear(messages.ForwardOrder)))
        ground.visit.hear(messages.OrderAnswer)
        one, two = (order.claim(blinded(ground.world, [4, 4])) for _ in "12")
        yield Move(ground.one, one), Move(ground.two, two)


def two_answers_to_one_order(ground: Ground) -> Iterator[Duel]:
    shopkeeper = ground.shopkeeper
    for other in ("rejected", "accepted") * (ROUNDS // 4):
        order = ground.held()
        one, two = (
            Move(shopkeeper, messages.AnswerOrder(order_id=order.id, verdict=verdict, answer=b"sealed"))
            for verdict in ("accepted", other)
        )
        yield one, two


def a_cancel_and_an_accept(ground: Ground) -> Iterator[Duel]:
    for _ in range(ROUNDS // 2):
        order = ground.held()
        accept = messages.AnswerOrder(order_id=order.id, verdict="accepted", answer=b"sealed")
        yield Move(ground.one, order.cancelled), Move(ground.shopkeeper, accept)


def two_refunds_by_the_merchant(ground: Ground) -> Iterator[Duel]:
    for _ in range(ROUNDS // 2):
        order = ground.paid()
        one, two = (messages.RefundOrder(order_id=order.id, refund=fresh(), amount=5) for _ in "12")
        yield Move(ground.shopkeeper, one), Move(ground.shopkeeper, two)


def two_payouts_of_all_that_is_available(ground: Ground) -> Iterator[Duel]:
    order = ground.paid()
    ground.visit.ask(order.confirmed, messages.OrderAnswer)
    one, two = (messages.RequestPayout(payout_id=fresh(), amount=AMOUNT, destination="a bank") for _ in "12")
    yield Move(ground.shopkeeper, one), Move(ground.shopkeeper, two)


DUELS: Sequence[Callable[[Ground], Iterator[Duel]]] = (
    same_coins_for_two_orders,
    orders_that_share_a_coin,
    an_order_and_a_swap_of_the_same_coins,
    two_swaps_of_the_same_coins,
    one_value_for_two_swaps,
    an_order_and_the_search_for_it,
    a_swap_and_the_search_for_it,
    withdrawals_of_twice_the_balance,
    one_withdrawal_twice,
    two_refunds_of_one_order,
    two_answers_to_one_order,
    a_cancel_and_an_accept,
    two_refunds_by_the_merchant,
    two_payouts_of_all_that_is_available,
)


# --- the race ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fought:
    """What was asked and answered in each duel, and the store afterwards."""

    duels: Mapping[str, Sequence[Duel]]
    answers: Mapping[str, Sequence[Answers]]
    orders: Mapping[bytes, str]
    """Order id -> state."""
    books: Mapping[str, int]
    spent: int
    """Coins and tickets."""

    def outcomes(self, kind: Callable[[Ground], Iterator[Duel]]) -> list[Counter[str]]:
        """Count, for each duel, both sides' answers by name, refusals by their code."""
        return [
            Counter(
                body.code
                if isinstance(body, messages.Refused | messages.PayoutRefused)
                else type(body).__name__
                for side in answers
                for body in side
            )
            for answers in self.answers[kind.__name__]
        ]


def read_books(world: World) -> dict[str, int]:
    with world.broker.store.immediate() as tx:
        report = ledger.check(tx)
    assert report.faults == ()
    assert sum(report.books.values()) == 0
    return dict(report.books)


@pytest.fixture(scope="module")
def fought(tmp_path_factory: pytest.TempPathFactory) -> Fought:
    with closing(World(tmp_path_factory.mktemp("two-brokers"))) as world:
        return fight(world)


def fight(world: World) -> Fought:
    ground = Ground(world)
    duels = {kind.__name__: list(kind(ground)) for kind in DUELS}
    read_books(world)
    world.stop("broker")
    answers = iter(race(world.broker_home, [duel for each in duels.values() for duel in each]))
    world.start_broker()
    with world.broker.store.immediate() as tx:
        orders = {row["order_id"]: row["state"] for row in tx.all(sa.select(schema.orders))}
        spent = int(tx.scalar(sa.select(sa.func.count()).select_from(schema.spent)))
    by_kind = {name: [next(answers) for _ in each] for name, each in duels.items()}
    return Fought(duels, by_kind, orders, read_books(world), spent)


def test_double_spend_at_the_same_instant_exactly_one_order_wins(fought: Fought) -> None:
    kind = same_coins_for_two_orders
    assert fought.outcomes(kind) == [{"OrderAnswer": 1, "double_spend": 1}] * ROUNDS
    for duel in fought.duels[kind.__name__]:
        assert len([move for move in duel if move.body.order_id in fought.orders]) == 1  # type: ignore[attr-defined]


def test_orders_that_share_a_coin(fought: Fought) -> None:
    outcomes = fought.outcomes(orders_that_share_a_coin)
    assert outcomes == [{"OrderAnswer": 1, "double_spend": 1}] * ROUNDS


def test_an_order_and_a_swap_of_the_same_coins(fought: Fought) -> None:
    outcomes = fought.outcomes(an_order_and_a_swap_of_the_same_coins)
    assert all(
        outcome in ({"OrderAnswer": 1, "double_spend": 1}, {"Swapped": 1, "double_spend": 1})
        for outcome in outcomes
    )


def test_two_swaps_of_the_same_coins(fought: Fought) -> None:
    assert fought.outcomes(two_swaps_of_the_same_coins) == [{"Swapped": 1, "double_spend": 1}] * ROUNDS


def test_one_value_is_signed_for_one_swap_and_the_other_spends_nothing(fought: Fought) -> None:
    assert fought.outcomes(one_value_for_two_swaps) == [{"Swapped": 1, "already_signed": 1}] * ROUNDS


def test_an_order_that_is_searched_for_at_the_same_instant_is_found_or_never_held(fought: Fought) -> None:
    kind = an_order_and_the_search_for_it
    duels = zip(fought.duels[kind.__name__], fought.outcomes(kind), strict=True)
    for (move, _), outcome in duels:
        held = move.body.order_id in fought.orders  # type: ignore[attr-defined]
        found = {"OrderAnswer": 1, "OrderFound": 1}
        assert outcome == (found if held else {"given_up": 1, "not_found": 1})


def test_a_swap_that_is_searched_for_while_it_is_signed_is_never_executed(fought: Fought) -> None:
    outcomes = fought.outcomes(a_swap_and_the_search_for_it)
    assert outcomes == [{"given_up": 1, "not_found": 1}] * (ROUNDS // 3)


def test_withdraw_beyond_the_balance_from_two_sessions_at_once(fought: Fought) -> None:
    total = sum(fought.outcomes(withdrawals_of_twice_the_balance), Counter[str]())
    assert total == {"Withdrawn": ROUNDS, "insufficient_funds": ROUNDS}
    assert max(amount for book, amount in fought.books.items() if book.startswith("account:")) == 3


def test_replayed_withdraw_at_the_same_instant_is_debited_once(fought: Fought) -> None:
    assert fought.outcomes(one_withdrawal_twice) == [{"Withdrawn": 2}] * ROUNDS
    assert all(one == two for one, two in fought.answers[one_withdrawal_twice.__name__])


def test_two_refunds_of_one_order(fought: Fought) -> None:
    outcomes = fought.outcomes(two_refunds_of_one_order)
    assert outcomes == [{"RefundIssued": 1, "idempotency_conflict": 1}] * (ROUNDS // 2)


def test_two_answers_to_one_order(fought: Fought) -> None:
    for (one, two), (first, second) in zip(
        fought.duels[two_answers_to_one_order.__name__],
        fought.answers[two_answers_to_one_order.__name__],
        strict=True,
    ):
        state = fought.orders[one.body.order_id]  # type: ignore[attr-defined]
        assert state in {"captured", "refundable"}
        told = {body.outcome for body in [*first, *second] if isinstance(body, messages.OrderOutcome)}
        assert told <= {"captured" if state == "captured" else "void"}
        assert one.body != two.body or state == "captured"


def test_a_cancel_and_an_accept(fought: Fought) -> None:
    """Whoever comes first wins, and both hear the same."""
    kind = a_cancel_and_an_accept.__name__
    for (cancel, _), (told, outcomes) in zip(fought.duels[kind], fought.answers[kind], strict=True):
        state = fought.orders[cancel.body.order_id]  # type: ignore[attr-defined]
        assert state in {"captured", "refundable"}
        assert {body.state for body in told if isinstance(body, messages.OrderAnswer)} == {state}
        heard = {body.outcome for body in [*told, *outcomes] if isinstance(body, messages.OrderOutcome)}
        assert heard == {"captured" if state == "captured" else "void"}


def test_two_refunds_by_the_merchant(fought: Fought) -> None:
    outcomes = fought.outcomes(two_refunds_by_the_merchant)
    assert all((o["RefundTaken"], o["wrong_amount"]) == (1, 1) for o in outcomes), outcomes


def test_two_payouts_of_all_that_is_available(fought: Fought) -> None:
    assert fought.outcomes(two_payouts_of_all_that_is_available) == [
        {"PayoutAnswer": 1, "insufficient_funds": 1}
    ]
    assert fought.books["reserved:sports"] == AMOUNT


def test_nothing_is_made_or_lost_in_all_of_them(fought: Fought) -> None:
    states = Counter(fought.orders.values())
    # Of orders that were paid in part only that part waits for their customers.
    given_back = 5 * len(fought.duels[two_refunds_by_the_merchant.__name__])
    assert fought.books["escrow"] == AMOUNT * (states["held"] + states["refundable"]) + given_back
    taken = sum(
        outcome["OrderAnswer"] + outcome["Swapped"] for kind in DUELS[:7] for outcome in fought.outcomes(kind)
    )
    ordered = sum(len(fought.duels[kind.__name__]) for kind in DUELS[9:])
    # Each took two coins of 4; what a loser alone had wanted is spent by nobody. And two tickets.
    assert fought.spent == 2 * (taken + ordered) + 2
