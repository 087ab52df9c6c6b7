"""Money: integers in minor units with an ISO 4217 code; never a float.

>>> parse_amount("12.5", "EUR")
1250
>>> format_amount(1250, "EUR")
'12.50 EUR'
>>> parse_rate("7.7"), format_rate(1900)
(770, '19 %')
"""

from __future__ import annotations

import re
from typing import Final

from common.config import MAXIMUM_AMOUNT, WHOLE_IN_BASIS_POINTS
from common.errors import UsageError

_BY_EXPONENT: Final = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    2: (
        "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD "
        "CDF CHE CHF CHW CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP "
        "GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD "
        "MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP "
        "PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT "
        "TOP TRY TTD TWD TZS UAH USD USN UYU UZS VED VES WST XCD XCG YER ZAR ZMW ZWG"
    ),
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}

EXPONENTS: Final[dict[str, int]] = {
    code: exponent for exponent, codes in _BY_EXPONENT.items() for code in codes.split()
}
"""Every active code of ISO 4217's list one (2025) that has a minor unit. Metals, units of account and the
codes for tests and for nothing have none, and no market can be in them."""

_AMOUNT = re.compile(r"(\d{1,13})(?:\.(\d{1,4}))?", re.ASCII)


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


_RATE = re.compile(r"(\d{1,3})(?:\.(\d{1,2}))?", re.ASCII)


def parse_rate(text: str) -> int:
    """Read a percentage, `7.7` or `19`, as basis points. Raises `UsageError`; nothing is rounded away."""
    match = _RATE.fullmatch(text.strip().removesuffix("%").rstrip())
    rate = int(match[1] + (match[2] or "").ljust(2, "0")) if match else WHOLE_IN_BASIS_POINTS + 1
    if rate > WHOLE_IN_BASIS_POINTS:
        raise UsageError(f"{text!r} is no percentage", "Write 0 to 100, with at most 2 decimal places.")
    return rate


def format_rate(rate: int) -> str:
    """Write basis points for a person: `770` as `7.7 %`."""
    whole, rest = divmod(rate, 100)
    return f"{whole}.{rest:02}".rstrip("0").rstrip(".") + " %" if rest else f"{whole} %"
