"""A refusal becomes an answer."""

from __future__ import annotations

from broker_node.mint import RetiredKeyError
from broker_node.sends import ToSession
from common import messages
from common.errors import RefusedError


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
