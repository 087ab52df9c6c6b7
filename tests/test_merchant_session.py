"""The merchant's session: whom it greets, how it proves itself, when it greets again."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from merchant_world import MERCHANT, Identities, World, make_identities
from structlog.testing import capture_logs

from common import cards, config, frames, messages, topics
from common.config import HOUR_MS, MINUTE_MS, SECOND_MS
from common.core import Incoming
from common.credentials import MERCHANT_HELLO_LABEL, merchant_hello_statement
from common.errors import ForgedError, MalformedError, ReplayedError, StaleError, WireError
from common.grouping import pack_frames
from common.keys import verify_certificate, verify_identity
from common.sealing import XWingPrivateKey
from common.states import UnlistedStepError
from merchant_node.session import HELLO_LIFE_MS, REFUSED_RETRY_MS

IN = topics.merchant_in(MERCHANT)


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Identities:
    return make_identities(tmp_path_factory.mktemp("market"))


@pytest.fixture
def world(identities: Identities, tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path, identities)
    yield world
    world.close()


def greet(world: World) -> bytes:
    world.show_card()
    world.tick()
    (frame,) = world.hellos()
    return frame


def usable(world: World) -> bool:
    """Whether the merchant answers at all."""
    forward = messages.Forward(reference=bytes(16), token=bytes(76), sealed=bytes(64))
    before = world.merchant.refused["forged"]
    world.ask(forward)
    return world.merchant.refused["forged"] == before + 1


def test_nothing_is_sent_before_the_card_but_our_own(world: World) -> None:
    world.tick()
    assert world.hellos() == []
    assert world.merchant.session.state == "waiting_for_card"
    assert world.read_card().merchant == MERCHANT


def test_the_hello_proves_the_merchant(world: World) -> None:
    frame = greet(world)
    hello = frames.open_hello(world.hello_key, world.market.market_id, topics.merchant_out(MERCHANT), frame)
    credential = hello.credential
    assert isinstance(credential, messages.MerchantCredential)
    info = verify_certificate(credential.certificate, world.market.ca_der, world.now, "merchant")
    assert info.subject_id == MERCHANT
    statement = merchant_hello_statement(
        world.market.market_id,
        world.hello_key.public.key_id,
        hello.secret,
        hello.ephemeral,
        credential.counter,
    )
    verify_identity(info.public_key, MERCHANT_HELLO_LABEL, statement, credential.signature)


def test_the_statement_has_one_form() -> None:
    statement = merchant_hello_statement(b"m" * 16, b"k" * 8, b"s" * 32, b"e" * 1216, 258)
    assert len(statement) == 16 + 8 + 32 + 8
    assert statement[:24] == b"m" * 16 + b"k" * 8
    assert statement[-8:] == bytes([0, 0, 0, 0, 0, 0, 1, 2])
    assert b"s" * 32 not in statement


def test_the_counter_rises_over_restarts_and_a_clock_that_goes_back(world: World) -> None:
    counters = []
    for _ in range(3):
        _, hello = world.answer_hello(greet(world), world.welcome())
        counters.append(hello.credential.counter)  # type: ignore[union-attr]
        world.start()
        world.now -= HOUR_MS
    assert counters == sorted(set(counters))


def test_the_newest_hello_key_that_has_begun_is_used(world: World) -> None:
    later, older = XWingPrivateKey.generate(), XWingPrivateKey.generate()
    world.show_card(
        hello_keys=[
            messages.SlotKey(slot=world.now - 2 * config.DAY_MS, public=older.public.raw),
            messages.SlotKey(slot=world.now - 1, public=world.hello_key.public.raw),
            messages.SlotKey(slot=world.now + config.DAY_MS, public=later.public.raw),
        ]
    )
    world.tick()
    (frame,) = world.hellos()
    assert frames.hello_key_id(frame) == world.hello_key.public.key_id


def test_an_unanswered_hello_is_repeated_byte_for_byte_ever_slower_then_replaced(world: World) -> None:
    first = greet(world)
    times: list[int] = []
    start = world.now
    while world.now < start + HELLO_LIFE_MS - SECOND_MS:
        world.tick(SECOND_MS)
        for frame in world.hellos():
            assert frame == first
            times.append(world.now - start)
    assert times == [2000, 6000, 14000, 29000, 44000, 59000]
    world.tick(SECOND_MS)
    (second,) = world.hellos()
    assert second != first
    welcome, _ = world.answer_hello(first, world.welcome())
    with pytest.raises(WireError):
        world.receive(Incoming(IN, welcome))
    assert not world.merchant.session.usable


def test_a_broker_that_appears_is_greeted_at_once(world: World) -> None:
    first = greet(world)
    for _ in range(20):
        world.tick(SECOND_MS)
    world.hellos()
    world.show_card()
    world.tick()
    assert world.hellos() == [first]
    world.hello_key = XWingPrivateKey.generate()
    world.show_card()
    world.tick()
    (second,) = world.hellos()
    assert frames.hello_key_id(second) == world.hello_key.public.key_id


def test_a_welcome_opens_the_session_once(world: World) -> None:
    frame = greet(world)
    welcome, _ = world.answer_hello(frame, world.welcome())
    world.receive(Incoming(IN, welcome), Incoming(IN, welcome))
    assert world.merchant.session.state == "open"
    with pytest.raises(StaleError):
        world.receive(Incoming(IN, welcome))
    world.tick()
    assert usable(world)


@pytest.mark.parametrize("renewed", [False, True])
def test_what_comes_right_behind_the_welcome_is_opened_with_its_keys(world: World, *, renewed: bool) -> None:
    world.ahead = 4 * MINUTE_MS
    if renewed:
        world.open_session()
        world.tick(world.limits.merchant_session_ms // 2)
        (frame,) = world.hellos()
    else:
        frame = greet(world)
    welcome, _ = world.answer_hello(frame, world.welcome())
    forward = messages.Forward(reference=bytes(16), token=bytes(76), sealed=bytes(64))
    # Times are the broker's in this batch already: this one is fresh by its clock alone.
    world.receive(Incoming(IN, welcome), *world.frames_of(forward))
    assert world.merchant.session.state == "open"
    assert world.merchant.refused["forged"] == 1, "it came as far as being opened by the merchant"


def test_a_welcome_as_somebody_else_is_refused(world: World) -> None:
    frame = greet(world)
    welcome, _ = world.answer_hello(frame, msgspec.structs.replace(world.welcome(), scope="shop"))
    with pytest.raises(ForgedError):
        world.receive(Incoming(IN, welcome))
    assert world.merchant.session.state == "greeting"


def test_any_bit_of_a_welcome_changed_is_refused(world: World) -> None:
    welcome, _ = world.answer_hello(greet(world), world.welcome())
    for position in range(0, len(welcome), 97):
        with pytest.raises(WireError):
            world.receive(
                Incoming(IN, welcome[:position] + bytes([welcome[position] ^ 1]) + welcome[position + 1 :])
            )
    world.receive(Incoming(IN, welcome))
    assert world.merchant.session.state == "open"


@pytest.mark.parametrize("ahead", [-90 * MINUTE_MS, 0, 90 * MINUTE_MS])
def test_times_are_the_brokers(world: World, ahead: int) -> None:
    world.ahead = ahead
    frame = greet_with_card_of_own_time(world)
    welcome, _ = world.answer_hello(frame, world.welcome())
    world.receive(Incoming(IN, welcome))
    world.tick(HOUR_MS)
    assert world.merchant.session.broker_clock(world.now) == world.clock
    assert usable(world)


def greet_with_card_of_own_time(world: World) -> bytes:
    world.show_card(
        issued=world.now,
        not_after=world.now + config.DAY_MS,
        hello_keys=[messages.SlotKey(slot=world.now - 1, public=world.hello_key.public.raw)],
    )
    world.tick()
    (frame,) = world.hellos()
    return frame


def test_stale_and_replayed_frames_are_refused(world: World) -> None:
    world.open_session()
    assert world.keys is not None
    body = messages.OrderOutcome(order_id=bytes(16), outcome="void")
    (fresh,) = world.frames_of(body)
    world.receive(fresh)
    with pytest.raises(ReplayedError):
        world.receive(fresh)
    for off in (-world.limits.freshness_ms - 1, world.limits.freshness_ms + 1):
        (content,) = pack_frames([body], world.clock + off, world.random)
        with pytest.raises(StaleError):
            world.receive(Incoming(IN, frames.seal_frame(world.keys.down, IN, content, bytes(12))))


def test_frames_from_elsewhere_are_refused(world: World) -> None:
    world.open_session()
    assert world.keys is not None
    body = messages.OrderOutcome(order_id=bytes(16), outcome="void")
    (content,) = pack_frames([body], world.clock, world.random)
    out = topics.merchant_out(MERCHANT)
    for keys, topic in ((world.keys.up, IN), (world.keys.down, out)):
        with pytest.raises(ForgedError):
            world.receive(Incoming(IN, frames.seal_frame(keys, topic, content, bytes(12))))
    (foreign,) = pack_frames([messages.GetBalance(request=bytes(16))], world.clock, world.random)
    with pytest.raises(MalformedError):
        world.receive(Incoming(IN, frames.seal_frame(world.keys.down, IN, foreign, bytes(12))))
    with pytest.raises(MalformedError):
        world.receive(Incoming(topics.merchant_in("other"), bytes(1024)))


def test_the_session_is_renewed_at_half_life_and_the_old_keys_still_open(world: World) -> None:
    world.open_session()
    old = world.keys
    half = world.limits.merchant_session_ms // 2
    world.show_card(not_after=world.now + 2 * config.DAY_MS)
    world.tick(half - SECOND_MS)
    assert world.merchant.session.state == "open"
    world.tick(SECOND_MS)
    assert world.merchant.session.state == "renewing"
    (frame,) = world.hellos()
    assert usable(world)
    welcome, _ = world.answer_hello(frame, world.welcome())
    new = world.keys
    world.receive(Incoming(IN, welcome))
    assert world.merchant.session.state == "open"
    assert new is not None
    assert old is not None

    def under(keys: frames.SessionKeys) -> Incoming:
        body = messages.OrderOutcome(order_id=bytes(16), outcome="void")
        (content,) = pack_frames([body], world.clock, world.random)
        return Incoming(IN, frames.seal_frame(keys.down, IN, content, world.random(12)))

    world.receive(under(old))
    assert len(world.answers()) == 1  # under the new keys
    world.tick(world.limits.freshness_ms)
    with pytest.raises(ForgedError):
        world.receive(under(old))
    world.receive(under(new))


def test_an_ended_session_is_opened_again(world: World) -> None:
    world.open_session()
    world.receive(*world.frames_of(messages.SessionEnded(code="session_over")))
    assert not world.merchant.session.usable
    world.tick()
    (frame,) = world.hellos()
    welcome, _ = world.answer_hello(frame, world.welcome())
    world.receive(Incoming(IN, welcome))
    assert usable(world)


def test_the_end_of_the_session_before_ends_nothing_else(world: World) -> None:
    world.open_session()
    world.show_card(not_after=world.now + 2 * config.DAY_MS)
    world.now += world.limits.merchant_session_ms // 2
    world.tick()
    (frame,) = world.hellos()
    assert world.keys is not None
    old = world.keys
    welcome, _ = world.answer_hello(frame, world.welcome())
    world.receive(Incoming(IN, welcome))
    (content,) = pack_frames([messages.SessionEnded(code="session_over")], world.clock, world.random)
    world.receive(Incoming(IN, frames.seal_frame(old.down, IN, content, bytes(12))))
    assert world.merchant.session.state == "open"
    assert usable(world)


def test_a_session_that_expires_is_dropped_and_opened_again(world: World) -> None:
    world.open_session()
    world.tick(world.limits.merchant_session_ms)
    assert not world.merchant.session.usable
    world.show_card()
    world.tick()
    assert len(world.hellos()) == 1


def test_frames_under_unknown_keys_bring_a_new_hello_but_not_often(world: World) -> None:
    world.open_session()
    stranger = frames.SessionKeys.from_bytes(world.random(136))
    body = messages.OrderOutcome(order_id=bytes(16), outcome="void")
    (content,) = pack_frames([body], world.clock, world.random)
    unknown = Incoming(IN, frames.seal_frame(stranger.down, IN, content, bytes(12)))
    with pytest.raises(ForgedError):
        world.receive(unknown)
    world.tick()
    assert world.hellos() == []
    world.tick(MINUTE_MS)
    assert len(world.hellos()) == 1


@pytest.mark.parametrize(("code", "retry", "wait"), [("revoked", 0, REFUSED_RETRY_MS), ("busy", 5000, 5000)])
def test_a_refusal_is_told_and_heeded(world: World, code: Any, retry: int, wait: int) -> None:
    frame = greet(world)
    refusal, _ = world.answer_hello(frame, messages.HelloRefused(code=code, retry_after_ms=retry))
    with capture_logs() as logs:
        world.receive(Incoming(IN, refusal))
    assert [(log["log_level"], log["code"]) for log in logs] == [("error", code)]
    world.tick(wait - 1)
    assert world.hellos() == []
    world.show_card(not_after=world.now + config.DAY_MS)
    world.tick(1)
    (again,) = world.hellos()
    assert again != frame


def test_other_brokers_cards_are_refused(world: World, tmp_path: Path) -> None:
    stranger = make_identities(tmp_path / "other")
    for card in (
        world.broker_card(currency="USD"),
        world.broker_card(market=bytes(16)),
        world.broker_card(issued=world.now - HOUR_MS, not_after=world.now),
        world.broker_card(
            hello_keys=[messages.SlotKey(slot=world.now, public=bytes(1216))],
        ),
        cards.make_card(stranger.broker, stranger.broker_der, "broker", card_body(world)),
        cards.make_card(world.identities.merchant, world.identities.merchant_der, "broker", card_body(world)),
        b"",
    ):
        with pytest.raises(WireError):
            world.receive(Incoming(topics.broker_card(), card, retained=True))
    assert world.merchant.session.state == "waiting_for_card"


def test_a_broker_that_the_ca_certified_is_not_yet_ours(world: World) -> None:
    world.shop = dataclasses.replace(world.shop, broker_fingerprint=bytes(32))
    world.start()
    with pytest.raises(ForgedError, match="another broker"):
        world.show_card()


def card_body(world: World) -> messages.BrokerCard:
    card = cards.open_broker_card(world.broker_card(), world.market.ca_der, world.market.market_id, world.now)
    return card.body


def test_an_unlisted_step_raises(world: World) -> None:
    with pytest.raises(UnlistedStepError):
        world.merchant.session._step("open")


def test_secrets_do_not_show(world: World) -> None:
    world.open_session()
    session = world.merchant.session
    assert session._current is not None
    shown = repr(session._current) + repr(world.shop) + repr(session.__dict__)
    assert session._current.keys.up.encryption.hex() not in shown
    assert repr(session._current.keys.up.encryption) not in shown


# --- our own card --------------------------------------------------------------------------------------


def test_our_card_goes_out_hourly_on_change_and_when_the_bus_may_have_lost_it(
    world: World, tmp_path: Path
) -> None:
    card = topics.merchant_card(MERCHANT)
    world.open_session()
    world.tick(MINUTE_MS)
    assert world.sent(card) == []
    world.show_card()
    world.tick()
    assert len(world.sent(card)) == 1
    (tmp_path / "file").write_bytes(b"x")
    world.inventory.add(tmp_path / "file", "x", title="x", price=1)
    world.tick()
    assert world.read_card().catalog_version == world.now
    world.tick(58 * MINUTE_MS)
    assert world.sent(card) == []
    world.tick(2 * MINUTE_MS)
    assert len(world.sent(card)) == 1


def test_the_retained_card_is_retained(world: World) -> None:
    world.tick()
    (item,) = world.outbox
    assert (item.topic, item.retain, item.expiry_ms) == (topics.merchant_card(MERCHANT), True, None)
