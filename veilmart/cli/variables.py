"""The environment's variables: what each may hold, and the error that names the one that holds another."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from common import topics
from common.errors import MalformedError, UsageError

HOME_VARIABLE: Final = "VEILMART_HOME"
PROFILE_VARIABLE: Final = "VEILMART_PROFILE"
MERCHANT_VARIABLE: Final = "VEILMART_MERCHANT"
PASSPHRASE_VARIABLE: Final = "VEILMART_PASSPHRASE_FILE"  # noqa: S105 - a name
KEY_FILE_VARIABLE: Final = "VEILMART_KEY_FILE"
DEBUG_VARIABLE: Final = "VEILMART_DEBUG"
COMPLETION_VARIABLE: Final = "_VEILMART_COMPLETE"
"""What a shell sets that completes a line; its value says which answer it wants, and how."""
PREFIX: Final = "VEILMART_"

KNOWN: Final = {
    HOME_VARIABLE: "The market's folder, below which each node's home lies; else `~/.local/share/veilmart`.",
    PROFILE_VARIABLE: "The customer's home.",
    MERCHANT_VARIABLE: "Which merchant, where a market's folder has several.",
    PASSPHRASE_VARIABLE: "The file with the wallet's passphrase, `-` for stdin.",
    KEY_FILE_VARIABLE: "The file that opens the wallet in place of a passphrase.",
    DEBUG_VARIABLE: "`1` shows the whole trace of a mistake of ours; it may hold secrets.",
}
"""Each variable and what it is for, as docs/cli.md lists them."""


def folder_in(name: str, environment: Mapping[str, str] = os.environ) -> Path | None:
    """Give the folder that a variable names, None where it is not set. Raises `UsageError` for a file."""
    given = environment.get(name)
    if not given:
        return None
    path = Path(given)
    if path.exists() and not path.is_dir():
        raise UsageError(f"{name}: {path} is no folder.", f"Let {name} name a folder, or unset it.")
    return path


def check_variables(environment: Mapping[str, str]) -> None:
    """Raise `UsageError` for the first variable that holds what it cannot."""
    for name in (HOME_VARIABLE, PROFILE_VARIABLE):
        folder_in(name, environment)
    merchant = environment.get(MERCHANT_VARIABLE)
    if merchant:
        check_merchant(merchant)
    file = environment.get(PASSPHRASE_VARIABLE)
    if file and file != "-" and not Path(file).is_file():
        raise UsageError(
            f"{PASSPHRASE_VARIABLE}: there is no file {file}.",
            f"Let {PASSPHRASE_VARIABLE} name the file with the passphrase, or unset it.",
        )
    key = environment.get(KEY_FILE_VARIABLE)
    if key and Path(key).exists() and not Path(key).is_file():
        raise UsageError(
            f"{KEY_FILE_VARIABLE}: {key} is no file.",
            f"Let {KEY_FILE_VARIABLE} name the key file, or unset it.",
        )
    if environment.get(DEBUG_VARIABLE, "") not in {"", "0", "1"}:
        raise UsageError(f"{DEBUG_VARIABLE} is neither 0 nor 1.", f"Set {DEBUG_VARIABLE}=1, or unset it.")


def check_merchant(name: str) -> str:
    """Give a merchant's id as `--merchant` or its variable names it. Raises `UsageError`."""
    try:
        return topics.check_merchant_id(name)
    except MalformedError as error:
        raise UsageError(
            f"--merchant or {MERCHANT_VARIABLE}: {name!r} cannot be a merchant's id ({error}).",
            "Name one as `veilmart merchant init` was called.",
        ) from error


def unknown(environment: Mapping[str, str]) -> list[str]:
    """Give variables that look like ours and are not: misspelt ones, or those of a script."""
    return sorted(name for name in environment if name.startswith(PREFIX) and name not in KNOWN)
