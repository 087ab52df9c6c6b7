"""Hop frames: how every message looks on the bus.

    frame   = HMAC-SHA-256(mac key, label || topic || rest)
              || type || key id || nonce || AES-256-GCM(enc key, pad([envelope, ...]))
    Hello   = type || hello key id || HPKE.seal(hello key, info(market, topic), pad(Hello))
    Welcome = HMAC || type || key id || HPKE.seal(Hello.ephemeral, welcome secret)
              || nonce || AES-256-GCM(enc key, pad(answer))

Rule 1. The HMAC is checked over the bytes as received, before anything is decrypted or parsed. It binds
the topic, and it commits to the key, which GCM alone does not.

Rule 2. Keys come from both secrets and the whole transcript: HKDF(Hello.secret || welcome secret,
salt = SHA-256(Hello bytes || the Welcome's HPKE part)), one pair per direction.

Rule 3. `Hello` alone carries no HMAC: there is no key yet.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from common import codec, config, messages, padding, sealing
from common.errors import ForgedError, MalformedError

MAC = 32
KEY_ID = 8
NONCE = 12
TAG = 16
HEADER = MAC + 1 + KEY_ID + NONCE
OVERHEAD = HEADER + TAG
SEALED_SECRET = 1120 + 32 + 16
"""An HPKE-sealed 32-byte secret: X-Wing encapsulation, ciphertext, tag."""

HELLO_TYPE = b"\x01"
WELCOME_TYPE = b"\x02"
DATA_TYPE = b"\x03"
HELLO_SIZE = 1 + KEY_ID + 1120 + config.HELLO_PLAINTEXT + 16


@dataclass(frozen=True)
class DirectionKeys:
    """Keys for one direction of one session."""

    key_id: bytes
    encryption: bytes = field(repr=False)
    mac: bytes = field(repr=False)
    gcm: AESGCM = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "gcm", AESGCM(self.encryption))


@dataclass(frozen=True)
class SessionKeys:
    """Both directions of a session: `up` towards the broker, `down` from it."""

    key_id: bytes
    up: DirectionKeys
    down: DirectionKeys

    @classmethod
    def from_bytes(cls, raw: bytes) -> SessionKeys:
        """Rebuild from the 136 bytes of `to_bytes`."""
        key_id, parts = raw[:KEY_ID], [raw[KEY_ID + 32 * n : KEY_ID + 32 * (n + 1)] for n in range(4)]
        return cls(
            key_id, DirectionKeys(key_id, parts[0], parts[1]), DirectionKeys(key_id, parts[2], parts[3])
        )

    def to_bytes(self) -> bytes:
        """Give key id and four keys, to be wrapped or kept in a profile."""
        return self.key_id + self.up.encryption + self.up.mac + self.down.encryption + self.down.mac


def _mac(keys: DirectionKeys, topic: str, *rest: bytes | memoryview) -> bytes:
    mac = hmac.new(keys.mac, b"veilmart v1 frame\0" + topic.encode() + b"\0", "sha256")
    for part in rest:
        mac.update(part)
    return mac.digest()


def _seal(keys: DirectionKeys, topic: str, head: bytes, content: bytes, nonce: bytes) -> bytes:
    extra = len(head) - 1 - KEY_ID
    padded = padding.pad_to_ladder(content, config.FRAME_SIZES, OVERHEAD + extra)
    sealed = keys.gcm.encrypt(nonce, padded, None)
    return b"".join((_mac(keys, topic, head, nonce, sealed), head, nonce, sealed))


def _unseal(keys: DirectionKeys, topic: str, frame: bytes, head: int) -> bytes:
    # Views: a cell's frame would otherwise be copied for each of these.
    rest = memoryview(frame)[MAC:]
    if not hmac.compare_digest(_mac(keys, topic, rest), frame[:MAC]):
        raise ForgedError("the frame's MAC does not verify")
    nonce, sealed = bytes(rest[head : head + NONCE]), rest[head + NONCE :]
    try:
        padded = keys.gcm.decrypt(nonce, sealed, None)
    except (InvalidTag, ValueError) as error:
        raise ForgedError("the frame does not decrypt") from error
    return padding.unpad(padded)


def frame_type(frame: bytes, *, maximum: int = config.MAXIMUM_FRAME) -> bytes:
    """Tell a frame's type after checking its size: `HELLO_TYPE`, `WELCOME_TYPE` or `DATA_TYPE`.

    Raises `MalformedError`. A `Hello` has one length that no frame of the ladder has.
    """
    if len(frame) > maximum:
        raise MalformedError("frame too long")
    if len(frame) == HELLO_SIZE and frame[:1] == HELLO_TYPE:
        return HELLO_TYPE
    if len(frame) not in config.FRAME_SIZES:
        raise MalformedError("not a frame size")
    kind = frame[MAC : MAC + 1]
    if kind not in (WELCOME_TYPE, DATA_TYPE):
        raise MalformedError("not a frame type")
    return kind


def frame_key_id(frame: bytes) -> bytes:
    """Give the key id of a `Welcome` or data frame whose size was checked."""
    return frame[MAC + 1 : MAC + 1 + KEY_ID]


def seal_frame(keys: DirectionKeys, topic: str, content: bytes, nonce: bytes) -> bytes:
    """Make a data frame of packed envelopes; `nonce` are 12 fresh random bytes."""
    return _seal(keys, topic, DATA_TYPE + keys.key_id, content, nonce)


def open_frame(keys: DirectionKeys, topic: str, frame: bytes) -> bytes:
    """Check a data frame and give the packed envelopes. Raises `ForgedError` or `MalformedError`."""
    if frame_type(frame) != DATA_TYPE:
        raise MalformedError("not a data frame")
    if frame_key_id(frame) != keys.key_id:
        raise ForgedError("a frame of another session")
    return _unseal(keys, topic, frame, 1 + KEY_ID)


def content_room(size: int) -> int:
    """How many bytes of packed envelopes fit into a frame of `size`."""
    return size - OVERHEAD - 4


# --- Hello and Welcome ---------------------------------------------------------------------------------


def _hello_info(market: bytes, topic: str) -> bytes:
    return hashlib.sha256(b"veilmart v1 hello\0" + market + topic.encode()).digest()


def seal_hello(hello_key: sealing.XWingPublicKey, market: bytes, topic: str, hello: messages.Hello) -> bytes:
    """Make the one frame that needs no session."""
    padded = padding.pad(codec.pack(hello), config.HELLO_PLAINTEXT)
    sealed = sealing.seal(hello_key, _hello_info(market, topic), padded)
    return HELLO_TYPE + hello_key.key_id + sealed


def hello_key_id(frame: bytes) -> bytes:
    """Which hello key a `Hello` was sealed to."""
    return frame[1 : 1 + KEY_ID]


def open_hello(hello_key: sealing.XWingPrivateKey, market: bytes, topic: str, frame: bytes) -> messages.Hello:
    """Open a `Hello`. Raises `ForgedError` or `MalformedError`."""
    if frame_type(frame) != HELLO_TYPE:
        raise MalformedError("not a hello")
    if hello_key_id(frame) != hello_key.public.key_id:
        raise ForgedError("a hello to another key")
    padded = sealing.unseal(hello_key, _hello_info(market, topic), frame[1 + KEY_ID :])
    return codec.HELLO.unpack(padding.unpad(padded))


def _derive(hello_secret: bytes, welcome_secret: bytes, hello_frame: bytes, sealed: bytes) -> SessionKeys:
    derived = HKDF(
        algorithm=hashes.SHA256(),
        length=KEY_ID + 4 * 32,
        salt=hashlib.sha256(hello_frame + sealed).digest(),
        info=b"veilmart v1 session keys",
    )
    return SessionKeys.from_bytes(derived.derive(hello_secret + welcome_secret))


def make_welcome(
    hello_frame: bytes, hello: messages.Hello, topic: str, answer: messages.HelloAnswer, random: bytes
) -> tuple[bytes, SessionKeys]:
    """Answer a `Hello`; `random` are 44 fresh bytes (secret and nonce). Returns the frame and the keys.

    `topic` is the one that the answer travels on. Raises `MalformedError` for a degenerate ephemeral key.
    """
    secret, nonce = random[:32], random[32:44]
    ephemeral = sealing.XWingPublicKey.from_bytes(hello.ephemeral)
    sealed = sealing.seal(ephemeral, b"veilmart v1 welcome", secret)
    keys = _derive(hello.secret, secret, hello_frame, sealed)
    head = WELCOME_TYPE + keys.key_id + sealed
    return _seal(keys.down, topic, head, codec.pack(answer), nonce), keys


def open_welcome(
    hello_frame: bytes, hello_secret: bytes, ephemeral: sealing.XWingPrivateKey, topic: str, frame: bytes
) -> tuple[messages.HelloAnswer, SessionKeys]:
    """Open the answer to our `Hello`. Raises `ForgedError` or `MalformedError`.

    The HPKE part alone is opened before the MAC, which then confirms the keys.
    """
    if frame_type(frame) != WELCOME_TYPE:
        raise MalformedError("not a welcome")
    start = MAC + 1 + KEY_ID
    sealed = frame[start : start + SEALED_SECRET]
    keys = _derive(
        hello_secret, sealing.unseal(ephemeral, b"veilmart v1 welcome", sealed), hello_frame, sealed
    )
    if frame_key_id(frame) != keys.key_id:
        raise ForgedError("the welcome's keys do not match")
    content = _unseal(keys.down, topic, frame, 1 + KEY_ID + SEALED_SECRET)
    return codec.HELLO_ANSWER.unpack(content), keys
