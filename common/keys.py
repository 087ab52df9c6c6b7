"""Identity keys and certificates: who signs, and how it is checked.

Rule 1. A private key is a file with mode 0600, created with it, never overwritten, and it reaches no
log, no `repr` and no error text.

Rule 2. A signature binds a versioned label: it is over `label || 0x00 || data`. A label holds no zero
byte, so no two (label, data) pairs meet in the same bytes.

Rule 3. A role is written by the CA alone, into the subject's OU, next to the name in its CN (which is
what Mosquitto takes as username). The extended key usage says the same to TLS: client for broker and
merchants, server for Mosquitto; so no merchant can stand in for Mosquitto, nor Mosquitto for a node.

    key = IdentityKey.generate("ed25519")
    signature = key.sign(b"veilmart receipt v1", receipt)
    verify_identity(key.public, b"veilmart receipt v1", receipt, signature)   # or ForgedError
"""

from __future__ import annotations

import functools
import hashlib
import os
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common import topics
from common.errors import ForgedError, MalformedError, UntrustedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

KeyType = Literal["ed25519", "rsa3072"]
Role = Literal["broker", "merchant", "bus"]
PublicIdentity = Ed25519PublicKey | rsa.RSAPublicKey

KEY_TYPES: Final[tuple[KeyType, ...]] = ("ed25519", "rsa3072")
FINGERPRINT_BYTES: Final = 32
MIN_RSA_BITS: Final = 3072
MAX_RSA_BITS: Final = 4096  # a larger modulus would let a peer buy our time with its bytes
RSA_EXPONENT: Final = 65537
MAX_CERTIFICATE_BYTES: Final = 3072  # RSA-3072 signed by RSA-4096 takes about 1.5 KiB
MAX_SIGNATURE_BYTES: Final = MAX_RSA_BITS // 8

PRIVATE_FILE_MODE: Final = 0o600
PUBLIC_FILE_MODE: Final = 0o644

# Salt as long as the digest (RFC 8017, section 9.1), and nothing else accepted.
PSS_SHA256: Final = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=padding.PSS.DIGEST_LENGTH)
_KEY_HINT: Final = "Check the path and its owner, or put the file back from a backup."
_EXTENDED_USAGE: Final[dict[Role, x509.ObjectIdentifier]] = {
    "broker": ExtendedKeyUsageOID.CLIENT_AUTH,
    "merchant": ExtendedKeyUsageOID.CLIENT_AUTH,
    "bus": ExtendedKeyUsageOID.SERVER_AUTH,
}


@dataclass(frozen=True, slots=True, repr=False)
class IdentityKey:
    """The private key of a market CA, Mosquitto, a broker or a merchant: Ed25519 or RSA."""

    private: Ed25519PrivateKey | rsa.RSAPrivateKey = field(repr=False)

    def __repr__(self) -> str:
        return f"IdentityKey({self.key_type}, fingerprint={identity_fingerprint(self.public).hex()})"

    @classmethod
    def generate(cls, key_type: KeyType = "ed25519") -> IdentityKey:
        """Return a new key. Raises UsageError for an unknown type."""
        if key_type == "ed25519":
            return cls(Ed25519PrivateKey.generate())
        if key_type == "rsa3072":
            return cls(rsa.generate_private_key(public_exponent=RSA_EXPONENT, key_size=MIN_RSA_BITS))
        raise UsageError(f"unknown key type: {key_type}", f"Use one of: {', '.join(KEY_TYPES)}.")

    @classmethod
    def load(cls, path: Path) -> IdentityKey:
        """Read an unencrypted PKCS #8 PEM file. Raises UsageError if it is missing, else UntrustedError."""
        try:
            pem = path.read_bytes()
        except OSError as error:
            raise UsageError(f"cannot read the private key {path}: {error.strerror}", _KEY_HINT) from error
        try:
            private = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise UntrustedError(f"{path} is no unencrypted private key", _KEY_HINT) from error
        if not isinstance(private, Ed25519PrivateKey | rsa.RSAPrivateKey):
            raise UntrustedError(f"{path} holds neither an Ed25519 nor an RSA key", _KEY_HINT)
        key = cls(private)
        try:
            check_public(key.public)
        except MalformedError as error:
            raise UntrustedError(f"{path}: {error}", _KEY_HINT) from error
        return key

    def save(self, path: Path) -> None:
        """Write the key as PKCS #8 PEM, mode 0600. Raises FileExistsError rather than overwrite one."""
        pem = self.private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        create_file(path, pem, mode=PRIVATE_FILE_MODE)

    @property
    def public(self) -> PublicIdentity:
        """The public half."""
        return self.private.public_key()

    @property
    def key_type(self) -> KeyType:
        """The option that makes such a key."""
        return "ed25519" if isinstance(self.private, Ed25519PrivateKey) else "rsa3072"

    def sign(self, label: bytes, data: bytes) -> bytes:
        """Sign `label || 0x00 || data`: Ed25519 (RFC 8032) or RSASSA-PSS with SHA-256 (RFC 8017)."""
        bound = _bind(label, data)
        if isinstance(self.private, Ed25519PrivateKey):
            return self.private.sign(bound)
        return self.private.sign(bound, PSS_SHA256, hashes.SHA256())


@dataclass(frozen=True, slots=True)
class CertificateInfo:
    """What a verified certificate says. Times are Unix milliseconds; `fingerprint` is of the key."""

    subject_id: str
    role: Role
    public_key: PublicIdentity
    serial_number: int
    not_before: int
    not_after: int
    fingerprint: bytes


def verify_identity(public: PublicIdentity, label: bytes, data: bytes, signature: bytes) -> None:
    """Check a signature made by `IdentityKey.sign`. Raises ForgedError."""
    if len(signature) > MAX_SIGNATURE_BYTES:
        raise ForgedError("the signature is too long")
    bound = _bind(label, data)
    try:
        if isinstance(public, Ed25519PublicKey):
            public.verify(signature, bound)
        elif len(signature) != public.key_size // 8:
            # RFC 8017 §8.1.2, step 1, which OpenSSL leaves out.
            raise ForgedError("the signature has another length")
        else:
            public.verify(signature, bound, PSS_SHA256, hashes.SHA256())
    except InvalidSignature as error:
        raise ForgedError("the signature does not verify") from error


def check_public(public: object) -> PublicIdentity:
    """Return `public` if it may be an identity: Ed25519, or RSA of 3072 to 4096 bits with e = 65537.

    Raises MalformedError.
    """
    if isinstance(public, Ed25519PublicKey):
        return public
    if not isinstance(public, rsa.RSAPublicKey):
        raise MalformedError("an identity key is Ed25519 or RSA")
    if not MIN_RSA_BITS <= public.key_size <= MAX_RSA_BITS or public.public_numbers().e != RSA_EXPONENT:
        raise MalformedError("an RSA identity key has 3072 to 4096 bits and the exponent 65537")
    return public


def public_to_der(public: PublicIdentity) -> bytes:
    """Return the SubjectPublicKeyInfo (RFC 5280, section 4.1.2.7), as a wallet pins it."""
    return public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def public_from_der(der: bytes) -> PublicIdentity:
    """Undo `public_to_der`. Raises MalformedError."""
    try:
        return check_public(serialization.load_der_public_key(der))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MalformedError("not a public key") from error


def identity_fingerprint(identity: PublicIdentity | x509.Certificate) -> bytes:
    """Return the 32 bytes SHA-256 of the SubjectPublicKeyInfo: the same for each renewed certificate."""
    if isinstance(identity, x509.Certificate):
        identity = check_public(identity.public_key())
    return hashlib.sha256(public_to_der(identity)).digest()


def verify_certificate(der: bytes, ca_der: bytes, now_ms: int, role: Role) -> CertificateInfo:
    """Check that the market's CA certified this key for `role`, and that it holds at `now_ms`.

    `ca_der` is the trusted CA certificate out of the market file. Revocation is not looked at here: only
    the broker holds the CRL. Raises MalformedError for bytes that are no certificate, else ForgedError.
    """
    if len(der) > MAX_CERTIFICATE_BYTES:
        raise MalformedError("the certificate is too large")
    try:
        certificate = x509.load_der_x509_certificate(der)
    except (ValueError, x509.InvalidVersion) as error:
        raise MalformedError("not a certificate") from error
    # Outside of what is signed: the signature's count of unused bits, which the library reads leniently.
    if not der.endswith(b"\0" + certificate.signature):
        raise MalformedError("the certificate has a second spelling")
    authority = _load_authority(ca_der)
    try:
        certificate.verify_directly_issued_by(authority)
        _check_validity(authority, now_ms)
        _check_validity(certificate, now_ms)
        _check_extensions(certificate, role)
        subject_id = _check_subject(certificate, role)
        public = check_public(certificate.public_key())
    except ForgedError:
        raise
    except (InvalidSignature, ValueError, TypeError) as error:
        raise ForgedError("the certificate was not issued by this market's CA") from error
    except (MalformedError, UnsupportedAlgorithm, x509.ExtensionNotFound, x509.DuplicateExtension) as error:
        raise ForgedError(f"the certificate does not make a {role}") from error
    return CertificateInfo(
        subject_id=subject_id,
        role=role,
        public_key=public,
        serial_number=certificate.serial_number,
        not_before=to_ms(certificate.not_valid_before_utc),
        not_after=to_ms(certificate.not_valid_after_utc),
        fingerprint=identity_fingerprint(public),
    )


def extended_usage(role: Role) -> x509.ObjectIdentifier:
    """Return the extended key usage that goes with a role (rule 3)."""
    return _EXTENDED_USAGE[role]


def to_ms(moment: datetime) -> int:
    """Return Unix milliseconds."""
    return round(moment.timestamp() * 1000)


def create_file(path: Path, data: bytes, *, mode: int = PUBLIC_FILE_MODE) -> None:
    """Write a new file whole or not at all, with `mode` from its first byte on.

    Raises FileExistsError if there is one. A crash can leave a `.NAME.*.new` beside it, nothing else.
    """
    _write_beside(path, data, mode, os.link)


def replace_file(path: Path, data: bytes, *, mode: int = PUBLIC_FILE_MODE) -> None:
    """Write a file whole or not at all; a reader sees the old one or the new one."""
    _write_beside(path, data, mode, os.replace)


def _write_beside(path: Path, data: bytes, mode: int, publish: Callable[[Path, Path], None]) -> None:
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        publish(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # without it a crash may still take the name back
    finally:
        os.close(folder)


def _bind(label: bytes, data: bytes) -> bytes:
    if not label or b"\0" in label:
        raise ValueError("a label is not empty and holds no zero byte")
    return label + b"\0" + data


@functools.lru_cache(maxsize=8)
def _load_authority(ca_der: bytes) -> x509.Certificate:
    return x509.load_der_x509_certificate(ca_der)


def _check_validity(certificate: x509.Certificate, now_ms: int) -> None:
    if not to_ms(certificate.not_valid_before_utc) <= now_ms <= to_ms(certificate.not_valid_after_utc):
        raise ForgedError("the certificate is not valid at this time")


def _check_extensions(certificate: x509.Certificate, role: Role) -> None:
    extensions = certificate.extensions
    if extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
        raise ForgedError("a CA certificate is no identity")
    if not extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature:
        raise ForgedError("the certificate may not sign")
    if list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) != [_EXTENDED_USAGE[role]]:
        raise ForgedError(f"the certificate does not make a {role}")


def _check_subject(certificate: x509.Certificate, role: Role) -> str:
    subject = certificate.subject
    names = [str(name.value) for name in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    units = [str(unit.value) for unit in subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)]
    if units != [role] or len(names) != 1:
        raise ForgedError(f"the certificate does not make a {role}")
    if role == "merchant":
        return topics.check_merchant_id(names[0])
    if names[0] != role:
        raise ForgedError(f"the certificate does not make a {role}")
    return names[0]
