"""Whatever a node receives, played again or changed, at the broker: refused, counted, and nothing changes.

The kinds of messages that have to occur are read off the types that the broker decodes: one that is added
there and not to `visit` fails the tests. `test_replays_merchant.py` and
`test_replays_customer.py` are about what the broker sends.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

import pytest
from client import (
    Customer,
    Peer,
    Session,
    Shopkeeper,
    accept,
    blinded,
    dump,
    fresh,
    reject,
    settle,
    sign_up,
)
from conftest import Time
from samples import CARD
from world import Publish, World

from broker_node import gate, totp
from common import clock, frames, messages, topics
from common.config import DAY_MS, HOUR_MS, MINUTE_MS

SEALED = b"s" * 64
SCOPES: dict[str, Any] = {
    "account": messages.FromAccount,
    "shop": messages.FromShop,
    "merchant": messages.FromMerchant,
}
RECEIVED = {f"{scope} {kind.__name__}" for scope, union in SCOPES.items() for kind in get_args(union)} | {
    f"Hello {kind.__name__}" for kind in get_args(messages.Credential)
}
"""Every kind of message that the broker receives."""


def refused(world: World) -> dict[str, int]:
    return dict(world.running["broker"].loop.refused)


def usage(world: World) -> dict[bytes, tuple[int, int]]:
    """What else is known about a session, for its idleness and its budget."""
    live = world.broker.broker._sessions._live
    return {sid: (session.last_seen, session.bytes_used) for sid, session in live.items()}


@dataclass(frozen=True)
class Sent:
    """A frame on its way to the broker, by whom, and whether its session is over by now."""

    publish: Publish
    peer: Peer
    kinds: frozenset[str]
    over: bool

    @property
    def hello(self) -> bool:
        return len(self.publish.payload) == frames.HELLO_SIZE


# --- a visit with everything in it ---------------------------------------------------------------------


def visit(world: World, customer: Customer, keeper: Shopkeeper) -> list[Sent]:
    """Let everything happen once, and give every frame that the broker got."""
    newcomer = Session(world)
    assert isinstance(newcomer.greet(sign_up("bob", "long enough")), messages.Welcome)
    session, account = customer.shop(), customer.account()
    world.fund(customer.name, 64)
    account.ask(messages.GetBalance(request=fresh()), messages.Balance)
    account.ask(messages.BeginRestore(operation=fresh()), messages.RestoreBegun)
    account.ask(messages.FetchIssued(request=fresh(), after=0), messages.Issued)
    pay_in(account)
    customer.withdraw(account, [64], 1)
    buy(customer, session, keeper)
    claim(customer, session, keeper)
    paid, change = customer.pay(16), blinded(world, [8, 8])
    swap = messages.Swap(operation=fresh(), coins=paid, blinded=change.tokens)
    swapped = session.ask(swap, messages.Swapped)
    assert session.ask(messages.RepeatSwap(operation=swap.operation), messages.Swapped) == swapped
    session.say(messages.AskMerchant(request=fresh(), merchant="sports", sealed=SEALED))
    forward = keeper.hear(messages.Forward)
    keeper.say(messages.AnswerForward(reference=forward.reference, token=forward.token, answer=SEALED))
    session.hear(messages.MerchantAnswer)
    fetch(session, keeper)
    changing = customer.account()
    change_accounts(newcomer, changing)
    leaving = [customer.shop(), customer.account()]
    for one in leaving:
        one.ask(messages.LogOut(request=fresh()), messages.LoggedOut)
    settle(world)
    peers: list[Peer] = [newcomer, session, account, changing, keeper, *leaving]
    for peer in peers:
        peer.collect()
    return list(found(world, peers, leaving))


def pay_in(account: Session) -> None:
    request = messages.TopUp(operation=fresh(), amount=500, currency="EUR", card=CARD)
    assert account.ask(request, messages.TopUpAnswer).state == "pending"
    assert account.hear(messages.TopUpAnswer).state == "charged"
    account.ask(messages.AskTopUp(operation=request.operation), messages.TopUpAnswer)


def change_accounts(closing: Session, changing: Session) -> None:
    secret, now = bytes(range(20)), clock.now_ms() // totp.STEP_MS
    shown: dict[str, Any] = {"password": "long enough"}
    enable = messages.EnableTotp(request=fresh(), secret=secret, code=totp.code_at(secret, now), **shown)
    closing.ask(enable, messages.AccountChanged)
    # The next step's code counts too: this one is used.
    disable = messages.DisableTotp(request=fresh(), code=totp.code_at(secret, now + 1), **shown)
    closing.ask(disable, messages.AccountChanged)
    closing.ask(messages.CloseAccount(request=fresh(), code="", **shown), messages.AccountChanged)
    other = messages.ChangePassword(
        request=fresh(), password="correct horse", new_password="correct horse", device=bytes(32), code=""
    )
    changing.ask(other, messages.AccountChanged)


def buy(customer: Customer, session: Session, keeper: Shopkeeper) -> None:
    order = customer.order(64)
    session.say(order.place)
    keeper.say(accept(keeper.hear(messages.ForwardOrder)))
    session.hear(messages.OrderAnswer)
    keeper.hear(messages.OrderOutcome)
    keeper.say(messages.OutcomeKept(order_id=order.id, outcome="captured"))
    session.ask(order.asked, messages.OrderAnswer)
    session.say(order.kept)
    dispute(customer, session, keeper)
    keeper.say(messages.RefundOrder(order_id=order.id, refund=fresh(), amount=4))
    keeper.hear(messages.RefundTaken)
    assert session.ask(order.confirmed, messages.OrderAnswer).state == "settled"
    keeper.ask(messages.GetStatement(request=fresh(), after=0), messages.Statement)
    wanted = messages.RequestPayout(payout_id=fresh(), amount=10, destination="an account")
    assert keeper.ask(wanted, messages.PayoutAnswer).state == "requested"


def dispute(customer: Customer, session: Session, keeper: Shopkeeper) -> None:
    order = customer.order(8)
    session.say(order.place)
    keeper.say(accept(keeper.hear(messages.ForwardOrder)))
    session.hear(messages.OrderAnswer)
    assert session.ask(order.dispute(), messages.OrderAnswer).state == "disputed"
    keeper.hear(messages.DisputeOpened)
    keeper.say(messages.OutcomeKept(order_id=order.id, outcome="disputed"))
    keeper.ask(messages.AnswerDispute(order_id=order.id, statement="It came"), messages.DisputeAnswered)


def claim(customer: Customer, session: Session, keeper: Shopkeeper) -> None:
    order = customer.order(32)
    session.say(order.place)
    keeper.say(reject(keeper.hear(messages.ForwardOrder)))
    assert session.hear(messages.OrderAnswer).state == "refundable"
    assert session.ask(order.cancelled, messages.OrderAnswer).state == "refundable"
    issued = session.ask(order.claim(blinded(customer.world, [32])), messages.RefundIssued)
    found = session.ask(order.find(), messages.OrderFound)
    assert (found.state, found.claims) == ("refunded", [issued.signatures])


def fetch(session: Session, keeper: Shopkeeper) -> None:
    for served in (True, False):
        session.say(messages.FetchCells(request=fresh(), merchant="sports", cells=1, sealed=SEALED))
        asked = keeper.hear(messages.ForwardFetch)
        if served:
            keeper.say_cell(messages.Cells(reference=asked.reference, token=asked.token, cells=[bytes(100)]))
            session.hear(messages.MerchantCells)
        else:
            refusal = messages.FetchRefused(reference=asked.reference, token=asked.token, answer=SEALED)
            keeper.say(refusal)
            session.hear(messages.MerchantAnswer)


def found(world: World, peers: list[Peer], leaving: list[Any]) -> Iterator[Sent]:
    by_topic = {peer.up: peer for peer in peers}
    by_topic |= {peer.cells: peer for peer in peers if isinstance(peer, Shopkeeper)}
    hello_keys = world.broker.keys.hello.by_id
    for publish in list(world.bus.passed):
        peer = by_topic.get(publish.topic)
        if peer is None:
            continue
        frame = publish.payload
        if len(frame) == frames.HELLO_SIZE:
            key = hello_keys[frames.hello_key_id(frame)]
            hello = frames.open_hello(key, world.market.market_id, publish.topic, frame)
            kinds = {f"Hello {type(hello.credential).__name__}"}
        else:
            assert peer.keys is not None
            assert peer.welcome is not None
            scope = peer.welcome.scope
            content = frames.open_frame(peer.keys.up, publish.topic, frame)
            kinds = {f"{scope} {type(e.body).__name__}" for e in gate._CODECS[scope].unpack(content)}
        yield Sent(publish, peer, frozenset(kinds), peer in leaving)


def play(world: World, publish: Publish, topic: str | None = None) -> list[Publish]:
    """Play a frame again, and give what the broker says to anybody for it."""
    world.bus.publish("the bus", topic or publish.topic, publish.payload, retain=False)
    before = len(world.bus.passed)
    settle(world)
    return [p for p in world.bus.passed[before:] if p.topic.endswith(("/down", "/in"))]


@pytest.fixture
def sent(world: World, customer: Customer, keeper: Shopkeeper) -> list[Sent]:
    return visit(world, customer, keeper)


def test_the_visit_has_every_kind_of_message_that_the_broker_receives(sent: list[Sent]) -> None:
    assert SCOPES.keys() == gate._CODECS.keys()
    assert frozenset().union(*(each.kinds for each in sent)) == RECEIVED
    assert all(len(each.kinds) == 1 for each in sent), "else a kind would hide behind another"


# --- replays -------------------------------------------------------------------------------------------


def test_a_replay_in_time_is_refused_and_changes_nothing(world: World, sent: list[Sent]) -> None:
    answers = {publish.payload for publish in world.bus.passed if publish.topic.endswith(("/down", "/in"))}
    before = dump(world), usage(world)
    for each in sent:
        counted, over = refused(world), world.broker.broker.refused["session_over"]
        said = play(world, each.publish)
        if each.hello:
            # The same bytes get the same Welcome; those of a session that was logged out get nothing.
            assert len(said) == (not each.over)
            assert {publish.payload for publish in said} <= answers
            assert refused(world) == counted
            assert world.broker.broker.refused["session_over"] == over + each.over
        else:
            assert said == [], each.kinds
            reason = "stale" if each.over else "replayed"
            assert refused(world) == {**counted, reason: counted.get(reason, 0) + 1}, each.kinds
        assert (dump(world), usage(world)) == before, each.kinds


@pytest.mark.parametrize("later", [6 * MINUTE_MS, 2 * DAY_MS + HOUR_MS])
def test_a_late_replay_is_refused_and_changes_nothing(
    world: World, sent: list[Sent], time: Time, later: int
) -> None:
    assert world.broker.limits.freshness_ms < later
    time.advance(later)
    settle(world)
    before = dump(world), usage(world)
    hellos_open = later < DAY_MS
    for each in sent:
        counted = refused(world)
        said = play(world, each.publish)
        if each.hello and hellos_open:
            assert len(said) == (not each.over)
        else:
            assert said == []
            assert refused(world) == {**counted, "stale": counted.get("stale", 0) + 1}, each.kinds
        assert (dump(world), usage(world)) == before, each.kinds


def test_a_replay_to_another_topic_is_refused_and_changes_nothing(
    world: World, customer: Customer, keeper: Shopkeeper, sent: list[Sent]
) -> None:
    films = Shopkeeper(world, "films")
    places = {films.up, films.cells, keeper.cells, topics.merchant_status("sports")}
    places |= {each.publish.topic for each in sent} | {customer.shop().up, topics.session_up(fresh())}
    before, usage_before = dump(world), usage(world)
    for each in sent:
        for topic in places - {each.publish.topic}:
            counted = sum(refused(world).values())
            assert play(world, each.publish, topic) == [], (each.kinds, topic)
            assert sum(refused(world).values()) == counted + 1, (each.kinds, topic)
    assert (dump(world), usage(world)) == (before, usage_before)


def test_a_replay_after_a_restart_changes_nothing_and_is_refused_the_second_time(
    world: World, sent: list[Sent]
) -> None:
    before = dump(world)
    world.stop("broker")
    world.start_broker()
    for each in sent:
        play(world, each.publish)
        assert dump(world) == before, each.kinds
    for each in sent:
        counted = sum(refused(world).values())
        said = play(world, each.publish)
        assert sum(refused(world).values()) == counted + (not each.hello), each.kinds
        assert len(said) == (each.hello and not each.over), each.kinds
    assert dump(world) == before
    assert world.running["broker"].loop.quarantined == 0


def test_everything_again_in_one_batch_after_a_restart_changes_nothing(
    world: World, sent: list[Sent]
) -> None:
    before = dump(world)
    world.stop("broker")
    world.start_broker()
    for each in [*reversed(sent), *sent]:
        world.bus.deliver(each.publish)
    settle(world)
    assert dump(world) == before
    assert world.running["broker"].loop.quarantined == 0


def test_a_replay_in_the_same_batch_changes_nothing(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    frame = session.seal(customer.order().place)
    for _ in range(3):
        session.put(frame)
    assert len(keeper.collect()) == 1
    question = session.seal(messages.AskMerchant(request=fresh(), merchant="sports", sealed=SEALED))
    session.put(question)
    session.put(question)
    assert len(keeper.collect()) == 1
    assert refused(world) == {"replayed": 3}


def test_a_message_from_the_future_is_stale(world: World, customer: Customer) -> None:
    session = customer.shop()
    question = messages.AskOrder(order_id=fresh(), status_secret=bytes(32))
    window = world.broker.limits.freshness_ms
    session.put(session.seal(question, at=clock.now_ms() + window + MINUTE_MS))
    assert session.collect() == []
    session.put(session.seal(question, at=clock.now_ms() + window - MINUTE_MS))
    assert session.hear(messages.Refused).code == "not_found"
    assert refused(world) == {"stale": 1}


# --- an old Hello of a merchant ------------------------------------------------------------------------


def test_an_old_hello_of_a_merchant_opens_no_session(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    """The bus keeps one `Hello` back, the next one is answered, and then the first one arrives."""
    answered = keeper.hello_frame
    tamper, world.bus.tamper = world.bus.tamper, lambda _: []
    secret = bytes(32)
    keeper.put_hello(keeper.credential(secret, 2), secret=secret)
    kept_back, keeper.counter = keeper.hello_frame, 2
    world.bus.tamper = tamper
    assert isinstance(keeper.log_in(), messages.Welcome)
    assert keeper.welcome is not None
    before = dump(world)
    (row,) = before["merchants"]
    assert {3, keeper.welcome.session} <= set(row)
    for restart in (False, True):
        if restart:
            world.stop("broker")
            world.start_broker()
            settle(world)
            keeper.connection.take(1000)
        for hello, kind in ((kept_back, messages.HelloRefused), (answered, messages.Welcome)):
            (said,) = play(world, Publish("the bus", keeper.up, hello, retain=False))
            if kind is messages.HelloRefused:
                refusal, _ = frames.open_welcome(hello, secret, keeper.ephemeral, keeper.down, said.payload)
                assert refusal == messages.HelloRefused(code="authentication", retry_after_ms=0)
            else:
                # Answered once already: the same answer, which is of no use to anybody by now.
                assert said.payload in [p.payload for p in world.bus.passed if p is not said]
            assert dump(world) == before
        keeper.connection.take(1000)
        # The session that there is goes on.
        session = customer.shop()
        before = dump(world)
        session.say(messages.AskMerchant(request=fresh(), merchant="sports", sealed=SEALED))
        assert keeper.hear(messages.Forward)
