"""A payment card: asked for, number and security code without echo, or read from a file.

    number = "4242 4242 4242 4242"        the file is TOML or JSON, and nobody else's to read (mode 0600)
    expiry = "12/34"
    security_code = "123"
    name = "A. Lovelace"

Rule. Nothing of a card is ever an argument, which every `ps` and every history would show.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import msgspec

from common import payment_cards
from common.clock import now_ms
from common.errors import UsageError
from common.messages import PaymentCard
from veilmart.cli.homes import read_small_file
from veilmart.cli.passwords import typed_unseen

LONGEST: Final = 4096
OTHERS_MODES: Final = 0o077


class CardFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a card file holds."""

    number: str
    expiry: str
    security_code: str
    name: str


def read_card(path: Path | None) -> PaymentCard:
    """Give a card, checked. Raises `InvalidCardError`, `UsageError`."""
    if path is not None:
        found = _from_file(path)
        read = payment_cards.card(found.number, found.expiry, found.security_code, found.name)
    elif sys.stdin.isatty():
        read = payment_cards.card(
            typed_unseen("Card number"),
            _asked("Expiry (MM/YY): "),
            typed_unseen("Security code"),
            _asked("Name on the card: "),
        )
    else:
        raise UsageError("Nobody is there to be asked for a card.", "Give it with --card-file FILE.")
    payment_cards.check(read, now_ms())
    return read


def _asked(question: str) -> str:
    sys.stderr.write(question)
    sys.stderr.flush()
    return sys.stdin.readline()


def _from_file(path: Path) -> CardFile:
    from_stdin = str(path) == "-"
    raw = sys.stdin.buffer.read(LONGEST + 1) if from_stdin else read_small_file(path, LONGEST)
    if not from_stdin and path.stat().st_mode & OTHERS_MODES:
        raise UsageError(f"{path} can be read by others.", f"chmod 600 {path}")
    decode = msgspec.json.decode if raw.lstrip().startswith(b"{") else msgspec.toml.decode
    try:
        return decode(raw, type=CardFile)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        # Without the parser's own words, which may show a piece of it.
        raise UsageError(
            f"{path} is no card file.", "It holds number, expiry, security_code and name, as TOML or JSON."
        ) from None
