"""Coins and tickets: what a wallet derives, blinds, unblinds and spends, and which coins pay an amount.

Rule 1. A token is (wallet seed, key id, counter): all its secrets follow from these, so a wallet that
stored its counter before it sent anything can ask for the same token again, byte for byte, after a crash.
A counter is never used twice for other content; the wallet sees to that.

Rule 2. What is signed names its purpose and its issuer's key: a ticket is no coin, and a signature counts
under one key alone.

Rule 3. A token is known by its message (`spent_mark`), never by its signature's bytes.

Rule 4. Denominations are powers of two. That makes paying exactly a matter of going from the top down.

    blinded = blind_token(issuer, seed, counter)                  # customer, account scope
    answer  = private.blind_sign(blinded.blinded)                 # broker
    token   = unblind(issuer, seed, counter, answer)              # customer
    mark    = verify_token(issuer, token)                         # broker, shop scope
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count
from math import gcd
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from common import blind
from common.errors import ForgedError, MalformedError
from common.messages import BlindedToken, IssuerKey, Token

if TYPE_CHECKING:
    from collections.abc import Mapping

Purpose: TypeAlias = Literal["coin", "ticket"]

SEED_BYTES: Final = 32
SERIAL_BYTES: Final = 32

BUNDLE: Final = (1, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 512, 256, 128, 64, 16)
"""The coins of one withdrawal, in minor units: 2000 in all. It is always this multiset, since a sum or
a mix of its own would be a mark that comes back at the shop."""

BUNDLE_TICKETS: Final = 4
"""The tickets of one withdrawal."""

# A number reduced from this many bits more than the modulus has is uniform but for 2**-128.
_EXTRA_BYTES = 16


@dataclass(frozen=True, slots=True)
class TokenSecrets:
    """Everything random about a token: prefix and serial 32 bytes, salt 48, r in [1, modulus)."""

    prefix: bytes = field(repr=False)
    serial: bytes = field(repr=False)
    salt: bytes = field(repr=False)
    r: int = field(repr=False)


def derive(seed: bytes, key_id: bytes, counter: int, modulus: int) -> TokenSecrets:
    """Derive a token's secrets from the wallet's 32-byte seed by HKDF-SHA256 (RFC 5869).

    `r` is uniform in [1, modulus) and coprime to it, by wide reduction (as in RFC 9380 §5.2).
    """
    if len(seed) != SEED_BYTES:
        raise ValueError(f"the wallet seed has {SEED_BYTES} bytes")
    place = key_id + counter.to_bytes(8)
    return TokenSecrets(
        prefix=_expand(seed, b"prefix", place, blind.PREFIX_BYTES),
        serial=_expand(seed, b"serial", place, SERIAL_BYTES),
        salt=_expand(seed, b"salt", place, blind.SALT_BYTES),
        r=_blinding_factor(seed, place, modulus),
    )


def _blinding_factor(seed: bytes, place: bytes, modulus: int) -> int:
    length = (modulus.bit_length() + 7) // 8 + _EXTRA_BYTES
    candidates = (
        int.from_bytes(_expand(seed, b"r", place + attempt.to_bytes(4), length)) % modulus
        for attempt in count()
    )
    # gcd(0, modulus) is the modulus, so this refuses zero too.
    return next(r for r in candidates if gcd(r, modulus) == 1)


def _expand(seed: bytes, name: bytes, place: bytes, length: int) -> bytes:
    info = b"veilmart/v1/token/" + name + b"\x00" + place
    return HKDF(algorithm=hashes.SHA256(), length=length, salt=None, info=info).derive(seed)


def token_message(purpose: Purpose, key_id: bytes, serial: bytes) -> bytes:
    """Give the message that a token's signature is over, before the prefix (RFC 9474 §4.1)."""
    return b"veilmart/v1/" + purpose.encode() + b"\x00" + key_id + serial


def prepared(purpose: Purpose, key_id: bytes, prefix: bytes, serial: bytes) -> bytes:
    """Give what is signed: the prefix before the token's message (RFC 9474 §4.1)."""
    return blind.prepare(token_message(purpose, key_id, serial), prefix)


def spent_mark(prepared_message: bytes) -> bytes:
    """Give the 32 bytes under which a token is spent: SHA-256 of what was signed.

    Never of the signature: RSA-PSS has many valid ones for one message, and the token would be spent
    once with each. The key id is part of what was signed, so marks of two keys cannot meet.
    """
    return hashlib.sha256(prepared_message).digest()


@lru_cache(maxsize=256)
def issuer_public(issuer: IssuerKey) -> blind.BlindPublicKey:
    """Load an announced key (cached).

    Raises MalformedError if it is not RSA-2048 with e = 65537, if the key id is not its own, or if the
    value does not fit the purpose: a power of two for a coin, 0 for a ticket.
    """
    public = blind.BlindPublicKey.from_der(issuer.public)
    if public.key_id != issuer.key_id:
        raise MalformedError("issuer key and key id differ")
    if not (_is_power_of_two(issuer.value) if issuer.purpose == "coin" else issuer.value == 0):
        raise MalformedError("issuer key's value does not fit its purpose")
    return public


def blind_token(issuer: IssuerKey, seed: bytes, counter: int) -> BlindedToken:
    """Blind token number `counter` for its issuer; the same arguments give the same bytes.

    Raises MalformedError as `issuer_public` does.
    """
    public = issuer_public(issuer)
    blinded, _ = _blind(public, issuer, derive(seed, issuer.key_id, counter, public.modulus))
    return BlindedToken(key_id=issuer.key_id, blinded=blinded)


def unblind(issuer: IssuerKey, seed: bytes, counter: int, blind_signature: bytes) -> Token:
    """Turn the issuer's answer to `blind_token(issuer, seed, counter)` into a token, verified.

    Raises MalformedError for an answer of wrong length, ForgedError for a wrong one.
    """
    public = issuer_public(issuer)
    secrets = derive(seed, issuer.key_id, counter, public.modulus)
    _, inverse = _blind(public, issuer, secrets)
    message = prepared(issuer.purpose, issuer.key_id, secrets.prefix, secrets.serial)
    signature = blind.finalize(public, message, blind_signature, inverse)
    return Token(key_id=issuer.key_id, prefix=secrets.prefix, serial=secrets.serial, signature=signature)


def blinded_of(issuer: IssuerKey, blind_signature: bytes) -> bytes:
    """Give the blinded value that a blind signature was made for (RFC 9474 §4.3, its last check)."""
    return issuer_public(issuer).blinded_of(blind_signature)


def mark_of(issuer: IssuerKey, seed: bytes, counter: int) -> bytes:
    """Give the spent mark of token number `counter`."""
    secrets = derive(seed, issuer.key_id, counter, issuer_public(issuer).modulus)
    return spent_mark(prepared(issuer.purpose, issuer.key_id, secrets.prefix, secrets.serial))


def _blind(public: blind.BlindPublicKey, issuer: IssuerKey, secrets: TokenSecrets) -> tuple[bytes, int]:
    message = prepared(issuer.purpose, issuer.key_id, secrets.prefix, secrets.serial)
    return blind.blind(public, message, secrets.salt, secrets.r)


def verify_token(issuer: IssuerKey, token: Token) -> bytes:
    """Verify a token under the key that it names and give its spent mark.

    Whether the mark is new, and the key's months not over, is the ledger's to say. Raises ForgedError,
    also if `issuer` is not the key that the token names.
    """
    if token.key_id != issuer.key_id:
        raise ForgedError("token names another key")
    message = prepared(issuer.purpose, token.key_id, token.prefix, token.serial)
    issuer_public(issuer).verify(message, token.signature)
    return spent_mark(message)


def exact(coins_by_value: Mapping[int, int], amount: int) -> list[int] | None:
    """Choose coins whose sum is `amount`, largest first, or None if no choice has that sum.

    `coins_by_value` maps a denomination, a power of two, to how many are held. From the top down is
    enough: each denomination divides every larger one. So let v be the largest coin that still fits and
    suppose that some choice pays the rest without it; ordered by falling value, the sums of its coins
    grow in steps that each divide v, so they meet v and do not jump over it. The coins up to there can
    be exchanged for v.
    """
    if amount < 0:
        raise ValueError("an amount to pay is not negative")
    chosen: list[int] = []
    rest = amount
    for value in sorted(coins_by_value, reverse=True):
        _demand_power_of_two(value)
        taken = min(coins_by_value[value], rest // value)
        chosen += [value] * taken
        rest -= taken * value
    return None if rest else chosen


def spread(amount: int, held: Mapping[int, int], top: int) -> list[int]:
    """Choose denominations, at most `top`, whose sum is `amount`, for a refund or for change.

    First one of each, from 1 upwards, that `held` (as in `exact`) lacks, for as long as the amount
    allows; the rest from the top down. A wallet with one of each up to `top` pays every amount below
    2 * top exactly, so the next purchase needs no swap. The result is sorted, largest first.
    """
    if amount < 0:
        raise ValueError("an amount to spread is not negative")
    _demand_power_of_two(top)
    chosen: Counter[int] = Counter()
    rest = amount
    for value in (2**exponent for exponent in range(top.bit_length())):
        if value <= rest and not held.get(value, 0):
            chosen[value] += 1
            rest -= value
    for value in (2**exponent for exponent in reversed(range(top.bit_length()))):
        chosen[value] += rest // value
        rest %= value
    return sorted(chosen.elements(), reverse=True)


def _is_power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


def _demand_power_of_two(value: int) -> None:
    if not _is_power_of_two(value):
        raise ValueError("a denomination is a power of two")
