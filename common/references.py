"""Which id a message is known by: whoever asked finds the answer, or the refusal, by it.

Rule 1. Customer and broker read it here, so that no refusal goes to nobody: every kind that a customer sends
is listed, or is in `UNANSWERED`.
"""

from __future__ import annotations

from typing import Final

from common import messages

UNANSWERED: Final = (messages.AnswerKept,)
"""What a customer sends and awaits nothing for. Its order's id would look like a refusal of the order."""

_BY_REQUEST: Final = (
    messages.GetBalance,
    messages.Balance,
    messages.FetchIssued,
    messages.Issued,
    messages.ChangePassword,
    messages.EnableTotp,
    messages.DisableTotp,
    messages.CloseAccount,
    messages.AccountChanged,
    messages.LogOut,
    messages.LoggedOut,
    messages.AskMerchant,
    messages.MerchantAnswer,
    messages.FetchCells,
    messages.MerchantCells,
)
_BY_OPERATION: Final = (
    messages.TopUp,
    messages.AskTopUp,
    messages.TopUpAnswer,
    messages.Withdraw,
    messages.Withdrawn,
    messages.Swap,
    messages.RepeatSwap,
    messages.Swapped,
    messages.ClaimRefund,
    messages.RefundIssued,
    messages.BeginRestore,
    messages.RestoreBegun,
)
_BY_ORDER: Final = (
    messages.PlaceOrder,
    messages.AskOrder,
    messages.FindOrder,
    messages.ConfirmDelivery,
    messages.CancelOrder,
    messages.OpenDispute,
    messages.OrderAnswer,
    messages.OrderFound,
    messages.AnswerDispute,
)


def reference_of(message: messages.Message) -> bytes | None:
    """Give the id by which a question and its answer belong together, or None."""
    if isinstance(message, _BY_REQUEST):
        return message.request
    if isinstance(message, _BY_OPERATION):
        return message.operation
    if isinstance(message, _BY_ORDER):
        return message.order_id
    if isinstance(message, messages.RefundOrder):
        return message.refund
    return message.reference if isinstance(message, messages.Refused | messages.KeyRetired) else None
