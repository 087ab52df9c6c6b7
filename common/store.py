"""Durable state: SQLAlchemy Core over SQLite (WAL, `synchronous=FULL`), one transaction per batch.

Rule 1. A transaction that writes begins with `BEGIN IMMEDIATE`: a deferred one that reads first and
writes later fails at once when another has written, whatever the timeout. Where another process writes
for longer than SQLite waits, that is a `BusyError`.

Rule 2. Rows are inserted in bulk: `Tx.insert` collects, and the rows go in with one `executemany` per
table before anything is read, and before the commit. Tables are narrow and append-only where they can
be; blobs stand apart. What a batch reads by id it reads at once (`Tx.among`).

Rule 3. A step is an `UPDATE … WHERE state IN (…)` whose row count says whether it happened.

Rule 4. Migrations exist from the first table on. Alembic is imported only when one is due, so that a
command line that finds its store up to date starts fast.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias, cast

import sqlalchemy as sa
from sqlalchemy import event

from common.errors import BusyError, VeilmartError
from common.prepared import AT_ONCE, Parameters, Selecting, Statements

Row: TypeAlias = Mapping[str, Any]
"""A row, by column name."""

FETCHED_AT_ONCE = 1_000
BUSY_MS = 10_000
"""How long a lock of somebody else's is waited for."""
WAL_RETRY_S = 0.01
PRIMARY_CODE = 0xFF
"""The part of SQLite's error codes that says what it is; the rest says more exactly which."""
NOTHING: Row = MappingProxyType({})
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_migrating = threading.Lock()
_READS = "veilmart_reads"
"""The execution option of transactions that do not write."""


class LostStepError(Exception):
    """A row that this transaction has read is not in the state that it was read in: a mistake of ours."""


def one_of(column: sa.ColumnElement[str], values: Sequence[str]) -> sa.ColumnElement[bool]:
    """Give `column IN (values)`, written out: SQLAlchemy's own cannot go with `Tx.step`'s `executemany`."""
    return sa.or_(*(column == value for value in values))


class Tx:
    """One transaction: the only effect that a core has. It begins when it is first used."""

    def __init__(self, engine: sa.Engine, statements: Statements) -> None:
        self._engine = engine
        self._statements = statements
        self._begun: sa.Connection | None = None
        self.dialect = engine.dialect.name
        self._pending: dict[sa.Insert, list[Mapping[str, Any]]] = defaultdict(list)
        self.noted: dict[object, Any] = {}
        """What a part of the core has read in this transaction, or queued, and goes on from."""

    @property
    def _connection(self) -> sa.Connection:
        # A batch that only relays never asks for it, and costs no transaction.
        if self._begun is None:
            self._begun = self._engine.connect()
            self._begun.begin()
        return self._begun

    @property
    def _driver(self) -> Any:
        # Its own cursors: where SQL and rows are ready, SQLAlchemy's way costs more than the statement.
        return self._connection.connection.dbapi_connection

    def insert(self, statement: sa.Insert, row: Mapping[str, Any]) -> None:
        """Queue one row for a prepared insert; equal statement objects go in together, in their order."""
        self._pending[statement].append(row)

    def flush(self) -> None:
        """Write what is queued."""
        pending, self._pending = self._pending, defaultdict(list)
        for statement, rows in pending.items():
            self._many(statement, tuple(rows[0]), rows)

    def _many(
        self, statement: sa.Executable, columns: tuple[str, ...], rows: Sequence[Mapping[str, Any]]
    ) -> int:
        prepared = self._statements.many(statement, columns)
        with closing(self._driver.cursor()) as cursor:
            cursor.executemany(prepared.sql, list(map(prepared.parameters, rows)))
            return int(cursor.rowcount)

    def execute(self, statement: sa.Executable, parameters: Any = None) -> sa.CursorResult[Any]:
        """Run a statement after what is queued."""
        if self._pending:
            self.flush()
        return self._connection.execute(statement, parameters)

    def one(self, statement: sa.Executable, parameters: Mapping[str, Any] | None = None) -> Row | None:
        """Give the only row, or None."""
        return cast("Row | None", self.execute(statement, parameters).mappings().one_or_none())

    def all(self, statement: sa.Executable, parameters: Mapping[str, Any] | None = None) -> Sequence[Row]:
        """Give all rows."""
        return cast("Sequence[Row]", self.execute(statement, parameters).mappings().all())

    def tuples(self, statement: sa.Executable) -> Iterator[tuple[Any, ...]]:
        """Give rows one by one, as tuples: for the many of which each is looked at once."""
        for part in self.execute(statement).partitions(FETCHED_AT_ONCE):
            yield from cast("Sequence[tuple[Any, ...]]", part)

    def among(self, statement: Selecting, values: Iterable[Any]) -> list[Row]:
        """Give all rows of a select whose one parameter is `IN (values)`, an expanding one."""
        if self._pending:
            self.flush()
        wanted = sorted(set(values))
        rows: list[Row] = []
        for start in range(0, len(wanted), AT_ONCE):
            rows += self._read(*self._statements.among(statement, wanted[start : start + AT_ONCE]))
        return rows

    def first(self, statement: sa.Select[Any], parameters: Row = NOTHING) -> Row | None:
        """Give the first row, or None, of a select that is the same object each time."""
        return next(iter(self.rows(statement, parameters)), None)

    def rows(self, statement: sa.Select[Any], parameters: Row = NOTHING) -> list[Row]:
        """Give all rows of a select that is the same object each time."""
        if self._pending:
            self.flush()
        prepared = self._statements.read(statement)
        return self._read(prepared.sql, prepared.parameters(parameters))

    def _read(self, sql: str, parameters: Parameters) -> list[Row]:
        with closing(self._driver.cursor()) as cursor:
            cursor.execute(sql, parameters)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def scalar(self, statement: sa.Executable, parameters: Mapping[str, Any] | None = None) -> Any:
        """Give the first column of the first row, or None."""
        return self.execute(statement, parameters).scalar()

    def each(self, statement: sa.Insert | sa.Update | sa.Delete, rows: Sequence[Mapping[str, Any]]) -> int:
        """Run a statement for each of `rows`, in bulk, and tell how many rows it changed in all."""
        if self._pending:
            self.flush()
        columns = tuple(rows[0]) if rows and isinstance(statement, sa.Insert) else ()
        return self._many(statement, columns, rows) if rows else 0

    def step(self, statement: sa.Update, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run an update for each of `rows`, every one of which must change one row.

        Raises `LostStepError` otherwise: the caller read these rows in this very transaction.
        """
        if self.each(statement, rows) != len(rows):
            raise LostStepError(f"{len(rows)} steps asked for, fewer happened")

    def changed(self, statement: sa.Executable, parameters: Mapping[str, Any] | None = None) -> int:
        """Run an update or delete and tell how many rows it changed."""
        return self.execute(statement, parameters).rowcount

    def commit(self) -> None:
        """Write what is queued and make everything durable; `Store.immediate` does it."""
        self.flush()
        if self._begun is not None:
            self._begun.commit()

    def close(self) -> None:
        """Give the connection back; what was not committed is rolled back."""
        if self._begun is not None:
            self._begun.close()


class Store:
    """One node's database. `migrations` names the package that holds its Alembic scripts."""

    def __init__(self, url: str, migrations: str) -> None:
        self.url = url
        self._migrations = migrations
        # An error's text would otherwise hold the row that it failed on, and reach the log.
        self._engine = sa.create_engine(url, hide_parameters=True)
        if self._engine.dialect.name == "sqlite":
            event.listen(self._engine, "connect", _configure_sqlite)
            event.listen(self._engine, "begin", _begin_immediate)
        self._reading = self._engine.execution_options(**{_READS: True})
        self._statements = Statements(self._engine.dialect)

    @classmethod
    def in_home(
        cls,
        home: Path,
        name: str,
        migrations: str,
        prepare: Callable[[sa.Dialect], None] = lambda _dialect: None,
    ) -> Store:
        """Open, and migrate where due, the SQLite store `name` of a home; the file has mode 0600.

        `prepare` is told the store's dialect, its own, before anything is read. Raises `VeilmartError` for a
        file that is damaged.
        """
        path = home / name
        if not path.exists():
            path.touch(mode=0o600)
        store = cls(f"sqlite:///{path}", migrations)
        prepare(store._engine.dialect)
        try:
            store.migrate()
        except sa.exc.DatabaseError as error:
            if getattr(error.orig, "sqlite_errorcode", None) not in _DAMAGED:
                raise
            store.close()
            raise VeilmartError(
                f"{path} is damaged or no store at all.",
                "Keep a copy, and put a backup in its place: docs/operating.md says how.",
            ) from error
        return store

    @contextmanager
    def immediate(self) -> Iterator[Tx]:
        """Open a writing transaction; commits at the end, rolls back on any exception."""
        tx = Tx(self._engine, self._statements)
        try:
            yield tx
            tx.commit()
        finally:
            tx.close()

    @contextmanager
    def snapshot(self) -> Iterator[Tx]:
        """Open a transaction that only reads, however long: it sees one state, and holds up nobody."""
        tx = Tx(self._reading, self._statements)
        try:
            yield tx
        finally:
            tx.close()

    def migrate(self) -> None:
        """Bring the schema to the newest version; does nothing where it is there.

        Raises `VeilmartError` for a store that a newer Veilmart has brought further.
        """
        package = import_module(self._migrations)
        version = self._version()
        if version == package.HEAD:
            return
        if version is not None and version > package.HEAD:
            raise VeilmartError(
                f"{self._engine.url.database} was brought up to date by a newer Veilmart than this one.",
                "Use that one, or a copy of the store from before.",
            )
        from alembic import command  # noqa: PLC0415 - 0.2 s to import, and rarely needed
        from alembic.config import Config  # noqa: PLC0415

        config = Config()
        config.set_main_option("script_location", str(Path(str(package.__file__)).parent))
        # Alembic's context is global to the process: two nodes in two threads would mix theirs.
        with _migrating, self._engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def _version(self) -> str | None:
        with self._engine.connect() as connection:
            if not sa.inspect(connection).has_table("alembic_version"):
                return None
            version: str | None = connection.execute(
                sa.text("SELECT version_num FROM alembic_version")
            ).scalar()
            return version

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()


def _configure_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # The driver's own BEGIN is a deferred one; with None, ours below is the only one.
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout={BUSY_MS}")
    _write_ahead(connection)
    for pragma in (
        "synchronous=FULL",
        "foreign_keys=ON",
        "secure_delete=ON",
        # Rows lie where random ids put them: with SQLite's 2 MiB every batch would read its pages again.
        "cache_size=-16384",
        # A page that many batches write goes from the WAL into the file once, not once for each 4 MiB.
        "wal_autocheckpoint=8000",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Switch to WAL, which stays with the file. Raises `BusyError`.

    Of several that open a new store at once SQLite lets one switch, and tells the others that it is locked
    without the wait that `busy_timeout` asks for: each holds a lock that the other would have to have.
    """
    deadline = time.monotonic() + BUSY_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & PRIMARY_CODE != sqlite3.SQLITE_BUSY:
                raise
            if time.monotonic() > deadline:
                raise _being_written() from error
            time.sleep(WAL_RETRY_S)
        else:
            return


def _being_written() -> BusyError:
    return BusyError("Another process is writing to this store.", "Try again in a moment.")


def _begin_immediate(connection: sa.Connection) -> None:
    if connection.get_execution_options().get(_READS):
        connection.exec_driver_sql("BEGIN")
        return
    try:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    except sa.exc.OperationalError as error:
        if getattr(error.orig, "sqlite_errorcode", None) != sqlite3.SQLITE_BUSY:
            raise
        raise _being_written() from error
