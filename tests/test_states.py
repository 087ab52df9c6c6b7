"""The tables of states: what is listed happens, what is not raises, and every road ends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import messages, states
from common.states import Table, UnlistedStepError

TABLES = {
    "broker": states.BROKER_ORDER,
    "merchant": states.MERCHANT_ORDER,
    "customer": states.CUSTOMER_ORDER,
}
tables = st.sampled_from(sorted(TABLES)).map(TABLES.__getitem__)


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_every_step_leads_to_a_state_of_the_table(table: Table) -> None:
    assert {new for targets in table.values() for new in targets} <= table.keys()


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_every_pair_is_listed_or_raises(table: Table) -> None:
    for old, targets in table.items():
        for new in table:
            if new in targets:
                assert states.step(table, old, new) == new
            else:
                with pytest.raises(UnlistedStepError, match=f"no step from {old} to {new}"):
                    states.step(table, old, new)


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_sources_are_the_steps_turned_round(table: Table) -> None:
    for new in table:
        assert set(states.sources(table, new)) == {old for old in table if new in table[old]}


@given(tables, st.data())
def test_every_walk_ends_and_passes_no_state_twice(table: Table, data: st.DataObject) -> None:
    (start,) = [state for state in table if not states.sources(table, state)]
    walk = [start]
    while table[walk[-1]]:
        walk.append(states.step(table, walk[-1], data.draw(st.sampled_from(sorted(table[walk[-1]])))))
        assert len(set(walk)) == len(walk)
    assert walk[-1] in table


def test_paid_and_refunded_exclude_each_other() -> None:
    assert "refundable" not in _reachable(states.BROKER_ORDER, "captured")
    assert not states.BROKER_ORDER["refunded"]
    assert _reachable(states.BROKER_ORDER, "refundable").isdisjoint({"captured"})
    assert "captured" not in _reachable(states.MERCHANT_ORDER, "cancelled")
    assert "delivered" not in _reachable(states.MERCHANT_ORDER, "rejected")
    assert "refundable" not in _reachable(states.CUSTOMER_ORDER, "accepted")


def _reachable(table: Table, state: str) -> set[str]:
    found = {state}
    while more := {new for old in found for new in table[old]} - found:
        found |= more
    return found


def test_the_wire_knows_exactly_the_brokers_states() -> None:
    assert set(messages.BrokerOrderState.__args__) == set(states.BROKER_ORDER)


def test_an_unknown_state_is_a_mistake_of_ours() -> None:
    with pytest.raises(KeyError):
        states.step(states.BROKER_ORDER, "nowhere", "held")
