"""The reference of all commands in docs/cli.md, read off the commands themselves.

.venv/bin/python tests/cli_reference.py      writes it anew; a test compares
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from veilmart.cli import app as root
from veilmart.cli import variables
from veilmart.cli.examples import EXAMPLES, leaves

DOCUMENT = Path(__file__).parent.parent / "docs" / "cli.md"
BEGIN, END = "<!-- from here on made by tests/cli_reference.py -->", "<!-- up to here -->"
SHARED = ("profile", "timeout", "proxy", "now", "passphrase_file", "key_file")
"""Parameters of nearly every customer's command: told once."""
TAKEN_BY_ALL = "These may leave `customer` out. All but those that list other ones also take:"


def commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    """Give every command that does something, by its path, in the order of the help."""
    for name in root.COMMANDS:
        yield from leaves(root.load(name), (name,))


def written() -> str:
    """Give the generated part of the document."""
    lines = ["## Variables", "", "| variable | what |", "|---|---|"]
    lines += [f"| `{name}` | {what} |" for name, what in variables.KNOWN.items()]
    group = ""
    shared: list[str] = []
    for path, command in commands():
        if path[0] != group:
            group = path[0]
            lines += ["", f"## {group}"]
            if group == root.CUSTOMER:
                shared = _shared()
                lines += ["", TAKEN_BY_ALL, "", "| option | what |", "|---|---|", *shared]
        lines += ["", *_command(path, command, shared if group == root.CUSTOMER else ())]
    return "\n".join(lines) + "\n"


def _shared() -> list[str]:
    (rows,) = (_rows(command) for path, command in commands() if path == (root.CUSTOMER, "balance"))
    return [rows[name] for name in SHARED]


def _command(path: tuple[str, ...], command: Any, shared: Sequence[str]) -> list[str]:
    words = ["veilmart", *path]
    arguments = [_argument(each) for each in command.params if each.param_type_name == "argument"]
    lines = [f"### {' '.join([*words, *arguments])}", "", _text(command)]
    own = [row for row in _rows(command).values() if row not in shared]
    if own:
        lines += ["", "| | |", "|---|---|", *own]
    lines += ["", *(f"    {line}" for line in EXAMPLES[" ".join(path)])]
    return lines


def _text(command: Any) -> str:
    return re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.cleandoc(command.help or ""))


def _argument(parameter: Any) -> str:
    name = parameter.metavar or parameter.name.upper()
    return name if parameter.required else f"[{name}]"


def _rows(command: Any) -> dict[str, str]:
    """Give a row of the table for each parameter, by its name, in the words of the help."""
    found = {}
    with command.make_context("veilmart", [], resilient_parsing=True) as context:
        for parameter in command.params:
            shown, what = parameter.get_help_record(context)
            choices = parameter.metavar or "|".join(re.findall(r"<([^>]*\|[^>]*)>", shown))
            names = parameter.opts if parameter.param_type_name == "option" else [_argument(parameter)]
            first = ", ".join(names) + (f" {choices}" if choices not in names[0] else "")
            cells = [" ".join(cell.split()).replace("|", "\\|") for cell in (first, what)]
            found[parameter.name] = f"| `{cells[0]}` | {cells[1]} |"
    return found


if __name__ == "__main__":
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    DOCUMENT.write_text(f"{before}{BEGIN}\n\n{written()}\n{END}{after}")
