"""The upper bound for the crowd: what the broker has counted in public, and nothing else."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from cli import veilmart
from client import settle
from conftest import Time
from customer_shop import Bazaar, home
from samples import EXAMPLES
from test_broker_audit import of_kind, to_boundary
from world import World

from common import clock, slots
from common.config import HOUR_MS
from common.messages import CoinTotal
from common.store import Store
from customer_node import Market, crowd
from customer_node.schema import issuer_keys, tokens

NOW = 1_800_000_000_000  # 15 January 2027
JANUARY, DECEMBER, NOVEMBER = "2027-01", "2026-12", "2026-11"


@pytest.fixture
def store(tmp_path: Path):
    opened = Store.in_home(tmp_path, "profile.db", "customer_node.migrations")
    yield opened
    opened.close()


def hold(store: Store, value: int, month: str, count: int, state: str = "free") -> None:
    """Put coins into the wallet, as rows."""
    key_id = f"{value:04}{month[2:4]}{month[5:]}".encode()
    with store.immediate() as tx:
        tx.insert(
            sa.insert(issuer_keys),
            {
                "key_id": key_id,
                "purpose": "coin",
                "value": value,
                "month": month,
                "public": b"",
                "next_counter": count,
            },
        )
        for counter in range(count):
            row = {"key_id": key_id, "counter": counter, "operation": b"", "position": 0, "state": state}
            tx.insert(sa.insert(tokens), row | {"usable_from": 0})


def learn(store: Store, at: int, *totals: tuple[int, str, int, int]) -> None:
    made = [CoinTotal(value=v, month=m, issued=i, spent=s) for v, m, i, s in totals]
    card: Any = msgspec.structs.replace(EXAMPLES["BrokerCard"], totals_at=at, totals=made)
    with store.immediate() as tx:
        crowd.learn(tx, card)


def bounds(store: Store) -> tuple[int, dict[int, int]]:
    with store.immediate() as tx:
        return crowd.counted_at(tx), crowd.bounds(tx, NOW)


def test_nothing_is_known_before_the_first_totals(store: Store):
    hold(store, 1, JANUARY, 2)
    learn(store, 0)
    assert bounds(store) == (0, {})


def test_the_bound_is_what_was_out_and_the_rarer_month_counts(store: Store):
    hold(store, 1, JANUARY, 2)
    hold(store, 1, DECEMBER, 1)
    hold(store, 2, JANUARY, 3)
    learn(store, 5, (1, JANUARY, 40, 10), (1, DECEMBER, 90, 83), (2, JANUARY, 12, 0), (4, JANUARY, 9, 0))
    assert bounds(store) == (5, {1: 7, 2: 12})


def test_coins_drawn_after_the_count_are_in_no_crowd_that_it_knows(store: Store):
    hold(store, 1, JANUARY, 3)
    hold(store, 2, JANUARY, 3)
    hold(store, 4, JANUARY, 1)
    learn(store, 5, (1, JANUARY, 12, 10), (2, JANUARY, 3, 0))
    assert bounds(store) == (5, {2: 3})


def test_coins_that_are_over_or_not_free_do_not_count(store: Store):
    hold(store, 1, NOVEMBER, 3)
    hold(store, 2, JANUARY, 3, "spent")
    learn(store, 5, (1, NOVEMBER, 12, 0), (2, JANUARY, 12, 0))
    assert bounds(store) == (5, {})


def test_newer_totals_take_the_place_of_those_before(store: Store):
    hold(store, 1, JANUARY, 1)
    hold(store, 2, JANUARY, 1)
    learn(store, 5, (1, JANUARY, 12, 0), (2, JANUARY, 12, 0))
    learn(store, 6, (1, JANUARY, 15, 4))
    assert bounds(store) == (6, {1: 11})


def test_totals_that_cannot_be_make_no_crowd(store: Store):
    hold(store, 1, JANUARY, 1)
    learn(store, 5, (1, JANUARY, 3, 2**52), (2, JANUARY, 1, 1), (2, JANUARY, 1, 1))
    assert bounds(store) == (5, {})


# --- with a broker -------------------------------------------------------------------------------------


def test_the_wallet_shows_the_bound_of_the_last_boundary(
    tmp_path: Path, time: Time, monkeypatch: pytest.MonkeyPatch
):
    bazaar = Bazaar(World(tmp_path, limits={"totals_minimum_orders": 1}))
    world = bazaar.world
    bazaar.stock("sports")
    monkeypatch.setattr(
        "veilmart.cli.profiles.Market", partial(Market, connect=world.connect, clock=clock.now_ms)
    )
    try:
        to_boundary(time)
        settle(world)
        with bazaar.customer(bundles=2, clock=clock.now_ms) as other:
            other.buy_now("sports", "ROUTE")
        with bazaar.customer(bundles=1, clock=clock.now_ms) as market:
            before = market.wallet()
            assert before.crowd_at == 0
            assert {coin.crowd for coin in before.coins} == {None}
        month = slots.month_of(clock.now_ms())
        to_boundary(time)
        boundary = clock.now_ms() - clock.now_ms() % HOUR_MS
        settle(world)
        (event,) = of_kind(world, "coins.totals")
        rows = [row for row in event["data"]["coins"] if row["month"] == month]
        out = {row["value"]: row["issued"] - row["spent"] for row in rows}
        with bazaar.again(market, clock=clock.now_ms) as again:
            assert again.wallet().crowd_at == 0, "the wallet asks nobody"
            again.search("ROUTE", merchant="sports")
            after = again.wallet()
        assert after.crowd_at == boundary
        held = {coin.value: coin for coin in after.coins}
        assert {value: coin.crowd for value, coin in held.items()} == {value: out[value] for value in held}
        # The other customer's, without what its order took, and ours.
        assert held[512].crowd == 3 * held[512].usable
        told = veilmart("wallet", "--profile", home(market))
        assert told.code == 0
        lines = told.out.splitlines()
        assert lines[0].split("\t")[-1] == "among at most"
        assert any(line.startswith("among at most: that many coins") for line in lines)
        assert f"5.12 EUR\t{held[512].usable}\t0\t0\t{held[512].crowd}" in lines
        data = veilmart("wallet", "--json", "--profile", home(market)).data
        assert data["crowd_at"] == boundary
        assert {coin["value"]: coin["crowd"] for coin in data["coins"]} == {
            coin.value: coin.crowd for coin in after.coins
        }
    finally:
        world.close()
