"""The merchant: the broker's statement is read line by line, and payouts are asked for until answered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from merchant_world import Identities, World, make_identities

from common import messages
from common.config import MINUTE_MS, SECOND_MS
from common.errors import InsufficientFundsError, UsageError
from common.store import Store
from merchant_node import money
from merchant_node.treasury import Treasury

ORDER = bytes(range(16))


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Identities:
    return make_identities(tmp_path_factory.mktemp("market"))


@pytest.fixture
def shop(identities: Identities, tmp_path: Path) -> Iterator[World]:
    shop = World(tmp_path, identities)
    shop.open_session()
    shop.tick()
    shop.answers()
    yield shop
    shop.close()


def line(number: int, kind: Any, *sums: int) -> messages.StatementLine:
    pending, available, reserved = sums
    return messages.StatementLine(
        line=number,
        at=0,
        kind=kind,
        reference=ORDER,
        pending=pending,
        available=available,
        reserved=reserved,
    )


def statement(*lines: messages.StatementLine, after: int = 0, last: int | None = None) -> messages.Statement:
    newest = after + len(lines) if last is None else last
    return messages.Statement(
        request=bytes(16), after=after, lines=list(lines), last=newest, commission_basis_points=300
    )


SOLD = (line(1, "captured", 100, 0, 0), line(2, "settled", 0, 97, 0))


def kinds(shop: World) -> list[tuple[str, int]]:
    return [(each.kind, each.amount) for each in Treasury(shop.store).statement()]


def asked(shop: World, kind: type) -> list[Any]:
    """What the merchant asked by itself since the last time."""
    shop.answers()
    found = [question for question in shop.questions if isinstance(question, kind)]
    shop.questions.clear()
    return found


# --- the statement -------------------------------------------------------------------------------------


def test_a_statement_is_asked_for_again_and_again_and_kept(shop: World) -> None:
    shop.questions.clear()
    shop.tick(6 * SECOND_MS)
    (question,) = asked(shop, messages.GetStatement)
    assert question.after == 0
    shop.ask(statement(*SOLD))
    assert kinds(shop) == [("captured", 100), ("settled", 100), ("commission", -3)]
    shop.tick(MINUTE_MS)
    assert asked(shop, messages.GetStatement) == []
    shop.tick(5 * MINUTE_MS)
    (question,) = asked(shop, messages.GetStatement)
    assert question.after == 2
    balance = Treasury(shop.store).balance()
    assert (balance.pending, balance.available, balance.reserved) == (0, 97, 0)
    assert (balance.commission_basis_points, balance.read) == (300, shop.now - 6 * MINUTE_MS)


def test_more_than_one_page_is_read_at_once(shop: World) -> None:
    shop.ask(statement(SOLD[0], last=2))
    shop.questions.clear()
    shop.tick(1000)
    (question,) = asked(shop, messages.GetStatement)
    assert question.after == 1
    shop.ask(statement(SOLD[1], after=1))
    assert len(kinds(shop)) == 3


def test_a_page_that_comes_twice_counts_once(shop: World) -> None:
    for _ in range(2):
        shop.ask(statement(*SOLD))
    shop.ask(statement(line(2, "settled", 0, 100, 0), after=1))
    assert kinds(shop) == [("captured", 100), ("settled", 100), ("commission", -3)]


@pytest.mark.parametrize(
    "wrong",
    [
        line(3, "captured", 0, 98, 0),
        line(3, "captured", 5, 96, 0),
        line(3, "captured", 0, 97, 0),
        line(4, "captured", 5, 97, 0),
        line(2, "captured", 5, 97, 0),
        line(3, "settled", 0, 99, 0),
        line(3, "refunded", 5, 97, 0),
        line(3, "refunded", 0, 97, 0),
        line(3, "payout_requested", 0, 90, 8),
        line(3, "payout_requested", 0, 90, 0),
        line(3, "payout_confirmed", 0, 97, 1),
        line(3, "payout_rejected", 0, 98, 0),
    ],
)
def test_a_line_that_does_not_follow_is_not_taken(shop: World, wrong: messages.StatementLine) -> None:
    shop.ask(statement(*SOLD))
    before = Treasury(shop.store).statement()
    shop.ask(statement(wrong, line(4, "captured", 100, 97, 0), after=2))
    assert Treasury(shop.store).statement() == before
    assert shop.merchant.refused["contradiction"] == 1
    shop.ask(statement(line(3, "captured", 5, 97, 0), after=2))
    assert len(Treasury(shop.store).statement()) == len(before) + 1, "the right one is"


def test_a_statement_that_became_shorter_is_noticed(shop: World) -> None:
    shop.ask(statement(*SOLD))
    shop.ask(statement(after=2, last=1))
    assert shop.merchant.refused["contradiction"] == 1


MOVES = {
    "captured": (1, 0, 0),
    "settled": (-1, 1, 0),
    "refunded": (0, -1, 0),
    "payout_requested": (0, -1, 1),
    "payout_confirmed": (0, 0, -1),
    "payout_rejected": (0, 1, -1),
}


@given(st.lists(st.tuples(st.sampled_from(sorted(MOVES)), st.integers(1, 10**12)), min_size=1, max_size=20))
def test_what_a_broker_can_have_done_is_taken_and_adds_up(store: Store, steps: list[tuple[Any, int]]) -> None:
    with store.immediate() as tx:
        tx.execute(money.schema.statement_lines.delete())
        sums, lines = (0, 0, 0), []
        for kind, amount in steps:
            changed = tuple(old + way * amount for old, way in zip(sums, MOVES[kind], strict=True))
            if min(changed) >= 0:
                sums = changed  # type: ignore[assignment] # three of them
                lines.append(line(len(lines) + 1, kind, *sums))
        refused: Counter[str] = Counter()
        money.read(tx, [statement(*lines)], 0, refused)
    assert refused.total() == 0
    found = Treasury(store).statement()
    assert len(found) == len(lines)
    gained = sum(each.amount for each in found if each.kind in {"captured", "refunded", "payout_confirmed"})
    assert gained == sum(sums)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    store = Store.in_home(tmp_path_factory.mktemp("money"), "merchant.db", "merchant_node.migrations")
    yield store
    store.close()


# --- payouts -------------------------------------------------------------------------------------------


def want(shop: World, amount: int | None = 50, to: str | None = "an account") -> bytes:
    return Treasury(shop.store).ask(amount, to, shop.now, shop.random).payout_id


def test_a_payout_is_asked_for_with_the_same_bytes_until_it_is_answered(shop: World) -> None:
    shop.ask(statement(*SOLD))
    payout_id = want(shop)
    shop.questions.clear()
    requests = []
    for pause in (0, 6, 11, 21, 41, 81, 161, 301, 301):
        shop.tick(pause * SECOND_MS)
        requests += asked(shop, messages.RequestPayout)
    assert len(requests) == 9
    assert set(requests) == {requests[0]}
    assert (requests[0].payout_id, requests[0].amount, requests[0].destination) == (
        payout_id,
        50,
        "an account",
    )
    assert "an account" not in repr(requests[0])
    shop.ask(messages.PayoutAnswer(payout_id=payout_id, state="requested", reason=""))
    shop.tick(10 * MINUTE_MS)
    assert asked(shop, messages.RequestPayout) == []
    # Its end is a line of the statement; the operator's reason has to be asked for.
    lines = (line(3, "payout_requested", 0, 47, 50), line(4, "payout_rejected", 0, 97, 0))
    shop.ask(statement(*(of_payout(each, payout_id) for each in lines), after=2))
    shop.tick(1000)
    assert asked(shop, messages.RequestPayout) == [requests[0]]
    shop.ask(messages.PayoutAnswer(payout_id=payout_id, state="rejected", reason="closed"))
    found = Treasury(shop.store).payout(payout_id)
    assert (found.state, found.reason) == ("rejected", "closed")
    assert "an account" not in repr(found)


def of_payout(each: messages.StatementLine, payout_id: bytes) -> messages.StatementLine:
    return msgspec.structs.replace(each, reference=payout_id)


def test_a_refusal_for_now_is_no_end(shop: World) -> None:
    shop.ask(statement(*SOLD))
    payout_id = want(shop)
    shop.tick(1000)
    assert len(asked(shop, messages.RequestPayout)) == 1
    shop.ask(messages.PayoutRefused(payout_id=payout_id, code="payments_stopped"))
    found = Treasury(shop.store).payout(payout_id)
    assert (found.state, found.code) == ("asked", "payments_stopped")
    shop.tick(MINUTE_MS)
    assert len(asked(shop, messages.RequestPayout)) == 1
    shop.ask(messages.PayoutRefused(payout_id=payout_id, code="insufficient_funds"))
    assert Treasury(shop.store).payout(payout_id).state == "refused"
    shop.tick(10 * MINUTE_MS)
    assert asked(shop, messages.RequestPayout) == []


def test_what_contradicts_our_own_state_is_noticed(shop: World) -> None:
    shop.ask(statement(*SOLD))
    payout_id = want(shop)
    shop.ask(messages.PayoutAnswer(payout_id=payout_id, state="confirmed", reason="paid"))
    shop.ask(messages.PayoutAnswer(payout_id=payout_id, state="rejected", reason=""))
    shop.ask(messages.PayoutAnswer(payout_id=bytes(16), state="confirmed", reason=""))
    assert shop.merchant.refused["contradiction"] == 2
    assert Treasury(shop.store).payout(payout_id).state == "confirmed"


def test_no_more_is_asked_for_than_there_is(shop: World) -> None:
    with pytest.raises(InsufficientFundsError):
        want(shop, None)
    shop.ask(statement(*SOLD))
    with pytest.raises(InsufficientFundsError):
        want(shop, 98)
    for to in ("", " ", "x" * 201, "two\nlines", None):
        with pytest.raises(UsageError):
            want(shop, 1, to)
    want(shop, 60)
    with pytest.raises(InsufficientFundsError):
        want(shop, 60)
    everything = Treasury(shop.store).payout(want(shop, None, None))
    assert (everything.amount, everything.destination) == (37, "an account")
    assert sum(each.amount for each in Treasury(shop.store).payouts()) == 97
