"""Receipts: what the merchant signed about an accepted order, checked against what was ordered.

    bundle = {"veilmart_receipt": 2, "receipt": base64, "signature": base64, "certificate": PEM,
              "ca_certificate": PEM, "market": hex, "order": {... for people to read ...}}

Rule 1. A receipt counts with the signature of the merchant that was pinned when the order was placed, and
only if it says exactly what was ordered: lines, signed records, prices, discounts, total, market, order.
Every figure in it is worked out anew; one that does not add up proves nothing, whoever signed it.

Rule 2. An exported bundle is verified off line, against the CA of this profile's market and never against
the one inside; the readable part is not trusted, it is made anew from the signed bytes. So is the short
form that an invoice's QR codes hold (`proofs`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from common import codec, config, messages
from common.credentials import RECEIPT_LABEL
from common.errors import ForgedError, NotFoundError, UntrustedError, UsageError, WireError
from common.keys import (
    CertificateInfo,
    PublicIdentity,
    replace_file,
    verify_certificate,
    verify_identity,
)
from common.receipts import check_sums, has_keys
from common.store import Row, Tx
from customer_node import orders, proofs
from customer_node.context import Context
from customer_node.earlier import read_receipt
from customer_node.figures import tax_views
from customer_node.orders import Order
from customer_node.schema import order_secrets
from customer_node.schema import receipts as receipt_rows
from customer_node.views import ReceiptLineView, ReceiptView, TaxView

MAXIMUM_BUNDLE: Final = 256 * config.KIB


class Bundle(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An exported receipt, as JSON."""

    veilmart_receipt: Literal[2]
    receipt: Annotated[str, msgspec.Meta(max_length=64 * config.KIB)]
    signature: Annotated[str, msgspec.Meta(max_length=config.KIB)]
    certificate: Annotated[str, msgspec.Meta(max_length=8 * config.KIB)]
    ca_certificate: Annotated[str, msgspec.Meta(max_length=8 * config.KIB)]
    market: Annotated[str, msgspec.Meta(max_length=64)]
    order: dict[str, Any]


def check_accepted(
    order: Order, accepted: messages.OrderAccepted, identity: PublicIdentity, market: bytes
) -> messages.Receipt:
    """Verify the answer to an order. Raises `UntrustedError`."""
    try:
        verify_identity(identity, RECEIPT_LABEL, accepted.receipt, accepted.signature)
        receipt = codec.RECEIPT.unpack(accepted.receipt)
        _check_same(order, receipt, market)
    except WireError as error:
        raise UntrustedError(f"The receipt of {order.merchant} is not about this order: {error}.") from error
    return receipt


def _check_same(order: Order, receipt: messages.Receipt, market: bytes) -> None:
    """Raise `ForgedError` where the receipt says anything else than what was ordered."""
    shown = (receipt.market, receipt.merchant, receipt.order_id, receipt.total, receipt.currency)
    if shown != (market, order.merchant, order.id, order.amount, order.currency):
        raise ForgedError("another order, total or market")
    if len(receipt.lines) != len(order.lines):
        raise ForgedError("another number of lines")
    next_cell = 0
    for have, line, figures in zip(receipt.lines, order.lines, check_sums(receipt), strict=True):
        record = codec.PRODUCT_RECORD.unpack(line.record)
        wanted = messages.ReceiptLine(
            sku=line.sku,
            title=record.title,
            record=hashlib.sha256(line.record).digest(),
            quantity=line.quantity,
            unit_price=line.unit_price,
            discount=line.discount,
            amount=figures.amount,
            tax=messages.Tax(rate=record.tax_rate, base=figures.tax.base, amount=figures.tax.amount),
            file_name=record.file_name,
            size=record.size,
            digest=record.digest,
            first_cell=next_cell,
            cells=record.cells,
            # The keys of a sale are nobody's business before it: the receipt alone says what they are.
            keys_size=have.keys_size,
            keys_digest=have.keys_digest,
        )
        if have != wanted or has_keys(have) != record.keys:
            raise ForgedError(f"the line of {line.sku} differs")
        next_cell += record.cells


class Receipts:
    """Stored receipts, shown and exported."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def view(self, order_id: bytes) -> ReceiptView:
        """Verify and show an order's receipt. Raises `NotFoundError` or `UntrustedError`."""
        row = self._row(order_id)
        return self._verified(row["receipt"], row["signature"], row["merchant_certificate"])

    def export(self, order_id: bytes, path: Path) -> ReceiptView:
        """Verify a receipt and write it as a bundle. Raises also `UsageError` for a bad path."""
        view, bundle = self.bundle(order_id)
        try:
            replace_file(path, bundle)
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}") from error
        return view

    def bundle(self, order_id: bytes) -> tuple[ReceiptView, bytes]:
        """Verify a receipt and give it as a bundle too. Raises `NotFoundError` or `UntrustedError`."""
        row, market = self._row(order_id), self._context.profile.market
        view = self._verified(row["receipt"], row["signature"], row["merchant_certificate"])
        certificate = x509.load_der_x509_certificate(row["merchant_certificate"])
        bundle = Bundle(
            veilmart_receipt=2,
            receipt=base64.b64encode(row["receipt"]).decode(),
            signature=base64.b64encode(row["signature"]).decode(),
            certificate=certificate.public_bytes(Encoding.PEM).decode(),
            ca_certificate=market.ca_certificate,
            market=view.market_id,
            order=_readable(view),
        )
        return view, msgspec.json.format(msgspec.json.encode(bundle), indent=2) + b"\n"

    def proof(self, order_id: bytes) -> tuple[str, ...]:
        """Give an order's signed receipt as texts for QR codes. Raises `NotFoundError`."""
        row = self._row(order_id)
        return proofs.write(
            proofs.Proof(
                receipt=row["receipt"], signature=row["signature"], certificate=row["merchant_certificate"]
            )
        )

    def verify(self, path: Path) -> ReceiptView:
        """Verify a bundle off line, or a file with the texts of QR codes.

        Raises `UsageError` if it cannot be read, `UntrustedError`.
        """
        try:
            with path.open("rb") as file:
                data = file.read(MAXIMUM_BUNDLE + 1)
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}") from error
        return self.verify_bytes(data, str(path))

    def verify_bytes(self, data: bytes, called: str = "This file") -> ReceiptView:
        """Verify what such a file holds; errors call it `called`. Raises `UntrustedError`."""
        text = data.decode("ascii", errors="replace")
        return self.verify_text(text) if proofs.is_proof(text) else self._verify_bundle(data, called)

    def verify_text(self, text: str) -> ReceiptView:
        """Verify the texts of an invoice's QR codes off line. Raises `UsageError`, `UntrustedError`."""
        proof = proofs.read(text)
        return self._verified(proof.receipt, proof.signature, proof.certificate)

    def _verify_bundle(self, data: bytes, called: str) -> ReceiptView:
        try:
            bundle = msgspec.json.decode(data[:MAXIMUM_BUNDLE], type=Bundle)
            certificate = x509.load_pem_x509_certificate(bundle.certificate.encode())
            packed = base64.b64decode(bundle.receipt, validate=True)
            signature = base64.b64decode(bundle.signature, validate=True)
        except (msgspec.MsgspecError, ValueError, binascii.Error, RecursionError) as error:
            raise UntrustedError(f"{called} is not a receipt.") from error
        view = self._verified(packed, signature, certificate.public_bytes(Encoding.DER))
        if _readable(view) != bundle.order or bundle.market != view.market_id:
            raise UntrustedError(f"{called} shows something else than what the merchant signed.")
        return view

    def _row(self, order_id: bytes) -> Row:
        with self._context.profile.store.immediate() as tx:
            row = tx.one(
                sa.select(receipt_rows, order_secrets.c.merchant_certificate)
                .join(order_secrets, order_secrets.c.order_id == receipt_rows.c.order_id)
                .where(receipt_rows.c.order_id == order_id)
            )
        if row is None:
            raise NotFoundError("This order has no receipt.", "A merchant signs one when it accepts.")
        return row

    def _verified(self, packed: bytes, signature: bytes, certificate: bytes) -> ReceiptView:
        profile = self._context.profile
        try:
            receipt = read_receipt(packed)
            check_sums(receipt)
            # The certificate has to hold when the receipt was signed, not for ever after.
            signer = verify_certificate(certificate, profile.ca_der, receipt.at, "merchant")
            verify_identity(signer.public_key, RECEIPT_LABEL, packed, signature)
        except WireError as error:
            raise UntrustedError(f"This receipt does not prove what it claims: {error}.") from error
        if receipt.market != profile.market_id or receipt.merchant != signer.subject_id:
            raise UntrustedError("This receipt is of another market or merchant.")
        return _view(receipt, signer)


def _readable(view: ReceiptView) -> dict[str, Any]:
    readable: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(view))
    return readable


def stored(tx: Tx, order_id: bytes) -> messages.Receipt:
    """Give an accepted order's receipt. Raises `NotFoundError`."""
    packed = tx.scalar(sa.select(receipt_rows.c.receipt).where(receipt_rows.c.order_id == order_id))
    if packed is None:
        raise orders.no_order(order_id.hex())
    return read_receipt(packed)


def _view(receipt: messages.Receipt, signer: CertificateInfo) -> ReceiptView:
    return ReceiptView(
        order_id=receipt.order_id.hex(),
        market_id=receipt.market.hex(),
        merchant=receipt.merchant,
        lines=tuple(
            ReceiptLineView(
                sku=line.sku,
                title=line.title,
                quantity=line.quantity,
                unit_price=line.unit_price,
                discount=line.discount,
                amount=line.amount,
                tax=TaxView(line.tax.rate, line.tax.base, line.tax.amount),
                file_name=line.file_name,
                size=line.size,
                sha256=line.digest.hex(),
            )
            for line in receipt.lines
        ),
        subtotal=receipt.subtotal,
        discount=receipt.discount,
        taxes=tax_views(receipt.taxes),
        total=receipt.total,
        currency=receipt.currency,
        at=receipt.at,
        fingerprint=signer.fingerprint.hex(),
    )
