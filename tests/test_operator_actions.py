"""What the operator does: with a reason, a public event that names nobody, and both or neither."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import sqlalchemy as sa
from cli import WHY, veilmart
from client import dump, settle
from conftest import Time
from test_broker_audit import of_kind
from world import World

from broker_node import accounts, administration, operator_actions, schema
from broker_node.audit import Audit
from common import clock, codec
from common.config import MAXIMUM_AMOUNT, SECOND_MS, Limits
from common.errors import NotFoundError, RejectedError, UsageError

AUDIT = Audit(bytes(16), Limits())


def test_an_action_is_stored_with_its_reason_and_published_without(world: World, time: Time) -> None:
    world.account("alice", "correct horse", 5000)
    time.advance(2 * SECOND_MS)
    settle(world)
    events = of_kind(world, "operator.acted")
    assert [event["data"]["action"] for event in events] == ["account.add", "account.credit"]
    assert all(set(event["data"]) == {"action", "commitment"} for event in events)
    assert not any(word in json.dumps(events) for word in ("alice", "a test", "5000"))
    with world.broker.store.immediate() as tx:
        added, credited = operator_actions.listing(tx, "alice")
        rows = tx.all(sa.select(schema.operator_actions).order_by(schema.operator_actions.c.at))
        references = {row["reference"] for row in tx.all(sa.select(schema.postings))}
    assert (credited.action, credited.subject, credited.reason) == ("account.credit", "alice", "a test")
    assert references == {credited.id}
    facts = [added.id, "account.add", "alice", "a test", added.at]
    salt = next(row["salt"] for row in rows if row["id"] == added.id)
    opened = hashlib.sha256(b"veilmart v1 commitment\0" + salt + codec.pack(facts)).hexdigest()
    assert opened == events[0]["data"]["commitment"]


def test_an_action_that_fails_leaves_nothing(world: World) -> None:
    world.account("alice", "correct horse", 100)
    settle(world)
    before = dump(world)
    now, random = clock.now_ms(), clock.random_bytes
    for reason in ("", "  ", "two\nlines", "long" * 200):
        with pytest.raises(UsageError), world.broker.store.immediate() as tx:
            administration.credit(tx, AUDIT, "alice", 1, reason, now, random)
    for act in (administration.disable, administration.enable):
        with pytest.raises(NotFoundError), world.broker.store.immediate() as tx:
            act(tx, AUDIT, "nobody", "a test", now, random)
    with pytest.raises(NotFoundError), world.broker.store.immediate() as tx:
        administration.credit(tx, AUDIT, "nobody", 1, "a test", now, random)
    assert dump(world) == before


def test_a_closed_account_is_credited_nothing(world: World) -> None:
    world.account("alice", "correct horse", 0)
    now, random = clock.now_ms(), clock.random_bytes
    with world.broker.store.immediate() as tx:
        administration.close(tx, AUDIT, "alice", "gone", now, random)
    settle(world)
    before = dump(world)
    with pytest.raises(RejectedError, match="is closed"), world.broker.store.immediate() as tx:
        administration.credit(tx, AUDIT, "alice", 500, "a test", now, random)
    assert dump(world) == before


def test_no_account_holds_more_than_its_owner_can_be_told(world: World) -> None:
    world.account("alice", "correct horse", MAXIMUM_AMOUNT - 1)
    now, random = clock.now_ms(), clock.random_bytes
    with world.broker.store.immediate() as tx:
        assert administration.credit(tx, AUDIT, "alice", 1, "all of it", now, random) == MAXIMUM_AMOUNT
    before = dump(world)
    with pytest.raises(RejectedError), world.broker.store.immediate() as tx:
        administration.credit(tx, AUDIT, "alice", 1, "too much", now, random)
    assert dump(world) == before


def test_every_action_on_an_account_needs_a_reason(world: World, tmp_path: Path) -> None:
    world.account("alice", "correct horse", 0)
    home = ("--home", world.broker_home)
    password = tmp_path / "password"
    password.write_text("correct horse")
    calls: list[tuple[str | Path, ...]] = [
        ("add", "bob", "--password-file", password),
        ("credit", "alice", "1", "--yes"),
        ("disable", "alice"),
        ("enable", "alice"),
    ]
    for words in calls:
        ran = veilmart("broker", "account", *words, *home, "--json")
        assert (ran.code, ran.error["code"]) == (2, "usage"), words
        assert veilmart("broker", "account", *words, *WHY, *home, "--json").code == 0, words
    shown = veilmart("broker", "actions", "--about", "alice", *home, "--json").data
    assert [each["action"] for each in shown] == [
        "account.add", "account.credit", "account.disable", "account.enable",
    ]  # fmt: skip
    assert {each["reason"] for each in shown} == {"a test"}
    assert veilmart("broker", "actions", *home).out.count("a test") == 5
    with world.broker.store.immediate() as tx:
        assert len(operator_actions.listing(tx)) == 5
        assert [each.name for each in accounts.listing(tx)] == ["alice", "bob"]
