"""The broker's relay: sealed requests, reply tokens, the byte budget, and the ration of cells."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from client import Customer, Session, Shopkeeper, dump, fresh, settle
from conftest import Time
from world import World

from common import config, messages
from common.config import KIB, MINUTE_MS, SECOND_MS

SEALED = b"s" * 64


def ask(session: Session, merchant: str = "sports") -> messages.AskMerchant:
    question = messages.AskMerchant(request=fresh(), merchant=merchant, sealed=SEALED)
    session.say(question)
    return question


def answer(forward: messages.Forward, **changes: Any) -> messages.AnswerForward:
    fields = {"reference": forward.reference, "token": forward.token, "answer": b"a" * 64}
    return messages.AnswerForward(**(fields | changes))


def fetch(session: Session, cells: int = 1, request: bytes | None = None) -> messages.FetchCells:
    question = messages.FetchCells(request=request or fresh(), merchant="sports", cells=cells, sealed=SEALED)
    session.say(question)
    return question


def cell(forward: messages.ForwardFetch, n: int = 0, *, count: int = 1) -> messages.Cells:
    cells = [bytes([n]) * 100] * count
    return messages.Cells(reference=forward.reference, token=forward.token, cells=cells)


def forwarded(keeper: Shopkeeper) -> list[messages.ForwardFetch]:
    return [body for body in keeper.collect() if isinstance(body, messages.ForwardFetch)]


# --- questions and answers -----------------------------------------------------------------------------


def test_a_question_and_its_answer(world: World, customer: Customer, keeper: Shopkeeper) -> None:
    session = customer.shop()
    before = dump(world)
    question = ask(session)
    forward = keeper.hear(messages.Forward)
    assert forward.sealed == SEALED
    keeper.say(answer(forward))
    heard = session.hear(messages.MerchantAnswer)
    assert (heard.request, heard.answer) == (question.request, b"a" * 64)
    assert dump(world) == before, "the relay needs no table"


def test_two_questions_of_one_session_look_unrelated(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    questions = [ask(session) for _ in range(8)]
    forwards = [body for body in keeper.collect() if isinstance(body, messages.Forward)]
    assert len({forward.reference for forward in forwards}) == 8
    known = {session.sid, *(question.request for question in questions)}
    for one in forwards:
        raw = msgspec.msgpack.encode(one)
        assert not any(secret in raw for secret in known)
        assert len(one.token) == 76
    # Behind the key's id, which all tokens of a day share, no byte run is repeated.
    tails = [one.token[8:] for one in forwards]
    pieces = [tail[n : n + 8] for tail in tails for n in range(0, 64, 8)]
    assert len(set(pieces)) == len(pieces)


def test_a_reply_token_serves_its_merchant_alone(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    other = Shopkeeper(world, "films")
    ask(session)
    forward = keeper.hear(messages.Forward)
    ask(session)
    second = keeper.hear(messages.Forward)
    other.say(answer(forward))
    keeper.say(answer(forward, reference=second.reference))
    keeper.say(answer(forward, reference=fresh()))
    settle(world)
    assert world.broker.broker.refused["forged"] == 3
    for position in range(8, 76):
        altered = bytearray(forward.token)
        altered[position] ^= 1
        keeper.say(answer(forward, token=bytes(altered)))
    settle(world)
    assert world.broker.broker.refused["forged"] == 3 + 68
    keeper.say(answer(forward, token=bytes(76)))
    assert session.collect() == []
    assert world.broker.broker.refused["stale"] == 1
    keeper.say(answer(forward))
    assert session.hear(messages.MerchantAnswer)


def test_a_reply_token_is_over_with_the_freshness_window(
    world: World, customer: Customer, keeper: Shopkeeper, time: Time
) -> None:
    session = customer.shop()
    ask(session)
    forward = keeper.hear(messages.Forward)
    time.advance(world.broker.limits.freshness_ms + SECOND_MS)
    keeper.say(answer(forward))
    assert session.collect() == []
    assert world.broker.broker.refused["stale"] == 1


def test_a_merchant_that_is_away_or_unknown_is_said_to_be(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    question = messages.AskMerchant(request=fresh(), merchant="nobody", sealed=SEALED)
    assert session.refused(question) == "merchant_offline"
    keeper.go()
    question = messages.AskMerchant(request=fresh(), merchant="sports", sealed=SEALED)
    assert session.refused(question) == "merchant_offline"
    request = messages.FetchCells(request=fresh(), merchant="sports", cells=1, sealed=SEALED)
    assert session.refused(request) == "merchant_offline"


def test_a_session_that_has_used_its_bytes_goes_on_with_another_ticket(tmp_path: Any, funded: Any) -> None:
    world = World(tmp_path, limits={"session_byte_budget": 8 * KIB})
    try:
        customer, keeper = Customer(world, values=[1]), Shopkeeper(world)
        session = customer.shop()
        assert session.welcome is not None
        assert session.welcome.byte_budget == 8 * KIB
        served = 0
        while True:
            ask(session)
            heard = keeper.collect()
            if not heard:
                break
            served += 1
            keeper.say(answer(heard[0]))
            session.hear(messages.MerchantAnswer)
        # A question and its answer are a frame of 1 KiB each.
        assert served == 4
        assert session.hear(messages.Refused).code == "byte_budget"
        ask(customer.shop())
        assert keeper.hear(messages.Forward)
    finally:
        world.close()


# --- cells ---------------------------------------------------------------------------------------------


def test_cells_come_one_to_a_frame(world: World, customer: Customer, keeper: Shopkeeper) -> None:
    session = customer.shop()
    question = fetch(session, 3)
    forward = keeper.hear(messages.ForwardFetch)
    assert (forward.cells, forward.sealed) == (3, SEALED)
    before = len(world.bus.passed)
    for n in range(3):
        keeper.say_cell(cell(forward, n))
    heard = [session.hear(messages.MerchantCells) for _ in range(3)]
    assert {body.request for body in heard} == {question.request}
    assert sorted(body.cells[0][0] for body in heard) == [0, 1, 2]
    assert len([p for p in world.bus.passed[before:] if p.topic == session.down]) == 3


@pytest.fixture
def narrow(world: World) -> config.Limits:
    """Let few cells be under way."""
    limits = msgspec.structs.replace(world.broker.limits, cell_window=16, cells_under_way=64)
    world.broker.broker._relay._limits = limits
    return limits


def test_a_session_has_a_window_of_cells(
    narrow: config.Limits, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    window = narrow.cell_window
    for _ in range(4):
        fetch(session, window // 2)
    first = forwarded(keeper)
    assert len(first) == 2
    for _ in range(window // 2):
        keeper.say_cell(cell(first[0]))
    assert len(forwarded(keeper)) == 1
    too_many = messages.FetchCells(request=fresh(), merchant="sports", cells=window + 1, sealed=SEALED)
    assert session.refused(too_many) == "policy"


def test_one_request_id_again_and_again_widens_no_window(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session, request = customer.shop(), fresh()
    for _ in range(20):
        fetch(session, 1, request)
    (forward,) = forwarded(keeper)
    keeper.say_cell(cell(forward))
    assert session.hear(messages.MerchantCells).request == request
    assert len(forwarded(keeper)) == 1


def test_cells_of_all_sessions_are_rationed_in_turn(
    narrow: config.Limits, customer: Customer, keeper: Shopkeeper
) -> None:
    # Half of all places are the most for one merchant: one that is silent leaves the rest to the others.
    total, window = narrow.cells_under_way // 2, narrow.cell_window
    customer.tickets += customer.withdraw(customer.account(), [], 8)[1]
    sessions = [customer.shop() for _ in range(total // window + 2)]
    for session in sessions:
        fetch(session, window)
    first = forwarded(keeper)
    assert len(first) == total // window
    for _ in range(window // config.CELLS_PER_FRAME):
        keeper.say_cell(cell(first[0], count=config.CELLS_PER_FRAME))
    (next_one,) = forwarded(keeper)
    keeper.say_cell(cell(next_one))
    assert sessions[-2].hear(messages.MerchantCells)
    assert sessions[-1].collect() == []


def test_small_windows_do_not_take_the_places_that_a_large_one_waits_for(
    narrow: config.Limits, customer: Customer, keeper: Shopkeeper
) -> None:
    places, window = narrow.cells_under_way // 2, narrow.cell_window
    customer.tickets += customer.withdraw(customer.account(), [], 8)[1]
    for _ in range(2 * places // window):
        fetch(customer.shop(), window // 2)
    first = forwarded(keeper)
    assert sum(forward.cells for forward in first) == places
    large = fetch(customer.shop(), window)
    for _ in range(2):
        fetch(customer.shop(), window // 2)
    assert forwarded(keeper) == []
    for forward in first[:2]:
        for _ in range(window // 2 // config.CELLS_PER_FRAME):
            keeper.say_cell(cell(forward, count=config.CELLS_PER_FRAME))
    assert [forward.cells for forward in forwarded(keeper)] == [large.cells], "it was asked for before them"


def test_a_refused_fetch_frees_its_place(world: World, customer: Customer, keeper: Shopkeeper) -> None:
    session = customer.shop()
    window = world.broker.limits.cell_window
    refused, waiting = fetch(session, window), fetch(session, window)
    (forward,) = forwarded(keeper)
    keeper.say(messages.FetchRefused(reference=forward.reference, token=forward.token, answer=b"n" * 40))
    heard = session.hear(messages.MerchantAnswer)
    assert (heard.request, heard.answer) == (refused.request, b"n" * 40)
    (after,) = forwarded(keeper)
    keeper.say_cell(cell(after))
    assert session.hear(messages.MerchantCells).request == waiting.request


def test_a_place_that_nobody_serves_is_given_away(
    world: World, customer: Customer, keeper: Shopkeeper, time: Time
) -> None:
    session = customer.shop()
    window = world.broker.limits.cell_window
    fetch(session, window)
    (lost,) = forwarded(keeper)
    time.advance(11 * SECOND_MS)
    settle(world)
    fetch(session, window)
    assert len(forwarded(keeper)) == 1
    keeper.say_cell(cell(lost))
    assert session.collect() == []
    assert world.broker.broker.refused["stale"] == 1


@pytest.mark.parametrize("more", [0, 3])
def test_more_cells_than_asked_for_go_nowhere(
    world: World, customer: Customer, keeper: Shopkeeper, more: int
) -> None:
    session = customer.shop()
    fetch(session, 2)
    (forward,) = forwarded(keeper)
    for _ in range(2 + more):
        keeper.say_cell(cell(forward))
    assert len(session.collect()) == 2
    assert world.broker.broker.refused["stale"] == more


def test_a_frame_of_more_cells_than_are_left_goes_nowhere_whole(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    fetch(session, 2)
    (forward,) = forwarded(keeper)
    keeper.say_cell(cell(forward, count=3))
    assert session.collect() == []
    assert world.broker.broker.refused["stale"] == 1
    keeper.say_cell(cell(forward, count=2))
    assert len(session.hear(messages.MerchantCells).cells) == 2


def test_cells_and_other_messages_have_a_topic_each(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    fetch(session, 1)
    (forward,) = forwarded(keeper)
    keeper.say(cell(forward))
    keeper.say_cell(messages.OutcomeKept(order_id=fresh(), outcome="captured"))
    assert session.collect() == []
    assert world.running["broker"].loop.refused["malformed"] == 2


def test_a_session_that_has_ended_hears_nothing_more(
    world: World, customer: Customer, keeper: Shopkeeper, time: Time
) -> None:
    session = customer.shop()
    ask(session)
    forward = keeper.hear(messages.Forward)
    session.ask(messages.LogOut(request=fresh()), messages.LoggedOut)
    keeper.say(answer(forward))
    time.advance(MINUTE_MS)
    assert session.collect() == []
    assert world.running["broker"].loop.quarantined == 0
