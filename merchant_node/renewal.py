"""Records of an earlier form: what is on sale is signed anew in the present one.

Before taxes came into prices a record had no tax rate. What was sold so stays as it is: it is delivered by
what its order says. What is on sale gets a new version, with the tax rate of the shop.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from common import codec
from common.errors import MalformedError

_BEFORE_TAXES: Final = (
    "merchant",
    "sku",
    "version",
    "title",
    "description",
    "category",
    "tags",
    "group",
    "variant",
    "price",
    "currency",
    "file_name",
    "size",
    "digest",
    "cells",
    "image_digest",
    "image_alt",
)


def earlier_record(packed: bytes) -> dict[str, Any] | None:
    """Give the fields of a record from before taxes, None for one of the present form.

    Raises `MalformedError` for what is neither.
    """
    try:
        codec.PRODUCT_RECORD.unpack(packed)
    except MalformedError:
        fields = msgspec.msgpack.decode(packed)
        if not isinstance(fields, list) or len(fields) != len(_BEFORE_TAXES):
            raise
        return dict(zip(_BEFORE_TAXES, fields, strict=True))
    return None
