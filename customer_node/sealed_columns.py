"""Columns that are encrypted in the profile's store, under a key that follows from the wallet's seed.

Rule 1. A value is sealed with ChaCha20-Poly1305 (RFC 8439) under a nonce of its own, its table and column
being the associated data: moved to another column it does not open.

Rule 2. What a query compares, joins or orders by stays plain; `docs/threat-model.md` says which columns
that are. A sealed column cannot be compared: the same value looks different each time.

Rule 3. The key comes with the store's dialect, of which each store has its own (`attach`): a statement
knows no profile.

    sa.Column("secret", Sealed("order_secrets.secret"), nullable=False)
"""

from __future__ import annotations

from typing import Any, Final
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from common.clock import Random
from common.errors import UntrustedError

VERSION: Final = b"\x01"
NONCE: Final = 12


class RowCipher:
    """Seals and opens values. Raises `UntrustedError` for what was changed or sealed under another seed."""

    def __init__(self, seed: bytes, random: Random) -> None:
        info = b"veilmart v1 profile columns"
        key = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info).derive(seed)
        self._cipher = ChaCha20Poly1305(key)
        self._random = random

    def seal(self, place: str, value: bytes) -> bytes:
        """Seal a value for its table and column, as in `order_secrets.secret`."""
        nonce = self._random(NONCE)
        return VERSION + nonce + self._cipher.encrypt(nonce, value, place.encode())

    def open(self, place: str, sealed: bytes) -> bytes:
        """Undo `seal`."""
        nonce, content = sealed[1 : 1 + NONCE], sealed[1 + NONCE :]
        try:
            if sealed[:1] == VERSION:
                return self._cipher.decrypt(nonce, content, place.encode())
        except (InvalidTag, ValueError):
            pass
        raise UntrustedError(
            f"A value in the profile ({place}) does not open.",
            "The profile was changed, or its seed belongs to another one.",
        )


_ciphers: WeakKeyDictionary[sa.Dialect, RowCipher] = WeakKeyDictionary()


def attach(dialect: sa.Dialect, cipher: RowCipher) -> None:
    """Let the sealed columns of one store be read and written with `cipher`."""
    _ciphers[dialect] = cipher


def cipher_of(dialect: sa.Dialect) -> RowCipher:
    """Give a store's cipher. Raises `LookupError` where none was attached: a mistake of ours."""
    return _ciphers[dialect]


class Sealed(sa.TypeDecorator[bytes]):
    """Bytes that are encrypted in the store."""

    impl = sa.LargeBinary
    cache_ok = True

    def __init__(self, place: str) -> None:
        super().__init__()
        self.place = place

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> bytes | None:
        """Seal what is written."""
        return None if value is None else cipher_of(dialect).seal(self.place, bytes(value))

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> bytes | None:
        """Open what is read."""
        return None if value is None else cipher_of(dialect).open(self.place, bytes(value))


class SealedText(sa.TypeDecorator[str]):
    """Text that is encrypted in the store."""

    impl = sa.LargeBinary
    cache_ok = True

    def __init__(self, place: str) -> None:
        super().__init__()
        self.place = place

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> bytes | None:
        """Seal what is written."""
        return None if value is None else cipher_of(dialect).seal(self.place, str(value).encode())

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> str | None:
        """Open what is read."""
        return None if value is None else cipher_of(dialect).open(self.place, bytes(value)).decode()
