"""Stripe, over its official library: one PaymentIntent for each charge.

    open      POST /v1/payment_intents               with an idempotency key; without a card
    pay       POST /v1/payment_intents/<id>/confirm  with one of its own; a repetition is replayed by Stripe
    settle    GET  /v1/payment_intents/<id>          and POST …/cancel where nothing was paid

Rule 1. A cancelled PaymentIntent can never be paid, and a paid one cannot be cancelled
(docs.stripe.com/api/payment_intents/cancel): whichever comes first is what happened, and `settle` asks
until one of them is. Idempotency keys last 24 hours at least; nothing here needs them for longer, since
the id of the PaymentIntent is stored before the card is sent.

Rule 2. Whatever is not a clear answer is `Unknown`: time-outs, 5xx, 409, 429. Only a 402 is a decline.

Rule 3. Nothing of an exchange is logged but the error's type, code and HTTP status: Stripe's texts may
repeat what was sent, and the library's own log would show the card.

Rule 4. Amounts go as they are, so only currencies are charged whose minor unit at Stripe is that of ISO 4217
(docs.stripe.com/currencies): another factor would charge a hundred times too much or too little.

With a key for test mode, Stripe's test numbers are sent as its test PaymentMethods. Real numbers need
Stripe's permission ("raw card data APIs") and the operator's compliance with PCI DSS.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog

from broker_node.payment_gateway import Charged, DeclineCode, Declined, GatewayError, Outcome, Unknown
from common.errors import UsageError
from common.messages import PaymentCard
from common.money import exponent

RETRIES: Final = 1
"""Of one call, by the library, under the same idempotency key."""

CODES: Final[Mapping[str, DeclineCode]] = {
    "expired_card": "card_expired",
    "invalid_expiry_month": "card_expired",
    "invalid_expiry_year": "card_expired",
    "incorrect_cvc": "card_security_code",
    "invalid_cvc": "card_security_code",
    "incorrect_number": "card_invalid",
    "invalid_number": "card_invalid",
    "insufficient_funds": "card_insufficient_funds",
}
"""Stripe's codes and decline codes (docs.stripe.com/declines/codes); every other is `card_declined`."""

TEST_METHODS: Final[Mapping[str, str]] = {
    "4242424242424242": "pm_card_visa",
    "5555555555554444": "pm_card_mastercard",
    "378282246310005": "pm_card_amex",
    "4000000000000002": "pm_card_visa_chargeDeclined",
    "4000000000009995": "pm_card_visa_chargeDeclinedInsufficientFunds",
    "4000000000000069": "pm_card_chargeDeclinedExpiredCard",
    "4000000000000127": "pm_card_chargeDeclinedIncorrectCvc",
}
"""docs.stripe.com/testing: in test mode nobody has to be allowed to send raw numbers."""

ZERO_DECIMAL: Final = frozenset(
    ("BIF", "CLP", "DJF", "GNF", "JPY", "KMF", "KRW", "PYG", "RWF", "VND", "VUV", "XAF", "XOF", "XPF")
)
"""Without decimals there and in ISO 4217. ISK and UGX have none, and two in Stripe's amounts."""
EXPONENT_AT_STRIPE: Final = 2
"""Of every currency that is no exception."""
OTHER_UNIT: Final = frozenset({"MGA"})
"""Two decimals in ISO 4217, none at Stripe."""

_TEST_KEYS: Final = ("sk_test_", "rk_test_")
_CANCELLABLE: Final = frozenset(
    {"requires_payment_method", "requires_confirmation", "requires_action", "requires_capture"}
)


def check_currency(currency: str) -> None:
    """Refuse a currency whose minor unit is another one at Stripe, or not known to be the same.

    Three and four decimals too: Stripe wants the last digit to be 0. Raises `UsageError`.
    """
    places = exponent(currency)
    if currency not in ZERO_DECIMAL and (places != EXPONENT_AT_STRIPE or currency in OTHER_UNIT):
        raise UsageError(
            f"Stripe cannot charge cards in {currency}: it counts this currency in other units.",
            "Use another gateway, or book what was paid with `veilmart broker account credit`.",
        )


class StripeGateway:
    """`PaymentGateway` at Stripe. `api_base` is another address, for tests."""

    kind = "stripe"

    def __init__(self, key: str, timeout_s: float, api_base: str | None = None) -> None:
        """Take a secret key. Raises `UsageError` where the library is not installed."""
        try:
            import requests  # noqa: PLC0415 - both belong to an optional extra, and are slow to import
            import stripe  # noqa: PLC0415
        except ImportError:
            raise UsageError(
                "Stripe's library is not installed.", "Install it: pip install 'veilmart[stripe]'."
            ) from None
        # Its log, which STRIPE_LOG in the environment would turn on, shows what is posted: the card.
        stripe.log = None
        stripe._util.STRIPE_LOG = None  # noqa: SLF001 - there is no other way to overrule the environment
        logging.getLogger("stripe").setLevel(logging.WARNING)
        stripe.enable_telemetry = False
        session = requests.Session()
        # No proxy and no .netrc of whoever started the broker.
        session.trust_env = False
        self._stripe = stripe
        self._http = stripe.RequestsClient(timeout=timeout_s, session=session)
        self._client = stripe.StripeClient(
            key,
            http_client=self._http,
            max_network_retries=RETRIES,
            base_addresses={"api": api_base} if api_base else None,
        )
        self._test_mode = key.startswith(_TEST_KEYS)
        self._log = structlog.get_logger("veilmart.stripe")

    def open(self, key: str, amount: int, currency: str) -> str:
        """Create a PaymentIntent. Raises `GatewayError`, also where `check_currency` refuses."""
        try:
            check_currency(currency)
        except UsageError as error:
            self._log.warning("Stripe is not asked", step="open", reason=str(error))
            raise GatewayError("currency") from None
        wanted = {
            "amount": amount,
            "currency": currency.lower(),
            "payment_method_types": ["card"],
            "metadata": {"veilmart": key},
        }
        try:
            intent = self._client.v1.payment_intents.create(wanted, {"idempotency_key": f"open-{key}"})
        except self._stripe.StripeError as error:
            self._note("open", error)
            raise GatewayError(type(error).__name__) from None
        return str(intent.id)

    def pay(self, charge: str, card: PaymentCard) -> Outcome:
        """Confirm it with the card; a card that wants its holder to do something more is declined."""
        wanted = {"error_on_requires_action": True, **self._method(card)}
        return self._ask(
            "pay",
            lambda: self._client.v1.payment_intents.confirm(
                charge, wanted, {"idempotency_key": f"pay-{charge}"}
            ),
        )

    def settle(self, charge: str) -> Outcome:
        """Ask how it stands, and cancel it where it is not paid."""

        def look() -> Any:
            intent = self._client.v1.payment_intents.retrieve(charge)
            if intent.status in _CANCELLABLE:
                # Where a payment is faster, this fails, and we ask again.
                intent = self._client.v1.payment_intents.cancel(charge)
            return intent

        return self._ask("settle", look)

    def _ask(self, step: str, call: Callable[[], Any]) -> Outcome:
        try:
            intent = call()
        except self._stripe.CardError as error:
            return Declined(_code(error.code, getattr(error.error, "decline_code", None)))
        except self._stripe.StripeError as error:
            self._note(step, error)
            return Unknown()
        if intent.status == "succeeded":
            return Charged()
        if intent.status == "canceled":
            failure = getattr(intent, "last_payment_error", None)
            return Declined(_code(failure.code, failure.decline_code) if failure else "not_charged")
        return Unknown()

    def _method(self, card: PaymentCard) -> dict[str, Any]:
        if self._test_mode and card.number in TEST_METHODS:
            return {"payment_method": TEST_METHODS[card.number]}
        return {
            "payment_method_data": {
                "type": "card",
                "card": {
                    "number": card.number,
                    "exp_month": card.month,
                    "exp_year": card.year,
                    "cvc": card.security_code,
                },
                "billing_details": {"name": card.name},
            }
        }

    def _note(self, step: str, error: Any) -> None:
        self._log.warning(
            "no clear answer from Stripe",
            step=step,
            error=type(error).__name__,
            code=error.code,
            status=error.http_status,
        )


def _code(code: str | None, decline_code: str | None) -> DeclineCode:
    # The issuer's reason says more than Stripe's own "card_declined".
    return CODES.get(decline_code or "", CODES.get(code or "", "card_declined"))
