"""Evidence of a dispute: what signatures alone prove, to somebody who knows neither side.

Rule 1. Evidence counts only if it is this order's: the merchant's certificate is by the market's CA and has
the key under which the merchant was admitted, its signature is under the receipt, and the receipt names this
order. Anything else is refused, whatever it says.

Rule 2. A merchant that signed a receipt which contradicts the order's amount, itself, or a record that it
signed too, has proved itself wrong: nobody has to be asked. Nothing else is a proof. Cells travel under a key
that customer and merchant share, so either could have made them, and that something was not sent leaves no
trace at all.
"""

from __future__ import annotations

from common import codec, messages
from common.credentials import PRODUCT_RECORD_LABEL, RECEIPT_LABEL
from common.errors import ForgedError, RefusedError, WireError
from common.keys import CertificateInfo, verify_certificate, verify_identity
from common.receipts import check_line, check_sums, digest_of
from common.store import Row

RECEIPT_TOLD = "the receipt holds, and agrees with the order and with the records shown"


def finding(
    order: Row, evidence: messages.Evidence, ca_der: bytes, market: bytes, fingerprint: bytes, currency: str
) -> tuple[bool, str]:
    """Tell whether evidence proves the merchant wrong, and what it says. Raises `RefusedError`.

    `fingerprint` is that of the key under which the merchant was admitted. What is said names no product.
    """
    try:
        receipt, signer = _read(evidence, ca_der)
    except WireError as error:
        raise RefusedError("bad_evidence") from error
    if (receipt.order_id, receipt.market) != (order["order_id"], market):
        raise RefusedError("bad_evidence")
    if (signer.subject_id, signer.fingerprint) != (order["merchant"], fingerprint):
        raise RefusedError("bad_evidence")
    return _contradiction(order, receipt, evidence, signer, currency)


def _read(evidence: messages.Evidence, ca_der: bytes) -> tuple[messages.Receipt, CertificateInfo]:
    receipt = codec.RECEIPT.unpack(evidence.receipt)
    signer = verify_certificate(evidence.certificate, ca_der, receipt.at, "merchant")
    verify_identity(signer.public_key, RECEIPT_LABEL, evidence.receipt, evidence.signature)
    for shown in evidence.records:
        verify_identity(signer.public_key, PRODUCT_RECORD_LABEL, shown.record, shown.signature)
    return receipt, signer


def _contradiction(
    order: Row,
    receipt: messages.Receipt,
    evidence: messages.Evidence,
    signer: CertificateInfo,
    currency: str,
) -> tuple[bool, str]:
    if (receipt.merchant, receipt.total, receipt.currency) != (signer.subject_id, order["amount"], currency):
        return True, "the receipt that the merchant signed is about another sum than this order's"
    records = {digest_of(shown.record): shown.record for shown in evidence.records}
    try:
        check_sums(receipt)
    except ForgedError:
        return True, "the receipt that the merchant signed does not add up"
    for number, line in enumerate(receipt.lines, start=1):
        if line.record in records:
            try:
                check_line(line, records[line.record], receipt)
            except WireError:
                return True, f"line {number} of the receipt contradicts the record that the merchant signed"
    return False, RECEIPT_TOLD
