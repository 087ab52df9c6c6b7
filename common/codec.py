"""Messages to msgpack bytes and back.

Rule 1. Decoding checks everything: types, bounds, field counts and trailing bytes; what is not exactly
a message of the expected union raises `MalformedError`.

Rule 2. The caller has checked the length of what it decodes against a named limit.

`msgspec` reads msgpack into frozen types in one pass; it is several times faster than building
dictionaries first, and it never holds a value that the types do not allow. The bytes are plain msgpack:
any implementation reads them (`tests/test_codec.py` does with another one).
"""

from __future__ import annotations

from typing import Annotated, Any, Generic, TypeVar

import msgspec

from common import config, messages
from common.errors import MalformedError

Decoded = TypeVar("Decoded")

_encoder = msgspec.msgpack.Encoder()


def pack(value: object) -> bytes:
    """Encode a message, or a list of them."""
    return _encoder.encode(value)


class Codec(Generic[Decoded]):
    """A decoder for one type or union."""

    def __init__(self, expected: Any) -> None:
        self._decoder: msgspec.msgpack.Decoder[Decoded] = msgspec.msgpack.Decoder(expected)

    def unpack(self, data: bytes) -> Decoded:
        """Decode `data` completely. Raises `MalformedError`."""
        try:
            return self._decoder.decode(data)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise MalformedError("not a message that is allowed here") from error


def _frame_of(body: Any) -> Any:
    return Annotated[
        list[messages.Envelope[body]],
        msgspec.Meta(min_length=1, max_length=config.MAXIMUM_MESSAGES_PER_FRAME),
    ]


FROM_ACCOUNT: Codec[list[messages.Envelope[messages.FromAccount]]] = Codec(_frame_of(messages.FromAccount))
FROM_SHOP: Codec[list[messages.Envelope[messages.FromShop]]] = Codec(_frame_of(messages.FromShop))
FROM_MERCHANT: Codec[list[messages.Envelope[messages.FromMerchant]]] = Codec(_frame_of(messages.FromMerchant))
TO_ACCOUNT: Codec[list[messages.Envelope[messages.ToAccount]]] = Codec(_frame_of(messages.ToAccount))
TO_SHOP: Codec[list[messages.Envelope[messages.ToShop]]] = Codec(_frame_of(messages.ToShop))
TO_MERCHANT: Codec[list[messages.Envelope[messages.ToMerchant]]] = Codec(_frame_of(messages.ToMerchant))
HELLO: Codec[messages.Hello] = Codec(messages.Hello)
HELLO_ANSWER: Codec[messages.HelloAnswer] = Codec(messages.HelloAnswer)
SEALED_REQUEST: Codec[messages.SealedRequest] = Codec(messages.SealedRequest)
SEALED_ANSWER: Codec[messages.SealedAnswer] = Codec(messages.SealedAnswer)
PRODUCT_RECORD: Codec[messages.ProductRecord] = Codec(messages.ProductRecord)
RECEIPT: Codec[messages.Receipt] = Codec(messages.Receipt)
BROKER_CARD: Codec[messages.BrokerCard] = Codec(messages.BrokerCard)
SPENT_CHUNK: Codec[messages.SpentChunk] = Codec(messages.SpentChunk)
MERCHANT_CARD: Codec[messages.MerchantCard] = Codec(messages.MerchantCard)
COIN_TOTALS: Codec[list[messages.CoinTotal]] = Codec(list[messages.CoinTotal])
