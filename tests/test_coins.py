"""Coins and tickets: derivation, blinding, forgery, and which coins pay an amount."""

from __future__ import annotations

import hmac
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from itertools import product

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from common import blind, coins
from common.errors import ForgedError, MalformedError
from common.messages import IssuerKey, Token
from common.raw_rsa import RawRsa

SEED = bytes(range(32))
TOP = 2**14


def issuer_of(key: blind.BlindPrivateKey, purpose: coins.Purpose = "coin", value: int = 64) -> IssuerKey:
    return IssuerKey(
        key_id=key.public.key_id, purpose=purpose, value=value, month="2030-01", public=key.public.der
    )


def der(key: rsa.RSAPublicKey | ed25519.Ed25519PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture(scope="module")
def private() -> blind.BlindPrivateKey:
    return blind.BlindPrivateKey.generate()


@pytest.fixture(scope="module")
def other() -> blind.BlindPrivateKey:
    return blind.BlindPrivateKey.generate()


@pytest.fixture(scope="module")
def issuer(private: blind.BlindPrivateKey) -> IssuerKey:
    return issuer_of(private)


@pytest.fixture(scope="module")
def blind_signature(private: blind.BlindPrivateKey, issuer: IssuerKey) -> bytes:
    return private.blind_sign(coins.blind_token(issuer, SEED, 7).blinded)


@pytest.fixture(scope="module")
def token(issuer: IssuerKey, blind_signature: bytes) -> Token:
    return coins.unblind(issuer, SEED, 7, blind_signature)


# --- The road of a token -------------------------------------------------------------------------------


def test_a_token_verifies_and_shares_nothing_with_what_the_issuer_saw(
    private: blind.BlindPrivateKey, issuer: IssuerKey, token: Token, blind_signature: bytes
):
    seen = coins.blind_token(issuer, SEED, 7).blinded + blind_signature
    shown = token.prefix + token.serial + token.signature
    windows = {seen[start : start + 8] for start in range(len(seen) - 7)}
    assert not any(shown[start : start + 8] in windows for start in range(len(shown) - 7))

    message = coins.prepared("coin", issuer.key_id, token.prefix, token.serial)
    assert coins.verify_token(issuer, token) == coins.spent_mark(message)
    private.public.verify(message, token.signature)


def test_the_same_counter_gives_the_same_bytes_and_another_gives_others(issuer: IssuerKey):
    asked = [coins.blind_token(issuer, SEED, counter).blinded for counter in (0, 0, 1, 2**63)]
    assert asked[0] == asked[1]
    assert len(set(asked)) == 3


def test_all_secrets_differ_by_seed_key_and_counter():
    modulus = 2**2047 + 1
    places = product((SEED, bytes(32)), (b"12345678", b"abcdefgh"), (0, 1))
    derived = [coins.derive(seed, key_id, counter, modulus) for seed, key_id, counter in places]
    for name in ("prefix", "serial", "salt", "r"):
        assert len({getattr(secrets, name) for secrets in derived}) == len(derived)
    first = derived[0]
    assert not {first.prefix, first.serial} & {first.salt[:32]}
    assert first.prefix != first.serial
    assert (len(first.prefix), len(first.serial), len(first.salt)) == (32, 32, 48)


def hkdf(info: bytes, length: int) -> bytes:
    """RFC 5869 written out, beside the library's."""
    key = hmac.digest(bytes(32), SEED, "sha256")
    stream = block = b""
    for index in range(1, -(-length // 32) + 1):
        block = hmac.digest(key, block + info + bytes([index]), "sha256")
        stream += block
    return stream[:length]


def test_the_derivation_is_fixed_for_ever():
    # Another label, order or length would make every wallet's unfinished withdrawal unreadable.
    modulus = 2**2048 - 1942289  # a prime, so that the first draw counts
    place = b"12345678" + (5).to_bytes(8)
    secrets = coins.derive(SEED, b"12345678", 5, modulus)
    assert secrets.prefix == hkdf(b"veilmart/v1/token/prefix\x00" + place, 32)
    assert secrets.serial == hkdf(b"veilmart/v1/token/serial\x00" + place, 32)
    assert secrets.salt == hkdf(b"veilmart/v1/token/salt\x00" + place, 48)
    assert secrets.r == int.from_bytes(hkdf(b"veilmart/v1/token/r\x00" + place + bytes(4), 272)) % modulus
    message = coins.token_message("ticket", b"12345678", secrets.serial)
    assert message == b"veilmart/v1/ticket\x0012345678" + secrets.serial


def test_the_blinding_factor_is_a_unit_and_reaches_all_of_them():
    drawn = Counter(coins.derive(SEED, b"12345678", counter, 12).r for counter in range(400))
    assert set(drawn) == {1, 5, 7, 11}
    assert min(drawn.values()) > 60


def test_no_secret_shows_in_a_representation(private: blind.BlindPrivateKey, token: Token):
    secrets = coins.derive(SEED, b"12345678", 0, private.public.modulus)
    shown = repr(secrets) + str(secrets) + repr(private) + repr(private.public) + repr(token)
    for hidden in (secrets.prefix, secrets.serial, secrets.salt, token.serial, token.signature):
        assert repr(hidden)[2:-1] not in shown
        assert hidden.hex() not in shown
    numbers = private._key.private_numbers()
    for number in (secrets.r, numbers.p, numbers.q, numbers.d, numbers.dmp1, numbers.dmq1):
        assert str(number) not in shown
        assert f"{number:x}" not in shown


def test_a_mark_does_not_follow_from_the_signature(
    private: blind.BlindPrivateKey, issuer: IssuerKey, token: Token
):
    # The same message signed again with another salt: another valid signature, the same coin.
    message = coins.prepared("coin", issuer.key_id, token.prefix, token.serial)
    blinded, inverse = blind.blind(private.public, message, bytes(48), 3)
    again = blind.finalize(private.public, message, private.blind_sign(blinded), inverse)
    assert again != token.signature
    twin = msgspec.structs.replace(token, signature=again)
    assert coins.verify_token(issuer, twin) == coins.verify_token(issuer, token)


# --- Forgery -------------------------------------------------------------------------------------------


def test_every_bit_of_a_signature_counts(issuer: IssuerKey, token: Token):
    for bit in range(8 * len(token.signature)):
        flipped = (int.from_bytes(token.signature) ^ 1 << bit).to_bytes(256)
        with pytest.raises(ForgedError):
            coins.verify_token(issuer, msgspec.structs.replace(token, signature=flipped))


def test_every_truncation_and_extension_of_a_signature_fails(issuer: IssuerKey, token: Token):
    damaged = [token.signature[:length] for length in range(256)]
    damaged += [token.signature[start:] for start in range(1, 256)]
    damaged += [token.signature + b"\x00", b"\x00" + token.signature]
    for signature in damaged:
        with pytest.raises(ForgedError):
            coins.verify_token(issuer, msgspec.structs.replace(token, signature=signature))


def test_a_signature_that_begins_with_zero_has_no_shorter_spelling(private: blind.BlindPrivateKey):
    """OpenSSL alone would take it without that byte: one of 256 is so."""
    for number in range(10_000):
        prepared = number.to_bytes(2)
        blinded, inverse = blind.blind(private.public, prepared, bytes(48), 3)
        signature = blind.finalize(private.public, prepared, private.blind_sign(blinded), inverse)
        if signature[0] == 0:
            break
    private.public.verify(prepared, signature)
    with pytest.raises(ForgedError):
        private.public.verify(prepared, signature[1:])


def test_a_signature_plus_the_modulus_fails(private: blind.BlindPrivateKey, issuer: IssuerKey, token: Token):
    larger = int.from_bytes(token.signature) + private.public.modulus
    with pytest.raises(ForgedError):
        coins.verify_token(issuer, msgspec.structs.replace(token, signature=larger.to_bytes(257)))


@pytest.mark.parametrize("name", ["prefix", "serial"])
def test_every_bit_of_what_is_signed_counts(issuer: IssuerKey, token: Token, name: str):
    value: bytes = getattr(token, name)
    for bit in range(8 * len(value)):
        flipped = (int.from_bytes(value) ^ 1 << bit).to_bytes(len(value))
        with pytest.raises(ForgedError):
            coins.verify_token(issuer, msgspec.structs.replace(token, **{name: flipped}))


def test_a_coin_is_no_ticket_and_belongs_to_one_key(
    private: blind.BlindPrivateKey, other: blind.BlindPrivateKey, token: Token
):
    with pytest.raises(ForgedError):
        coins.verify_token(issuer_of(private, "ticket", 0), token)
    with pytest.raises(ForgedError):
        coins.verify_token(issuer_of(other), token)
    renamed = msgspec.structs.replace(token, key_id=other.public.key_id)
    with pytest.raises(ForgedError):
        coins.verify_token(issuer_of(other), renamed)


def test_an_issuer_that_signs_wrongly_is_found_out(
    issuer: IssuerKey, other: blind.BlindPrivateKey, blind_signature: bytes
):
    blinded = coins.blind_token(issuer, SEED, 7).blinded
    smaller = (int.from_bytes(blinded) % other.public.modulus).to_bytes(256)
    for answer in (other.blind_sign(smaller), blinded, bytes(256), b"\xff" * 256):
        with pytest.raises(ForgedError):
            coins.unblind(issuer, SEED, 7, answer)
    with pytest.raises(ForgedError):
        coins.unblind(issuer, SEED, 8, blind_signature)
    for length in (0, 255, 257):
        with pytest.raises(MalformedError):
            coins.unblind(issuer, SEED, 7, blind_signature.ljust(257, b"\x00")[:length])


# --- Keys ----------------------------------------------------------------------------------------------


def test_a_private_key_comes_back_from_its_file(private: blind.BlindPrivateKey):
    again = blind.BlindPrivateKey.from_pem(private.to_pem())
    assert again.public == private.public
    assert again.blind_sign(bytes(255) + b"\x02") == private.blind_sign(bytes(255) + b"\x02")


def test_a_file_with_another_kind_of_key_is_refused():
    for key in (rsa.generate_private_key(65537, 3072), ed25519.Ed25519PrivateKey.generate()):
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        with pytest.raises(ValueError, match="RSA-2048"):
            blind.BlindPrivateKey.from_pem(pem)


def test_only_rsa_2048_with_the_usual_exponent_is_an_issuer_key(private: blind.BlindPrivateKey):
    modulus = private.public.modulus
    wrong = [
        rsa.RSAPublicNumbers(65537, modulus >> 1 | 1).public_key(),
        rsa.RSAPublicNumbers(65537, modulus << 1 | 1).public_key(),
        rsa.RSAPublicNumbers(3, modulus).public_key(),
        rsa.RSAPublicNumbers(65539, modulus).public_key(),
        ed25519.Ed25519PrivateKey.generate().public_key(),
    ]
    for key in wrong:
        with pytest.raises(MalformedError):
            blind.BlindPublicKey.from_der(der(key))


def test_only_one_encoding_of_an_issuer_key_is_taken(private: blind.BlindPrivateKey):
    good = private.public.der
    key_bits = good[19:]  # after the outer header and the algorithm
    algorithms = [
        bytes.fromhex("300b06092a864886f70d010101"),  # rsaEncryption without its NULL
        bytes.fromhex("300b06092a864886f70d01010a"),  # id-RSASSA-PSS
    ]
    others = [b"\x30\x82" + len(name + key_bits).to_bytes(2) + name + key_bits for name in algorithms]
    others.append(good[24:])  # PKCS #1
    for encoding in others:
        loaded = serialization.load_der_public_key(encoding)
        assert isinstance(loaded, rsa.RSAPublicKey)
        assert loaded.public_numbers().n == private.public.modulus
        with pytest.raises(MalformedError):
            blind.BlindPublicKey.from_der(encoding)
    assert blind.BlindPublicKey.from_der(good) == private.public


def test_a_damaged_issuer_key_is_refused_or_is_another_key(private: blind.BlindPrivateKey):
    good = private.public.der
    damaged = [(int.from_bytes(good) ^ 1 << bit).to_bytes(len(good)) for bit in range(8 * len(good))]
    damaged += [good[:length] for length in range(len(good))]
    damaged += [good + b"\x00", good * 2, b"\x00" * 600]
    refused = 0
    for candidate in damaged:
        try:
            loaded = blind.BlindPublicKey.from_der(candidate)
        except MalformedError:
            refused += 1
        else:
            assert loaded.key_id != private.public.key_id
            assert loaded.modulus != private.public.modulus
    assert refused > len(good)


def test_an_announced_key_must_fit_its_id_value_and_purpose(private: blind.BlindPrivateKey):
    good = issuer_of(private)
    for changes in (
        {"key_id": b"\x00" * 8},
        {"value": 3},
        {"value": 0},
        {"purpose": "ticket"},
        {"public": good.public[:-1]},
    ):
        with pytest.raises(MalformedError):
            coins.issuer_public(msgspec.structs.replace(good, **changes))
    assert coins.issuer_public(issuer_of(private, "ticket", 0)) == private.public


# --- The signer ----------------------------------------------------------------------------------------


def test_a_blinded_message_out_of_range_is_refused(private: blind.BlindPrivateKey):
    n, p = private.public.modulus, private._key.private_numbers().p
    out_of_range = [0, n, n + 1, 2**2048 - 1, p, n - p]
    for blinded in [number.to_bytes(256) for number in out_of_range] + [b"", bytes(255), bytes(257)]:
        with pytest.raises(MalformedError):
            private.blind_sign(blinded)


def test_a_fault_in_one_half_never_leaves_the_signer(private: blind.BlindPrivateKey):
    numbers = private._numbers
    faulty = rsa.RSAPrivateNumbers(
        numbers.p,
        numbers.q,
        numbers.d,
        numbers.dmp1 ^ 4,
        numbers.dmq1,
        numbers.iqmp,
        numbers.public_numbers,
    )
    with pytest.raises(ArithmeticError):
        replace(private, _numbers=faulty, _raw=None).blind_sign(bytes(255) + b"\x02")


def test_a_wrong_root_of_openssl_never_leaves_the_signer(
    private: blind.BlindPrivateKey, other: blind.BlindPrivateKey
):
    with pytest.raises(ArithmeticError):
        replace(private, _raw=other._raw).blind_sign(bytes(255) + b"\x02")


def test_openssl_and_gmpy2_take_the_same_roots(private: blind.BlindPrivateKey):
    # Where OpenSSL cannot be called the mint is slower, and nothing else; on this machine it can.
    assert private.signer == "OpenSSL"
    slow = replace(private, _raw=None)
    assert slow.signer == "gmpy2"
    for number in (2, 3, 2**2040 + 1, private.public.modulus - 1):
        assert private.blind_sign(number.to_bytes(256)) == slow.blind_sign(number.to_bytes(256))


def test_openssl_that_takes_no_root_says_so(private: blind.BlindPrivateKey):
    assert private._raw is not None
    for wrong in (b"\xff" * 256, b"", bytes(257)):
        with pytest.raises(ArithmeticError):
            private._raw.root(wrong)
    assert RawRsa.load(b"no key", 256) is None


def test_a_blinding_factor_must_be_a_unit(private: blind.BlindPrivateKey):
    n, p = private.public.modulus, private._key.private_numbers().p
    for r in (-1, 0, n, n + 1, p):
        with pytest.raises(ValueError, match="blinding factor"):
            blind.blind(private.public, b"message", bytes(48), r)


GOES_ON = 8
"""How often this thread runs during one signature, at least once: however busy the machine is otherwise."""


@pytest.mark.parametrize("signer", ["OpenSSL", "gmpy2"])
def test_other_threads_go_on_while_one_signs(private: blind.BlindPrivateKey, signer: str):
    signing = private if signer == "OpenSSL" else replace(private, _raw=None)
    # With the interpreter's own switching out of the way, this thread runs only when the signer lets it.
    ticks, most = 0, 0
    done = threading.Event()

    def sign() -> None:
        nonlocal most
        for _ in range(2_000):
            before = ticks
            signing.blind_sign(bytes(255) + b"\x02")
            most = max(most, ticks - before)
            if most >= GOES_ON:
                break
        done.set()

    interval = sys.getswitchinterval()
    thread = threading.Thread(target=sign)
    sys.setswitchinterval(60)
    try:
        thread.start()
        while not done.is_set():
            time.sleep(0)
            ticks += 1
    finally:
        sys.setswitchinterval(interval)
        thread.join()
    # Not once or twice, as where the result is checked, but for as long as a root takes.
    assert most >= GOES_ON


# --- Which coins pay an amount -------------------------------------------------------------------------

holdings = st.dictionaries(st.integers(0, 14).map(lambda n: 2**n), st.integers(0, 4))


def sums(held: dict[int, int]) -> set[int]:
    reachable = {0}
    for value, number in held.items():
        reachable = {total + value * taken for total in reachable for taken in range(number + 1)}
    return reachable


@given(
    held=st.dictionaries(st.integers(0, 6).map(lambda n: 2**n), st.integers(0, 3)), extra=st.integers(0, 9)
)
def test_exact_pays_whatever_can_be_paid_and_nothing_else(held: dict[int, int], extra: int):
    reachable = sums(held)
    for amount in range(max(reachable) + extra + 1):
        chosen = coins.exact(held, amount)
        assert (chosen is not None) == (amount in reachable)
        if chosen is not None:
            assert sum(chosen) == amount
            assert all(number <= held[value] for value, number in Counter(chosen).items())


@given(amount=st.integers(0, 200_000), held=holdings, exponent=st.integers(0, 14))
def test_spread_gives_the_amount_in_allowed_denominations(amount: int, held: dict[int, int], exponent: int):
    chosen = coins.spread(amount, held, 2**exponent)
    assert sum(chosen) == amount
    assert all(value & (value - 1) == 0 and 1 <= value <= 2**exponent for value in chosen)
    assert len(chosen) <= 2 * (exponent + 1) + amount // 2**exponent


@given(amount=st.integers(2 * TOP - 1, 10 * TOP), held=holdings, price=st.integers(0, 2 * TOP - 1))
def test_after_a_large_spread_every_smaller_price_is_payable(amount: int, held: dict[int, int], price: int):
    wallet = Counter(held) + Counter(coins.spread(amount, held, TOP))
    assert coins.exact(wallet, price) is not None


def test_spread_fills_the_gaps_of_the_wallet_first():
    assert coins.spread(1, {}, TOP) == [1]
    assert coins.spread(3, {}, TOP) == [2, 1]
    assert coins.spread(8, {}, TOP) == [4, 2, 1, 1]
    assert coins.spread(8, {1: 1, 2: 1, 4: 1}, TOP) == [8]
    assert coins.spread(6, {1: 1, 4: 0}, TOP) == [4, 2]
    assert coins.spread(5, {}, 1) == [1, 1, 1, 1, 1]
    assert coins.spread(0, {}, TOP) == []


def test_the_bundle_is_twenty_units_and_pays_every_amount_up_to_that():
    assert sum(coins.BUNDLE) == 2000
    assert len(coins.BUNDLE) == 16
    assert coins.BUNDLE_TICKETS == 4
    assert all(coins.exact(Counter(coins.BUNDLE), amount) for amount in range(1, 2001))
    assert coins.exact(Counter(coins.BUNDLE), 2001) is None


def test_our_own_mistakes_are_loud(private: blind.BlindPrivateKey):
    calls = [
        lambda: coins.exact({1: 1}, -1),
        lambda: coins.exact({3: 1}, 3),
        lambda: coins.spread(-1, {}, 1),
        lambda: coins.spread(1, {}, 3),
        lambda: coins.derive(SEED[:-1], b"12345678", 0, private.public.modulus),
        lambda: blind.prepare(b"message", bytes(31)),
    ]
    for call in calls:
        with pytest.raises(ValueError):  # noqa: PT011  # each has its own text
            call()
