"""Issuing invoices out of the profile: a stored receipt, verified, and the buyer's words."""

from __future__ import annotations

import sqlalchemy as sa

from common.store import Tx
from customer_node import orders
from customer_node.context import Context
from customer_node.invoices.model import Buyer, Invoice
from customer_node.receipts import Receipts
from customer_node.schema import buyer as buyer_row
from customer_node.schema import order_secrets


class Invoices:
    """Invoices of this profile's orders. Asks nobody, tells nobody."""

    def __init__(self, context: Context, receipts: Receipts) -> None:
        self._context = context
        self._receipts = receipts

    def of(self, order_id: bytes, buyer: Buyer | None) -> Invoice:
        """Make an order's invoice; `buyer` None is the one that is kept.

        Raises `NotFoundError` where the order has no receipt, `UntrustedError`.
        """
        receipt = self._receipts.view(order_id)
        proof = self._receipts.proof(order_id)
        with self._context.profile.store.immediate() as tx:
            query = sa.select(order_secrets.c.merchant_name).where(order_secrets.c.order_id == order_id)
            return Invoice(
                receipt=receipt,
                merchant_name=tx.scalar(query) or "",
                buyer=kept_buyer(tx) if buyer is None else buyer,
                refunded=orders.load(tx, order_id).refunded,
                proof=proof,
            )

    @property
    def buyer(self) -> Buyer:
        """The buyer that is kept, without any words where none is."""
        with self._context.profile.store.immediate() as tx:
            return kept_buyer(tx)

    def keep_buyer(self, buyer: Buyer) -> None:
        """Keep the buyer's words for later invoices, sealed; those without any are erased."""
        with self._context.profile.store.immediate() as tx:
            tx.execute(sa.delete(buyer_row))
            if buyer != Buyer():
                tx.execute(sa.insert(buyer_row), {"name": buyer.name, "address": buyer.address})


def kept_buyer(tx: Tx) -> Buyer:
    """Give the buyer that is kept, without any words where none is."""
    row = tx.one(sa.select(buyer_row))
    return Buyer() if row is None else Buyer(row["name"], row["address"])
