"""What the broker needs of whoever charges cards: three calls, each of which may be repeated.

    charge = gateway.open(key, amount, currency)    an id at the gateway; no money moves, no card is sent
    outcome = gateway.pay(charge, card)             the card, once
    outcome = gateway.settle(charge)                what became of it, for whoever does not know

Rule 1. The broker stores `charge` before it sends the card. So whatever crashes or times out, there is an
id to ask about, and it needs no card to ask.

Rule 2. `settle` ends the doubt: a charge that is not paid by then is void, and a `pay` that is still on
its way finds it so. Only a gateway that is still at work says `Unknown`; it is asked again.

Rule 3. A gateway may be called from several threads. It raises `GatewayError` from `open` alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from common.messages import PaymentCard

DeclineCode: TypeAlias = Literal[
    "card_invalid",
    "card_expired",
    "card_security_code",
    "card_insufficient_funds",
    "card_declined",
    "gateway_unavailable",
    "not_charged",
]
"""Why a card was not charged: those of `messages.RefusalCode` that a gateway can give."""


@dataclass(frozen=True, slots=True)
class Charged:
    """The money is at the gateway."""


@dataclass(frozen=True, slots=True)
class Declined:
    """The card was not charged and never will be under this charge."""

    code: DeclineCode


@dataclass(frozen=True, slots=True)
class Unknown:
    """It may or may not have been charged."""


Outcome: TypeAlias = Charged | Declined | Unknown


class GatewayError(Exception):
    """The gateway did not open a charge. Nothing was charged. Its text holds a kind of error, no content."""


class PaymentGateway(Protocol):
    """Charges cards."""

    kind: str
    """Which one it is: `sandbox`, `stripe`."""

    def open(self, key: str, amount: int, currency: str) -> str:
        """Prepare a charge of minor units and give its id. The same key and amount give the same id.

        Raises `GatewayError`.
        """

    def pay(self, charge: str, card: PaymentCard) -> Outcome:
        """Charge the card. Of several calls for one charge, one at most moves money."""

    def settle(self, charge: str) -> Outcome:
        """Find out what became of a charge, and void it where it is not paid and nobody works on it."""
