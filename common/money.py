"""Money: integers in minor units with an ISO 4217 code; never a float.

>>> parse_amount("12.5", "EUR")
1250
>>> format_amount(1250, "EUR")
'12.50 EUR'
"""

from __future__ import annotations

import re
from typing import Final

from common.config import MAXIMUM_AMOUNT
from common.errors import UsageError

EXPONENTS: Final[dict[str, int]] = {
    # ISO 4217's exponents other than 2, and the currencies with 2 that a market may use.
    **dict.fromkeys(("CLP", "ISK", "JPY", "KRW", "PYG", "UGX", "VND", "XAF", "XOF", "XPF"), 0),
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3),
    **dict.fromkeys(
        (
            *("AED", "ARS", "AUD", "BGN", "BRL", "CAD", "CHF", "CNY", "COP", "CZK", "DKK", "EGP", "EUR"),
            *("GBP", "HKD", "HUF", "IDR", "ILS", "INR", "KES", "MAD", "MXN", "MYR", "NGN", "NOK", "NZD"),
            *("PEN", "PHP", "PKR", "PLN", "QAR", "RON", "RSD", "SAR", "SEK", "SGD", "THB", "TRY", "TWD"),
            *("UAH", "USD", "UYU", "ZAR"),
        ),
        2,
    ),
}

_AMOUNT = re.compile(r"(\d{1,13})(?:\.(\d{1,3}))?", re.ASCII)


def exponent(currency: str) -> int:
    """How many decimal places the currency has. Raises `UsageError` for an unknown code."""
    try:
        return EXPONENTS[currency]
    except KeyError:
        raise UsageError(f"unknown currency {currency!r}", "Use an ISO 4217 code such as EUR.") from None


def parse_amount(text: str, currency: str) -> int:
    """Read a decimal amount as minor units. Raises `UsageError`; nothing is ever rounded away."""
    places = exponent(currency)
    match = _AMOUNT.fullmatch(text.strip())
    decimals = (match[2] or "") if match else ""
    if match is None or len(decimals) > places:
        raise UsageError(
            f"{text!r} is not an amount in {currency}", f"Write it with at most {places} decimal places."
        )
    amount = int(match[1] + decimals.ljust(places, "0"))
    if amount > MAXIMUM_AMOUNT:
        raise UsageError(f"{text!r} is more than this market can handle")
    return amount


def format_amount(amount: int, currency: str) -> str:
    """Write minor units for a person: `1250, "EUR"` as `12.50 EUR`."""
    places = exponent(currency)
    sign, units = ("-" if amount < 0 else ""), abs(amount)
    if not places:
        return f"{sign}{units} {currency}"
    whole, rest = divmod(units, 10**places)
    return f"{sign}{whole}.{rest:0{places}} {currency}"


def divide_half_up(numerator: int, denominator: int) -> int:
    """Divide and round half away from zero, the rule of every invoice line."""
    quotient, rest = divmod(abs(numerator), denominator)
    rounded = quotient + (1 if 2 * rest >= denominator else 0)
    return -rounded if numerator < 0 else rounded
