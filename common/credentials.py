"""What a merchant signs, beside its card: labels and statements, so that both ends agree on every byte."""

from __future__ import annotations

import hashlib
from typing import Final

MERCHANT_HELLO_LABEL: Final = b"veilmart v1 merchant hello"
PRODUCT_RECORD_LABEL: Final = b"veilmart v1 product record"
"""Under `ProductDetail.signature`, over `ProductDetail.record`."""
RECEIPT_LABEL: Final = b"veilmart v1 receipt"
"""Under `OrderAccepted.signature`, over `OrderAccepted.receipt`."""


def merchant_hello_statement(
    market: bytes, hello_key_id: bytes, secret: bytes, ephemeral: bytes, counter: int
) -> bytes:
    """Give the bytes under `MerchantCredential.signature`, label `MERCHANT_HELLO_LABEL`.

    `market` (16 bytes) || `hello_key_id` (8) || SHA-256(`Hello.secret` || `Hello.ephemeral`) (32) ||
    `counter` (u64, big endian): every part has one length. The hash ties the signature to the keys of
    this one `Hello`, the counter to its turn, so that neither can be used for another.
    """
    return market + hello_key_id + hashlib.sha256(secret + ephemeral).digest() + counter.to_bytes(8, "big")
