"""Which messages ask for what was done already: those are answered even while payments are stopped.

    Withdraw, Swap, ClaimRefund, RefundOrder   their answer is stored
    TopUp, RequestPayout, PlaceOrder, OpenDispute   their row is there
    CancelOrder, ConfirmDelivery, AnswerOrder   their order is past the step that they ask for

Rule. Only the store is asked, and only whether the id is known: what is answered, to whom, and whether the
bytes are the same, is decided where it is always decided. So whoever debited somebody and lost the answer on
the way hands it out again, and nobody takes money for lost that has only to be fetched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import sqlalchemy as sa

from broker_node import charges, operations, order_rows, schema
from broker_node.refunds import key_of_refund
from broker_node.sends import Session
from broker_node.signing import Signed
from common import messages
from common.core import Arrival
from common.store import Tx

_PAYOUT: Final = sa.select(schema.payouts.c.payout_id).where(
    schema.payouts.c.payout_id == sa.bindparam("wanted")
)
_DISPUTE: Final = sa.select(schema.disputes.c.order_id).where(
    schema.disputes.c.order_id == sa.bindparam("wanted")
)


def is_known(tx: Tx, arrival: Arrival) -> bool:
    """Tell whether what this message asks for was done before."""
    known = _KNOWN.get(type(arrival.body))
    return known is not None and known(tx, arrival.sender, arrival.body)


def _operation(tx: Tx, _sender: Session, request: operations.Request) -> bool:
    return _stored(tx, operations.key_of(request))


def _signed(tx: Tx, _sender: Session, result: Signed) -> bool:
    return _stored(tx, result.asked.key)


def _merchant_refund(tx: Tx, sender: Session, request: messages.RefundOrder) -> bool:
    return _stored(tx, key_of_refund(sender.merchant or "", request.refund))


def _stored(tx: Tx, key: bytes) -> bool:
    return bool(operations.stored(tx, [key]))


def _top_up(tx: Tx, sender: Session, request: messages.TopUp) -> bool:
    account = sender.account
    return account is not None and (
        charges.find(tx, charges.top_up_id(account, request.operation)) is not None
    )


def _payout(tx: Tx, _sender: Session, request: messages.RequestPayout) -> bool:
    return tx.one(_PAYOUT, {"wanted": request.payout_id}) is not None


def _dispute(tx: Tx, _sender: Session, request: messages.OpenDispute) -> bool:
    return tx.one(_DISPUTE, {"wanted": request.order_id}) is not None


def _order(tx: Tx, _sender: Session, request: messages.PlaceOrder) -> bool:
    return bool(order_rows.by_id(tx, [request.order_id]))


def _past(state: str) -> _Known:
    def known(tx: Tx, _sender: Session, request: Any) -> bool:
        row = order_rows.by_id(tx, [request.order_id]).get(request.order_id)
        return row is not None and row["state"] != state

    return known


_Known: TypeAlias = Callable[[Tx, Session, Any], bool]
_KNOWN: Final[Mapping[type, _Known]] = {
    messages.Withdraw: _operation,
    messages.Swap: _operation,
    messages.ClaimRefund: _operation,
    Signed: _signed,
    messages.RefundOrder: _merchant_refund,
    messages.TopUp: _top_up,
    messages.RequestPayout: _payout,
    messages.OpenDispute: _dispute,
    messages.PlaceOrder: _order,
    messages.CancelOrder: _past("held"),
    messages.AnswerOrder: _past("held"),
    messages.ConfirmDelivery: _past("captured"),
}
