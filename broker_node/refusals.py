"""A refusal becomes an answer."""

from __future__ import annotations

from typing import Final

from broker_node.mint import RetiredKeyError
from broker_node.sends import Session, ToMerchant, ToSession
from common import messages
from common.errors import RefusedError
from common.references import reference_of

PASSING: Final = frozenset({"busy", "payments_stopped"})
"""What is over some time: a merchant is not told, since it repeats what it says until it counts."""


def refusal(sid: bytes, reference: bytes, error: RefusedError) -> ToSession:
    """Tell a customer why nothing was changed, and of a retired key which it is and what is still done."""
    if isinstance(error, RetiredKeyError):
        return ToSession(
            sid,
            messages.KeyRetired(
                reference=reference,
                key_id=error.issuer.key_id,
                month=error.issuer.month,
                ended=error.ended,
                exchange_until=error.exchange_until,
            ),
        )
    return ToSession(sid, messages.Refused(reference=reference, code=error.code))  # type: ignore[arg-type] # codes of ours


def refuse(
    sender: Session | None, message: messages.Message, error: RefusedError
) -> list[ToSession | ToMerchant]:
    """Tell whoever asked, by the id that it knows its request by.

    No merchant of what passes; a payout's is told that too, since a person waits for it.
    """
    reference = reference_of(message)
    if sender is None:
        return []
    if isinstance(message, messages.RequestPayout) and sender.merchant is not None:
        return [ToMerchant(sender.merchant, _no_payout(message, error))]
    if reference is None:
        return []
    if sender.merchant is None:
        return [refusal(sender.sid, reference, error)]
    if error.code in PASSING:
        return []
    refused = messages.Refused(reference=reference, code=error.code)  # type: ignore[arg-type] # codes of ours
    return [ToMerchant(sender.merchant, refused)]


def _no_payout(request: messages.RequestPayout, error: RefusedError) -> messages.PayoutRefused:
    return messages.PayoutRefused(payout_id=request.payout_id, code=error.code)  # type: ignore[arg-type] # codes of ours
