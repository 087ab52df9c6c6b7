"""What the broker's and the merchant's refusals mean to a person."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from common import messages
from common.errors import (
    AuthenticationError,
    BrokerUnreachableError,
    CardDeclinedError,
    GatewayUnreachableError,
    IdempotencyConflictError,
    InsufficientFundsError,
    MerchantOfflineError,
    NotFoundError,
    OutOfTicketsError,
    PaymentsStoppedError,
    RejectedError,
    VeilmartError,
)


class SessionOverError(Exception):
    """This session cannot be used any more; whoever asked opens another one. Never leaves this package."""


class DoubleSpendError(RejectedError):
    """A coin or ticket was spent before."""


class AlreadySignedError(RejectedError):
    """Coins or tickets were asked for that were drawn before, for something else."""


class RetiredKeyError(RejectedError):
    """Coins of a month whose key counts no longer, since `ended`; until `exchange_until` they can be swapped.

    Times are milliseconds since 1970; `exchange_until` is 0 where the operator swaps none.
    """

    fact_names = ("month", "ended", "exchange_until")

    def __init__(self, month: str, ended: int, exchange_until: int) -> None:
        hint = (
            f"The market's operator swaps them until {_day(exchange_until)}: `veilmart wallet tend`."
            if exchange_until
            else "The market's operator swaps none of them any more: they are worth nothing."
        )
        super().__init__(f"The coins of {month} ended on {_day(ended)}.", hint)
        self.month = month
        self.ended = ended
        self.exchange_until = exchange_until


class BalanceLeftError(RejectedError):
    """The account still holds something."""


class AccountClosedError(RejectedError):
    """The account is closed for good, perhaps from another device: it only answers again what it answered."""


class TooManyTopUpsError(RejectedError):
    """The account has tried as often as one may in a day."""


class TicketsNeededError(RejectedError):
    """A search would use `needed` tickets, more than was agreed to."""

    fact_names = ("needed",)

    def __init__(self, needed: int, maximum: int) -> None:
        super().__init__(
            f"Asking every merchant would use {needed} tickets.",
            f"Name a merchant, or allow more than {maximum} tickets (`--max-tickets {needed}`).",
        )
        self.needed = needed


_ERRORS: Final[dict[str, Callable[[], VeilmartError]]] = {
    "authentication": lambda: AuthenticationError(
        "The name, the password or the code is wrong.",
        "Check them; after some failures the broker waits longer.",
    ),
    "revoked": lambda: AuthenticationError("This account is disabled.", "Ask the market's operator."),
    "name_taken": lambda: RejectedError(
        "An account of that name exists already.", "Choose another name, or log in if it is yours."
    ),
    "policy": lambda: RejectedError(
        "The market's rules do not allow that.", "A password may be too short, or a daily limit used up."
    ),
    "sign_up_closed": lambda: RejectedError(
        "This market takes no sign-ups.", "Its operator opens accounts (`veilmart broker account add`)."
    ),
    "invite": lambda: RejectedError(
        "This market asks for an invite code that was not used yet.", "Its operator gives them out."
    ),
    "balance_left": lambda: BalanceLeftError("The account still holds something.", "Withdraw it first."),
    "busy": lambda: BrokerUnreachableError("The broker is too busy.", "Try again in a moment."),
    "not_found": lambda: NotFoundError("The broker does not know that."),
    "given_up": lambda: RejectedError(
        "A wallet was restored from this one's words, and has given that up. No money was taken.",
        "Two copies of one wallet cannot be used side by side. This one can pay again in ten minutes.",
    ),
    "account_closed": lambda: AccountClosedError(
        "This account is closed for good.",
        "`veilmart resume` fetches what was drawn from it before and did not arrive.",
    ),
    "insufficient_funds": lambda: InsufficientFundsError(
        "The account holds less than that.", "`veilmart topup` pays in with a card."
    ),
    "out_of_tickets": lambda: OutOfTicketsError(
        "The account has drawn all of today's tickets.", "Withdraw again tomorrow."
    ),
    "idempotency_conflict": lambda: IdempotencyConflictError(
        "The broker knows this operation with other content."
    ),
    "double_spend": lambda: DoubleSpendError(
        "A coin was spent before.", "Was this profile restored from a backup? `veilmart resume` sorts it out."
    ),
    "already_signed": lambda: AlreadySignedError(
        "What was asked for had been made before: this profile came back from an old copy.",
        "Try again, which goes on with later coins.",
    ),
    "bad_token": lambda: RejectedError("The broker does not accept a coin or ticket."),
    "unknown_key": lambda: RejectedError("A coin or ticket is of a month that is over."),
    "wrong_amount": lambda: RejectedError("The broker refuses this amount."),
    "wrong_currency": lambda: RejectedError("The broker refuses this currency."),
    "wrong_secret": lambda: RejectedError("The broker does not accept this order's secret."),
    "wrong_state": lambda: RejectedError("That cannot be done in the present state."),
    "deadline": lambda: RejectedError("The broker refuses the order's deadline.", "Place the order anew."),
    "payments_stopped": lambda: PaymentsStoppedError(
        "The broker has stopped payments: its books are being looked at. Nothing of yours was changed.",
        "Browsing and downloads go on. Try again later; `veilmart resume` takes orders on.",
    ),
    "no_gateway": lambda: RejectedError(
        "This market takes no cards.", "The market's operator credits accounts."
    ),
    "gateway_unavailable": lambda: GatewayUnreachableError(
        "The payment gateway does not answer. The card was not charged.", "Try again later."
    ),
    "not_charged": lambda: CardDeclinedError(
        "The card was not charged, and will not be.", "Try again.", reason="not_charged"
    ),
    "too_many_top_ups": lambda: TooManyTopUpsError(
        "This account has tried to top up too often.", "Try again tomorrow."
    ),
    "card_invalid": lambda: CardDeclinedError(
        "The card's details are not accepted.",
        "Check number, expiry and security code.",
        reason="card_invalid",
    ),
    "card_expired": lambda: CardDeclinedError(
        "The card has expired.", "Check the expiry, or use another card.", reason="card_expired"
    ),
    "card_security_code": lambda: CardDeclinedError(
        "The security code is wrong.", "Type it again.", reason="card_security_code"
    ),
    "card_insufficient_funds": lambda: CardDeclinedError(
        "The card has too little.", "Use another card, or a smaller amount.", reason="card_insufficient_funds"
    ),
    "card_declined": lambda: CardDeclinedError(
        "The card was declined.", "Use another card, or ask the bank that gave it."
    ),
    "merchant_offline": lambda: MerchantOfflineError("The merchant is away.", "Try again later."),
}


def _day(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d")


def answer_error(body: messages.Message) -> VeilmartError | None:
    """Give the error that an answer is, or None. Raises `SessionOverError` where a session ended.

    A broker that is busy has not refused anything: the question is asked again.
    """
    if isinstance(body, messages.KeyRetired):
        return RetiredKeyError(body.month, body.ended, body.exchange_until)
    if isinstance(body, messages.Refused) and body.code != "busy":
        return refusal_error(body.code)
    return None


def refusal_error(code: str) -> VeilmartError:
    """Give the error for a `messages.RefusalCode`. Raises `SessionOverError` where a session ended."""
    if code in {"byte_budget", "session_over"}:
        raise SessionOverError(code)
    make = _ERRORS.get(code)
    return make() if make else RejectedError(f"The broker refused: {code}.")
