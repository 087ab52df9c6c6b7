"""What was refused stays refused: a copy that comes when the reason has gone hears the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import msgspec
import pytest
import sqlalchemy as sa
from client import Customer, Order, Peer, Session, Shopkeeper, accept, blinded, dump, fresh, settle
from conftest import Time
from racing import Replica
from test_broker_settlement import books, bought
from test_payments import break_the_books, mend
from world import World

from broker_node import delays, kept_refusals, ledger, schema, totp
from broker_node.sends import Session as Sender
from common import clock, messages
from common.config import MINUTE_MS
from common.core import Arrival, Job

REFUSED = (messages.Refused, messages.PayoutRefused)

Story: TypeAlias = Callable[[World, Customer, Shopkeeper], Iterator[tuple[Peer, Any]]]
"""Gives who asks for what, which is refused; then takes the reason away."""


def withdrawal(world: World, value: int, tickets: int = 0) -> messages.Withdraw:
    coins = blinded(world, [value] if value else []).tokens
    return messages.Withdraw(operation=fresh(), coins=coins, tickets=blinded(world, [0] * tickets).tokens)


def a_withdrawal(world: World, customer: Customer, _keeper: Shopkeeper) -> Iterator[tuple[Peer, Any]]:
    yield customer.account(), withdrawal(world, 64)
    world.fund(customer.name, 64)


def a_swap(world: World, customer: Customer, _keeper: Shopkeeper) -> Iterator[tuple[Peer, Any]]:
    """Of a coin whose key another broker on this store has just made."""
    request = messages.Swap(operation=fresh(), coins=customer.pay(64), blinded=blinded(world, [64]).tokens)
    key = request.blinded[0].key_id
    mint = world.broker.broker._exchange._mint
    issuer = mint.issuers.pop(key)
    yield customer.shop(), request
    mint.issuers[key] = issuer


def a_claim(world: World, customer: Customer, keeper: Shopkeeper) -> Iterator[tuple[Peer, Any]]:
    session = customer.shop()
    order = bought(customer, session, keeper)
    yield session, order.claim(blinded(world, [64]))
    give_back(keeper, order, 64)
    session.collect()


def a_dispute(world: World, customer: Customer, keeper: Shopkeeper) -> Iterator[tuple[Peer, Any]]:
    session, order = customer.shop(), customer.order(64)
    session.say(order.place)
    forward = keeper.hear(messages.ForwardOrder)
    yield session, order.dispute()
    keeper.say(accept(forward))
    assert session.hear(messages.OrderAnswer).state == "captured"
    keeper.say(messages.OutcomeKept(order_id=order.id, outcome="captured"))
    settle(world)


def a_refund(_world: World, customer: Customer, keeper: Shopkeeper) -> Iterator[tuple[Peer, Any]]:
    session = customer.shop()
    order = settled(customer, session, keeper)
    keeper.ask(payout(100), messages.PayoutAnswer)
    yield keeper, messages.RefundOrder(order_id=order.id, refund=fresh(), amount=10)
    settled(customer, session, keeper)


def a_payout(_world: World, customer: Customer, keeper: Shopkeeper) -> Iterator[tuple[Peer, Any]]:
    session = customer.shop()
    order = bought(customer, session, keeper)
    yield keeper, payout(100)
    session.ask(order.confirmed, messages.OrderAnswer)
    keeper.collect()


def a_second_factor(world: World, customer: Customer, _keeper: Shopkeeper) -> Iterator[tuple[Peer, Any]]:
    """Asked for too early after wrong passwords; who was told so would not know that it is there."""
    session = customer.account()
    row = {"name": delays.inside(1), "failures": 9, "not_before": 2**52}
    with world.broker.store.immediate() as tx:
        tx.insert(sa.insert(schema.login_delays), row)
    secret = bytes(20)
    code = totp.code_at(secret, clock.now_ms() // totp.STEP_MS)
    yield session, messages.EnableTotp(request=fresh(), password=customer.password, secret=secret, code=code)
    with world.broker.store.immediate() as tx:
        tx.execute(sa.delete(schema.login_delays))


STORIES: dict[str, tuple[Story, str]] = {
    story.__name__: (story, code)
    for story, code in (
        (a_withdrawal, "insufficient_funds"),
        (a_swap, "unknown_key"),
        (a_claim, "wrong_state"),
        (a_dispute, "wrong_state"),
        (a_refund, "insufficient_funds"),
        (a_payout, "insufficient_funds"),
        (a_second_factor, "authentication"),
    )
}


def payout(amount: int) -> messages.RequestPayout:
    return messages.RequestPayout(payout_id=fresh(), amount=amount, destination="a bank")


def give_back(keeper: Shopkeeper, order: Order, amount: int) -> None:
    keeper.ask(messages.RefundOrder(order_id=order.id, refund=fresh(), amount=amount), messages.RefundTaken)


def settled(customer: Customer, session: Session, keeper: Shopkeeper) -> Order:
    order = bought(customer, session, keeper)
    session.ask(order.confirmed, messages.OrderAnswer)
    keeper.collect()
    return order


def heard(peer: Peer, request: Any) -> Any:
    return peer.ask(request, messages.PayoutRefused | messages.Refused)


def another(request: Any) -> Any:
    """The same wish under an id of its own."""
    named = {"operation", "attempt", "refund", "payout_id", "request"} & {*request.__struct_fields__}
    return msgspec.structs.replace(request, **{name: fresh() for name in named})


def kept(world: World) -> list[tuple[bytes, int]]:
    with world.broker.store.immediate() as tx:
        return [(row["request"], row["until"]) for row in tx.all(sa.select(schema.refusals))]


def start_again(world: World) -> None:
    """Let the broker forget which frames it has seen, and whom it has counted."""
    world.stop("broker")
    world.start_broker()
    settle(world)


# --- copies --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STORIES)
def test_a_copy_that_comes_when_the_reason_has_gone_changes_nothing(
    world: World, customer: Customer, keeper: Shopkeeper, name: str
) -> None:
    story, code = STORIES[name]
    told = story(world, customer, keeper)
    peer, request = next(told)
    frame = peer.seal(request)
    peer.put(frame)
    (refusal,) = [body for body in peer.collect() if isinstance(body, REFUSED)]
    assert refusal.code == code
    assert list(told) == []
    before = dump(world)
    # A second send that was late, and the very same frame after a restart.
    assert heard(peer, request) == refusal
    start_again(world)
    peer.put(frame)
    settle(world)
    assert [body for body in peer.collect() if isinstance(body, REFUSED)] == [refusal]
    assert dump(world) == before
    # The reason has gone indeed.
    peer.say(another(request))
    world.pump(lambda: dump(world) != before)
    assert not [body for body in peer.collect() if isinstance(body, REFUSED)]
    books(world)


def test_a_copy_that_was_signed_meanwhile_is_handed_to_nobody(world: World, customer: Customer) -> None:
    world.fund(customer.name, 64)
    session, request = customer.account(), withdrawal(world, 64)
    with world.broker.store.immediate() as tx:
        row = tx.one(sa.select(schema.sessions).where(schema.sessions.c.sid == session.sid))
    assert row is not None
    sender = Sender(row["sid"], "account", row["account"], row["generation"], None)
    world.stop("broker")
    one, other = Replica(world.broker_home), Replica(world.broker_home)
    (job,) = [send for send in one.decide(Arrival(sender, fresh(), request)) if isinstance(send, Job)]
    with one._node.store.immediate() as tx:
        ledger.change_balance(tx, row["account"], -64)
    (refused,) = other.decide(Arrival(sender, fresh(), request))
    assert refused.body.code == "insufficient_funds"
    with one._node.store.immediate() as tx:
        ledger.change_balance(tx, row["account"], 64)
    (signed,) = job.done(job.work())
    assert one.decide(signed) == [refused]
    for replica in (one, other):
        replica.close()
    world.start_broker()
    assert books(world)[ledger.account_book(row["account"])] == 64


def test_two_copies_in_one_batch_are_refused_alike(world: World, customer: Customer) -> None:
    session, account = customer.shop(), customer.account()
    swap = messages.Swap(operation=fresh(), coins=customer.pay(64), blinded=blinded(world, [32]).tokens)
    for peer, request in ((session, swap), (account, withdrawal(world, 64))):
        before = len(kept(world))
        peer.say(request, request)
        assert len({msgspec.msgpack.encode(body) for body in peer.collect()}) == 1
        assert len(kept(world)) == before + 1
    assert world.running["broker"].loop.quarantined == 0


# --- what is bound, and how long -----------------------------------------------------------------------


def test_other_content_under_the_id_of_what_was_refused_is_looked_at(world: World) -> None:
    customer = Customer(world, extra=16)
    account, refused = customer.account(), withdrawal(world, 64)
    assert account.refused(refused) == "insufficient_funds"
    smaller = msgspec.structs.replace(refused, coins=blinded(world, [16]).tokens)
    answer = account.ask(smaller, messages.Withdrawn)
    assert account.refused(refused) == "insufficient_funds"
    assert account.ask(smaller, messages.Withdrawn) == answer
    books(world)


def test_a_merchants_refusals_are_its_own(world: World, customer: Customer, keeper: Shopkeeper) -> None:
    films, request = Shopkeeper(world, "films"), payout(100)
    assert films.ask(request, messages.PayoutRefused).code == "insufficient_funds"
    settled(customer, customer.shop(), keeper)
    assert keeper.ask(request, messages.PayoutAnswer).state == "requested"


def test_a_refusal_is_kept_for_two_windows_after_it_was_last_said(
    world: World, customer: Customer, time: Time
) -> None:
    window = world.broker.limits.freshness_ms
    account, request = customer.account(), withdrawal(world, 64)
    assert account.refused(request) == "insufficient_funds"
    ((known_by, until),) = kept(world)
    world.fund(customer.name, 64)
    time.advance(window)
    assert account.refused(request) == "insufficient_funds"
    ((again, later),) = kept(world)
    assert again == known_by
    assert window <= later - until < window + MINUTE_MS
    # Whoever has not heard it until now asks again, and no older copy counts any more.
    time.advance(2 * window + MINUTE_MS)
    settle(world)
    assert kept(world) == []
    assert account.ask(request, messages.Withdrawn).balance == 0


def test_what_passes_is_not_kept(world: World, customer: Customer) -> None:
    world.fund(customer.name, 64)
    account, request = customer.account(), withdrawal(world, 64)
    break_the_books(world)
    assert account.refused(request) == "payments_stopped"
    mend(world)
    with world.broker.store.immediate() as tx:
        tx.execute(sa.delete(schema.payments))
    assert kept(world) == []
    account.ask(request, messages.Withdrawn)


def test_a_session_has_so_many_refused_and_then_hears_that_it_is_too_much(
    world: World, customer: Customer, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_refusals, "REFUSALS_OF_A_SESSION", 3)
    account, other = customer.account(), customer.account()
    wishes = [withdrawal(world, 64) for _ in range(4)]
    codes = [account.refused(wish) for wish in wishes]
    assert codes == ["insufficient_funds"] * 3 + ["busy"]
    assert len(kept(world)) == 3
    # What is kept is said again, and nobody else has less room.
    assert account.refused(wishes[0]) == "insufficient_funds"
    assert other.refused(wishes[3]) == "insufficient_funds"
    time.advance(2 * world.broker.limits.freshness_ms)
    assert account.refused(withdrawal(world, 64)) == "insufficient_funds"


# --- what a restored wallet sees -----------------------------------------------------------------------


def test_a_restored_wallet_finds_nothing_of_what_was_refused(world: World, customer: Customer) -> None:
    session, account = customer.shop(), customer.account()
    swap = messages.Swap(operation=fresh(), coins=customer.pay(64), blinded=blinded(world, [32]).tokens)
    assert session.refused(swap) == "wrong_amount"
    assert session.refused(messages.RepeatSwap(operation=swap.operation)) == "not_found"
    issued = messages.FetchIssued(request=fresh(), after=0)
    drawn = len(account.ask(issued, messages.Issued).batches)
    assert account.refused(withdrawal(world, 64)) == "insufficient_funds"
    issued = messages.FetchIssued(request=fresh(), after=0)
    assert len(account.ask(issued, messages.Issued).batches) == drawn


def test_nothing_of_a_password_is_kept() -> None:
    sender = Sender(fresh(), "account", 1, 1, None)
    one, other = (
        messages.CloseAccount(request=bytes(16), password=password, code="") for password in ("one", "other")
    )
    assert kept_refusals.hash_of(sender, one) == kept_refusals.hash_of(sender, other)
