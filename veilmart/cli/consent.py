"""Before money moves: what would happen is shown, and a person is asked.

Rule 1. `--dry-run` shows it and stops: nothing is stored, sent or asked of anybody but what is needed to
know it. Its data has `"dry_run": true`.

Rule 2. Without `--yes` a person at a terminal is asked. Where nobody can be asked, nothing is done: the
call ends with `usage`, and never waits for an answer.

Rule 3. What is shown is found out by the rules that the deed itself goes by, so that what a dry run allows
is refused later only if something has changed since.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import typer

from veilmart.output import Output

DryRun: TypeAlias = Annotated[
    bool, typer.Option("--dry-run", help="Show what would happen, change nothing, and stop.")
]


def agreed(shown: Output, deed: str, data: dict[str, Any], *, yes: bool, dry_run: bool) -> bool:
    """Tell whether `deed`, a sentence without its end, is to be done; a dry run shows it and is a no.

    Raises `StoppedError` for a no, `UsageError` where nobody can be asked.
    """
    if dry_run:
        shown.show({"dry_run": True, **data}, f"would {deed}")
        return False
    shown.confirm(f"{deed[:1].upper()}{deed[1:]}?", yes=yes)
    return True
