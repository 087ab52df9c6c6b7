"""Passwords: asked for without echo, or read from a file; never an argument, which every `ps` would show."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import Final

from common.errors import UsageError
from veilmart.cli.homes import read_small_file
from veilmart.output import StoppedError

LONGEST: Final = 4096


def read_password(
    path: Path | None, *, new: bool, prompt: str = "Password", option: str = "--password-file"
) -> str:
    """Give the password; a new one is asked for twice. Raises `UsageError`."""
    if path is not None:
        return _from_file(path)
    if not sys.stdin.isatty():
        raise UsageError(f"Nobody is there to be asked: {prompt.lower()}.", f"Give it with {option} FILE.")
    password = typed_unseen(prompt)
    if new and typed_unseen("Again") != password:
        raise UsageError("What was typed twice differs.", "Run the command again.")
    if not password:
        raise UsageError("Nothing was typed.", "Run the command again.")
    return password


def typed_unseen(prompt: str) -> str:
    """Give what a person types, without echo. Raises `StoppedError` where the terminal ends (Ctrl-D)."""
    try:
        return getpass.getpass(f"{prompt}: ", stream=sys.stderr)
    except EOFError:
        sys.stderr.write("\n")
        raise StoppedError("Stopped: nothing was typed.", "Run the command again.") from None


def read_words(path: Path | None) -> str:
    """Give a wallet's words: asked for without echo, or read from a file of any number of lines."""
    if path is None:
        return read_password(None, new=False, prompt="The wallet's words", option="--words-file")
    return _text_of(path).strip()


def _from_file(path: Path) -> str:
    # The newline that every editor adds is no part of it.
    password = _text_of(path).removesuffix("\n").removesuffix("\r")
    if not password or "\n" in password:
        raise UsageError(f"{path} does not hold a password on one line.")
    return password


def _text_of(path: Path) -> str:
    raw = sys.stdin.buffer.read(LONGEST + 1) if str(path) == "-" else read_small_file(path, LONGEST)
    if len(raw) > LONGEST:
        raise UsageError("That is too long for a password.")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text.") from None
