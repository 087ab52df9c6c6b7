"""The contract of output, the same for every command.

Rule 1. Data goes to stdout; progress, notes and errors go to stderr.

Rule 2. With `--json`, wherever it stands, stdout holds envelopes of one line each and nothing else:

    {"ok": true, "data": ...}
    {"ok": false, "error": {"code": "not_found", "message": "...", "hint": "...", "retryable": false}}

A command prints one. Those that go on by themselves (`audit watch`, `merchant orders --follow`, `... run`)
print one for each thing that they have to say; an error, where there is one, is the last. What else an
error may have is said in `common.envelope`; where something was done before something else failed, `data`
stands beside `error`.

Rule 3. Amounts are minor units and times milliseconds since 1970 in JSON, and written out for people.

Rule 4. Tables and colours appear on a terminal only; in a pipe a table is lines of tab-separated cells
under a line of names. What strangers wrote (a title, a name) reaches neither with a control character.

Rule 5. The exit code is the error's: 0 ok, 1 error, 2 usage, 3 not found, 4 rejected, 5 authentication,
6 unreachable, 27 timed out, 130 interrupted.

Rule 6. With `--csv`, where a command has it, stdout holds RFC 4180 with a line of names: amounts as in JSON,
minor units beside their currency, and times as RFC 3339. What strangers wrote is no formula in it.
"""

from __future__ import annotations

import csv
import io
import json
import os
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, TextIO, TypeAlias

import msgspec

from common.envelope import plain
from common.errors import UsageError, VeilmartError

CONTRACT: Final = 1
"""The version of what scripts rely on (docs/cli.md). It grows with a change that may break one of them."""
INTERRUPTED: Final = 130
_KEPT: Final = frozenset("\n\t")
_FORMULAS: Final = frozenset("=+-@")


class InternalError(VeilmartError):
    """A mistake of our own. Its message names the place, never a value."""

    code = "internal"


class StoppedError(VeilmartError):
    """The person at the keyboard ended the command."""

    code: ClassVar[str] = "interrupted"
    exit_code: ClassVar[int] = INTERRUPTED
    retryable: ClassVar[bool] = True


@dataclass(frozen=True)
class Table:
    """Rows under names. Cells are shown as text."""

    names: Sequence[str]
    rows: Sequence[Sequence[object]]


View: TypeAlias = str | Table


class IncompleteError(Exception):
    """Something was done, something else failed: both are shown. Raised by commands, for `Output` alone."""

    def __init__(self, error: VeilmartError, data: object, *views: View) -> None:
        super().__init__(error.message)
        self.error = error
        self.data = data
        self.views = views


class Output:
    """Where a command speaks. `as_json` is whether `--json` was given."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def show(self, data: object, *views: View) -> None:
        """Show data: `data` to scripts, `views` to people."""
        if self.as_json:
            _print(sys.stdout, _line({"ok": True, "data": data}))
        else:
            self._show_views(views)

    def csv(self, table: Table) -> None:
        """Show a table to a spreadsheet."""
        lines = io.StringIO()
        writer = csv.writer(lines, lineterminator="\r\n")
        writer.writerow(table.names)
        writer.writerows([_inert(cell) for cell in row] for row in table.rows)
        _print(sys.stdout, lines.getvalue().removesuffix("\r\n"))

    def note(self, text: str) -> None:
        """Tell a person something that is no data."""
        _print(sys.stderr, printable(text))

    def fail(self, error: VeilmartError) -> int:
        """Show an error and give the exit code."""
        if self.as_json:
            _print(sys.stdout, _line({"ok": False, "error": error}))
        else:
            self._explain(error)
        return error.exit_code

    def fail_incomplete(self, incomplete: IncompleteError) -> int:
        """Show what was done and what failed, and give the exit code."""
        if self.as_json:
            _print(sys.stdout, _line({"ok": False, "data": incomplete.data, "error": incomplete.error}))
        else:
            self._show_views(incomplete.views)
            self._explain(incomplete.error)
        return incomplete.error.exit_code

    def confirm(self, question: str, *, yes: bool) -> None:
        """Ask, unless `yes`. Raises `StoppedError` for a no, `UsageError` where nobody can be asked."""
        if yes:
            return
        if not sys.stdin.isatty():
            raise UsageError("Nobody is there to be asked.", "Add --yes if it shall be done.")
        sys.stderr.write(printable(f"{question} [y/N] "))
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
            raise StoppedError("Not done: the answer was no.")

    def _show_views(self, views: Sequence[View]) -> None:
        for view in views:
            if isinstance(view, str):
                _print(sys.stdout, printable(view))
            elif sys.stdout.isatty():
                _draw(view)
            else:
                _print(sys.stdout, _tabbed(view))

    def _explain(self, error: VeilmartError) -> None:
        _print(sys.stderr, f"error: {printable(error.message)}")
        if error.hint:
            _print(sys.stderr, f"hint: {printable(error.hint)}")


def printable(text: str) -> str:
    """Take out what could steer a terminal: control and format characters but newline and tab."""
    return "".join(
        character if character in _KEPT or not _steers(character) else "\N{REPLACEMENT CHARACTER}"
        for character in text
    )


def _steers(character: str) -> bool:
    # Cc: control; Cf: format, such as the marks that turn the direction of writing; Cs: half a surrogate.
    return unicodedata.category(character) in {"Cc", "Cf", "Cs"}


def _line(envelope: dict[str, Any]) -> str:
    # ASCII alone, so that no locale can spoil it.
    return json.dumps(msgspec.to_builtins(envelope, enc_hook=plain, str_keys=True), separators=(",", ":"))


def _inert(cell: object) -> object:
    if not isinstance(cell, str):
        return cell
    # A spreadsheet computes what begins so, whoever wrote it.
    text = _cell(cell)
    return "'" + text if text[:1] in _FORMULAS else text


def _tabbed(table: Table) -> str:
    lines = [table.names, *table.rows]
    return "\n".join("\t".join(_cell(cell) for cell in line) for line in lines)


def _cell(value: object) -> str:
    return " ".join(printable(str(value)).split())


def _draw(table: Table) -> None:
    # Imported here: a pipe and a script never need it.
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table as RichTable  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    # NO_COLOR alone would leave it bold (no-color.org speaks of colours).
    header_style = "" if os.environ.get("NO_COLOR") else "bold"
    drawn = RichTable(box=SIMPLE_HEAD, header_style=header_style)
    for name in table.names:
        # A path or a digest that is too wide goes on in the next line: cut off it is of no use.
        drawn.add_column(name, overflow="fold")
    for row in table.rows:
        drawn.add_row(*(Text(_cell(cell)) for cell in row))
    Console(file=sys.stdout).print(drawn)


def _print(stream: TextIO, text: str) -> None:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    # Written at once: a ready line in a pipe is waited for.
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    stream.flush()
