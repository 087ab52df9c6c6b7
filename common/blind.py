"""Blind signatures: RSABSSA-SHA384-PSS-Randomized of RFC 9474.

Rule 1. The signer sees `blinded` alone, which is uniform whatever the message; what comes out verifies
as an ordinary RSA-PSS signature, so nothing ties the one to the other.

Rule 2. A key from the wire has a modulus of exactly 2048 bits, e = 65537 and one encoding. A broker that
could vary any of these could recognise a customer by it.

Rule 3. The customer verifies every signature before it counts as one: a signer that answers some requests
under another key, or a key under which not every message has a root, is found out here.

Rule 4. Chance is an argument (`prefix`, `salt`, `r`), so that a wallet can derive it again from its seed.
Inside `BlindPrivateKey.blind_sign` alone it is drawn, since it only hides timings and shows in no result.

Rule 5. The private operation is OpenSSL's (`common.raw_rsa`) where it can be called, else gmpy2's, which
takes three times as long. Either way its result is checked with the public key before it leaves.

    prepared          = prepare(message, prefix)
    blinded, inverse  = blind(public, prepared, salt, r)            # customer
    blind_signature   = private.blind_sign(blinded)                 # broker
    signature         = finalize(public, prepared, blind_signature, inverse)
    public.verify(prepared, signature)                              # broker, another day
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from functools import lru_cache

import gmpy2
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from common.errors import ForgedError, MalformedError
from common.raw_rsa import RawRsa

MODULUS_BITS = 2048
SIGNATURE_BYTES = MODULUS_BITS // 8
PUBLIC_EXPONENT = 65537
PREFIX_BYTES = 32  # RFC 9474 §4.1
SALT_BYTES = 48  # RFC 9474 §5: the length of a SHA-384 digest
KEY_ID_BYTES = 8

# A SubjectPublicKeyInfo of RSA-2048 takes 294 bytes.
_MAX_DER_BYTES = 512
_HASH = hashes.SHA384()
_HASH_BYTES = 48
_PSS = padding.PSS(mgf=padding.MGF1(_HASH), salt_length=SALT_BYTES)


@dataclass(frozen=True, slots=True)
class BlindPublicKey:
    """An issuer's public key; `key_id` is the first 8 bytes of SHA-256 over its DER."""

    der: bytes = field(repr=False)
    key_id: bytes
    modulus: int = field(repr=False, compare=False)
    exponent: int = field(repr=False, compare=False)
    _key: rsa.RSAPublicKey = field(repr=False, compare=False)

    @classmethod
    def from_der(cls, der: bytes) -> BlindPublicKey:
        """Load a SubjectPublicKeyInfo; the loaded key is cached.

        Raises MalformedError unless it is RSA with 2048 bits and e = 65537 in its one DER encoding.
        """
        if len(der) > _MAX_DER_BYTES:
            raise MalformedError("issuer key too long")
        return _load_public(bytes(der))

    @classmethod
    def of(cls, key: rsa.RSAPublicKey) -> BlindPublicKey:
        """Wrap a key of any size, unchecked: for one's own keys. From the wire, `from_der`."""
        der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        numbers = key.public_numbers()
        return cls(der, hashlib.sha256(der).digest()[:KEY_ID_BYTES], numbers.n, numbers.e, key)

    def blinded_of(self, blind_signature: bytes) -> bytes:
        """Give the blinded value whose signature this is, if it is this key's: s^e mod n."""
        value = int.from_bytes(blind_signature) % self.modulus
        return int(gmpy2.powmod(value, self.exponent, self.modulus)).to_bytes(SIGNATURE_BYTES)

    def verify(self, prepared: bytes, signature: bytes) -> None:
        """Verify an unblinded signature over a prepared message (RFC 8017 §8.1.2).

        Raises ForgedError.
        """
        # Step 1, which OpenSSL leaves out: one that begins with a zero byte has no second, shorter spelling.
        if len(signature) != _modulus_bytes(self.modulus):
            raise ForgedError("blind signature has another length")
        try:
            self._key.verify(signature, prepared, _PSS, _HASH)
        except InvalidSignature:
            raise ForgedError("blind signature does not verify") from None


@lru_cache(maxsize=256)
def _load_public(der: bytes) -> BlindPublicKey:
    try:
        key = serialization.load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MalformedError("issuer key cannot be read") from error
    if not isinstance(key, rsa.RSAPublicKey) or not _has_our_size(key):
        raise MalformedError("issuer key is not RSA-2048 with e = 65537")
    public = BlindPublicKey.of(key)
    # One key with two encodings would have two key ids, and one of them could mark a customer.
    if public.der != der:
        raise MalformedError("issuer key is not in its canonical encoding")
    return public


def _has_our_size(key: rsa.RSAPublicKey) -> bool:
    return key.key_size == MODULUS_BITS and key.public_numbers().e == PUBLIC_EXPONENT


@dataclass(frozen=True, slots=True)
class BlindPrivateKey:
    """An issuer's private key. It signs whatever it is given: whether to sign is decided elsewhere."""

    public: BlindPublicKey
    _key: rsa.RSAPrivateKey = field(repr=False, compare=False)
    _numbers: rsa.RSAPrivateNumbers = field(repr=False, compare=False)
    _raw: RawRsa | None = field(repr=False, compare=False)

    @classmethod
    def of(cls, key: rsa.RSAPrivateKey) -> BlindPrivateKey:
        """Wrap a key of any size, unchecked."""
        der = key.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
        public = BlindPublicKey.of(key.public_key())
        raw = RawRsa.load(der, _modulus_bytes(public.modulus))
        return cls(public, key, key.private_numbers(), raw)

    @classmethod
    def generate(cls) -> BlindPrivateKey:
        """Make a key; takes some tens to hundreds of milliseconds."""
        return cls.of(rsa.generate_private_key(PUBLIC_EXPONENT, MODULUS_BITS))

    @classmethod
    def from_pem(cls, pem: bytes) -> BlindPrivateKey:
        """Load an unencrypted PKCS #8 PEM file of our own.

        Raises ValueError if it holds anything but RSA-2048 with e = 65537. Its primes are not tested
        again, 50 ms for each key: `blind_sign` checks every result, so a damaged file signs nothing.
        """
        key = serialization.load_pem_private_key(pem, password=None, unsafe_skip_rsa_key_validation=True)
        if not isinstance(key, rsa.RSAPrivateKey) or not _has_our_size(key.public_key()):
            raise ValueError("the issuer's key file does not hold RSA-2048 with e = 65537")
        return cls.of(key)

    def to_pem(self) -> bytes:
        """Give the key as unencrypted PKCS #8 PEM, for a file with mode 0600."""
        return self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    def blind_sign(self, blinded: bytes) -> bytes:
        """Sign a blinded message (RFC 9474 §4.3); may run in any thread, and lets the others run.

        `blinded` has the modulus's length, and so has the result. Raises MalformedError if it has
        another length, is not below the modulus or not coprime to it, and ArithmeticError if the
        result is wrong: a fault in one CRT half would betray the key's factors.
        """
        n, e = gmpy2.mpz(self.public.modulus), self.public.exponent
        size = _modulus_bytes(self.public.modulus)
        if len(blinded) != size:
            raise MalformedError("blinded message of wrong length")
        message = gmpy2.mpz(int.from_bytes(blinded))
        if message >= n or gmpy2.gcd(message, n) != 1:
            raise MalformedError("blinded message out of range")
        # The context belongs to this thread; without it gmpy2 holds the GIL through each power.
        with gmpy2.context(allow_release_gil=True):
            signature = self._signature(blinded, message)
            if gmpy2.powmod(signature, e, n) != message:
                raise ArithmeticError("signing failure")
        return int(signature).to_bytes(size)

    @property
    def signer(self) -> str:
        """What takes the roots: `OpenSSL` or `gmpy2`."""
        return "OpenSSL" if self._raw is not None else "gmpy2"

    def _signature(self, blinded: bytes, message: gmpy2.mpz) -> gmpy2.mpz:
        if self._raw is not None:
            return gmpy2.mpz(int.from_bytes(self._raw.root(blinded)))
        n, e = gmpy2.mpz(self.public.modulus), self.public.exponent
        # What the peer chose never meets the private exponent: a fresh factor s goes in as s**e
        # and comes out as s. OpenSSL does likewise.
        s = gmpy2.mpz(1 + secrets.randbelow(self.public.modulus - 1))
        return self._root(message * gmpy2.powmod(s, e, n) % n) * gmpy2.invert(s, n) % n

    def _root(self, message: gmpy2.mpz) -> gmpy2.mpz:
        """Take the e-th root by the Chinese remainder theorem (RFC 8017 §5.1.2, step 2b)."""
        p, q = gmpy2.mpz(self._numbers.p), gmpy2.mpz(self._numbers.q)
        modulo_p = gmpy2.powmod_sec(message % p, self._numbers.dmp1, p)
        modulo_q = gmpy2.powmod_sec(message % q, self._numbers.dmq1, q)
        return modulo_q + q * ((modulo_p - modulo_q) * self._numbers.iqmp % p)


def prepare(message: bytes, prefix: bytes) -> bytes:
    """Give what is signed: 32 random bytes before the message (RFC 9474 §4.1, PrepareRandomize)."""
    if len(prefix) != PREFIX_BYTES:
        raise ValueError(f"the prefix has {PREFIX_BYTES} bytes")
    return prefix + message


def blind(public: BlindPublicKey, prepared: bytes, salt: bytes, r: int) -> tuple[bytes, int]:
    """Blind a prepared message (RFC 9474 §4.2).

    `salt` has 48 bytes, `r` is uniform in [1, modulus); both are used for one message only. Gives the
    blinded message, as long as the modulus, and the inverse of `r` that `finalize` needs. Raises
    ValueError if `r` is out of range or, as for the encoded message, not coprime to the modulus.
    """
    if not 0 < r < public.modulus:
        raise ValueError("the blinding factor lies outside [1, modulus)")
    n = gmpy2.mpz(public.modulus)
    encoded = gmpy2.mpz(int.from_bytes(_emsa_pss_encode(prepared, salt, public.modulus.bit_length() - 1)))
    if gmpy2.gcd(encoded, n) != 1 or gmpy2.gcd(r, n) != 1:
        raise ValueError("message or blinding factor is not coprime to the modulus")
    blinded = encoded * gmpy2.powmod_sec(r, public.exponent, n) % n
    return int(blinded).to_bytes(_modulus_bytes(public.modulus)), int(gmpy2.invert(r, n))


def finalize(public: BlindPublicKey, prepared: bytes, blind_signature: bytes, inverse: int) -> bytes:
    """Unblind and verify the signer's answer (RFC 9474 §4.4); the signature has the modulus's length.

    Raises MalformedError for an answer of another length, ForgedError if it does not verify.
    """
    signature = _unblind(public, blind_signature, inverse)
    public.verify(prepared, signature)
    return signature


def _unblind(public: BlindPublicKey, blind_signature: bytes, inverse: int) -> bytes:
    size = _modulus_bytes(public.modulus)
    if len(blind_signature) != size:
        raise MalformedError("blind signature of wrong length")
    return int(int.from_bytes(blind_signature) * inverse % public.modulus).to_bytes(size)


def _modulus_bytes(modulus: int) -> int:
    return (modulus.bit_length() + 7) // 8


def _emsa_pss_encode(message: bytes, salt: bytes, bits: int) -> bytes:
    """Encode with SHA-384 and MGF1-SHA-384 (RFC 8017 §9.1.1, whose steps are numbered here)."""
    length = (bits + 7) // 8
    if length < _HASH_BYTES + len(salt) + 2:  # step 3
        raise ValueError("the modulus is too short for this hash and salt")
    digest = hashlib.sha384(message).digest()  # step 2
    inner = hashlib.sha384(bytes(8) + digest + salt).digest()  # steps 5 and 6
    block = (b"\x01" + salt).rjust(length - _HASH_BYTES - 1, b"\x00")  # steps 7 and 8
    mask = _mgf1(inner, len(block))  # step 9
    masked = int.from_bytes(block) ^ int.from_bytes(mask)  # step 10
    masked &= (1 << (bits - 8 * (_HASH_BYTES + 1))) - 1  # step 11
    return masked.to_bytes(len(block)) + inner + b"\xbc"  # step 12


def _mgf1(seed: bytes, length: int) -> bytes:
    """Generate a mask with SHA-384 (RFC 8017 §B.2.1)."""
    blocks = -(-length // _HASH_BYTES)
    stream = b"".join(hashlib.sha384(seed + index.to_bytes(4)).digest() for index in range(blocks))
    return stream[:length]
