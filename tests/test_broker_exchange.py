"""The broker, money against coins: withdraw, swap, refund, and the books behind them."""

from __future__ import annotations

import hashlib
import itertools
from typing import Any

import pytest
import sqlalchemy as sa
from client import Customer, Session, Shopkeeper, accept, blinded, dump, fresh, order_state, reject, settle
from conftest import Time
from racing import Replica
from world import World

from broker_node import ledger, mint, schema
from broker_node.mint import owner_of
from broker_node.sends import Session as Sender
from common import clock, coins, messages
from common.config import DAY_MS
from common.core import Arrival, Job
from common.errors import RefusedError
from common.store import Tx


def balance(session: Session) -> messages.Balance:
    return session.ask(messages.GetBalance(request=fresh()), messages.Balance)


def check_books(world: World) -> dict[str, int]:
    with world.broker.store.immediate() as tx:
        report = ledger.check(tx)
    assert report.faults == ()
    return dict(report.books)


# --- withdraw ------------------------------------------------------------------------------------------


def test_a_withdrawal_debits_and_signs(world: World) -> None:
    customer = Customer(world, extra=500)
    account = customer.account()
    tokens, tickets = customer.withdraw(account, [1, 2, 64], 2)
    assert [customer.values_of[token.key_id] for token in tokens] == [1, 2, 64]
    assert len(tickets) == 2
    left = balance(account)
    assert left.amount == 500 - 67
    assert left.tickets_left == 100 - 4 - 2
    books = check_books(world)
    assert books["coins:1"] == 3
    assert books["operator"] == -2500


def test_the_same_withdrawal_again_gets_the_same_signatures(world: World) -> None:
    customer = Customer(world, extra=100)
    account = customer.account()
    request = messages.Withdraw(operation=fresh(), coins=blinded(world, [16]).tokens, tickets=[])
    first = account.ask(request, messages.Withdrawn)
    before = dump(world)
    other = customer.account()
    assert other.ask(request, messages.Withdrawn) == first
    # Twice in one frame, before the first is signed.
    twice = messages.Withdraw(operation=fresh(), coins=blinded(world, [16]).tokens, tickets=[])
    account.say(twice, twice)
    assert account.hear(messages.Withdrawn) == account.hear(messages.Withdrawn)
    assert balance(account).amount == 100 - 2 * 16
    assert dump(world)["operations"] != before["operations"]
    check_books(world)


def test_other_content_under_the_same_operation_is_a_conflict(world: World) -> None:
    customer = Customer(world, extra=100)
    account = customer.account()
    operation = fresh()
    account.ask(
        messages.Withdraw(operation=operation, coins=blinded(world, [16]).tokens, tickets=[]),
        messages.Withdrawn,
    )
    before = dump(world)
    other = messages.Withdraw(operation=operation, coins=blinded(world, [16]).tokens, tickets=[])
    assert account.refused(other) == "idempotency_conflict"
    assert dump(world) == before


@pytest.mark.parametrize(
    ("values", "tickets", "code"),
    [
        ([64, 64], 0, "insufficient_funds"),
        ([], 0, "wrong_amount"),
        ([1], 64, "out_of_tickets"),
    ],
)
def test_a_withdrawal_is_refused(world: World, values: list[int], tickets: int, code: str) -> None:
    customer = Customer(world, extra=100)
    account = customer.account()
    customer.withdraw(account, [], 40)
    before = dump(world)
    request = messages.Withdraw(
        operation=fresh(), coins=blinded(world, values).tokens, tickets=blinded(world, [0] * tickets).tokens
    )
    assert account.refused(request) == code
    assert dump(world) == before


def test_two_withdrawals_at_once_cannot_both_take_the_last_money(world: World) -> None:
    customer = Customer(world, extra=64)
    account = customer.account()
    one, two = (
        messages.Withdraw(operation=fresh(), coins=blinded(world, [64]).tokens, tickets=[]) for _ in range(2)
    )
    account.say(one, two)
    assert account.hear(messages.Refused).code == "insufficient_funds"
    assert account.hear(messages.Withdrawn).balance == 0
    check_books(world)


def test_tickets_are_limited_by_the_day(world: World, time: Time) -> None:
    customer = Customer(world, tickets_wanted=0)
    account = customer.account()
    customer.withdraw(account, [], 60)
    customer.withdraw(account, [], 40)
    assert balance(account).tickets_left == 0
    one = messages.Withdraw(operation=fresh(), coins=[], tickets=blinded(world, [0]).tokens)
    assert account.refused(one) == "out_of_tickets"
    now = clock.now_ms()
    time.advance(DAY_MS - now % DAY_MS)
    settle(world)
    assert balance(customer.account()).tickets_left == 100


def test_a_ticket_key_signs_no_coin_and_an_unknown_key_nothing(world: World, customer: Customer) -> None:
    account = customer.account()
    entry = blinded(world, [0]).tokens
    unknown = [messages.BlindedToken(key_id=bytes(8), blinded=entry[0].blinded)]
    for wrong in (entry, unknown):
        request = messages.Withdraw(operation=fresh(), coins=wrong, tickets=[])
        assert account.refused(request) == "unknown_key"


def test_a_blinded_value_that_cannot_be_signed_debits_nothing(world: World) -> None:
    customer = Customer(world, extra=100)
    account = customer.account()
    (good,) = blinded(world, [64]).tokens
    before = dump(world)
    for block in (b"\xff" * 256, bytes(256)):
        bad = messages.BlindedToken(key_id=good.key_id, blinded=block)
        request = messages.Withdraw(operation=fresh(), coins=[good, bad], tickets=[])
        assert account.refused(request) in {"bad_token", "insufficient_funds"}
        alone = messages.Withdraw(operation=fresh(), coins=[bad], tickets=[])
        assert account.refused(alone) == "bad_token"
    assert dump(world) == before


# --- swap ----------------------------------------------------------------------------------------------


def swap(customer: Customer, session: Session, amount: int) -> tuple[bytes, list[messages.Token]]:
    operation, paid = fresh(), customer.pay(amount)
    request = messages.Swap(operation=operation, coins=paid, blinded=blinded(customer.world, [amount]).tokens)
    session.ask(request, messages.Swapped)
    return operation, paid


def test_a_swap_gives_other_coins_of_the_same_sum_once(world: World, customer: Customer) -> None:
    session = customer.shop()
    wanted = blinded(world, [8, 4, 2, 1, 1])
    request = messages.Swap(operation=fresh(), coins=customer.pay(16), blinded=wanted.tokens)
    first = session.ask(request, messages.Swapped)
    fresh_coins = wanted.unblind(first.signatures)
    before = dump(world)
    assert customer.shop().ask(request, messages.Swapped) == first
    assert {name: rows for name, rows in dump(world).items() if before[name] != rows}.keys() == {
        "sessions",
        "welcomes",
        "spent",
    }
    order = customer.order(16, coins=fresh_coins)
    assert session.refused(order.place) == "not_found"  # no merchant: but the coins were not looked at yet
    check_books(world)


def test_a_swap_is_refused(world: World, customer: Customer) -> None:
    session = customer.shop()
    _, spent = swap(customer, session, 16)
    before = dump(world)
    paid = customer.pay(16)

    def code(tokens: list[messages.Token], values: list[int]) -> str:
        made = blinded(world, values).tokens
        return session.refused(messages.Swap(operation=fresh(), coins=tokens, blinded=made))

    assert code(paid, [8, 4]) == "wrong_amount"
    assert code(paid, [16, 1]) == "wrong_amount"
    assert code(spent, [16]) == "double_spend"
    assert code([*paid, *spent], [16, 16]) == "double_spend"
    assert code([*paid, *paid], [16, 16]) == "double_spend"
    assert code([customer.tickets[0]], [1]) == "unknown_key"
    assert dump(world) == before
    assert code_of_success(session, world, paid) == 1
    check_books(world)


def code_of_success(session: Session, world: World, paid: list[messages.Token]) -> int:
    request = messages.Swap(operation=fresh(), coins=paid, blinded=blinded(world, [16]).tokens)
    return len(session.ask(request, messages.Swapped).signatures)


def test_two_swaps_of_one_coin_at_once(world: World, customer: Customer) -> None:
    session = customer.shop()
    paid = customer.pay(16)
    session.say(
        *(messages.Swap(operation=fresh(), coins=paid, blinded=blinded(world, [16]).tokens) for _ in "12")
    )
    assert session.hear(messages.Refused).code == "double_spend"
    assert session.hear(messages.Swapped)
    check_books(world)


def test_two_swaps_of_one_name_at_once_spend_the_coins_of_the_one_that_counts(
    world: World, customer: Customer
) -> None:
    session, operation = customer.shop(), fresh()
    paid = {value: customer.pay(value) for value in (16, 8)}
    session.say(
        *(
            messages.Swap(operation=operation, coins=coins, blinded=blinded(world, [value]).tokens)
            for value, coins in paid.items()
        )
    )
    assert session.hear(messages.Refused).code == "idempotency_conflict"
    assert session.hear(messages.Swapped)
    check_books(world)


def at_once(world: World, session: Session, *requests: messages.Swap) -> list[str]:
    """Have swaps decided in one batch, in this order, and stored in one; gives what is said of them."""
    with world.broker.store.immediate() as tx:
        row = tx.one(sa.select(schema.sessions).where(schema.sessions.c.sid == session.sid))
    assert row is not None
    sender = Sender(row["sid"], "shop", None, None, None)
    world.stop("broker")
    replica = Replica(world.broker_home)
    sends = replica.decide(*(Arrival(sender, fresh(), request) for request in requests))
    signed = [arrival for job in sends if isinstance(job, Job) for arrival in job.done(job.work())]
    sends = [send for send in sends if not isinstance(send, Job)] + replica.decide(*signed)
    replica.close()
    world.start_broker()
    return [getattr(send.body, "code", "swapped") for send in sends]


def test_what_is_refused_under_a_name_at_once_refuses_nothing_else_of_that_name(
    world: World, customer: Customer
) -> None:
    session, operation = customer.shop(), fresh()
    _, spent = swap(customer, session, 16)
    paid = customer.pay(8)
    bad, good = (
        messages.Swap(operation=operation, coins=coins, blinded=blinded(world, [value]).tokens)
        for coins, value in ((spent, 16), (paid, 8))
    )
    assert at_once(world, session, good, bad) == ["double_spend", "swapped"]
    check_books(world)


def test_what_loses_its_coin_while_it_is_signed_refuses_nothing_else_of_its_name(
    world: World, customer: Customer
) -> None:
    session = customer.shop()
    paid = customer.pay(16)
    # Of two that spend one coin in a batch it is the smaller owner's.
    winner, operation = sorted((fresh(), fresh()), key=lambda name: owner_of("swap", name))
    names = ((winner, paid, 16), (operation, paid, 16), (operation, customer.pay(8), 8))
    wanted = [
        messages.Swap(operation=name, coins=coins, blinded=blinded(world, [value]).tokens)
        for name, coins, value in names
    ]
    assert at_once(world, session, *wanted) == ["swapped", "double_spend", "swapped"]
    check_books(world)


def test_a_batch_of_swaps_takes_as_many_statements_as_one(
    world: World, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = customer.shop()
    settle(world)

    def written(*values: int) -> list[str]:
        statements: list[str] = []

        def note(tx: Tx, statement: Any, *rows: Any) -> int:
            statements.append(str(statement))
            return many(tx, statement, *rows)

        many = Tx._many
        monkeypatch.setattr(Tx, "_many", note)
        halves = [blinded(world, [value // 2] * 2).tokens for value in values]
        session.say(
            *(
                messages.Swap(operation=fresh(), coins=customer.pay(value), blinded=tokens)
                for value, tokens in zip(values, halves, strict=True)
            )
        )
        for _ in values:
            session.hear(messages.Swapped)
        monkeypatch.setattr(Tx, "_many", many)
        return statements

    one = written(2)
    inserted = {statement.split()[2] for statement in one if statement.startswith("INSERT")}
    assert inserted >= {"spent", "operations", "postings", "ledger"}
    assert written(4, 8, 16, 32) == one
    check_books(world)


# --- owners of spent coins -----------------------------------------------------------------------------


def test_coins_of_a_swap_pay_no_order_that_is_called_like_the_swap(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    operation, spent = swap(customer, session, 64)
    called = {operation: "double_spend", owner_of("swap", operation): "idempotency_conflict"}
    for order_id, code in called.items():
        order = customer.order(64, order_id=order_id, coins=spent)
        assert session.refused(order.place) == code
    check_books(world)


def test_a_double_spend_frees_nothing_that_something_else_of_that_name_has_spent(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    operation, first = swap(customer, session, 64)
    _, second = swap(customer, session, 128)
    for order_id in (operation, session.sid):
        lost = customer.order(128, order_id=order_id, coins=second)
        assert session.refused(lost.place) == "double_spend"
    again = messages.Swap(operation=fresh(), coins=first, blinded=blinded(world, [64]).tokens)
    assert session.refused(again) == "double_spend"


def test_who_loses_a_double_spend_costs_the_same_however_much_was_spent(world: World) -> None:
    lost = mint.Checked(tuple((bytes([n]) * 32, bytes(8)) for n in range(8)), {})
    others = [{"mark": fresh() + fresh(), "key_id": bytes(8), "owner": fresh()} for _ in range(20_000)]
    steps = []
    with world.broker.store.immediate() as tx:
        assert mint.spend(tx, {b"winner": mint.Checked(lost.marks[:1], {})}) == set()
        for more in ([], others):
            tx.each(sa.insert(schema.spent), more)
            count = itertools.count()
            # So many instructions of SQLite's: a time would depend on what else this machine does.
            tx._connection.connection.set_progress_handler(lambda count=count: next(count) < 0, 100)
            assert mint.spend(tx, {b"loser": lost}) == {b"loser"}
            tx._connection.connection.set_progress_handler(None, 0)
            steps.append(next(count))
            assert tx.scalar(sa.select(sa.func.count()).where(schema.spent.c.owner == b"loser")) == 0
            assert tx.scalar(sa.select(sa.func.count()).where(schema.spent.c.owner == b"winner")) == 1
    assert steps[1] < steps[0] + 10


def test_a_hello_that_is_called_like_an_order_frees_none_of_its_coins(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    ticket = customer.tickets[-1]
    session = customer.shop()
    order = customer.order()
    session.say(order.place)
    keeper.hear(messages.ForwardOrder)
    thief = Session(world, order.id)
    answer = thief.greet(messages.TicketCredential(ticket=ticket))
    assert isinstance(answer, messages.HelloRefused)
    assert answer.code == "double_spend"
    again = customer.order(coins=order.place.coins)
    assert session.refused(again.place) == "double_spend"


# --- refund --------------------------------------------------------------------------------------------


def refundable(customer: Customer, session: Session, keeper: Shopkeeper, amount: int = 100) -> Any:
    order = customer.order(amount)
    session.say(order.place)
    keeper.say(reject(keeper.hear(messages.ForwardOrder)))
    assert session.hear(messages.OrderAnswer).state == "refundable"
    return order


def test_a_refund_is_claimed_once_with_the_secret(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    order = refundable(customer, session, keeper)
    wanted = blinded(world, coins.spread(100, {}, 64))
    before = dump(world)
    assert session.refused(order.claim(wanted, claim_secret=bytes(32))) == "wrong_secret"
    assert session.refused(order.claim(wanted, claim_secret=order.status_secret)) == "wrong_secret"
    assert session.refused(order.claim(wanted, order_id=fresh())) == "not_found"
    assert session.refused(order.claim(blinded(world, [64, 32, 4, 1]))) == "wrong_amount"
    assert session.refused(order.claim(blinded(world, [0]))) == "unknown_key"
    assert dump(world) == before
    # Any shop session may: the secret says whose it is.
    issued = customer.shop().ask(order.claim(wanted), messages.RefundIssued)
    assert order_state(world, order.id) == "refunded"
    assert session.ask(order.claim(wanted), messages.RefundIssued) == issued
    assert session.refused(order.claim(blinded(world, [64, 32, 4]))) == "idempotency_conflict"
    assert session.ask(order.asked, messages.OrderAnswer).state == "refunded"
    money = wanted.unblind(issued.signatures)
    again = customer.order(100, coins=money)
    session.say(again.place)
    assert keeper.hear(messages.ForwardOrder).order_id == again.id
    assert check_books(world)["escrow"] == 100


def test_two_claims_at_once_issue_one_refund(world: World, customer: Customer, keeper: Shopkeeper) -> None:
    session = customer.shop()
    order = refundable(customer, session, keeper)
    session.say(*(order.claim(blinded(world, [64, 32, 4])) for _ in "12"))
    assert session.hear(messages.RefundIssued)
    assert session.hear(messages.Refused).code == "idempotency_conflict"
    assert check_books(world).get("escrow", 0) == 0


@pytest.mark.parametrize("answered", [False, True])
def test_an_open_or_captured_order_has_no_refund(
    world: World, customer: Customer, keeper: Shopkeeper, *, answered: bool
) -> None:
    session = customer.shop()
    order = customer.order(100)
    session.say(order.place)
    forward = keeper.hear(messages.ForwardOrder)
    if answered:
        keeper.say(accept(forward))
        session.hear(messages.OrderAnswer)
    assert session.refused(order.claim(blinded(world, [64, 32, 4]))) == "wrong_state"


# --- the books -----------------------------------------------------------------------------------------


def test_a_posting_that_does_not_sum_to_zero_is_a_bug(world: World) -> None:
    with pytest.raises(ledger.UnbalancedError), world.broker.store.immediate() as tx:
        ledger.post(tx, fresh(), {"escrow": 5, "operator": -4}, 0)


def test_a_balance_never_falls_below_zero(world: World) -> None:
    world.account("alice", "correct horse", 10)
    with pytest.raises(RefusedError, match="insufficient_funds"), world.broker.store.immediate() as tx:
        ledger.change_balance(tx, 1, -11)


def test_a_claim_lock_is_a_hash(customer: Customer) -> None:
    order = customer.order()
    assert order.place.claim_lock == hashlib.sha256(order.claim_secret).digest()
