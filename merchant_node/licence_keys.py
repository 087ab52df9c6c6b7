"""Licence keys: of a list, each is given to one sale and never to another.

    free --an order is accepted--> given --it becomes void--> free
                                     +-----it is paid-------> given for good, also after a refund

Rule 1. A key is taken in the transaction that accepts its order, so no crash comes in between, and an order
that is repeated finds its answer instead of a key. Until the order is paid no cell is served: whoever gets
a key back from a void order is its first reader.

Rule 2. A key is known once in a whole shop: added again, sold or not, under whatever product, it is skipped.

Rule 3. A product's stock is what is free of its keys: whoever changes the one changes the other.

Rule 4. The keys of one line fit one cell: how many there are cannot be seen in a delivery.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
import structlog

from common import config
from common.errors import UsageError
from common.store import Tx
from merchant_node import schema
from merchant_node.content import Source, called, opened

LOW: Final = 10
"""From so few on the merchant is warned."""
LONGEST_KEY: Final = 1024
LARGEST_FILE: Final = 64 * 1024 * config.KIB
KEYS_FILE: Final = ".keys.txt"

_KEYS: Final = schema.licence_keys.c
_KNOWN: Final = sa.select(_KEYS.key).where(_KEYS.key.in_(sa.bindparam("keys", expanding=True)))
_ADD: Final = sa.insert(schema.licence_keys)
_FREE: Final = (
    sa.select(_KEYS.number, _KEYS.key)
    .where(_KEYS.sku == sa.bindparam("of"), _KEYS.order_id.is_(None), _KEYS.number > sa.bindparam("after"))
    .order_by(_KEYS.number)
    .limit(sa.bindparam("count"))
)
_GIVE: Final = (
    sa.update(schema.licence_keys)
    .where(_KEYS.number == sa.bindparam("key_number"), _KEYS.order_id.is_(None))
    .values(order_id=sa.bindparam("to_order"), position=sa.bindparam("to_position"))
)
_GIVE_BACK: Final = (
    sa.update(schema.licence_keys)
    .where(_KEYS.order_id == sa.bindparam("of_order"))
    .values(order_id=None, position=None)
)
_OF_ORDERS: Final = (
    sa.select(_KEYS.order_id, _KEYS.position, _KEYS.key)
    .where(_KEYS.order_id.in_(sa.bindparam("ids", expanding=True)))
    .order_by(_KEYS.order_id, _KEYS.position, _KEYS.number)
)
_COUNT: Final = sa.select(sa.func.count().label("known"), sa.func.count(_KEYS.order_id).label("given")).where(
    _KEYS.sku == sa.bindparam("of")
)


@dataclass(frozen=True)
class KeyCounts:
    """How many keys of a product are left, and how many were given to orders."""

    left: int
    given: int


@dataclass(frozen=True)
class AddedKeys:
    """What became of a list of keys: added, known already (so skipped), and what is left now."""

    added: int
    known: int
    left: int


def read_file(source: Source) -> list[str]:
    """Read a list of keys, one per line, UTF-8; blank lines do not count.

    Raises `UsageError` naming the line, never the key.
    """
    try:
        with opened(source) as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise UsageError(f"cannot read {called(source)}: {error.strerror}") from error
    if len(data) > LARGEST_FILE:
        raise UsageError(
            f"{called(source)} is larger than {LARGEST_FILE >> 20} MiB", "Add its keys in parts."
        )
    try:
        lines = data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise UsageError(f"{called(source)} is no text in UTF-8", "Write one key per line.") from None
    keys = [line.strip() for line in lines]
    for number, key in enumerate(keys, 1):
        if len(key.encode()) > LONGEST_KEY or not (key.isprintable() or not key):
            raise UsageError(
                f"line {number} of {called(source)} is no key",
                f"A key has at most {LONGEST_KEY} bytes, and only letters that can be printed.",
            )
    found = [key for key in keys if key]
    if not found:
        raise UsageError(f"{called(source)} has no key in it", "Write one key per line.")
    return found


def add(tx: Tx, sku: str, keys: Sequence[str]) -> AddedKeys:
    """Add keys to a product; the caller sets its stock."""
    known = {row["key"] for row in tx.among(_KNOWN, keys)}
    new = [key for key in dict.fromkeys(keys) if key not in known]
    for key in new:
        tx.insert(_ADD, {"sku": sku, "key": key})
    return AddedKeys(len(new), len(keys) - len(new), counts(tx, sku).left)


def counts(tx: Tx, sku: str) -> KeyCounts:
    """Count a product's keys."""
    row = tx.all(_COUNT, {"of": sku})[0]
    return KeyCounts(left=row["known"] - row["given"], given=row["given"])


def text_of(keys: Iterable[str]) -> bytes:
    """Give the file that the customer gets: one key per line."""
    return "".join(f"{key}\n" for key in keys).encode()


class Handout:
    """What one batch of orders takes of the free keys, the oldest first."""

    def __init__(self, tx: Tx) -> None:
        self._tx = tx
        self._free: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
        self._seen: Counter[str] = Counter()
        self._given: list[dict[str, Any]] = []
        self._taken: Counter[str] = Counter()

    def fitting(self, sku: str, skip: int, quantity: int) -> int:
        """Tell how many of `quantity` keys, those after the first `skip`, there are and fit one cell."""
        self._load(sku, skip + quantity)
        size = fit = 0
        for _, key in self._free[sku][skip : skip + quantity]:
            size += len(key.encode()) + 1
            if size > config.CELL_CONTENT:
                break
            fit += 1
        return fit

    def take(self, order_id: bytes, position: int, sku: str, quantity: int) -> bytes:
        """Take keys that `fitting` has seen, for a line of an order; gives their text."""
        self._load(sku, quantity)
        taken, self._free[sku] = self._free[sku][:quantity], self._free[sku][quantity:]
        self._given += [
            {"key_number": number, "to_order": order_id, "to_position": position} for number, _ in taken
        ]
        self._taken[sku] += quantity
        return text_of(key for _, key in taken)

    def write(self, left: Callable[[str], int | None]) -> None:
        """Write what was taken; `left` tells a product's stock after it, of which few are warned about."""
        self._tx.step(_GIVE, self._given)
        for sku, taken in self._taken.items():
            remaining = left(sku) or 0
            if remaining <= LOW < remaining + taken:
                log = structlog.get_logger("veilmart.merchant")
                log.warning("few licence keys are left", sku=sku, left=remaining)

    def _load(self, sku: str, count: int) -> None:
        missing = count - len(self._free[sku])
        if missing > 0:
            rows = self._tx.all(_FREE, {"of": sku, "after": self._seen[sku], "count": missing})
            self._free[sku] += [(row["number"], row["key"]) for row in rows]
            if rows:
                self._seen[sku] = rows[-1]["number"]


def give_back(tx: Tx, orders: Iterable[bytes]) -> None:
    """Free the keys of void orders: nobody was served them."""
    tx.each(_GIVE_BACK, [{"of_order": order_id} for order_id in orders])


def texts(tx: Tx, orders: Iterable[bytes]) -> dict[tuple[bytes, int], bytes]:
    """Give the text of each line, by order and position, that has keys."""
    found: defaultdict[tuple[bytes, int], list[str]] = defaultdict(list)
    for row in tx.among(_OF_ORDERS, orders):
        found[row["order_id"], row["position"]].append(row["key"])
    return {line: text_of(keys) for line, keys in found.items()}
