"""What the wallet does by itself: the plan, and the denominations that it keeps."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import coins, config
from common.config import DAY_MS, HOUR_MS, MINUTE_MS
from customer_node import tending
from customer_node.change import reach, spread_swap
from customer_node.tending import Due, Situation

TOP = 2**14
NOW = 1_800_000_000_000
FULL = dict(Counter(coins.BUNDLE))

holdings = st.dictionaries(st.integers(0, 14).map(lambda n: 2**n), st.integers(0, 4))


def situation(**changes: Any) -> Situation:
    usual: dict[str, Any] = {
        "now": NOW,
        "age_ms": HOUR_MS,
        "held": FULL,
        "top": TOP,
        "worth": 2000,
        "tickets": 8,
        "ending": 0,
        "ending_at": NOW + 10 * DAY_MS,
        "ended": 0,
        "visit_until": 0,
        "shopped": 0,
        "banked": 0,
    }
    return Situation(**{**usual, **changes})


def highest(count: int) -> bytes:
    return b"\xff" * count


# --- denominations -------------------------------------------------------------------------------------


@given(st.dictionaries(st.integers(0, 5).map(lambda n: 2**n), st.integers(0, 2)))
def test_up_to_its_reach_a_wallet_pays_everything_and_no_further(held: dict[int, int]) -> None:
    purse = list(Counter(held).elements())
    payable = {sum(chosen) for size in range(len(purse) + 1) for chosen in combinations(purse, size)}
    expected = next(amount for amount in range(sum(purse) + 2) if amount + 1 not in payable)
    assert reach(held) == expected


@given(holdings)
def test_a_spread_gains_reach_for_one_coin_and_loses_nothing(held: dict[int, int]) -> None:
    swap = spread_swap(held, TOP)
    if swap is None:
        return
    coin, wanted = swap
    assert held[coin] > 0
    assert sum(wanted) == coin
    assert len(wanted) <= config.MAXIMUM_COINS
    assert reach(Counter(held) - Counter([coin]) + Counter(wanted)) > reach(held)


@given(holdings)
def test_spreading_ends_with_every_amount_up_to_half_in_reach(held: dict[int, int]) -> None:
    purse = Counter(held)
    worth = sum(purse.elements())
    for _ in range(20):
        swap = spread_swap(purse, TOP)
        if swap is None:
            break
        purse = purse - Counter([swap[0]]) + Counter(swap[1])
    assert sum(purse.elements()) == worth
    assert reach(purse) >= worth // 2


@given(st.integers(1, 1999))
def test_after_any_purchase_from_a_bundle_few_swaps_do(amount: int) -> None:
    purse = Counter(FULL) - Counter(coins.exact(FULL, amount))
    swaps = 0
    while (swap := spread_swap(purse, TOP)) is not None:
        purse = purse - Counter([swap[0]]) + Counter(swap[1])
        swaps += 1
    assert reach(purse) >= sum(purse.elements()) // 2
    assert swaps <= 2


def test_a_fresh_bundle_lacks_nothing() -> None:
    assert reach(FULL) == sum(coins.BUNDLE)
    assert spread_swap(FULL, TOP) is None


# --- what is needed ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "bundles", "works"),
    [
        ({}, 1, []),
        ({"worth": 1999}, 1, ["draw"]),
        ({}, 2, ["draw"]),
        ({"tickets": 7}, 1, ["draw"]),
        ({"held": {512: 2}}, 1, ["spread"]),
        ({"ending": 5}, 1, ["renew"]),
        ({"ended": 5}, 1, ["exchange"]),
        ({"ended": 1, "ending": 1, "held": {64: 1}, "worth": 0}, 1, ["exchange", "renew", "spread", "draw"]),
    ],
)
def test_what_is_needed(changes: dict[str, Any], bundles: int, works: list[str]) -> None:
    assert tending.needed(situation(**changes), bundles) == works


def test_tickets_alone_are_drawn_where_there_is_money_enough() -> None:
    assert not tending.draws_money(situation(tickets=0), 1)
    assert tending.draws_money(situation(worth=1999), 1)


# --- when ----------------------------------------------------------------------------------------------


def only(found: list[Due]) -> Due:
    (due,) = found
    return due


@given(st.binary(min_size=8, max_size=8))
def test_a_time_is_drawn_within_six_ages_and_then_kept(entropy: bytes) -> None:
    poor = situation(worth=0)
    due = only(tending.draw_times(poor, {}, lambda _: entropy, 1))
    assert NOW <= due.at < NOW + 6 * HOUR_MS
    later = situation(worth=0, now=NOW + MINUTE_MS)
    assert only(tending.draw_times(later, {"draw": due.at}, highest, 1)).at == due.at


def test_times_differ() -> None:
    poor = situation(worth=0)
    drawn = {
        only(tending.draw_times(poor, {}, lambda n, k=k: k.to_bytes(n), 1)).at  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        for k in range(0, 6 * HOUR_MS, HOUR_MS)
    }
    assert len(drawn) == 6


def test_nothing_is_drawn_while_a_visit_is_open_or_next_to_a_purchase() -> None:
    end = NOW + 10 * MINUTE_MS
    visiting = situation(worth=0, visit_until=end)
    assert not only(tending.plan(visiting, {"draw": NOW}, 1)).now(NOW)
    assert only(tending.draw_times(visiting, {"draw": NOW}, highest, 1)).at > end
    shopped = situation(worth=0, shopped=NOW - 10 * MINUTE_MS)
    due = only(tending.draw_times(shopped, {"draw": NOW - MINUTE_MS}, bytes, 1))
    assert due.at == due.free_at == NOW + 50 * MINUTE_MS
    rested = situation(worth=0, shopped=NOW - HOUR_MS)
    assert only(tending.plan(rested, {"draw": NOW}, 1)).now(NOW)


def test_nothing_is_swapped_next_to_a_draw() -> None:
    fresh = situation(held={64: 1}, banked=NOW - MINUTE_MS)
    due = only(tending.draw_times(fresh, {}, highest, 1))
    assert due.work == "spread"
    assert due.at >= NOW + 59 * MINUTE_MS
    assert not due.now(NOW)


def test_a_time_that_has_come_stays_due() -> None:
    poor = situation(worth=0)
    assert only(tending.draw_times(poor, {"draw": NOW - DAY_MS}, highest, 1)).now(NOW)


def test_ending_coins_are_renewed_a_day_before_their_end_at_the_latest() -> None:
    ends = NOW + 3 * DAY_MS
    due = only(tending.draw_times(situation(ending=5, ending_at=ends, age_ms=7 * DAY_MS), {}, highest, 1))
    assert due.at == ends - DAY_MS
    last = situation(ending=5, ending_at=NOW + HOUR_MS, banked=NOW, visit_until=NOW + HOUR_MS)
    assert only(tending.draw_times(last, {}, highest, 1)).now(NOW)


def test_without_a_minimum_age_everything_is_done_at_once() -> None:
    everything = situation(
        age_ms=0, ended=1, ending=1, held={64: 1}, worth=0, shopped=NOW, banked=NOW, visit_until=NOW + HOUR_MS
    )
    found = tending.draw_times(everything, {}, highest, 1)
    assert [due.work for due in found] == list(tending.ORDER)
    assert all(due.now(NOW) for due in found)
