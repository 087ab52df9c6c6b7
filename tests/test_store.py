"""The store: what a transaction promises, and what the file looks like."""

from __future__ import annotations

import importlib
import logging
import sqlite3
import stat
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from common.errors import BusyError, VeilmartError
from common.store import WAL_RETRY_S, LostStepError, Store, Tx

MIGRATIONS = ("broker_node.migrations", "merchant_node.migrations", "customer_node.migrations")
SCHEMAS = {name: importlib.import_module(f"{name.partition('.')[0]}.schema").metadata for name in MIGRATIONS}
metadata = sa.MetaData()
things = sa.Table(
    "things",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),
)
others = sa.Table("others", metadata, sa.Column("id", sa.Integer, primary_key=True))
THING, OTHER = sa.insert(things), sa.insert(others)
STEP = (
    sa.update(things)
    .where(things.c.id == sa.bindparam("of"))
    .where(things.c.state == "old")
    .values(state="new")
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.in_home(tmp_path, "broker.db", MIGRATIONS[0])
    with store.immediate() as tx:
        for table in metadata.sorted_tables:
            tx.execute(sa.schema.CreateTable(table))
    yield store
    store.close()


def ids(store: Store, table: sa.Table = things) -> list[int]:
    with store.immediate() as tx:
        return [row["id"] for row in tx.all(sa.select(table.c.id).order_by(table.c.id))]


# --- migrations ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("migrations", MIGRATIONS)
def test_migrations_make_the_tables_of_the_schema(tmp_path: Path, migrations: str) -> None:
    store = Store.in_home(tmp_path, "store.db", migrations)
    inspector = sa.inspect(store._engine)
    made = {name for name in inspector.get_table_names() if name != "alembic_version"}
    metadata = SCHEMAS[migrations]
    assert made == set(metadata.tables)
    for name, table in metadata.tables.items():
        columns = {column["name"]: column for column in inspector.get_columns(name)}
        assert columns.keys() == {column.name for column in table.columns}, name
        for column in table.columns:
            assert str(columns[column.name]["type"]) == column.type.compile(store._engine.dialect), name
            assert columns[column.name]["nullable"] == column.nullable, (name, column.name)
        key = inspector.get_pk_constraint(name)["constrained_columns"]
        assert key == [column.name for column in table.primary_key.columns], name
        indexed = {tuple(index["column_names"]) for index in inspector.get_indexes(name)}
        assert indexed == {tuple(column.name for column in index.columns) for index in table.indexes}, name
    store.close()


@pytest.mark.parametrize("migrations", MIGRATIONS)
def test_migrating_again_changes_nothing(tmp_path: Path, migrations: str) -> None:
    def layout() -> list[tuple[str, str]]:
        connection = sqlite3.connect(tmp_path / "store.db")
        try:
            return connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
        finally:
            connection.close()

    store = Store.in_home(tmp_path, "store.db", migrations)
    first = layout()
    store.migrate()
    store.close()
    Store.in_home(tmp_path, "store.db", migrations).close()
    assert layout() == first


@pytest.mark.parametrize("migrations", MIGRATIONS)
def test_a_store_of_a_newer_veilmart_is_refused(tmp_path: Path, migrations: str) -> None:
    Store.in_home(tmp_path, "store.db", migrations).close()
    with closing(sqlite3.connect(tmp_path / "store.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(VeilmartError, match="by a newer Veilmart than this one"):
        Store.in_home(tmp_path, "store.db", migrations)


@pytest.mark.usefixtures("own_stores")
def test_two_that_open_a_new_store_at_once_both_find_it_whole(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def open_it() -> None:
        try:
            Store.in_home(tmp_path, "store.db", MIGRATIONS[0]).close()
        except BaseException as error:  # noqa: BLE001 - shown below, whatever it is
            failures.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.usefixtures("own_stores")
def test_a_new_store_that_somebody_else_writes_first_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite refuses to switch to WAL at once then, whatever `busy_timeout` says."""
    other = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    waited: list[float] = []

    def commit(seconds: float) -> None:
        waited.append(seconds)
        other.execute("COMMIT")
        other.close()

    monkeypatch.setattr("common.store.time.sleep", commit)
    Store.in_home(tmp_path, "store.db", MIGRATIONS[0]).close()
    assert waited == [WAL_RETRY_S]


# --- transactions --------------------------------------------------------------------------------------


def test_a_transaction_holds_the_writers_lock_from_its_first_use(store: Store, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "broker.db", timeout=0, isolation_level=None)
    try:
        with store.immediate() as tx:
            assert tx.scalar(sa.select(sa.func.count()).select_from(things)) == 0
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("BEGIN IMMEDIATE")
            assert other.execute("SELECT count(*) FROM things").fetchone() == (0,), "readers go on"
        other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")
    finally:
        other.close()


def test_a_store_that_somebody_else_writes_to_is_busy(store: Store, tmp_path: Path) -> None:
    with store.immediate() as tx:
        tx.execute(sa.text("PRAGMA busy_timeout=20"))
    other = sqlite3.connect(tmp_path / "broker.db", timeout=0, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(BusyError) as failure, store.immediate() as tx:
            tx.execute(sa.insert(others), {"id": 1})
        assert failure.value.retryable
        other.execute("ROLLBACK")
        with store.immediate() as tx:
            tx.execute(sa.insert(others), {"id": 1})
    finally:
        other.close()


def test_two_that_read_and_then_write_lose_no_count(store: Store, tmp_path: Path) -> None:
    with store.immediate() as tx:
        tx.execute(sa.insert(others), {"id": 0})
    second = Store.in_home(tmp_path, "broker.db", MIGRATIONS[0])

    def count(each: Store) -> None:
        for _ in range(25):
            with each.immediate() as tx:
                value = tx.scalar(sa.select(others.c.id))
                tx.execute(sa.update(others).values(id=value + 1))

    threads = [threading.Thread(target=count, args=(each,)) for each in (store, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    second.close()
    assert ids(store, others) == [50]


def test_an_exception_rolls_everything_back(store: Store) -> None:
    class MistakeError(Exception):
        pass

    def fail() -> None:
        with store.immediate() as tx:
            tx.insert(THING, {"id": 1, "state": "old"})
            assert tx.scalar(sa.select(sa.func.count()).select_from(things)) == 1
            tx.insert(THING, {"id": 2, "state": "old"})
            raise MistakeError

    with pytest.raises(MistakeError):
        fail()
    assert ids(store) == []


def test_a_failed_bulk_insert_leaves_no_part_of_it(store: Store) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        write(store, (1, 2, 3, 2, 4))
    assert ids(store) == []


def write(store: Store, numbers: Iterable[int], state: str = "old") -> None:
    with store.immediate() as tx:
        for n in numbers:
            tx.insert(THING, {"id": n, "state": state})


# --- bulk inserts --------------------------------------------------------------------------------------


def test_rows_are_written_in_bulk_in_their_order_and_before_anything_is_read(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    inserted: list[str] = []

    def note(statement: str) -> None:
        if statement.startswith("INSERT INTO "):
            inserted.append(statement.split()[2])

    bulks: list[int] = []

    def count(tx: Tx, *arguments: Any) -> int:
        bulks.append(len(arguments[-1]))
        return many(tx, *arguments)

    many = Tx._many
    monkeypatch.setattr(Tx, "_many", count)
    with store.immediate() as tx:
        tx._driver.set_trace_callback(note)
        for n in (5, 3, 9):
            tx.insert(THING, {"id": n, "state": "old"})
            tx.insert(OTHER, {"id": n})
        assert inserted == []
        rowids = sa.text("SELECT id FROM things ORDER BY rowid")
        assert tx.scalar(sa.select(sa.func.count()).select_from(things)) == 3
        assert inserted == ["things"] * 3 + ["others"] * 3
        assert bulks == [3, 3]
        assert [row["id"] for row in tx.all(rowids)] == [3, 5, 9]
        tx.insert(OTHER, {"id": 1})
        tx._driver.set_trace_callback(None)
    assert ids(store, others) == [1, 3, 5, 9], "the rest goes in before the commit"


# --- steps ---------------------------------------------------------------------------------------------


def test_a_step_changes_every_row_or_raises(store: Store) -> None:
    with store.immediate() as tx:
        for n in range(5):
            tx.insert(THING, {"id": n, "state": "old"})
        tx.step(STEP, [{"of": 0}, {"of": 1}])
        tx.step(STEP, [])
    for rows in ([{"of": 0}], [{"of": 2}, {"of": 1}], [{"of": 3}, {"of": 3}], [{"of": 77}]):
        with pytest.raises(LostStepError), store.immediate() as tx:
            tx.step(STEP, rows)
    with store.immediate() as tx:
        states = [row["state"] for row in tx.all(sa.select(things.c.state).order_by(things.c.id))]
    assert states == ["new", "new", "old", "old", "old"]


def test_changed_tells_how_many(store: Store) -> None:
    with store.immediate() as tx:
        for n in range(4):
            tx.insert(THING, {"id": n, "state": "old"})
        assert tx.changed(sa.update(things).where(things.c.id > 1).values(state="new")) == 2
        assert tx.changed(sa.delete(things).where(things.c.id == 99)) == 0


# --- the file ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("own_stores")
def test_pragmas(store: Store) -> None:
    with store.immediate() as tx:
        found = {
            name: tx.scalar(sa.text(f"PRAGMA {name}"))
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout", "secure_delete")
        }
    # FULL is 2 (sqlite.org/pragma.html#pragma_synchronous).
    assert found == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "busy_timeout": 10_000,
        "secure_delete": 1,
    }


def test_the_store_is_private(store: Store, tmp_path: Path) -> None:
    with store.immediate() as tx:
        tx.insert(OTHER, {"id": 1})
    files = sorted(tmp_path.glob("broker.db*"))
    assert {path.name for path in files} >= {"broker.db", "broker.db-wal"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_an_error_shows_no_row(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    secret = "correct horse battery"
    with (
        caplog.at_level(logging.DEBUG),
        pytest.raises(sa.exc.SQLAlchemyError) as caught,
        store.immediate() as tx,
    ):
        tx.execute(THING, [{"id": 1, "state": secret}, {"id": 1, "state": secret}])
    assert secret not in str(caught.value)
    assert secret not in caplog.text
    with pytest.raises(sqlite3.IntegrityError) as refused:
        write(store, (1, 1), secret)
    assert secret not in str(refused.value)
