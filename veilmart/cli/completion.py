"""Shell completion: `veilmart completion SHELL` prints a script, which asks the command itself for each word.

Typer's own engine does the work; it resolves command lines with the same parser that runs them, so a group
is imported only where its commands are asked for.
"""

from __future__ import annotations

import contextlib
import io
import os
from typing import Annotated, Any, Final, Literal

import typer
from typer.completion import get_completion_inspect_parameters, shell_complete

from veilmart.cli.homes import output
from veilmart.cli.variables import COMPLETION_VARIABLE

app = typer.Typer(add_completion=False, rich_markup_mode=None)

PROGRAM: Final = "veilmart"


@app.callback()
def group() -> None:
    """Leaves of the root command."""


@app.command()
def completion(
    context: typer.Context,
    shell: Annotated[Literal["bash", "zsh", "fish"], typer.Argument(help="Which shell.")],
) -> None:
    """Print the script that makes a shell complete commands and options."""
    script = _asked(context.find_root().command, f"source_{shell}").strip()
    output(context).show({"shell": shell, "script": script}, script)


def complete(command: Any) -> int:
    """Answer a shell that asks for completions by the variable; gives the exit code."""
    get_completion_inspect_parameters()  # Typer tells its engine of the shells here
    return shell_complete(command, {}, PROGRAM, COMPLETION_VARIABLE, os.environ[COMPLETION_VARIABLE])


def _asked(command: Any, instruction: str) -> str:
    get_completion_inspect_parameters()
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        shell_complete(command, {}, PROGRAM, COMPLETION_VARIABLE, instruction)
    return said.getvalue()
