"""What a restored wallet was told is unknown stays unknown: its old self's swap or order comes too late."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from client import Customer, Order, Shopkeeper, blinded, dump, fresh, settle
from conftest import Time
from customer_shop import Bazaar, build, home
from racing import Replica
from test_broker_settlement import books
from test_customer_restore import LIMITS, by_value, recover, restored
from test_kept_refusals import kept, start_again
from world import Publish, World

from broker_node import kept_refusals, schema
from broker_node.sends import Session as Sender
from common import messages, slots
from common.config import MINUTE_MS
from common.core import Arrival, Job
from common.errors import NotFoundError, RejectedError, VeilmartError
from customer_node import Market, finding
from customer_node.sessions import FRESHNESS_MS
from customer_node.sessions import Session as CustomerSession


def swap_of(world: World, customer: Customer, amount: int = 64) -> messages.Swap:
    half = amount // 2
    wanted = blinded(world, [half, half]).tokens
    return messages.Swap(operation=fresh(), coins=customer.pay(amount), blinded=wanted)


def search_for(request: Any, order: Order | None = None) -> Any:
    return order.find() if order else messages.RepeatSwap(operation=request.operation)


# --- at the broker -------------------------------------------------------------------------------------


@pytest.mark.parametrize("restarts", [False, True], ids=["at once", "after a restart"])
def test_what_comes_after_not_found_is_refused_with_nothing_written(
    world: World, customer: Customer, keeper: Shopkeeper, *, restarts: bool
) -> None:
    lost, searching, order = customer.shop(), customer.shop(), customer.order(64)
    swap = swap_of(world, customer)
    frames = [(swap.operation, lost.seal(swap)), (order.id, lost.seal(order.place))]
    for question in (search_for(swap), order.find()):
        assert searching.refused(question) == "not_found"
    if restarts:
        start_again(world)
    before = dump(world)
    for reference, frame in frames:
        lost.put(frame)
        assert lost.hear(messages.Refused) == messages.Refused(reference=reference, code="given_up")
    assert dump(world) == before
    assert keeper.collect() == []
    # What was searched for stays unknown, and the coins are whose they were.
    for question in (search_for(swap), order.find()):
        assert searching.refused(question) == "not_found"
    searching.ask(msgspec.structs.replace(swap, operation=fresh()), messages.Swapped)
    searching.say(customer.order(64, coins=order.place.coins).place)
    assert keeper.hear(messages.ForwardOrder).amount == 64
    books(world)


def test_a_swap_that_is_being_signed_is_not_executed_any_more(world: World, customer: Customer) -> None:
    """By another broker on the same store than the one that is asked."""
    session, swap = customer.shop(), swap_of(world, customer)
    sender = Sender(session.sid, "shop", None, None, None)
    world.stop("broker")
    one, other = Replica(world.broker_home), Replica(world.broker_home)
    (job,) = [send for send in one.decide(Arrival(sender, fresh(), swap)) if isinstance(send, Job)]
    signed = job.done(job.work())
    (unknown,) = other.decide(Arrival(sender, fresh(), search_for(swap)))
    assert unknown.body.code == "not_found"
    (refused,) = one.decide(signed[0])
    assert refused.body == messages.Refused(reference=swap.operation, code="given_up")
    for replica in (one, other):
        replica.close()
    world.start_broker()
    with world.broker.store.immediate() as tx:
        marks = tx.scalar(sa.select(sa.func.count()).select_from(schema.spent))
    assert marks == 1, "the ticket alone"
    books(world)


def test_what_came_first_is_found(world: World, customer: Customer, keeper: Shopkeeper) -> None:
    session, swap, order = customer.shop(), swap_of(world, customer), customer.order(64)
    swapped = session.ask(swap, messages.Swapped)
    # In one frame: the question about it comes with it.
    session.say(order.find(), order.place)
    assert session.hear(messages.OrderFound).state == "held"
    assert keeper.hear(messages.ForwardOrder).order_id == order.id
    assert session.ask(search_for(swap), messages.Swapped) == swapped
    assert kept(world) == []


def test_an_order_id_is_given_up_with_its_claim_secret_alone(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    """Whoever learns an order's id keeps nobody out: the order of another lock is another one."""
    session, order = customer.shop(), customer.order(64)
    stranger = messages.FindOrder(order_id=order.id, claim_secret=bytes(32), after=0)
    assert customer.shop().refused(stranger) == "not_found"
    session.say(order.place)
    assert keeper.hear(messages.ForwardOrder).order_id == order.id
    assert customer.shop().refused(stranger) == "wrong_secret"


def test_a_swap_is_not_given_up_by_an_orders_id_nor_the_other_way_round(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session, order, swap = customer.shop(), customer.order(64), swap_of(world, customer)
    claim = bytes(32)
    named = messages.FindOrder(order_id=swap.operation, claim_secret=claim, after=0)
    assert session.refused(named) == "not_found"
    assert session.refused(messages.RepeatSwap(operation=order.id)) == "not_found"
    session.ask(swap, messages.Swapped)
    session.say(order.place)
    assert keeper.hear(messages.ForwardOrder).order_id == order.id


def test_it_is_kept_for_two_windows_after_it_was_last_said(
    world: World, customer: Customer, time: Time
) -> None:
    window = world.broker.limits.freshness_ms
    session, swap = customer.shop(), swap_of(world, customer)
    assert session.refused(search_for(swap)) == "not_found"
    ((known_by, until),) = kept(world)
    for question, code in ((search_for(swap), "not_found"), (swap, "given_up")):
        time.advance(window)
        assert session.refused(question) == code
        ((again, later),) = kept(world)
        assert again == known_by
        assert window <= later - until < window + MINUTE_MS
        until = later
    # Whoever sends it now is alive, and no older copy counts any more.
    time.advance(2 * window + MINUTE_MS)
    settle(world)
    assert kept(world) == []
    swapped = customer.shop().ask(swap, messages.Swapped)
    assert customer.shop().ask(search_for(swap), messages.Swapped) == swapped


def test_a_session_is_told_so_often_and_then_hears_that_it_is_too_much(
    world: World, customer: Customer, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_refusals, "GIVEN_UP_OF_A_SESSION", 3)
    monkeypatch.setattr(kept_refusals, "REFUSALS_OF_A_SESSION", 1)
    session, other = customer.shop(), customer.shop()
    swaps = [swap_of(world, customer, amount) for amount in (64, 32, 16, 8)]
    codes = [session.refused(search_for(swap)) for swap in swaps]
    assert codes == ["not_found"] * 3 + ["busy"]
    assert len(kept(world)) == 3
    # What is kept is said again, and what is busy has given nothing up.
    assert session.refused(search_for(swaps[0])) == "not_found"
    other.ask(swaps[3], messages.Swapped)
    # What is refused has room of its own, and what was given up takes none of it, whatever its content.
    for given_up in (swaps[0], msgspec.structs.replace(swaps[0], coins=swaps[1].coins)):
        assert session.refused(given_up) == "given_up"
    other_id = msgspec.structs.replace(swaps[0], operation=fresh(), blinded=swaps[1].blinded[:1])
    assert session.refused(other_id) == "wrong_amount"
    time.advance(2 * world.broker.limits.freshness_ms)
    assert session.refused(messages.RepeatSwap(operation=fresh())) == "not_found"


def test_nothing_but_what_is_searched_for_is_given_up(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    """A wallet that asks about an order which is still on its way does not lose it by that."""
    session, order = customer.shop(), customer.order(64)
    assert session.refused(order.asked) == "not_found"
    assert session.refused(order.cancelled) == "not_found"
    assert kept(world) == []
    session.say(order.place)
    assert keeper.hear(messages.ForwardOrder).order_id == order.id


# --- in the wallet -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bazaar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bazaar]:
    built = build(tmp_path_factory.mktemp("bazaar"), limits=LIMITS)
    yield built
    built.world.close()


def a_swap(market: Market) -> None:
    def swap(session: Any) -> None:
        funds = market._resume._funds
        funds._context.broker(session.link)
        with market._context.profile.store.immediate() as tx:
            begun = funds._begin(tx, [512, 16], [256, 256, 8, 8], slots.month_of(session.now))
        funds.finish(session, begun)

    market._shop.within("change", swap)


def an_order(market: Market) -> None:
    market.buy_now("sports", "EMPTY")


def dies(bazaar: Bazaar, market: Market, action: Callable[[Market], None]) -> list[Publish]:
    """Do something, and lose every frame from the one on that moves the money: gives those."""
    post, carried = CustomerSession.post, [False]
    held: list[Publish] = []

    def posting(session: Any, *bodies: Any) -> None:
        carried[0] = carried[0] or any(
            isinstance(body, messages.Swap | messages.PlaceOrder) for body in bodies
        )
        post(session, *bodies)

    def hold(publish: Publish) -> list[Publish]:
        if not carried[0] or not publish.topic.endswith("/up"):
            return [publish]
        held.append(publish)
        return []

    with bazaar.tampering(hold), pytest.MonkeyPatch.context() as patched:
        patched.setattr(CustomerSession, "post", posting)
        with pytest.raises(VeilmartError):
            action(market)
    assert held
    return held


@pytest.mark.parametrize("action", [a_swap, an_order])
def test_a_restored_wallet_loses_nothing_to_what_its_old_self_had_on_the_bus(
    bazaar: Bazaar, action: Callable[[Market], None]
) -> None:
    with bazaar.customer(timeout_s=0.5) as market:
        name, spelled = home(market).name, market.words()
        before = by_value(market)
        held = dies(bazaar, market, action)
    bazaar.world.forget_customer(name)
    orders = dump(bazaar.world)["orders"]
    with restored(bazaar, f"new disk of {name}", spelled) as market:
        shown = recover(market, name)
        assert shown.complete, shown
        assert by_value(market) == before
        for publish in held:
            bazaar.world.bus.deliver(publish)
        bazaar.world.pump(lambda: False, 0.2)
        assert dump(bazaar.world)["orders"] == orders
        # All of it can be spent, to the last coin.
        for price in (4000 - 3, 3):
            bazaar.world.merchants["maps"].inventory.edit("EMPTY", price=price)
            market.buy_now("maps", "EMPTY")
        assert market.wallet().usable == 0
    books(bazaar.world)


def test_a_wallet_that_lives_takes_it_for_a_refusal_and_goes_on_later(time: Time, tmp_path: Path) -> None:
    """Its words were used elsewhere: the coins are free, and its numbers rest for a while."""
    bazaar = build(tmp_path, limits=LIMITS)
    with bazaar.customer(timeout_s=0.5, clock=time.now) as market:
        name, spelled = home(market).name, market.words()
        dies(bazaar, market, a_swap)
        market.log_out()
        with restored(bazaar, "new disk", spelled) as other:
            assert recover(other, name).complete
        (swap,) = [item for item in market.resume() if item.kind == "swap"]
        assert swap.outcome == "refused"
        for attempt in "12":
            with pytest.raises(RejectedError, match="restored") as refused:
                market.buy_now("sports", "PLAN", idempotency_key=attempt)
            assert "ten minutes" in str(refused.value.hint)
        assert (market.wallet().usable, market.wallet().open_operations) == (4000, 0)
        time.advance(2 * FRESHNESS_MS + MINUTE_MS)
        bazaar.world.pump(lambda: kept(bazaar.world) == [])
        market.buy_now("sports", "PLAN")
    bazaar.world.close()


def test_a_long_search_goes_on_in_another_session_before_it_is_too_much(
    bazaar: Bazaar, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: Counter[bytes] = Counter()
    ask = CustomerSession.ask

    def counting(session: Any, question: Any, *more: Any) -> Any:
        try:
            return ask(session, question, *more)
        except NotFoundError:
            asked[session.link.session] += isinstance(question, messages.RepeatSwap | messages.FindOrder)
            raise

    with bazaar.customer() as market:
        name, spelled = home(market).name, market.words()
        before = by_value(market)
    monkeypatch.setattr(finding, "MOST_UNKNOWN", 40)
    monkeypatch.setattr(kept_refusals, "GIVEN_UP_OF_A_SESSION", 40)
    monkeypatch.setattr(CustomerSession, "ask", counting)
    with restored(bazaar, f"new disk of {name}", spelled) as market:
        assert recover(market, name).complete
        assert by_value(market) == before
    assert len(asked) > 2
    assert max(asked.values()) == 40


def test_the_wallet_asks_less_than_the_broker_bears() -> None:
    assert 2 * finding.MOST_UNKNOWN <= kept_refusals.GIVEN_UP_OF_A_SESSION
