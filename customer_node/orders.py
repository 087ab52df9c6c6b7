"""Orders as rows: their secrets and their steps. How they are shown stands in `order_views`.

    draft --heard of by the broker--> placed --> accepted --> downloading --> complete
      +--> refused --known after all--> |            +-------------+-------------+--given back--> refunded
                                        +------> refundable ---------------------claimed--------> refunded

Rule 1. Three secrets follow from one order secret: `claim` for a refund, `status` for questions, `fetch`
for the cells. The locks of the first two are in `PlaceOrder`, that of the third in its sealed part alone.

Rule 2. A refused order's secrets stay while a repetition of `PlaceOrder` that is under way may be taken: then
they alone bring the money back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from common import codec, messages, sealing, states
from common.errors import NotFoundError
from common.store import Tx
from customer_node.schema import (
    order_keys,
    order_lines,
    order_secrets,
    orders,
    records,
)

OPEN: Final = ("draft", "placed", "refundable")
NOTHING_TO_DELIVER: Final = (*OPEN, "refused", "refunded")
TO_DELIVER: Final = ("accepted", "downloading")
_ORDER: Final = (
    sa.select(orders, order_secrets)
    .join(order_secrets, orders.c.order_id == order_secrets.c.order_id)
    .where(orders.c.order_id == sa.bindparam("of"))
)
_LINES: Final = (
    sa.select(order_lines, records.c.record.label("packed"))
    .join(records, order_lines.c.record == records.c.digest)
    .where(order_lines.c.order_id == sa.bindparam("of"))
    .order_by(order_lines.c.position)
)
_PLACE: Final[codec.Codec[messages.PlaceOrder]] = codec.Codec(messages.PlaceOrder)


@dataclass(frozen=True, repr=False)
class Secrets:
    """An order's three secrets, 32 bytes each."""

    claim: bytes
    status: bytes
    fetch: bytes

    @classmethod
    def of(cls, order_secret: bytes) -> Secrets:
        """Derive them by HKDF-SHA256 (RFC 5869), one label each."""
        return cls(*(_derive(order_secret, name) for name in (b"claim", b"status", b"fetch")))


def _derive(order_secret: bytes, name: bytes) -> bytes:
    info = b"veilmart v1 order secret\0" + name
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info).derive(order_secret)


def lock_of(secret: bytes) -> bytes:
    """Give the lock that a secret opens."""
    return hashlib.sha256(secret).digest()


@dataclass(frozen=True)
class Line:
    """A line as ordered, with the merchant's signed record of it."""

    sku: str
    title: str
    record: bytes
    quantity: int
    unit_price: int
    discount: int


@dataclass(frozen=True)
class Order:
    """An order, with everything that it takes to carry it on."""

    id: bytes
    merchant: str
    state: str
    amount: int
    currency: str
    created: int
    deadline: int
    visit: bytes = field(repr=False)
    lines: tuple[Line, ...]
    failure: str | None
    failure_sku: str | None
    failure_value: int | None
    refunded: int
    claimed: int
    heard: int
    secrets: Secrets = field(repr=False)
    answer_key: sealing.AnswerKey = field(repr=False)
    place_order: messages.PlaceOrder = field(repr=False)
    certificate: bytes = field(repr=False)


def load(tx: Tx, order_id: bytes) -> Order:
    """Read an order. Raises `NotFoundError`."""
    row = tx.one(_ORDER, {"of": order_id})
    if row is None:
        raise no_order(order_id.hex())
    lines = tx.all(_LINES, {"of": order_id})
    return Order(
        id=order_id,
        merchant=row["merchant"],
        state=row["state"],
        amount=row["amount"],
        currency=row["currency"],
        created=row["created"],
        deadline=row["deadline"],
        visit=row["visit"],
        lines=tuple(
            Line(
                sku=line["sku"],
                title=line["title"],
                record=line["packed"],
                quantity=line["quantity"],
                unit_price=line["unit_price"],
                discount=line["discount"],
            )
            for line in lines
        ),
        failure=row["failure"],
        failure_sku=row["failure_sku"],
        failure_value=row["failure_value"],
        refunded=row["refunded"],
        claimed=row["claimed"],
        heard=row["heard"],
        secrets=Secrets.of(row["secret"]),
        answer_key=sealing.AnswerKey(row["answer_secret"], row["request_hash"]),
        place_order=_PLACE.unpack(row["place_order"]),
        certificate=row["merchant_certificate"],
    )


def step(tx: Tx, order_id: bytes, new: str, **values: Any) -> None:
    """Take an order a step on. Raises `UnlistedStepError`."""
    changed = tx.changed(
        sa.update(orders)
        .where(orders.c.order_id == order_id, orders.c.state.in_(states.sources(states.CUSTOMER_ORDER, new)))
        .values(state=new, **values)
    )
    if changed != 1:
        raise states.UnlistedStepError(f"no step of this order to {new}")


def drop_draft(tx: Tx, order_id: bytes) -> None:
    """Erase an order that the broker has refused and can no longer take."""
    for table in (order_lines, order_secrets, orders):
        tx.execute(sa.delete(table).where(table.c.order_id == order_id))


def find(tx: Tx, text: str) -> bytes:
    """Give the id of the order whose hex id begins with `text`. Raises `NotFoundError`."""
    wanted = text.strip().lower()
    ids: list[bytes] = [row["order_id"] for row in tx.all(sa.select(orders.c.order_id))]
    found = [order_id for order_id in ids if wanted and order_id.hex().startswith(wanted)]
    if len(found) != 1:
        raise no_order(text)
    return found[0]


def in_states(tx: Tx, wanted: tuple[str, ...]) -> list[bytes]:
    """List orders in these states, oldest first."""
    query = sa.select(orders.c.order_id).where(orders.c.state.in_(wanted)).order_by(orders.c.created)
    return [row["order_id"] for row in tx.all(query)]


def keep_keys(tx: Tx, order_id: bytes, texts: Mapping[str, str]) -> None:
    """Keep the licence keys of an order: by SKU, the text of their file."""
    tx.execute(sa.delete(order_keys).where(order_keys.c.order_id == order_id))
    for sku, text in texts.items():
        tx.execute(sa.insert(order_keys), {"order_id": order_id, "sku": sku, "text": text})


def key_texts(tx: Tx, order_id: bytes) -> dict[str, str]:
    """Give what `keep_keys` kept."""
    rows = tx.all(sa.select(order_keys).where(order_keys.c.order_id == order_id).order_by(order_keys.c.sku))
    return {row["sku"]: row["text"] for row in rows}


def no_order(text: str) -> NotFoundError:
    """Give the error for an order that is not in this profile."""
    return NotFoundError(f"This profile has no order {text!r}.", "`veilmart orders` lists them.")
