"""The library's HPKE against published vectors: X-Wing (HPKE working group) and X25519 (RFC 9180 §A).

The library is single-shot, so of each vector the first encryption is opened (sequence number 0). All of
them carry additional data, which only the library's own test hook `_decrypt_with_aad` takes.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
import vectors
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.bindings._rust import openssl
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PrivateKey, Suite
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography_vectors import open_vector_file

BASE = 0
X25519 = 0x0020
X_WING = 0x647A
EXPORT_ONLY = 0xFFFF
KDFS = {
    0x0001: KDF.HKDF_SHA256,
    0x0002: KDF.HKDF_SHA384,
    0x0003: KDF.HKDF_SHA512,
    0x0010: KDF.SHAKE128,
    0x0011: KDF.SHAKE256,
}
AEADS = {0x0001: AEAD.AES_128_GCM, 0x0002: AEAD.AES_256_GCM, 0x0003: AEAD.CHACHA20_POLY1305}


def suite_of(vector: dict[str, Any], kem: KEM) -> Suite:
    return Suite(kem, KDFS[vector["kdf_id"]], AEADS[vector["aead_id"]])


def check(vector: dict[str, Any], kem: KEM, private: Any) -> None:
    first = vector["encryptions"][0]
    ciphertext = bytes.fromhex(vector["enc"] + first["ct"])
    info, aad = bytes.fromhex(vector["info"]), bytes.fromhex(first["aad"])
    decrypt, suite = openssl.hpke._decrypt_with_aad, suite_of(vector, kem)

    assert decrypt(suite, ciphertext, private, info, aad) == bytes.fromhex(first["pt"])
    for position in (0, len(vector["enc"]) // 2 - 1, len(vector["enc"]) // 2, len(ciphertext) - 1):
        damaged = bytearray(ciphertext)
        damaged[position] ^= 1
        with pytest.raises(InvalidTag):
            decrypt(suite, bytes(damaged), private, info, aad)
    with pytest.raises(InvalidTag):
        decrypt(suite, ciphertext, private, info + b"x", aad)


def test_x_wing(record_property: vectors.RecordProperty):
    checked = 0
    for vector in vectors.load("hpke/hpke-pq-test-vectors.json"):
        if (vector["mode"], vector["kem_id"]) != (BASE, X_WING):
            continue
        # draft-connolly-cfrg-xwing-kem: the 32-byte private key expands to the two of its parts.
        expanded = hashlib.shake_256(bytes.fromhex(vector["skRm"])).digest(96)
        ml_kem = MLKEM768PrivateKey.from_seed_bytes(expanded[:64])
        x25519 = X25519PrivateKey.from_private_bytes(expanded[64:])
        public = ml_kem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()
        assert public == bytes.fromhex(vector["pkRm"])
        check(vector, KEM.MLKEM768_X25519, MLKEM768X25519PrivateKey(ml_kem, x25519))
        checked += 1
    assert checked
    vectors.count(record_property, "HPKE, X-Wing", checked)


def test_x25519_base(record_property: vectors.RecordProperty):
    with open_vector_file("HPKE/test-vectors.json", "r") as file:
        every = json.load(file)
    checked = 0
    for vector in every:
        if (vector["mode"], vector["kem_id"]) != (BASE, X25519) or vector["aead_id"] == EXPORT_ONLY:
            continue
        private = X25519PrivateKey.from_private_bytes(bytes.fromhex(vector["skRm"]))
        public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        assert public == bytes.fromhex(vector["pkRm"])
        check(vector, KEM.X25519, private)
        checked += 1
    assert checked
    vectors.count(record_property, "RFC 9180, HPKE X25519 base", checked)
