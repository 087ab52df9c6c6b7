"""The wallet's seed at rest: a file that only a passphrase or a key file opens.

    plain    32 bytes, mode 0600: whoever reads the file has the money
    sealed   magic || msgpack [kind, memory KiB, passes, lanes, salt, nonce, sealed seed]

Rule 1. A passphrase becomes a key by Argon2id (RFC 9106), whose parameters stand in the file: the second
recommended choice of section 4, 64 MiB and 3 passes. A key file holds chance already and goes through
HKDF-SHA256 (RFC 5869). The seed is sealed with ChaCha20-Poly1305 (RFC 8439) under a key that seals nothing
else, all that stands before it being its associated data.

Rule 2. A wrong passphrase and a changed file look the same, and change nothing.

    content = seal_seed(seed, Passphrase("..."), random)
    seed = open_seed(content, Passphrase("..."))        # or AuthenticationError
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal, TypeAlias

from argon2.low_level import Type, hash_secret_raw
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from msgspec import Meta

from common import codec, coins
from common.clock import Random
from common.errors import AuthenticationError, MalformedError, UntrustedError, UsageError
from common.messages import Part

MAGIC: Final = b"veilmart v1 sealed seed\0"
KEY_FILE_BYTES: Final = 32
KEY_FILE_MINIMUM: Final = 16
KEY_FILE_MAXIMUM: Final = 4096

MEMORY_KIB: Final = 64 * 1024
PASSES: Final = 3
LANES: Final = 4

SealedBy: TypeAlias = Literal["passphrase", "key_file"]
Protection: TypeAlias = Literal["none", "passphrase", "key_file"]


@dataclass(frozen=True)
class Passphrase:
    """What a person types."""

    text: str = field(repr=False)


@dataclass(frozen=True)
class KeyFile:
    """The content of a key file, for scripts."""

    content: bytes = field(repr=False)


Unlock: TypeAlias = Passphrase | KeyFile


class _Sealed(Part, frozen=True):
    kind: SealedBy
    # Bounded, so that a changed file cannot ask for all of the machine's memory.
    memory_kib: Annotated[int, Meta(ge=8 * LANES, le=4 * 1024 * 1024)]
    passes: Annotated[int, Meta(ge=1, le=100)]
    lanes: Annotated[int, Meta(ge=1, le=16)]
    salt: Annotated[bytes, Meta(min_length=16, max_length=16)]
    nonce: Annotated[bytes, Meta(min_length=12, max_length=12)]
    sealed: Annotated[bytes, Meta(min_length=coins.SEED_BYTES + 16, max_length=coins.SEED_BYTES + 16)]


_SEALED: Final[codec.Codec[_Sealed]] = codec.Codec(_Sealed)


def seal_seed(seed: bytes, unlock: Unlock, random: Random) -> bytes:
    """Give the content of a seed file that `unlock` opens."""
    kind: SealedBy = "passphrase" if isinstance(unlock, Passphrase) else "key_file"
    empty = _Sealed(
        kind=kind,
        memory_kib=MEMORY_KIB,
        passes=PASSES,
        lanes=LANES,
        salt=random(16),
        nonce=random(12),
        sealed=bytes(coins.SEED_BYTES + 16),
    )
    sealed = ChaCha20Poly1305(_key(empty, unlock)).encrypt(empty.nonce, seed, _bound(empty))
    return MAGIC + codec.pack(_with(empty, sealed))


def open_seed(content: bytes, unlock: Unlock | None) -> bytes:
    """Give the 32-byte seed out of a seed file's content; `unlock` is ignored where it is plain.

    Raises `AuthenticationError` for a wrong or missing passphrase or key file, `UntrustedError` for a
    damaged file.
    """
    kind = protection(content)
    if kind == "none":
        return content
    if unlock is None or isinstance(unlock, Passphrase) != (kind == "passphrase"):
        raise AuthenticationError(f"The wallet opens with its {_NAMES[kind]} alone.", _HINTS[kind])
    sealed = _read(content)
    try:
        return ChaCha20Poly1305(_key(sealed, unlock)).decrypt(sealed.nonce, sealed.sealed, _bound(sealed))
    except InvalidTag:
        raise AuthenticationError(
            f"The {_NAMES[kind]} does not open the wallet.", "Nothing was changed. Try again."
        ) from None


def protection(content: bytes) -> Protection:
    """Tell what opens a seed file. Raises `UntrustedError` for a damaged one."""
    if len(content) == coins.SEED_BYTES and not content.startswith(MAGIC):
        return "none"
    return _read(content).kind


def check_key_file(content: bytes) -> KeyFile:
    """Take the content of a key file. Raises `UsageError` where it is too short to be a secret."""
    if not KEY_FILE_MINIMUM <= len(content) <= KEY_FILE_MAXIMUM:
        raise UsageError(f"A key file has {KEY_FILE_MINIMUM} to {KEY_FILE_MAXIMUM} bytes.")
    return KeyFile(content)


_NAMES: Final[dict[Protection, str]] = {"passphrase": "passphrase", "key_file": "key file"}
_HINTS: Final[dict[Protection, str]] = {
    "passphrase": "Give it with --passphrase-file FILE, or type it when asked.",
    "key_file": "Name it with --key-file FILE.",
}


def _read(content: bytes) -> _Sealed:
    packed = content[len(MAGIC) :] if content.startswith(MAGIC) else b""
    try:
        return _SEALED.unpack(packed)
    except MalformedError as error:
        raise UntrustedError(
            "The wallet's seed file is missing or damaged.",
            "Is it the right profile (--profile)? If so, restore the wallet from its words.",
        ) from error


def _with(empty: _Sealed, sealed: bytes) -> _Sealed:
    fields = {name: getattr(empty, name) for name in empty.__struct_fields__}
    return _Sealed(**{**fields, "sealed": sealed})


def _bound(sealed: _Sealed) -> bytes:
    return MAGIC + codec.pack(_with(sealed, bytes(coins.SEED_BYTES + 16)))


def _key(sealed: _Sealed, unlock: Unlock) -> bytes:
    if isinstance(unlock, KeyFile):
        info = b"veilmart v1 seed under key file"
        return HKDF(algorithm=hashes.SHA256(), length=32, salt=sealed.salt, info=info).derive(unlock.content)
    # One spelling of what two keyboards write in two ways (RFC 8265, section 4.2.2).
    text = unicodedata.normalize("NFC", unlock.text).encode()
    return hash_secret_raw(
        text, sealed.salt, sealed.passes, sealed.memory_kib, sealed.lanes, hash_len=32, type=Type.ID
    )
