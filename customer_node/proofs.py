"""A receipt as short texts that fit into QR codes, and are verified off line like the whole file.

    VEILMART-RECEIPT:1/2:MFRGG...      VEILMART-RECEIPT:2/2:ZDGNB...

What follows the second colon is base32 (RFC 4648) without padding; all parts together are zlib (RFC 1950)
of a msgpack array `[receipt, signature, certificate]`: what the merchant signed, its signature and its
certificate (DER). These letters are all in the QR code's alphanumeric set, and no shell minds them.

Rule. A proof proves nothing by itself: `receipts` verifies what this module only takes apart.
"""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import Meta

from common import codec, config
from common.errors import MalformedError, UntrustedError, UsageError
from common.messages import Certificate, Part, Signature

PREFIX: Final = "VEILMART-RECEIPT:"
PART_LETTERS: Final = 1400
"""A QR code of so many letters is of version 23: 109 modules wide, which a phone reads off paper."""
LARGEST: Final = 40 * config.KIB
MOST_PARTS: Final = 99
_PART: Final = re.compile(PREFIX + r"([1-9]\d?)/([1-9]\d?):([A-Z2-7]+?)(?=VEILMART-|[^A-Z2-7]|$)", re.ASCII)


class Proof(Part, frozen=True):
    """What a proof says: the receipt's bytes as signed, their signature, the signer's certificate."""

    receipt: Annotated[bytes, Meta(max_length=32 * config.KIB)]
    signature: Signature
    certificate: Certificate


_PROOF: Final[codec.Codec[Proof]] = codec.Codec(Proof)


def write(proof: Proof) -> tuple[str, ...]:
    """Write a proof as texts of about the same length, as few as there can be."""
    letters = base64.b32encode(zlib.compress(codec.pack(proof), 9)).decode().rstrip("=")
    count = -(-len(letters) // PART_LETTERS)
    length = -(-len(letters) // count)
    pieces = (letters[start : start + length] for start in range(0, len(letters), length))
    return tuple(f"{PREFIX}{number}/{count}:{piece}" for number, piece in enumerate(pieces, 1))


def is_proof(text: str) -> bool:
    """Tell whether a text begins as a proof does."""
    return text.lstrip().upper().startswith(PREFIX)


def read(text: str) -> Proof:
    """Read the parts of one proof, in any order, whatever stands between them.

    Raises `UsageError` where a part is missing, `UntrustedError` for what is no proof.
    """
    found = _PART.findall(text.upper())
    counts = {int(count) for _, count, _ in found}
    if len(counts) != 1:
        raise UntrustedError("This is no receipt, or several ones.")
    count = counts.pop()
    pieces = {int(number): piece for number, _, piece in found}
    missing = [str(number) for number in range(1, count + 1) if number not in pieces]
    if missing:
        raise UsageError(
            f"Part {', '.join(missing)} of {count} is missing.",
            "Give the text of every QR code of the invoice.",
        )
    try:
        return _PROOF.unpack(_inflate([pieces[number] for number in range(1, count + 1)]))
    except (MalformedError, ValueError, zlib.error) as error:
        raise UntrustedError("This text is no receipt, or was changed.") from error


def _inflate(pieces: Sequence[str]) -> bytes:
    letters = "".join(pieces)
    if len(letters) > MOST_PARTS * PART_LETTERS:
        raise ValueError("too long")
    packed = base64.b32decode(letters + "=" * (-len(letters) % 8))
    stream = zlib.decompressobj()
    data = stream.decompress(packed, LARGEST)
    if not stream.eof:
        raise ValueError("too large, or cut off")
    return data
