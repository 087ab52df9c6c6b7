"""What a profile does that came back from an old copy: its counters and numbers were used since.

    Swap --> Refused, idempotency_conflict --> the same coins, under another number
    Withdraw, Swap, ClaimRefund --> Refused, already_signed --> the same wish in other coins, under another id

Rule 1. The tokens that were asked for in vain are void, and nothing was paid for them. What takes their place
is stored in the transaction that gives them up: a crash between loses no wish.

Rule 2. Each further try leaves out twice as many counters as the one before, of all keys of the month: where
one was used, others were. `MOST_TRIES` of them together leave out less than a restored wallet looks over
(`matching.WIDEST`).

Rule 3. What the other copy drew is not lost: the broker has its signatures, and whoever restores gets them.
"""

from __future__ import annotations

from typing import Final

import msgspec

from common import codec, messages
from common.errors import RejectedError
from common.store import Tx
from customer_node.context import Context
from customer_node.refusals import AlreadySignedError
from customer_node.sessions import FRESHNESS_MS
from customer_node.wallet import Operation

MOST_TRIES: Final = 8
"""How often one wish is asked for: enough to pass 127 counters of each key, and what was asked for itself."""

RESTS_MS: Final = 2 * FRESHNESS_MS
"""How long a refused swap's number rests: the refusal of a late copy would be taken for its next swap's."""

SWAP: Final[codec.Codec[messages.Swap]] = codec.Codec(messages.Swap)
WITHDRAW: Final[codec.Codec[messages.Withdraw]] = codec.Codec(messages.Withdraw)


class Tries:
    """Counts how often one wish was asked for."""

    def __init__(self) -> None:
        self._refused = 0

    @property
    def left_out(self) -> int:
        """How many counters the present try leaves out: 0, 1, 2, 4 and so on."""
        return (1 << self._refused) // 2

    @property
    def over(self) -> bool:
        """Whether there is no further try."""
        return self._refused >= MOST_TRIES

    def count(self) -> None:
        """Count a refusal."""
        self._refused += 1


def draw_again(context: Context, withdrawal: Operation, month: str, tries: Tries) -> Operation:
    """Begin a withdrawal of the same kinds in place of one that asked for what there was.

    Raises `AlreadySignedError` where there is no further try; nothing is under way then.
    """
    question = WITHDRAW.unpack(withdrawal.request)
    tries.count()
    with context.profile.store.immediate() as tx:
        if not tries.over:
            operation = context.random(16)
            blinded = context.wallet.redraw(tx, withdrawal.id, operation, month, tries.left_out)
            request = codec.pack(
                messages.Withdraw(
                    operation=operation,
                    coins=blinded[: len(question.coins)],
                    tickets=blinded[len(question.coins) :],
                )
            )
            again = Operation(operation, "withdraw", request, withdrawal.account)
            context.wallet.begin_operation(tx, again.id, "withdraw", request, context.clock(), again.account)
            return again
        context.wallet.end_operation(tx, withdrawal.id, "refused")
    raise made_too_often()


def swap_again(context: Context, swap: Operation, month: str, tries: Tries) -> Operation:
    """Begin a swap of the same coins for the same values, in place of one that asked for what there was.

    Raises `AlreadySignedError` where there is no further try, and `RejectedError` where there is no further
    number; the coins are free then.
    """
    tries.count()
    failure: RejectedError | None = None
    if not tries.over:
        try:
            with context.profile.store.immediate() as tx:
                return _swap_again(context, tx, swap, month, tries.left_out)
        except RejectedError as error:
            failure = error
    with context.profile.store.immediate() as tx:
        context.wallet.release(tx, swap.id)
        refuse_swap(context, tx, swap.id)
    if failure is not None:
        raise failure
    raise made_too_often()


def _swap_again(context: Context, tx: Tx, swap: Operation, month: str, left_out: int) -> Operation:
    now = context.clock()
    # Counted as refused before the next number is asked for: it is one of those that rest.
    context.wallet.give_back(tx, "swap", swap.id, now + RESTS_MS)
    operation = context.wallet.new_id(tx, "swap", month, now)
    blinded = context.wallet.redraw(tx, swap.id, operation, month, left_out)
    question = msgspec.structs.replace(SWAP.unpack(swap.request), operation=operation, blinded=blinded)
    request = codec.pack(question)
    context.wallet.begin_operation(tx, operation, "swap", request, now)
    return Operation(operation, "swap", request)


def renumber(context: Context, swap: Operation, month: str, skipped: int) -> Operation:
    """Take another number for a swap whose own was used for another one; so many are left out."""
    with context.profile.store.immediate() as tx:
        operation = context.wallet.other_id(tx, "swap", month, skipped)
        request = codec.pack(msgspec.structs.replace(SWAP.unpack(swap.request), operation=operation))
        context.wallet.renumber(tx, swap.id, operation, request)
    return Operation(operation, "swap", request)


def refuse_swap(context: Context, tx: Tx, swap: bytes) -> None:
    """End a swap as refused; its number is given again when no copy of it can come any more."""
    context.wallet.end_operation(tx, swap, "refused")
    context.wallet.give_back(tx, "swap", swap, context.clock() + RESTS_MS)


def made_too_often() -> AlreadySignedError:
    """Give the error for a wish that was refused too often."""
    return AlreadySignedError(
        "The coins that were asked for had been made before, again and again: this profile came back from an "
        "old copy. Nothing was paid for them, and the money is where it was.",
        "Trying again goes on with later coins. `veilmart wallet restore MARKET-FILE ACCOUNT` brings back "
        "what the other copy drew, and goes on behind it.",
    )
