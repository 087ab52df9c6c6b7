"""Statements compiled once: for the roads that are busy.

Rule 1. SQLAlchemy writes the SQL, once for each statement; rows then go to the driver as they are. Its own
`executemany` and `IN` look at every value of every row again, which takes longer than SQLite does.

Rule 2. That holds for columns of bytes, text and integers, which every driver takes and gives as they
are. A statement with a column that makes something else of its values (a `TypeDecorator`) is refused here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final, TypeAlias

import sqlalchemy as sa

AT_ONCE: Final = 256
"""How many values one `IN` takes: SQLite allows 999 parameters in its oldest versions, and a statement may
have it twice."""
STATEMENTS_KEPT: Final = 256

Selecting: TypeAlias = sa.Select[Any] | sa.CompoundSelect[Any]
Parameters: TypeAlias = tuple[Any, ...] | dict[str, Any]
"""One row for the driver: by position or by name, as its dialect wants."""


@dataclass(frozen=True)
class Prepared:
    """SQL as the driver takes it, and how a row becomes its parameters."""

    sql: str
    parameters: Callable[[Mapping[str, Any]], Parameters]


class Statements:
    """The compiled statements of one dialect."""

    def __init__(self, dialect: sa.Dialect) -> None:
        self._dialect = dialect
        self.many = lru_cache(STATEMENTS_KEPT)(self._many)
        """`many(statement, columns)`: for `executemany`, `columns` being an insert's, else empty."""
        self.read = lru_cache(STATEMENTS_KEPT)(self._select)
        """`read(statement)`: for a select without an `IN`."""
        self._among = lru_cache(STATEMENTS_KEPT)(self._expand)

    def _many(self, statement: sa.Executable, columns: tuple[str, ...]) -> Prepared:
        compiled = self._compile(statement, column_keys=list(columns) or None, for_executemany=True)
        return _prepared(compiled)

    def _select(self, statement: sa.Select[Any]) -> Prepared:
        _demand_plain([column.type for column in statement.selected_columns])
        return _prepared(self._compile(statement))

    def among(self, statement: Selecting, values: Sequence[Any]) -> tuple[str, Parameters]:
        """Give SQL and parameters of a select whose one parameter, an expanding one, is `values`.

        There are at most `AT_ONCE`. They are filled up to a power of two, so that few statements do.
        """
        size = 1 << (len(values) - 1).bit_length()
        prepared, names = self._among(statement, size)
        filled = [*values, *[values[-1]] * (size - len(values))]
        return prepared.sql, prepared.parameters(dict(zip(names, filled, strict=True)))

    def _expand(self, statement: Selecting, size: int) -> tuple[Prepared, list[str]]:
        compiled = self._compile(statement)
        _demand_plain([column.type for column in statement.selected_columns])
        (name,) = [name for name, bind in compiled.binds.items() if bind.required]
        expanded = compiled.construct_expanded_state({name: [None] * size})
        names = list(expanded.parameter_expansion[name])
        constants = {key: value for key, value in expanded.parameters.items() if key not in names}
        filler = _filler(expanded.positiontup, list(expanded.parameters), constants)
        return Prepared(expanded.statement, filler), names

    def _compile(self, statement: sa.Executable, **options: Any) -> Any:
        # What `compile` gives is typed as the general `Compiled`; ours are all SQL.
        return statement.compile(dialect=self._dialect, **options)  # type: ignore[attr-defined] # each of ours has it


def _prepared(compiled: Any) -> Prepared:
    _demand_plain([bind.type for bind in compiled.binds.values()])
    constants = {name: bind.value for name, bind in compiled.binds.items() if not bind.required}
    return Prepared(compiled.string, _filler(compiled.positiontup, list(compiled.binds), constants))


def _demand_plain(types: Sequence[object]) -> None:
    if any(isinstance(each, sa.TypeDecorator) for each in types):
        raise TypeError("a prepared statement would pass by what this column's type does")


def _filler(
    positions: Sequence[str] | None, names: Sequence[str], constants: Mapping[str, Any]
) -> Callable[[Mapping[str, Any]], Parameters]:
    def by_position(row: Mapping[str, Any]) -> Parameters:
        return tuple([constants[name] if name in constants else row[name] for name in positions or ()])

    if positions is not None and not constants:
        if len(positions) > 1:
            return itemgetter(*positions)
        if len(positions) == 1:
            (name,) = positions
            return lambda row: (row[name],)

    def by_name(row: Mapping[str, Any]) -> Parameters:
        return {name: constants[name] if name in constants else row[name] for name in names}

    return by_name if positions is None else by_position
