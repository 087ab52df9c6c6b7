"""Frames: every changed bit, every truncation, every other place and every other key is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from samples import EXAMPLES, envelope

from common import codec, config, frames, messages, sealing, topics
from common.errors import ForgedError, MalformedError, WireError
from common.frames import DirectionKeys, SessionKeys
from common.keys import IdentityKey
from common.sealing import XWingPrivateKey
from veilmart import ca

SID, OTHER_SID = bytes(range(16)), bytes(16)
UP, DOWN = topics.session_up(SID), topics.session_down(SID)
MARKET = b"m" * 16
NONCE = b"n" * 12
RANDOM = bytes(range(44))
HELLO_KEY, EPHEMERAL, OTHER = (XWingPrivateKey.generate() for _ in range(3))
KEYS = SessionKeys.from_bytes(bytes(range(136)))
CONTENT = codec.pack([envelope(EXAMPLES["LogOut"])])
SECRET = b"s" * 32


def hello_of(credential: Any = EXAMPLES["LogIn"], **changes: Any) -> messages.Hello:
    fields = {"secret": SECRET, "ephemeral": EPHEMERAL.public.raw, "credential": credential}
    return messages.Hello(**(fields | changes))


HELLO = hello_of()
HELLO_FRAME = frames.seal_hello(HELLO_KEY.public, MARKET, UP, HELLO)
WELCOME, WELCOME_KEYS = frames.make_welcome(HELLO_FRAME, HELLO, DOWN, EXAMPLES["Welcome"], RANDOM)  # type: ignore[arg-type]
UP_FRAME = frames.seal_frame(KEYS.up, UP, CONTENT, NONCE)
DOWN_FRAME = frames.seal_frame(KEYS.down, DOWN, CONTENT, NONCE)

OPENERS: dict[str, tuple[bytes, Callable[[bytes], Any]]] = {
    "Hello": (HELLO_FRAME, lambda frame: frames.open_hello(HELLO_KEY, MARKET, UP, frame)),
    "Welcome": (WELCOME, lambda frame: frames.open_welcome(HELLO_FRAME, SECRET, EPHEMERAL, DOWN, frame)),
    "up": (UP_FRAME, lambda frame: frames.open_frame(KEYS.up, UP, frame)),
    "down": (DOWN_FRAME, lambda frame: frames.open_frame(KEYS.down, DOWN, frame)),
}
every_type = pytest.mark.parametrize("name", OPENERS)


def refused(call: Callable[[], Any]) -> bool:
    try:
        call()
    except WireError:
        return True
    return False


@every_type
def test_what_was_sealed_opens(name: str) -> None:
    frame, opener = OPENERS[name]
    opened = opener(frame)
    assert (
        opened
        == {
            "Hello": HELLO,
            "Welcome": (EXAMPLES["Welcome"], WELCOME_KEYS),
            "up": CONTENT,
            "down": CONTENT,
        }[name]
    )


@every_type
def test_every_bit_counts(name: str) -> None:
    frame, opener = OPENERS[name]
    bits = range(8)
    for place in range(len(frame)):
        # All bits of a frame of 1 KiB and of every header; of the rest of the larger ones two of each byte.
        large = len(frame) > config.KIB and place >= 64
        for bit in (place % 4, 7) if large else bits:
            altered = bytearray(frame)
            altered[place] ^= 1 << bit
            assert refused(lambda: opener(bytes(altered))), (place, bit)  # noqa: B023 - called at once


@every_type
def test_every_truncation_and_every_extension_is_refused(name: str) -> None:
    frame, opener = OPENERS[name]
    for length in range(len(frame)):
        assert refused(lambda: opener(frame[:length])), length  # noqa: B023 - called at once
    for more in (b"\0", bytes(1024), frame):
        assert refused(lambda: opener(frame + more))  # noqa: B023


@every_type
def test_garbage_of_each_size_is_refused(name: str) -> None:
    _, opener = OPENERS[name]
    for size in (*config.FRAME_SIZES, frames.HELLO_SIZE):
        for filling in (b"\0", b"\1", b"\2", b"\3", b"\xff"):
            assert refused(lambda: opener(filling * size))  # noqa: B023


@pytest.mark.parametrize(
    "topic", [DOWN, topics.session_up(OTHER_SID), topics.merchant_in("sports"), "", UP + "/"]
)
def test_another_topic_is_refused(topic: str) -> None:
    with pytest.raises(ForgedError):
        frames.open_frame(KEYS.up, topic, UP_FRAME)
    with pytest.raises(ForgedError):
        frames.open_hello(HELLO_KEY, MARKET, topic, HELLO_FRAME)
    if topic != DOWN:
        with pytest.raises(ForgedError):
            frames.open_welcome(HELLO_FRAME, SECRET, EPHEMERAL, topic, WELCOME)


def test_topic_and_content_do_not_flow_into_each_other() -> None:
    # A zero byte divides them, and no topic holds one.
    assert frames._mac(KEYS.up, UP, b"x") != frames._mac(KEYS.up, UP[:-1], UP[-1:].encode() + b"x")
    with pytest.raises(MalformedError):
        topics.parse("veilmart/v1/session/" + SID.hex() + "/up\0")


def test_another_sessions_or_directions_key_is_refused() -> None:
    other = SessionKeys.from_bytes(bytes(reversed(range(136))))
    with pytest.raises(ForgedError, match="another session"):
        frames.open_frame(other.up, UP, UP_FRAME)
    same_id = SessionKeys.from_bytes(KEYS.key_id + other.to_bytes()[8:])
    with pytest.raises(ForgedError, match="MAC"):
        frames.open_frame(same_id.up, UP, UP_FRAME)
    with pytest.raises(ForgedError, match="MAC"):
        frames.open_frame(KEYS.down, UP, UP_FRAME)
    # The right MAC key beside another encryption key: the MAC is checked first, GCM refuses after it.
    mixed = DirectionKeys(KEYS.key_id, other.up.encryption, KEYS.up.mac)
    with pytest.raises(ForgedError, match="does not decrypt"):
        frames.open_frame(mixed, UP, UP_FRAME)


def test_the_mac_is_checked_before_anything_is_decrypted(monkeypatch: pytest.MonkeyPatch) -> None:
    class NeverError(Exception):
        pass

    class Gcm:
        def decrypt(self, *_: object) -> bytes:
            raise NeverError

    keys = replace(KEYS.up)
    object.__setattr__(keys, "gcm", Gcm())
    altered = bytes([UP_FRAME[0] ^ 1]) + UP_FRAME[1:]
    with pytest.raises(ForgedError):
        frames.open_frame(keys, UP, altered)
    with pytest.raises(NeverError):
        frames.open_frame(keys, UP, UP_FRAME)


def test_types_do_not_stand_in_for_each_other() -> None:
    assert [frames.frame_type(frame) for frame, _ in OPENERS.values()] == [
        frames.HELLO_TYPE, frames.WELCOME_TYPE, frames.DATA_TYPE, frames.DATA_TYPE,
    ]  # fmt: skip
    for name, (_, opener) in OPENERS.items():
        for other, (frame, _) in OPENERS.items():
            if name != other:
                assert refused(lambda: opener(frame)), (name, other)  # noqa: B023


def test_a_frame_that_is_too_long_is_refused_by_its_length() -> None:
    with pytest.raises(MalformedError, match="too long"):
        frames.frame_type(bytes(config.MAXIMUM_FRAME + 1))
    assert frames.HELLO_SIZE not in config.FRAME_SIZES


# --- sizes ---------------------------------------------------------------------------------------------


@given(st.integers(1, frames.content_room(config.MAXIMUM_FRAME)))
def test_frames_are_on_the_ladder(length: int) -> None:
    frame = frames.seal_frame(KEYS.up, UP, bytes(length), NONCE)
    assert len(frame) in config.FRAME_SIZES
    assert frames.open_frame(KEYS.up, UP, frame) == bytes(length)
    smaller = [size for size in config.FRAME_SIZES if size < len(frame)]
    assert all(length > frames.content_room(size) for size in smaller)


@pytest.mark.parametrize("size", config.FRAME_SIZES)
def test_content_room_is_exact(size: int) -> None:
    room = frames.content_room(size)
    assert len(frames.seal_frame(KEYS.up, UP, bytes(room), NONCE)) == size
    if size == config.MAXIMUM_FRAME:
        with pytest.raises(ValueError, match="none of the frame sizes"):
            frames.seal_frame(KEYS.up, UP, bytes(room + 1), NONCE)
    else:
        assert len(frames.seal_frame(KEYS.up, UP, bytes(room + 1), NONCE)) > size


def test_a_welcome_and_a_refusal_have_one_size() -> None:
    refusal, _ = frames.make_welcome(
        HELLO_FRAME, HELLO, DOWN, messages.HelloRefused(code="authentication", retry_after_ms=2**40), RANDOM
    )
    assert len(refusal) == len(WELCOME) == 2 * config.KIB


@pytest.mark.parametrize("key_type", ["ed25519", "rsa3072"])
def test_every_hello_has_one_size(tmp_path: Any, key_type: str) -> None:
    name, now = "m" * 32, 1_800_000_000_000
    ca.create_ca(tmp_path / "ca", key_type=key_type, now_ms=now)  # type: ignore[arg-type]
    request = ca.make_request(tmp_path / "m", name, key_type=key_type)  # type: ignore[arg-type]
    pem = ca.sign_csr(tmp_path / "ca", request, name, now_ms=now)
    identity = IdentityKey.load(tmp_path / "m" / ca.IDENTITY_KEY_FILE)
    merchant = messages.MerchantCredential(
        certificate=x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER),
        counter=2**52,
        signature=identity.sign(b"label", b"statement"),
    )
    assert len(merchant.certificate) > (1000 if key_type == "rsa3072" else 300)
    credentials = [
        messages.SignUp(name="n", password="p", device=bytes(32), invite=b""),
        messages.SignUp(name="ñ" * 64, password="€" * 256, device=bytes(32), invite=bytes(16)),
        messages.LogIn(name="🙂" * 64, password="🙂" * 256, device=bytes(32), code="123456"),
        EXAMPLES["TicketCredential"],
        merchant,
        messages.MerchantCredential(certificate=bytes(2048), counter=2**52, signature=bytes(384)),
    ]
    made = [frames.seal_hello(HELLO_KEY.public, MARKET, UP, hello_of(each)) for each in credentials]
    assert {len(frame) for frame in made} == {frames.HELLO_SIZE}
    opened = [frames.open_hello(HELLO_KEY, MARKET, UP, frame).credential for frame in made]
    assert opened == credentials


def test_a_hello_of_another_market_or_key_is_refused() -> None:
    with pytest.raises(ForgedError):
        frames.open_hello(HELLO_KEY, b"x" * 16, UP, HELLO_FRAME)
    with pytest.raises(ForgedError):
        frames.open_hello(OTHER, MARKET, UP, HELLO_FRAME)
    assert frames.hello_key_id(HELLO_FRAME) == HELLO_KEY.public.key_id


# --- keys ----------------------------------------------------------------------------------------------


def test_keys_depend_on_each_input() -> None:
    inputs = {
        "hello_secret": SECRET,
        "welcome_secret": b"w" * 32,
        "hello_frame": b"h" * 99,
        "sealed": b"e" * 99,
    }
    base = frames._derive(**inputs).to_bytes()
    assert len(base) == 8 + 4 * 32
    made = {base}
    for name, value in inputs.items():
        made.add(frames._derive(**{**inputs, name: value[:-1] + b"\0"}).to_bytes())
    assert len(made) == 1 + len(inputs)
    parts = [base[8 + 32 * n : 40 + 32 * n] for n in range(4)]
    assert len(set(parts)) == 4
    assert SessionKeys.from_bytes(base).to_bytes() == base


def test_a_welcome_fits_its_own_hello_alone() -> None:
    again = frames.seal_hello(HELLO_KEY.public, MARKET, UP, HELLO)
    for hello_frame, secret, ephemeral in (
        (again, SECRET, EPHEMERAL),
        (HELLO_FRAME, b"t" * 32, EPHEMERAL),
        (HELLO_FRAME, SECRET, OTHER),
    ):
        with pytest.raises(ForgedError):
            frames.open_welcome(hello_frame, secret, ephemeral, DOWN, WELCOME)


def test_both_ends_have_the_same_keys_and_fresh_ones_each_time() -> None:
    answer, keys = frames.open_welcome(HELLO_FRAME, SECRET, EPHEMERAL, DOWN, WELCOME)
    assert (answer, keys.to_bytes()) == (EXAMPLES["Welcome"], WELCOME_KEYS.to_bytes())
    _, other = frames.make_welcome(HELLO_FRAME, HELLO, DOWN, EXAMPLES["Welcome"], RANDOM)  # type: ignore[arg-type]
    assert other.to_bytes() != keys.to_bytes(), "HPKE's own randomness is in them"


def test_a_degenerate_ephemeral_key_gets_no_welcome() -> None:
    for ephemeral in (bytes(1216), EPHEMERAL.public.raw[:1184] + bytes(32), b"\xff" * 1216):
        hello = hello_of(ephemeral=ephemeral)
        with pytest.raises(MalformedError):
            frames.make_welcome(HELLO_FRAME, hello, DOWN, EXAMPLES["Welcome"], RANDOM)  # type: ignore[arg-type]


def test_keys_are_not_in_the_repr() -> None:
    text = repr(KEYS) + repr(KEYS.up) + repr(HELLO_KEY)
    raw = KEYS.to_bytes()
    for secret in (raw[8:40], raw[40:72], raw[72:104], raw[104:], HELLO_KEY.raw):
        assert repr(secret)[2:-1] not in text
        assert secret.hex() not in text


def test_the_hpke_part_of_a_welcome_has_the_size_that_it_is_cut_at() -> None:
    sealed = sealing.seal(EPHEMERAL.public, b"info", bytes(32))
    assert len(sealed) == frames.SEALED_SECRET
