"""Operations: what was answered once is answered again, for the same bytes alone.

Rule. Ids are kept per kind, so that nobody can occupy another kind's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import sqlalchemy as sa

from broker_node import schema
from broker_node.mint import owner_of
from common import codec, messages
from common.errors import RefusedError
from common.store import Row, Tx

Request: TypeAlias = messages.Withdraw | messages.Swap | messages.ClaimRefund
Response: TypeAlias = messages.Withdrawn | messages.Swapped | messages.RefundIssued | messages.RefundTaken

_KINDS: Mapping[type, str] = {
    messages.Withdraw: "withdraw",
    messages.Swap: "swap",
    messages.ClaimRefund: "refund",
}
_RESPONSE: codec.Codec[Response] = codec.Codec(Response)
_OPERATION = sa.insert(schema.operations)
_STORED = sa.select(schema.operations).where(
    schema.operations.c.id.in_(sa.bindparam("wanted", expanding=True))
)


def key_of(request: Request) -> bytes:
    """Give the key under which a request's answer is stored, and by which it owns what it spends."""
    # A claim's id is its order's own: an order may have several, and they are nothing at another order.
    order_id = request.order_id if isinstance(request, messages.ClaimRefund) else b""
    return owner_of(_KINDS[type(request)], order_id + request.operation)


def content_hash(request: messages.Message) -> bytes:
    """Give what tells a repetition from another request under the same id."""
    return hashlib.sha256(codec.pack(request)).digest()


def stored(tx: Tx, keys: Sequence[bytes]) -> dict[bytes, Row]:
    """Read the answers that are stored under these keys."""
    return {row["id"]: row for row in tx.among(_STORED, keys)}


def answered(tx: Tx, key: bytes, shown: bytes) -> Response | None:
    """Give the answer that is stored under `key`. Raises `RefusedError` where it was to other bytes."""
    return repeated(stored(tx, [key]).get(key), shown)


def repeated(row: Row | None, shown: bytes) -> Response | None:
    """Give the stored answer to the same bytes. Raises `RefusedError` for other bytes."""
    if row is None:
        return None
    if row["content_hash"] != shown:
        raise RefusedError("idempotency_conflict")
    return _RESPONSE.unpack(row["response"])


def store(tx: Tx, key: bytes, shown: bytes, response: Response) -> Row:
    """Store an answer, and give its row."""
    row = {"id": key, "content_hash": shown, "response": codec.pack(response)}
    tx.insert(_OPERATION, row)
    return row
