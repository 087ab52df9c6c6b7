"""What opens a wallet: a passphrase that is typed or stands in a file, or a key file, for scripts.

Rule. Neither is ever an argument, which every `ps` would show. A new wallet without either is made only
where `--no-passphrase` asks for that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, TypeAlias

import typer

from common.clock import random_bytes
from common.errors import AuthenticationError, UsageError
from common.keys import PRIVATE_FILE_MODE, create_file
from customer_node.profile import Profile
from customer_node.seed_file import (
    KEY_FILE_BYTES,
    KEY_FILE_MAXIMUM,
    KeyFile,
    Passphrase,
    Unlock,
    check_key_file,
)
from veilmart.cli.homes import read_small_file
from veilmart.cli.passwords import read_password
from veilmart.cli.variables import KEY_FILE_VARIABLE, PASSPHRASE_VARIABLE

PASSPHRASE: Final = "Passphrase of the wallet"  # noqa: S105 - what is asked for, not what is answered

PassphraseFile: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        envvar=PASSPHRASE_VARIABLE,
        help="Read the wallet's passphrase from this file ('-' for stdin) instead of asking for it.",
        show_default=False,
    ),
]
KeyFilePath: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--key-file",
        envvar=KEY_FILE_VARIABLE,
        help="The file that opens the wallet in place of a passphrase.",
        show_default=False,
    ),
]
NoPassphrase: TypeAlias = Annotated[
    bool,
    typer.Option("--no-passphrase", help="Leave the wallet open to whoever can read its folder."),
]


def present_unlock(home: Path, passphrase_file: Path | None, key_file: Path | None) -> Unlock | None:
    """Give what opens the wallet of a profile, asking where it has to be typed.

    Raises `UsageError`, `AuthenticationError` where a key file is needed and none was named.
    """
    kind = Profile.protection(home)
    if kind == "none":
        return None
    if kind == "key_file":
        if key_file is None:
            raise AuthenticationError("The wallet opens with its key file.", "Name it with --key-file FILE.")
        return _read_key_file(key_file)
    return Passphrase(
        read_password(passphrase_file, new=False, prompt=PASSPHRASE, option="--passphrase-file")
    )


def new_unlock(passphrase_file: Path | None, key_file: Path | None, *, no_passphrase: bool) -> Unlock | None:
    """Give what a new wallet shall open with, asking where nothing was said; a new key file is made.

    Raises `UsageError`.
    """
    if [passphrase_file is not None, key_file is not None, no_passphrase].count(True) > 1:
        raise UsageError("A wallet has a passphrase or a key file or neither: choose one.")
    if no_passphrase:
        return None
    if key_file is not None:
        if not key_file.exists():
            create_file(key_file, random_bytes(KEY_FILE_BYTES), mode=PRIVATE_FILE_MODE)
        return _read_key_file(key_file)
    return Passphrase(
        read_password(
            passphrase_file,
            new=True,
            prompt=f"New {PASSPHRASE.lower()}",
            option="--passphrase-file, --key-file or --no-passphrase",
        )
    )


def _read_key_file(path: Path) -> KeyFile:
    return check_key_file(read_small_file(path, KEY_FILE_MAXIMUM))
