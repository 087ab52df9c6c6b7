"""Products: a merchant's signed records, checked before anything of them is shown.

Rule 1. A record counts with the pinned merchant's signature, and only at the place that it names.

Rule 2. A bucket holds the content and is not many times larger: padding is paid for in time and tickets.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final

from common import codec, messages
from common.credentials import PRODUCT_RECORD_LABEL
from common.errors import UntrustedError, WireError
from common.keys import verify_identity
from common.receipts import cells_needed
from customer_node.shop import Visit
from customer_node.views import ProductView

MOST_PADDING: Final = 8
"""At most so many times the cells of its content may a delivery have; merchants' own limit is half of it."""


@dataclass(frozen=True)
class Product:
    """A verified record, with its bytes, their SHA-256 and their signature, and the stock now."""

    record: messages.ProductRecord
    packed: bytes = field(repr=False)
    digest: bytes
    signature: bytes = field(repr=False)
    stock: messages.StockLevel

    def view(self) -> ProductView:
        """Show it."""
        record = self.record
        return ProductView(
            merchant=record.merchant,
            sku=record.sku,
            version=record.version,
            title=record.title,
            description=record.description,
            category=record.category,
            tags=tuple(record.tags),
            group=record.group,
            variant=record.variant,
            price=record.price,
            currency=record.currency,
            tax_rate=record.tax_rate,
            stock=self.stock,
            file_name=record.file_name,
            size=record.size,
            digest=record.digest.hex(),
            cells=record.cells,
            image=bool(record.image_digest),
            image_alt=record.image_alt,
            keys=record.keys,
            record=self.digest.hex(),
        )


def fetch_product(visit: Visit, sku: str) -> Product:
    """Ask for a product and verify its record. Raises as `Visit.ask` does."""
    detail = visit.ask(messages.GetProduct(sku=sku), messages.ProductDetail)
    merchant = visit.merchant
    try:
        verify_identity(merchant.identity, PRODUCT_RECORD_LABEL, detail.record, detail.signature)
        record = codec.PRODUCT_RECORD.unpack(detail.record)
    except WireError as error:
        raise UntrustedError(f"{merchant.id} did not sign this product.") from error
    if (
        (record.merchant, record.sku) != (merchant.id, sku)
        or record.currency != visit.context.profile.market.currency
        or not _plausible_bucket(record)
    ):
        raise UntrustedError(f"{merchant.id} answered with another product's record.")
    return Product(
        record=record,
        packed=detail.record,
        digest=hashlib.sha256(detail.record).digest(),
        signature=detail.signature,
        stock=detail.stock,
    )


def _plausible_bucket(record: messages.ProductRecord) -> bool:
    needed = cells_needed(record.size, keys=record.keys)
    return needed <= record.cells <= MOST_PADDING * needed
