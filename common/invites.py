"""Invite codes: 128 random bits, as text that one can read out.

    k5xw-y3dp-ebtw-6zjt-mrqx-g5lb-oi      base32 (RFC 4648) in lower case, in groups of four

The broker stores SHA-256 of the 16 bytes: with 128 random bits, nobody finds them from that.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final

from common.errors import UsageError

CODE_BYTES: Final = 16
GROUP: Final = 4
_PADDING: Final = "=" * 6


def text_of(code: bytes) -> str:
    """Write a code of 16 bytes as text."""
    letters = base64.b32encode(code).decode().rstrip("=").lower()
    return "-".join(letters[n : n + GROUP] for n in range(0, len(letters), GROUP))


def read(text: str) -> bytes:
    """Read a code as somebody typed it: capitals, blanks and dashes do not matter. Raises `UsageError`."""
    letters = "".join(text.replace("-", " ").split()).upper()
    try:
        code = base64.b32decode(letters + _PADDING)
    except (binascii.Error, ValueError):
        code = b""
    if len(code) != CODE_BYTES or text_of(code).replace("-", "").upper() != letters:
        raise UsageError("That is no invite code.", "Copy it again, all groups of it.")
    return code


def digest(code: bytes) -> bytes:
    """Give what the broker knows a code by."""
    return hashlib.sha256(code).digest()
