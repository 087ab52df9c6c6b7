"""Orders as the interface shows them: what the Python API gives, with files by number instead of paths."""

from __future__ import annotations

from pathlib import Path

import msgspec

from common.envelope import plain
from common.web.statuses import Failure, failure
from customer_node.views import Hop, LicenceKeysView, OrderLineView, OrderState, OrderView, TaxView
from customer_node.web.desk import Delivery


class OrderFile(msgspec.Struct, frozen=True):
    """A file of an order: its number, from 1 on, and its name; `size` is null where it is not here."""

    number: int
    name: str
    size: int | None


class Fetching(msgspec.Struct, frozen=True):
    """A delivery that was begun since the server was started; `failure` is why it stopped."""

    running: bool
    failure: Failure | None


class Order(msgspec.Struct, frozen=True):
    """An order. `failure` says why it was refunded; `waits_for` is whose turn it is, null at an end.

    `subtotal` less `discount`, which `code` gave, is `total`; the taxes are in it. `refunded` is how much of
    it was given back, `claimed` how much of that is in the wallet. `keys` are there once they have come.
    """

    order_id: str
    merchant: str
    state: OrderState
    lines: tuple[OrderLineView, ...]
    code: str
    subtotal: int
    discount: int
    taxes: tuple[TaxView, ...]
    total: int
    currency: str
    created: int
    deadline: int
    idempotency_key: str
    audit: str | None
    failure: str | None
    refunded: int
    claimed: int
    decision: str
    waits_for: Hop | None
    waits_until: int | None
    cells_done: int
    cells: int | None
    keys: tuple[LicenceKeysView, ...]
    files: tuple[OrderFile, ...]
    delivery: Fetching | None


def shown(order: OrderView, delivery: Delivery | None) -> Order:
    """Give an order as the interface shows it."""
    fields = msgspec.to_builtins(order, enc_hook=plain)
    fields["files"] = [
        OrderFile(number, path.name, _size(path)) for number, path in enumerate(order.files, 1)
    ]
    fields["delivery"] = None
    if delivery is not None:
        stopped = delivery.error if not delivery.running else None
        fields["delivery"] = Fetching(delivery.running, failure(stopped) if stopped else None)
    return msgspec.convert(fields, Order)


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
