"""Two families of errors: theirs and ours.

Rule 1. What a peer sends is checked by raising a `WireError`. The node's loop counts it by its
reason, drops the message and acknowledges it; nothing that a peer sends may crash a node.

Rule 2. What a person reads is a `VeilmartError`: what happened, what was kept, what to do next. Its
`code` and `exit_code` are a contract (README, "Exit codes"). What a program needs of it is an attribute
of its own, None where it is not known, and never has to be read out of a text; `facts` has them for the
envelope. Amounts are minor units, times milliseconds since 1970.

Rule 3. Everything else is a mistake of our own: it is not caught, and the node crashes loudly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class WireError(Exception):
    """Something that a peer sent cannot be accepted. The text never holds content, only a reason."""

    reason: ClassVar[str] = "refused"


class MalformedError(WireError):
    """The bytes are not of the shape, type or size that their place demands."""

    reason = "malformed"


class ForgedError(WireError):
    """A MAC, signature or ciphertext does not verify."""

    reason = "forged"


class StaleError(WireError):
    """The message's time lies outside the freshness window, or its session is over."""

    reason = "stale"


class ReplayedError(WireError):
    """This very send was seen before."""

    reason = "replayed"


class RefusedError(WireError):
    """A well-formed request that the rules refuse; the peer is told `code` (see `messages.RefusalCode`)."""

    reason = "refused"

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(detail or code)
        self.code = code
        self.detail = detail


class VeilmartError(Exception):
    """An error that a person reads and that a script can act upon.

    `code` is stable and documented; `exit_code` is what the command line ends with; `hint` says what
    to do next; `retryable` says whether the same call may succeed later without a change.
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False
    fact_names: ClassVar[tuple[str, ...]] = ()
    """The attributes that this kind of error adds."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def facts(self) -> dict[str, Any]:
        """What is known of `fact_names`."""
        return {name: fact for name in self.fact_names if (fact := getattr(self, name)) is not None}


class UsageError(VeilmartError):
    """The call itself is wrong."""

    code = "usage"
    exit_code = 2


class InvalidCardError(UsageError):
    """A payment card's fields cannot be right; `faults` says for each of them what to do."""

    code = "card_invalid"
    fact_names = ("faults",)

    def __init__(
        self, faults: Mapping[str, str], hint: str = "Nothing was sent. Correct it and try again."
    ) -> None:
        super().__init__(" ".join(faults.values()), hint)
        self.faults = dict(faults)


class NotFoundError(VeilmartError):
    """No such merchant, product, order or account."""

    code = "not_found"
    exit_code = 3


class RejectedError(VeilmartError):
    """A rule, the broker or the merchant said no."""

    code = "rejected"
    exit_code = 4


class PriceChangedError(RejectedError):
    """The price is no longer the one that was agreed to: `new_price` instead of `old_price`.

    Both are of one `sku`, or, where that is None, of all that was to be bought of one merchant.
    """

    code = "price_changed"
    fact_names = ("sku", "old_price", "new_price")

    def __init__(
        self,
        message: str,
        hint: str = "",
        *,
        sku: str | None = None,
        old_price: int | None = None,
        new_price: int | None = None,
    ) -> None:
        super().__init__(message, hint)
        self.sku = sku
        self.old_price = old_price
        self.new_price = new_price


class OutOfStockError(RejectedError):
    """The merchant has fewer of `sku` than asked for; `available` says how many where it is known."""

    code = "out_of_stock"
    fact_names = ("available", "sku")

    def __init__(
        self, message: str, hint: str = "", *, available: int | None = None, sku: str | None = None
    ) -> None:
        super().__init__(message, hint)
        self.available = available
        self.sku = sku


class DiscountRefusedError(RejectedError):
    """The merchant does not take the discount code for this; `reason` is its word for why.

    `minimum` is what has to be bought for, where that is the reason.
    """

    code = "discount_refused"
    fact_names = ("reason", "minimum")

    def __init__(
        self, message: str, hint: str = "", *, reason: str = "code_unknown", minimum: int | None = None
    ) -> None:
        super().__init__(message, hint)
        self.reason = reason
        self.minimum = minimum


class InsufficientFundsError(RejectedError):
    """The account or the wallet holds less than needed: `missing` is how much less.

    From `retry_at` on young coins can be spent that would do.
    """

    code = "insufficient_funds"
    fact_names = ("missing", "retry_at")

    def __init__(
        self, message: str, hint: str = "", *, missing: int | None = None, retry_at: int | None = None
    ) -> None:
        super().__init__(message, hint)
        self.missing = missing
        self.retry_at = retry_at


class CardDeclinedError(RejectedError):
    """A payment card was not charged; `reason` is the broker's refusal code."""

    code = "card_declined"
    fact_names = ("reason",)

    def __init__(self, message: str, hint: str = "", *, reason: str = "card_declined") -> None:
        super().__init__(message, hint)
        self.reason = reason


class PaymentsStoppedError(RejectedError):
    """The broker moves no money until its operator has put its books right."""

    code = "payments_stopped"
    retryable = True


class TooSoonError(RejectedError):
    """Account and shops keep a minimum age away from each other; it goes on from `retry_at` on."""

    code = "too_soon"
    retryable = True
    fact_names = ("retry_at",)

    def __init__(self, message: str, hint: str = "", *, retry_at: int | None = None) -> None:
        super().__init__(message, hint)
        self.retry_at = retry_at


class OutOfTicketsError(RejectedError):
    """No usable ticket is left to open a shop session with; from `retry_at` on young ones can be used."""

    code = "out_of_tickets"
    fact_names = ("retry_at",)

    def __init__(self, message: str, hint: str = "", *, retry_at: int | None = None) -> None:
        super().__init__(message, hint)
        self.retry_at = retry_at


class IdempotencyConflictError(RejectedError):
    """The same idempotency key or operation id came with other content; `key` is the caller's key."""

    code = "idempotency_conflict"
    fact_names = ("key",)

    def __init__(self, message: str, hint: str = "", *, key: str | None = None) -> None:
        super().__init__(message, hint)
        self.key = key


class AuthenticationError(VeilmartError):
    """Wrong name or password, or a credential that is expired, revoked or disabled.

    Where the broker waits longer after failures, `retry_at` is when it takes the next try.
    """

    code = "authentication"
    exit_code = 5
    fact_names = ("retry_at",)

    def __init__(self, message: str, hint: str = "", *, retry_at: int | None = None) -> None:
        super().__init__(message, hint)
        self.retry_at = retry_at


class UnreachableError(VeilmartError):
    """A hop does not answer; `hop` names it, None for any."""

    code = "unreachable"
    exit_code = 6
    retryable = True
    hop: ClassVar[str | None] = None
    fact_names = ("hop",)


class BusUnreachableError(UnreachableError):
    """No connection to Mosquitto."""

    code = "bus_unreachable"
    hop = "bus"


class BrokerUnreachableError(UnreachableError):
    """The bus answers, the broker does not."""

    code = "broker_unreachable"
    hop = "broker"


class GatewayUnreachableError(UnreachableError):
    """The broker answers, its payment gateway does not; nothing was charged."""

    code = "gateway_unreachable"
    hop = "gateway"


class MerchantOfflineError(UnreachableError):
    """The broker answers, the merchant is away."""

    code = "merchant_offline"
    hop = "merchant"


class LedgerBrokenError(VeilmartError):
    """The broker's books are wrong: its payments are stopped."""

    code = "ledger_broken"


class UntrustedError(VeilmartError):
    """A card, certificate, receipt or market file does not prove what it claims."""

    code = "untrusted"


class BusyError(VeilmartError):
    """Another process works on the same profile or home."""

    code = "busy"
    retryable = True


class DeadlineError(VeilmartError):
    """No answer in time; `hop` names who was waited for."""

    code = "timeout"
    exit_code = 27
    retryable = True
    fact_names = ("hop",)

    def __init__(self, message: str, hint: str = "", *, hop: str) -> None:
        super().__init__(message, hint)
        self.hop = hop
