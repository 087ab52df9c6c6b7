"""Statements compiled once: they do what SQLAlchemy's own do, in both ways that drivers take parameters."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from common.prepared import AT_ONCE, Statements
from common.store import LostStepError, Store, one_of

metadata = sa.MetaData()
things = sa.Table(
    "things",
    metadata,
    sa.Column("id", sa.LargeBinary(2), primary_key=True),
    sa.Column("state", sa.String(8), nullable=False),
    sa.Column("amount", sa.BigInteger),
)
INSERT = sa.insert(things)
ONCE = sqlite.insert(things).on_conflict_do_nothing()
WANTED = sa.select(things).where(
    things.c.state == "new", things.c.id.in_(sa.bindparam("wanted", expanding=True)), things.c.amount < 10**6
)
LARGEST = (
    sa.select(things.c.id, things.c.amount)
    .where(things.c.state == sa.bindparam("wanted"), things.c.amount < 10**6)
    .order_by(things.c.amount.desc())
    .limit(1)
)
STEP = (
    sa.update(things)
    .where(things.c.id == sa.bindparam("of"), one_of(things.c.state, ("new", "odd")))
    .values(state="done", amount=sa.bindparam("to"))
)


def name(number: int) -> bytes:
    return number.to_bytes(2, "big")


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store("sqlite://", "")
    with store.immediate() as tx:
        tx.execute(sa.schema.CreateTable(things))
        for number in range(2 * AT_ONCE):
            tx.insert(INSERT, {"id": name(number), "state": "new", "amount": number or None})
    yield store
    store.close()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, AT_ONCE, AT_ONCE + 1, 2 * AT_ONCE - 1])
def test_among_finds_exactly_what_is_asked_for(store: Store, count: int) -> None:
    with store.immediate() as tx:
        rows = tx.among(WANTED, [name(number) for number in range(1, count + 1)] * 2 + [b"no"] * bool(count))
    assert sorted((row["id"], row["state"], row["amount"]) for row in rows) == [
        (name(number), "new", number) for number in range(1, count + 1)
    ]


def test_rows_that_wait_are_there_before_anything_is_read(store: Store) -> None:
    with store.immediate() as tx:
        tx.insert(INSERT, {"id": b"zz", "state": "new", "amount": 7})
        assert [row["amount"] for row in tx.among(WANTED, [b"zz"])] == [7]
        tx.insert(INSERT, {"id": b"zy", "state": "new", "amount": 7})
        assert tx.each(STEP, [{"of": b"zz", "to": 1}, {"of": b"zy", "to": 2}]) == 2


def test_the_first_row_is_that_of_the_moment(store: Store) -> None:
    last = 2 * AT_ONCE - 1
    with store.immediate() as tx:
        assert tx.first(LARGEST, {"wanted": "new"}) == {"id": name(last), "amount": last}
        assert tx.first(LARGEST, {"wanted": "odd"}) is None
        tx.insert(INSERT, {"id": b"zz", "state": "odd", "amount": 7})
        assert tx.first(LARGEST, {"wanted": "odd"}) == {"id": b"zz", "amount": 7}
        assert tx.first(sa.select(sa.func.count().label("count")).select_from(things)) == {"count": last + 2}


def test_a_step_changes_its_row_or_raises(store: Store) -> None:
    with store.immediate() as tx:
        tx.step(STEP, [{"of": name(1), "to": 5}, {"of": name(2), "to": None}])
        rows = tx.all(sa.select(things).where(things.c.state == "done").order_by(things.c.id))
        assert [(row["id"], row["amount"]) for row in rows] == [(name(1), 5), (name(2), None)]
    with pytest.raises(LostStepError), store.immediate() as tx:
        tx.step(STEP, [{"of": name(2), "to": 1}, {"of": name(3), "to": 1}])


def test_each_counts_what_it_has_changed(store: Store) -> None:
    rows = [{"id": i, "state": "new", "amount": 0} for i in (name(1), b"xx", b"xx", b"xy")]
    with store.immediate() as tx:
        assert tx.each(ONCE, rows) == 2
        assert tx.each(ONCE, []) == 0


def test_a_row_without_a_column_is_a_mistake(store: Store) -> None:
    with store.immediate() as tx:
        tx.insert(INSERT, {"id": b"xx", "state": "new", "amount": 1})
        tx.insert(INSERT, {"id": b"xy", "state": "new"})
        with pytest.raises(KeyError):
            tx.flush()
    with pytest.raises(KeyError), store.immediate() as tx:
        tx.each(STEP, [{"of": b"xx"}])


def test_parameters_by_name() -> None:
    statements = Statements(postgresql.psycopg.dialect())
    step = statements.many(STEP, ())
    assert "%(of)s" in step.sql
    parameters = step.parameters({"of": b"aa", "to": 3})
    assert isinstance(parameters, dict)
    assert {parameters["of"], parameters["to"], parameters["state"]} == {b"aa", 3, "done"}
    largest = statements.read(LARGEST)
    read = largest.parameters({"wanted": "new"})
    assert isinstance(read, dict)
    assert set(read.values()) == {1, 10**6, "new"}
    assert largest.sql % dict.fromkeys(read, "?"), "each that it names is there"
    sql, filled = statements.among(WANTED, [b"a", b"b", b"c"])
    assert isinstance(filled, dict)
    assert sorted(value for value in filled.values() if isinstance(value, bytes)) == [b"a", b"b", b"c", b"c"]
    assert all(f"%({key})s" in sql for key in filled)
