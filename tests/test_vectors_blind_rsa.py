"""common.blind against the vectors of RFC 9474's working group, byte for byte.

Preparation is the only step in which the variants' randomized and deterministic forms differ, and salt
length the only one between PSS and PSSZERO; so each vector runs through our code as far as our variant
(PSS, salt of 48 bytes) agrees with its own, and the last step of PSSZERO is checked by the library.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import vectors
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from common import blind
from common.errors import ForgedError


def private_key(vector: dict[str, Any]) -> blind.BlindPrivateKey:
    p, q, n, e, d = (int(vector[name], 16) for name in "pqned")
    crt = rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q)
    return blind.BlindPrivateKey.of(
        rsa.RSAPrivateNumbers(p, q, d, *crt, rsa.RSAPublicNumbers(e, n)).private_key()
    )


def hexadecimal(vector: dict[str, Any], name: str) -> bytes:
    return bytes.fromhex(vector[name].removeprefix("0x"))


def prepared(vector: dict[str, Any]) -> bytes:
    message = hexadecimal(vector, "msg")
    return blind.prepare(message, hexadecimal(vector, "msg_prefix")) if "msg_prefix" in vector else message


def test_vectors(record_property: vectors.RecordProperty):
    salt_lengths = []
    for vector in vectors.load("blind-rsa/test_vectors.json"):
        private = private_key(vector)
        public, message, salt = private.public, prepared(vector), hexadecimal(vector, "salt")
        r = pow(int(vector["inv"], 16), -1, public.modulus)

        if "encoded_msg" in vector:
            encoded = blind._emsa_pss_encode(message, salt, public.modulus.bit_length() - 1)
            assert encoded == hexadecimal(vector, "encoded_msg")
        blinded, inverse = blind.blind(public, message, salt, r)
        assert blinded == hexadecimal(vector, "blinded_msg")
        assert inverse == int(vector["inv"], 16)
        blind_signature = private.blind_sign(blinded)
        assert blind_signature == hexadecimal(vector, "blind_sig")
        assert replace(private, _raw=None).blind_sign(blinded) == blind_signature
        if len(salt) == blind.SALT_BYTES:
            signature = blind.finalize(public, message, blind_signature, inverse)
        else:
            with pytest.raises(ForgedError):  # another variant's signature is none of ours
                blind.finalize(public, message, blind_signature, inverse)
            signature = blind._unblind(public, blind_signature, inverse)
            scheme = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=len(salt))
            public._key.verify(signature, message, scheme, hashes.SHA384())
        assert signature == hexadecimal(vector, "sig")
        salt_lengths.append(len(salt))

    assert blind.SALT_BYTES in salt_lengths
    vectors.count(record_property, "RFC 9474, blind RSA", len(salt_lengths))
