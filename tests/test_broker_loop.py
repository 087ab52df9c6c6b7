"""The broker under bad messages, slow logins and failures of its own; `test_replays.py` has the replays."""

from __future__ import annotations

import secrets
import socket
import threading
from typing import Any

import pytest
from client import Customer, Session, Shopkeeper, accept, fresh, log_in, order_state, settle
from structlog.testing import capture_logs
from world import World

from broker_node import accounts
from common import bus, clock, frames, grouping, messages, topics
from common.config import KIB
from common.core import Outgoing
from common.node import TooManyFailuresError

SEALED = b"s" * 64


def refused(world: World) -> dict[str, int]:
    return dict(world.running["broker"].loop.refused)


# --- slow logins ---------------------------------------------------------------------------------------


def test_slow_logins_delay_no_relay(
    world: World, customer: Customer, keeper: Shopkeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = customer.shop()
    free, started = threading.Event(), threading.Event()
    check = accounts.check_password

    def slow(*arguments: Any) -> Any:
        started.set()
        assert free.wait(30)
        return check(*arguments)

    monkeypatch.setattr(accounts, "check_password", slow)
    names = ["alice", "bob", "carol", "nobody"]
    for name in names[1:3]:
        world.account(name, customer.password, 0)
    logins = {name: Session(world) for name in names}
    try:
        for name, login in logins.items():
            login.put_hello(log_in(name, customer.password))
        world.pump(started.is_set)
        for _ in range(20):
            question = messages.AskMerchant(request=fresh(), merchant="sports", sealed=SEALED)
            session.say(question)
            forward = keeper.hear(messages.Forward)
            keeper.say(
                messages.AnswerForward(reference=forward.reference, token=forward.token, answer=SEALED)
            )
            assert session.hear(messages.MerchantAnswer).request == question.request
        order = customer.order()
        session.say(order.place)
        keeper.say(accept(keeper.hear(messages.ForwardOrder)))
        assert session.hear(messages.OrderAnswer).state == "captured"
        assert not any(login.connection.inbox for login in logins.values())
        assert not free.is_set()
    finally:
        free.set()
    for name, login in logins.items():
        assert isinstance(login.answer(), messages.Welcome) == (name != "nobody")


# --- no bus --------------------------------------------------------------------------------------------


def test_a_bus_that_is_away_is_logged_when_the_reason_changes(world: World) -> None:
    running = world.running["broker"]
    with capture_logs() as lines:
        for failure in ("refused", "refused", "timed out", "timed out", "", "", "timed out"):
            running.lanes["main"].failure = failure
            running.loop.round(0.0)
    running.lanes["main"].failure = ""
    assert [(line["log_level"], line["lane"], line.get("reason")) for line in lines] == [
        ("warning", "main", "refused"),
        ("warning", "main", "timed out"),
        ("info", "main", None),
        ("warning", "main", "timed out"),
    ]


def test_a_connection_says_why_its_last_attempt_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bus, "RECONNECT_LONGEST_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    settings = bus.Settings(bus.Address("127.0.0.1", port, None), "c" * 32, (topics.broker_card(),))
    connection = bus.Connection(settings)
    assert connection.failure == ""
    connection.wait(0.0)
    assert "Connection refused" in connection.failure
    with socket.create_server(("127.0.0.1", port)) as listener:
        while connection._client is None:
            connection.wait(1.0)
        # The reason stays until there is another, or a connection.
        assert "Connection refused" in connection.failure
        listener.accept()[0].close()
        while connection._client is not None:
            connection.wait(1.0)
    assert "Connection refused" not in connection.failure
    assert connection.failure


# --- one bad message -----------------------------------------------------------------------------------


def test_one_bad_message_in_a_batch_harms_no_other(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    good = [customer.order(64), customer.order(32)]
    frame = session.seal(messages.AskMerchant(request=fresh(), merchant="sports", sealed=SEALED))
    garbage = [
        b"",
        b"\x00",
        secrets.token_bytes(KIB),
        secrets.token_bytes(KIB + 1),
        b"\x01" + secrets.token_bytes(frames.HELLO_SIZE - 1),
        b"\x02" * frames.HELLO_SIZE,
        frame[:-1],
        frame[:40] + bytes([frame[40] ^ 1]) + frame[41:],
        bytes(192 * KIB),
        bytes(192 * KIB + 1),
    ]
    session.put(session.seal(good[0].place))
    for payload in garbage:
        session.put(payload)
        keeper.put(payload)
        keeper.connection.put(keeper.cells, payload)
        keeper.connection.put(topics.merchant_status("sports"), payload)
        keeper.connection.put(topics.session_up(fresh()), payload)
    session.put(session.seal(good[1].place))
    arrived = {
        body.order_id for body in (keeper.hear(messages.ForwardOrder), keeper.hear(messages.ForwardOrder))
    }
    assert arrived == {order.id for order in good}
    settle(world)
    # An empty status is no garbage: it clears the topic.
    assert sum(refused(world).values()) == 5 * len(garbage) - 1
    assert world.running["broker"].loop.quarantined == 0


def test_a_refused_message_is_refused_alone_within_its_frame(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    bad = messages.AskOrder(order_id=fresh(), status_secret=bytes(32))
    order = customer.order()
    session.say(bad, order.place, bad)
    assert keeper.hear(messages.ForwardOrder).order_id == order.id
    assert [session.hear(messages.Refused).code for _ in "12"] == ["not_found"] * 2


def test_one_id_twice_in_a_frame_is_malformed(world: World, customer: Customer) -> None:
    session = customer.shop()
    assert session.keys is not None
    question = messages.AskOrder(order_id=fresh(), status_secret=bytes(32))
    (content,) = grouping.pack_frames([question, question], clock.now_ms(), bytes)
    session.put(frames.seal_frame(session.keys.up, session.up, content, secrets.token_bytes(12)))
    assert session.collect() == []
    assert refused(world) == {"malformed": 1}


# --- failures of our own -------------------------------------------------------------------------------


class PlantedError(Exception):
    """Stands for a mistake of ours."""


def plant(world: World, monkeypatch: pytest.MonkeyPatch, culprit: bytes) -> None:
    """Make the handler of an `AskMerchant` with this request fail."""
    core = world.broker.broker
    genuine = core._handlers[messages.AskMerchant]

    def fails(tx: Any, sender: Any, message: Any, now: int, random: Any) -> Any:
        if message.request == culprit:
            raise PlantedError("with a secret: hunter2")
        return genuine(tx, sender, message, now, random)

    monkeypatch.setitem(core._handlers, messages.AskMerchant, fails)  # type: ignore[arg-type]


def test_a_failure_of_our_own_quarantines_the_culprit_alone(
    world: World, customer: Customer, keeper: Shopkeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = customer.shop(), customer.shop()
    culprit = messages.AskMerchant(request=fresh(), merchant="sports", sealed=SEALED)
    plant(world, monkeypatch, culprit.request)
    order, other = customer.order(64), customer.order(32)
    with capture_logs() as logs:
        first.say(order.place, culprit)
        second.say(other.place)
        second.say(messages.AskMerchant(request=fresh(), merchant="sports", sealed=SEALED))
        forwarded = {keeper.hear(messages.ForwardOrder).order_id for _ in "12"}
        assert keeper.hear(messages.Forward)
    assert forwarded == {order.id, other.id}
    assert world.running["broker"].loop.quarantined == 1
    assert keeper.collect() == []
    (entry,) = [log for log in logs if log["event"] == "quarantined"]
    assert (entry["error"], entry["message"]) == ("PlantedError", "AskMerchant")
    assert culprit.request.hex() not in repr(logs)


def test_a_rolled_back_batch_loses_no_answer(
    world: World, customer: Customer, keeper: Shopkeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = customer.shop()
    order = customer.order()
    session.say(order.place)
    forward = keeper.hear(messages.ForwardOrder)
    # The batches of orders come last, so it must be one of them that fails after the answer.
    core = world.broker.broker
    monkeypatch.setitem(core._batches, messages.AnswerKept, _fail)  # type: ignore[arg-type]
    keeper.say(accept(forward))
    session.say(order.kept)
    with capture_logs():
        assert session.hear(messages.OrderAnswer).state == "captured"
    assert world.running["broker"].loop.quarantined == 1
    assert order_state(world, order.id) == "captured"


def _fail(*_: Any) -> Any:
    raise PlantedError


def test_a_rolled_back_batch_forgets_no_logout(
    world: World, customer: Customer, keeper: Shopkeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaving, staying = customer.shop(), customer.shop()
    culprit = messages.AskMerchant(request=fresh(), merchant="sports", sealed=SEALED)
    plant(world, monkeypatch, culprit.request)
    leaving.say(messages.LogOut(request=fresh()))
    staying.say(culprit)
    with capture_logs():
        assert leaving.hear(messages.LoggedOut)
    assert world.running["broker"].loop.quarantined == 1
    leaving.say(messages.AskMerchant(request=fresh(), merchant="sports", sealed=SEALED))
    assert keeper.collect() == leaving.collect() == []
    assert refused(world) == {"stale": 1}


def test_after_too_many_failures_the_node_stops(
    world: World, customer: Customer, keeper: Shopkeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = customer.shop()
    core = world.broker.broker
    monkeypatch.setitem(core._handlers, messages.AskMerchant, _fail)  # type: ignore[arg-type]
    for _ in range(world.broker.limits.quarantine_before_stop):
        session.say(messages.AskMerchant(request=fresh(), merchant="sports", sealed=SEALED))
    with capture_logs() as logs, pytest.raises(TooManyFailuresError):
        settle(world)
    quarantined = [entry for entry in logs if entry["event"] == "quarantined"]
    assert len(quarantined) == world.broker.limits.quarantine_before_stop


def test_a_tick_that_is_rolled_back_announces_the_card_in_the_next_one(world: World) -> None:
    settle(world)
    node = world.broker
    node.broker.keys_changed()
    now = clock.now_ms()
    node.broker.begin()
    # Never told that it was committed: that is all a core sees of a commit that failed.
    with node.store.immediate() as tx:
        lost = node.broker.tick(tx, now, clock.random_bytes)
    assert [send.topic for send in lost if isinstance(send, Outgoing)] == [topics.broker_card()]
    for expected in ([topics.broker_card()], []):
        node.broker.begin()
        with node.store.immediate() as tx:
            sends = node.broker.tick(tx, now, clock.random_bytes)
        node.broker.seen([], now)
        assert [send.topic for send in sends if isinstance(send, Outgoing)] == expected
