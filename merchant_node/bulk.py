"""Many products at once: ten thousand rows are one transaction, one look at the buckets, one signature each.

Rule 1. All of it or nothing: with one fault in any row nothing is written, and every fault is told.

Rule 2. A trial does everything but write.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from msgspec import UNSET, UnsetType

from common import clock
from common.config import Limits
from common.errors import UsageError
from common.receipts import cells_needed
from common.store import Store, Tx
from merchant_node import buckets, schema
from merchant_node.catalog import Product, catalog_version
from merchant_node.inventory import Draft, by_sku, draft_of, make_draft, sold_versions, version_row
from merchant_node.shop import Shop

_VERSIONS: Final = sa.select(
    schema.product_versions.c.sku, sa.func.max(schema.product_versions.c.version)
).group_by(schema.product_versions.c.sku)
_LAST_ID: Final = sa.select(sa.func.coalesce(sa.func.max(schema.product_versions.c.id), 0))
_IDS: Final = sa.select(schema.product_versions.c.sku, schema.product_versions.c.id)
_ADD_VERSION: Final = sa.insert(schema.product_versions)
_ADD_PRODUCT: Final = sa.insert(schema.products)
_OFFER: Final = (
    sa.update(schema.products)
    .where(schema.products.c.sku == sa.bindparam("of"))
    .values(current=sa.bindparam("to"))
)
_UNLIMIT: Final = sa.delete(schema.stock).where(schema.stock.c.sku == sa.bindparam("of"))
_LIMIT: Final = sa.insert(schema.stock)
_SET_CATALOG: Final = (
    sa.update(schema.counters).where(schema.counters.c.name == "catalog").values(value=sa.bindparam("to"))
)


@dataclass(frozen=True)
class Entry:
    """A row: `fields` of `Draft` that it gives, and what can be sold (None: no limit; UNSET: as it is)."""

    row: int
    sku: str
    fields: Mapping[str, Any]
    stock: int | UnsetType | None = UNSET


@dataclass(frozen=True)
class Fault:
    """What is wrong with a row, and in which column, where it is in one."""

    row: int
    sku: str
    column: str
    text: str


@dataclass(frozen=True)
class Outcome:
    """What became of a table, or would become of it."""

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    faults: Sequence[Fault] = ()


@dataclass
class _Plan:
    present: dict[str, Product]
    drafts: dict[str, Draft] = field(default_factory=dict)
    stocks: dict[str, int | None] = field(default_factory=dict)
    unchanged: int = 0
    faults: list[Fault] = field(default_factory=list)

    def outcome(self) -> Outcome:
        added = sum(sku not in self.present for sku in self.drafts)
        restocked = sum(sku not in self.drafts for sku in self.stocks)
        changed = len(self.drafts) - added + restocked
        return Outcome(added, changed, self.unchanged, tuple(self.faults))


class Bulk:
    """Puts many products on sale, beside the running node."""

    def __init__(
        self, shop: Shop, store: Store, limits: Limits, now: Callable[[], int] = clock.now_ms
    ) -> None:
        self._shop = shop
        self._store = store
        self._limits = limits
        self._now = now

    def check(self, entries: Sequence[Entry]) -> Outcome:
        """Say what writing them would do."""
        with self._store.snapshot() as tx:
            return self._planned(tx, entries).outcome()

    def write(self, entries: Sequence[Entry]) -> Outcome:
        """Add and change what the entries say, or nothing where one of them has a fault."""
        with self._store.immediate() as tx:
            plan = self._planned(tx, entries)
            if not plan.faults:
                self._write(tx, plan)
        return plan.outcome()

    def _planned(self, tx: Tx, entries: Sequence[Entry]) -> _Plan:
        plan = _Plan(by_sku(tx))
        left: dict[str, int] = dict(tx.tuples(sa.select(schema.stock.c.sku, schema.stock.c.available)))
        for entry in entries:
            product = plan.present.get(entry.sku)
            before = draft_of(product.record) if product is not None else None
            try:
                draft = _described(entry, before, self._shop.tax_rate)
            except UsageError as wrong:
                plan.faults.append(Fault(entry.row, entry.sku, "", wrong.message))
                continue
            if draft != before:
                plan.drafts[entry.sku] = draft
            limit = entry.stock
            if draft.keys and not isinstance(limit, UnsetType) and left.get(entry.sku) != limit:
                said = "It is what is left of its keys: leave it as it is, and add keys instead."
                plan.faults.append(Fault(entry.row, entry.sku, "stock", said))
                continue
            if not isinstance(limit, UnsetType) and (before is None or left.get(entry.sku) != limit):
                plan.stocks[entry.sku] = limit
            if entry.sku not in plan.drafts and entry.sku not in plan.stocks:
                plan.unchanged += 1
        return plan

    def _write(self, tx: Tx, plan: _Plan) -> None:
        drafts = {sku: draft_of(product.record) for sku, product in plan.present.items()} | plan.drafts
        cells = self._cells(tx, plan, drafts)
        moved = {
            sku
            for sku, product in plan.present.items()
            if sku in plan.drafts or cells[sku] != product.record.cells
        }
        written = sorted(moved | plan.drafts.keys())
        versions: dict[str, int] = dict(tx.tuples(_VERSIONS))
        after = int(tx.scalar(_LAST_ID))
        for sku in written:
            tx.insert(
                _ADD_VERSION, version_row(self._shop, drafts[sku], versions.get(sku, 0) + 1, cells[sku])
            )
        tx.flush()
        new_ones = _IDS.where(schema.product_versions.c.id > after)
        ids: dict[str, int] = dict(tx.tuples(new_ones))
        tx.each(_OFFER, [{"of": sku, "to": ids[sku]} for sku in written if sku in plan.present])
        now = self._now()
        for sku in written:
            if sku not in plan.present:
                tx.insert(_ADD_PRODUCT, {"sku": sku, "current": ids[sku], "added": now})
        tx.each(_UNLIMIT, [{"of": sku} for sku in plan.stocks])
        for sku, limit in plan.stocks.items():
            if limit is not None:
                tx.insert(_LIMIT, {"sku": sku, "available": limit})
        tx.changed(_SET_CATALOG, {"to": max(now, catalog_version(tx) + 1)})

    def _cells(self, tx: Tx, plan: _Plan, drafts: Mapping[str, Draft]) -> dict[str, int]:
        sold = sold_versions(tx)
        sized: list[buckets.Sized] = []
        for sku, draft in drafts.items():
            product = plan.present.get(sku)
            stays = product is not None and sku not in plan.drafts and product.version_id in sold
            fixed = product.record.cells if product is not None and stays else None
            sized.append(buckets.Sized(sku, draft.price, cells_needed(draft.size, keys=draft.keys), fixed))
        return buckets.assign(sized, self._limits.privacy_group, self._limits.privacy_overhead)


def _described(entry: Entry, before: Draft | None, shop_rate: int) -> Draft:
    if before is not None:
        return make_draft({**msgspec.structs.asdict(before), **entry.fields})
    if "digest" not in entry.fields:
        raise UsageError("It is new, and has no file: name one, or the SHA-256 of one that is here.")
    empty = {
        "description": "",
        "category": "",
        "tags": [],
        "group": "",
        "variant": "",
        "tax_rate": shop_rate,
        "keys": False,
        "image_digest": b"",
        "image_alt": "",
    }
    return make_draft({**empty, **entry.fields, "sku": entry.sku})
