"""A refusal becomes an answer."""

from __future__ import annotations

from typing import Final

from broker_node.mint import RetiredKeyError
from broker_node.sends import Session, ToMerchant, ToSession
from common import messages
from common.errors import RefusedError

PASSING: Final = frozenset({"busy", "payments_stopped"})
"""What is over some time: a merchant is not told, since it repeats what it says until it counts."""

_BY_OPERATION: Final = (
    messages.Withdraw,
    messages.Swap,
    messages.TopUp,
    messages.AskTopUp,
    messages.BeginRestore,
    messages.RepeatSwap,
    messages.ClaimRefund,
)
_BY_ORDER: Final = (
    messages.PlaceOrder,
    messages.AskOrder,
    messages.FindOrder,
    messages.ConfirmDelivery,
    messages.CancelOrder,
    messages.OpenDispute,
    messages.AnswerDispute,
)
_BY_REQUEST: Final = (
    messages.GetBalance,
    messages.FetchIssued,
    messages.ChangePassword,
    messages.EnableTotp,
    messages.DisableTotp,
    messages.CloseAccount,
    messages.LogOut,
    messages.AskMerchant,
    messages.FetchCells,
)


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
    """Tell whoever asked, by the id that it knows its request by; no merchant of what passes."""
    reference = _reference(message)
    if sender is None or not reference:
        return []
    if sender.merchant is None:
        return [refusal(sender.sid, reference, error)]
    if error.code in PASSING:
        return []
    refused = messages.Refused(reference=reference, code=error.code)  # type: ignore[arg-type] # codes of ours
    return [ToMerchant(sender.merchant, refused)]


def _reference(message: messages.Message) -> bytes:
    if isinstance(message, _BY_OPERATION):
        return message.operation
    if isinstance(message, _BY_ORDER):
        return message.order_id
    if isinstance(message, messages.RefundOrder):
        return message.refund
    return message.request if isinstance(message, _BY_REQUEST) else b""
