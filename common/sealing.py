"""Sealed requests: one question, one answer, and a relay in between that can read neither.

After Oblivious HTTP (RFC 9458), on HPKE base mode (RFC 9180) with the X-Wing KEM
(draft-connolly-cfrg-xwing-kem), HKDF-SHA256 and ChaCha20-Poly1305:

    request = prekey id (8) || HPKE.seal(prekey, info, pad(SealedRequest))
    answer  = n (32) || AEAD(key(n, "answer"), nonce 0, pad(body))
    cell    = n (32) || index (u32) || AEAD(key(n, "cells"), nonce = index, content)
    key(n, kind) = HKDF(answer_secret, salt = SHA-256(request) || n, label || kind)

Rule 1. Everything outside that matters is bound into `info`: a field that the relay changes makes the
request impossible to open. The library's HPKE is single shot and has no AAD of its own.

Rule 2. `n` is fresh for each answer. The recipient keeps no session, so a request that the relay plays
again is answered again, perhaps differently; under one key and nonce that would give the relay the
authentication key.

Rule 3. To the outside there is one error, `ForgedError("cannot open")`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from common import codec, messages, padding
from common.errors import ForgedError, MalformedError

Purpose: TypeAlias = Literal["browse", "order", "cells"]

ML_KEM_PUBLIC = 1184
ML_KEM_SEED = 64
PREKEY_ID = 8
NONCE_SALT = 32
CELL_HEADER = NONCE_SALT + 4

_suite = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
_FIELD = 2**255 - 19
# The u-coordinates of small order on curve and twist: an exchange with one gives zero (RFC 7748, §6.1).
_X25519_SMALL_ORDER = frozenset(
    (
        0,
        1,
        _FIELD - 1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
    )
)


@dataclass(frozen=True)
class XWingPublicKey:
    """An X-Wing public key: ML-KEM-768 raw (1184 B) || X25519 raw (32 B).

    `cryptography` has no serializer for the pair, so both halves are kept raw.
    """

    raw: bytes
    key: MLKEM768X25519PublicKey = field(repr=False, compare=False)

    @classmethod
    def from_bytes(cls, raw: bytes) -> XWingPublicKey:
        """Load and check. Raises `MalformedError`.

        An all-zero ML-KEM half would load, and an X25519 half of small order fail only on sealing; both
        are refused here, where a card or a `Hello` is read.
        """
        if len(raw) != ML_KEM_PUBLIC + 32:
            raise MalformedError("an X-Wing public key has 1216 bytes")
        ml_kem, x25519 = raw[:ML_KEM_PUBLIC], raw[ML_KEM_PUBLIC:]
        # RFC 7748, §5: the highest bit is masked, and values from the prime up stand for smaller ones.
        coordinate = int.from_bytes(x25519, "little") % 2**255 % _FIELD
        if not any(ml_kem) or coordinate in _X25519_SMALL_ORDER:
            raise MalformedError("a degenerate X-Wing public key")
        try:
            pair = MLKEM768X25519PublicKey(
                MLKEM768PublicKey.from_public_bytes(ml_kem), X25519PublicKey.from_public_bytes(x25519)
            )
        except ValueError as error:
            raise MalformedError("not an X-Wing public key") from error
        return cls(raw, pair)

    @property
    def key_id(self) -> bytes:
        """First 8 bytes of SHA-256 over the raw key."""
        return hashlib.sha256(self.raw).digest()[:PREKEY_ID]


@dataclass(frozen=True, repr=False)
class XWingPrivateKey:
    """An X-Wing private key: ML-KEM seed (64 B) || X25519 (32 B)."""

    raw: bytes
    key: MLKEM768X25519PrivateKey
    public: XWingPublicKey

    @classmethod
    def from_bytes(cls, raw: bytes) -> XWingPrivateKey:
        """Load. Raises `ValueError`: a private key is never somebody else's input."""
        ml_kem = MLKEM768PrivateKey.from_seed_bytes(raw[:ML_KEM_SEED])
        x25519 = X25519PrivateKey.from_private_bytes(raw[ML_KEM_SEED:])
        public = ml_kem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()
        return cls(raw, MLKEM768X25519PrivateKey(ml_kem, x25519), XWingPublicKey.from_bytes(public))

    @classmethod
    def generate(cls) -> XWingPrivateKey:
        """Make a new key from the library's randomness."""
        return cls.from_bytes(
            MLKEM768PrivateKey.generate().private_bytes_raw()
            + X25519PrivateKey.generate().private_bytes_raw()
        )


@lru_cache(maxsize=256)
def load_public(raw: bytes) -> XWingPublicKey:
    """`XWingPublicKey.from_bytes`, remembered: a card's keys are used for every request."""
    return XWingPublicKey.from_bytes(raw)


def seal(public: XWingPublicKey, info: bytes, plaintext: bytes) -> bytes:
    """HPKE single-shot seal: encapsulated key || ciphertext. Its randomness is the library's own."""
    return _suite.encrypt(plaintext, public.key, info)


def unseal(private: XWingPrivateKey, info: bytes, sealed: bytes) -> bytes:
    """HPKE single-shot open. Raises `ForgedError`."""
    try:
        return _suite.decrypt(sealed, private.key, info)
    except (InvalidTag, ValueError) as error:
        raise ForgedError("cannot open") from error


@dataclass(frozen=True)
class Binding:
    """What a sealed request is bound to. `outer` is empty but for orders and cells."""

    market: bytes
    recipient: bytes
    purpose: Purpose
    outer: bytes = b""

    def info(self, prekey_id: bytes) -> bytes:
        """HPKE's `info`: SHA-256 over every part, each behind its own length."""
        digest = hashlib.sha256(b"veilmart v1 sealed request\0")
        for part in (self.market, self.recipient, prekey_id, self.purpose.encode(), self.outer):
            digest.update(len(part).to_bytes(4, "big"))
            digest.update(part)
        return digest.digest()


def order_outer(
    order: messages.PlaceOrder | messages.ForwardOrder,
) -> bytes:
    """Pack the outer fields of an order for `Binding.outer`, the same at both ends."""
    return codec.pack(
        [
            order.order_id,
            order.amount,
            order.currency,
            order.deadline,
            order.claim_lock,
            order.status_lock,
        ]
    )


@dataclass(frozen=True, repr=False)
class AnswerKey:
    """What turns one request into its one answer: kept by whoever asked, recovered by whoever opened."""

    secret: bytes
    request_hash: bytes

    def _aead(self, n: bytes, kind: str) -> ChaCha20Poly1305:
        label = b"veilmart v1 answer\0" + kind.encode()
        derived = HKDF(algorithm=hashes.SHA256(), length=32, salt=self.request_hash + n, info=label)
        return ChaCha20Poly1305(derived.derive(self.secret))

    def salt(self, kind: Literal["keys"]) -> bytes:
        """Give 32 bytes that only the two sides of this request know: a digest over them can't be guessed."""
        label = b"veilmart v1 answer\0" + kind.encode()
        derived = HKDF(algorithm=hashes.SHA256(), length=32, salt=self.request_hash, info=label)
        return derived.derive(self.secret)

    def seal(self, body: messages.SealedAnswer, n: bytes, *, size: int = 0, step: int = 0) -> bytes:
        """Seal an answer, padded to `size`, or to a multiple of `step`; `n` are 32 fresh random bytes."""
        packed = codec.pack(body)
        padded = padding.pad(packed, size) if size else padding.pad_to_step(packed, step)
        return n + self._aead(n, "answer").encrypt(bytes(12), padded, None)

    def unseal(self, answer: bytes) -> messages.SealedAnswer:
        """Open an answer. Raises `ForgedError` or `MalformedError`."""
        n, sealed = answer[:NONCE_SALT], answer[NONCE_SALT:]
        try:
            padded = self._aead(n, "answer").decrypt(bytes(12), sealed, None)
        except (InvalidTag, ValueError) as error:
            raise ForgedError("cannot open") from error
        return codec.SEALED_ANSWER.unpack(padding.unpad(padded))

    def stream(self, n: bytes) -> CellStream:
        """Give the stream of cells that `n`, 32 fresh random bytes, begins."""
        return CellStream(n, self._aead(n, "cells"))

    def unseal_cell(self, cell: bytes) -> tuple[int, bytes]:
        """Open one cell: its index and its content. Raises `ForgedError`."""
        return self.stream(cell[:NONCE_SALT]).unseal(cell)


@dataclass(frozen=True, repr=False)
class CellStream:
    """One answer stream: a key of its own, and each cell's index as its nonce, so none is used twice."""

    n: bytes
    aead: ChaCha20Poly1305

    def seal(self, index: int, content: bytes) -> bytes:
        """Seal the cell `index`; `content` has one fixed size, which the caller keeps."""
        nonce = index.to_bytes(12, "big")
        return self.n + index.to_bytes(4, "big") + self.aead.encrypt(nonce, content, None)

    def unseal(self, cell: bytes) -> tuple[int, bytes]:
        """Open a cell of this stream. Raises `ForgedError`."""
        index = int.from_bytes(cell[NONCE_SALT:CELL_HEADER], "big")
        try:
            return index, self.aead.decrypt(index.to_bytes(12, "big"), cell[CELL_HEADER:], None)
        except (InvalidTag, ValueError) as error:
            raise ForgedError("cannot open") from error


def seal_request(
    prekey: XWingPublicKey, binding: Binding, body: messages.SealedBody, answer_secret: bytes, step: int
) -> tuple[bytes, AnswerKey]:
    """Seal a question. Returns what travels, and the key for its answer."""
    prekey_id = prekey.key_id
    request = codec.pack(messages.SealedRequest(answer_secret=answer_secret, body=body))
    sealed = prekey_id + seal(prekey, binding.info(prekey_id), padding.pad_to_step(request, step))
    return sealed, AnswerKey(answer_secret, hashlib.sha256(sealed).digest())


def open_request(
    prekeys: Mapping[bytes, XWingPrivateKey], binding: Binding, sealed: bytes
) -> tuple[messages.SealedBody, AnswerKey]:
    """Open a question. Raises `ForgedError` for every reason why that fails, an erased prekey included."""
    prekey = prekeys.get(sealed[:PREKEY_ID])
    if prekey is None:
        raise ForgedError("cannot open")
    padded = unseal(prekey, binding.info(sealed[:PREKEY_ID]), sealed[PREKEY_ID:])
    try:
        request = codec.SEALED_REQUEST.unpack(padding.unpad(padded))
    except MalformedError as error:
        raise ForgedError("cannot open") from error
    return request.body, AnswerKey(request.answer_secret, hashlib.sha256(sealed).digest())
