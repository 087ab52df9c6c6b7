"""Evidence of a dispute: what signatures alone prove, to somebody who knows neither side.

Rule 1. Evidence counts only if it is this order's: the merchant's certificate is by the market's CA, held
when the order was paid and has the key under which the merchant was admitted, its signature is under the
receipt, and the receipt names this order. Anything else counts for nothing, and hinders nothing: whether a
dispute can be opened must not depend on what the merchant signed.

Rule 2. A merchant that signed a receipt which contradicts the order's amount, itself, its certificate's time,
or a record that it signed too, has proved itself wrong: nobody has to be asked. Nothing else is a proof.
Cells travel under a key that customer and merchant share, so either could have made them, and that something
was not sent leaves no trace at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from common import codec, messages
from common.credentials import PRODUCT_RECORD_LABEL, RECEIPT_LABEL
from common.errors import ForgedError, WireError
from common.keys import verify_certificate, verify_identity
from common.receipts import check_line, check_sums, digest_of
from common.store import Row

Weight: TypeAlias = Literal["nothing", "agrees", "proof"]


@dataclass(frozen=True)
class Finding:
    """What evidence weighs, and why, in words that name no product.

    `nothing`: it is not this order's; `agrees`: the merchant's word, without a contradiction; `proof`: the
    merchant's own signatures prove it wrong.
    """

    weight: Weight
    text: str


NOT_SHOWN: Final = Finding("nothing", "nothing was shown")
_FOREIGN: Final = Finding(
    "nothing",
    "what was shown is not signed by this merchant, or is not about this order: it counts for nothing, "
    "and was not kept",
)
_AGREES: Final = Finding("agrees", "the receipt holds, and agrees with the order and with the records shown")


def finding(
    order: Row, evidence: messages.Evidence, ca_der: bytes, market: bytes, fingerprint: bytes, currency: str
) -> Finding:
    """Tell what evidence says about a captured order.

    `fingerprint` is that of the key under which the merchant was admitted.
    """
    try:
        # At a time of the broker's own: that in the receipt is the merchant's choice.
        signer = verify_certificate(evidence.certificate, ca_der, order["captured_at"], "merchant")
        verify_identity(signer.public_key, RECEIPT_LABEL, evidence.receipt, evidence.signature)
        receipt = codec.RECEIPT.unpack(evidence.receipt)
        for shown in evidence.records:
            verify_identity(signer.public_key, PRODUCT_RECORD_LABEL, shown.record, shown.signature)
            codec.PRODUCT_RECORD.unpack(shown.record)
    except WireError:
        return _FOREIGN
    if (receipt.order_id, receipt.market) != (order["order_id"], market):
        return _FOREIGN
    if (signer.subject_id, signer.fingerprint) != (order["merchant"], fingerprint):
        return _FOREIGN
    if (receipt.merchant, receipt.total, receipt.currency) != (order["merchant"], order["amount"], currency):
        return _proof("is about another sum than this order's")
    wrong = _contradiction(receipt, evidence, ca_der)
    return _AGREES if wrong is None else _proof(wrong)


def _proof(wrong: str) -> Finding:
    return Finding("proof", f"the receipt that the merchant signed {wrong}")


def _contradiction(receipt: messages.Receipt, evidence: messages.Evidence, ca_der: bytes) -> str | None:
    """Say what is wrong with a receipt by itself, or beside the signed records; None where nothing is."""
    try:
        verify_certificate(evidence.certificate, ca_der, receipt.at, "merchant")
    except WireError:
        # The same certificate held when the order was paid: nobody could verify this receipt, ever.
        return "has a time that its certificate does not cover"
    try:
        check_sums(receipt)
    except ForgedError:
        return "does not add up"
    records = {digest_of(shown.record): shown.record for shown in evidence.records}
    for number, line in enumerate(receipt.lines, start=1):
        if line.record in records:
            try:
                check_line(line, records[line.record], receipt)
            except WireError:
                return f"contradicts, in line {number}, the record that the merchant signed"
    return None
