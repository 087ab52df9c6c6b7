"""Payment cards: what one looks like, checked before anything is sent and again before it is charged.

Rule 1. A card exists in memory alone. What may be stored of it is its brand and its last four digits.

Rule 2. Every field has an error of its own, which says what to do; no error repeats what was typed.

    card = payment_cards.card("4242 4242 4242 4242", "12/30", "123", "A. Lovelace")
    payment_cards.check(card, now)            # raises `InvalidCardError`
    payment_cards.brand_of(card.number).name  # "visa"

Numbers are those of ISO/IEC 7812; the last digit is Luhn's (Annex B). Which prefixes and lengths a brand
has is what the brands publish.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from common.errors import InvalidCardError
from common.messages import PaymentCard

LAST_DIGITS: Final = 4
LONGEST_VALIDITY_YEARS: Final = 20
LONGEST_NAME: Final = 64
_SEPARATORS: Final = re.compile(r"[ -]")
_DIGITS: Final = re.compile(r"[0-9]+")
_EXPIRY: Final = re.compile(r"([0-9]{1,2}) ?[/-] ?(20)?([0-9]{2})")
_SECURITY_CODE: Final = re.compile(r"[0-9]{3,4}")
_SHORTEST_NUMBER, _LONGEST_NUMBER = 12, 19


@dataclass(frozen=True)
class Brand:
    """A brand: the ranges that its numbers begin in, their lengths, and how long its security code is."""

    name: str
    beginnings: tuple[tuple[str, str], ...]
    lengths: frozenset[int]
    code_length: int = 3

    def has(self, number: str) -> bool:
        """Whether a number begins as this brand's do."""
        return any(low <= number[: len(low)] <= high for low, high in self.beginnings)


def _only(*prefixes: str) -> tuple[tuple[str, str], ...]:
    return tuple((prefix, prefix) for prefix in prefixes)


BRANDS: Final = (
    Brand("visa", _only("4"), frozenset({13, 16, 19})),
    Brand("mastercard", (("51", "55"), ("2221", "2720")), frozenset({16})),
    Brand("amex", _only("34", "37"), frozenset({15}), code_length=4),
    Brand("discover", (("644", "649"), *_only("6011", "65")), frozenset(range(16, 20))),
    Brand("diners", (("300", "305"), *_only("3095", "36", "38", "39")), frozenset(range(14, 20))),
    Brand("jcb", (("3528", "3589"),), frozenset(range(16, 20))),
    Brand("unionpay", _only("62"), frozenset(range(16, 20))),
    Brand(
        "maestro",
        (("6761", "6763"), *_only("5018", "5020", "5038", "5893", "6304", "6759")),
        frozenset(range(12, 20)),
    ),
)


def brand_of(number: str) -> Brand:
    """Give the brand that a number begins as. Raises `InvalidCardError`."""
    for brand in BRANDS:
        if brand.has(number):
            return brand
    raise InvalidCardError({"number": "No known brand's number begins like this: use another card."})


def last_four(card: PaymentCard) -> str:
    """Give what may be shown of the number."""
    return card.number[-LAST_DIGITS:]


def luhn(number: str) -> bool:
    """Whether the last digit is the check digit of the others (ISO/IEC 7812-1, Annex B)."""
    digits = [int(digit) for digit in reversed(number)]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[1::2]]
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0


def card(number: str, expiry: str, security_code: str, name: str) -> PaymentCard:
    """Read a card as a person types it: blanks and dashes in the number, `MM/YY` or `MM/YYYY`.

    Raises `InvalidCardError` with every field that cannot be read; `check` looks at what they say.
    """
    digits = _SEPARATORS.sub("", number.strip())
    date = _EXPIRY.fullmatch(expiry.strip())
    code, holder = security_code.strip(), " ".join(name.split())
    faults = {}
    if not _DIGITS.fullmatch(digits) or not _SHORTEST_NUMBER <= len(digits) <= _LONGEST_NUMBER:
        faults["number"] = (
            f"A card number has {_SHORTEST_NUMBER} to {_LONGEST_NUMBER} digits: type it as on the card."
        )
    if date is None or not 1 <= int(date[1]) <= 12:  # noqa: PLR2004 - the months of a year
        faults["expiry"] = "Write the expiry as on the card: month and year, like 04/29."
    if not _SECURITY_CODE.fullmatch(code):
        faults["security_code"] = "The security code has three digits, or four on American Express."
    if not 1 <= len(holder) <= LONGEST_NAME or not holder.isprintable():
        faults["name"] = f"Write the holder's name as on the card, at most {LONGEST_NAME} characters."
    if faults or date is None:
        raise InvalidCardError(faults)
    return PaymentCard(
        number=digits, month=int(date[1]), year=2000 + int(date[3]), security_code=code, name=holder
    )


def check(card: PaymentCard, now: int) -> Brand:
    """Check every field of a card and give its brand. Raises `InvalidCardError` with all that is wrong."""
    faults: dict[str, str] = {}
    brand: Brand | None = None
    for look in (lambda: _check_number(card), lambda: _check_expiry(card, now), lambda: _check_name(card)):
        _collect(look, faults)
    if "number" not in faults:
        brand = brand_of(card.number)
        if len(card.security_code) != brand.code_length:
            faults["security_code"] = f"The security code of this card has {brand.code_length} digits."
    if faults or brand is None:
        raise InvalidCardError(faults)
    return brand


def _collect(look: Callable[[], None], faults: dict[str, str]) -> None:
    try:
        look()
    except InvalidCardError as error:
        faults.update(error.faults)


def _check_number(card: PaymentCard) -> None:
    brand = brand_of(card.number)
    if len(card.number) not in brand.lengths:
        raise InvalidCardError({"number": f"A {brand.name} number has another length: a digit is missing."})
    if not luhn(card.number):
        raise InvalidCardError({"number": "One digit of the card number is mistyped: type it again."})


def _check_expiry(card: PaymentCard, now: int) -> None:
    today = datetime.fromtimestamp(now / 1000, UTC)
    # A card counts through the last day of its month.
    if (card.year, card.month) < (today.year, today.month):
        raise InvalidCardError({"expiry": "The card has expired: use another one."})
    if card.year > today.year + LONGEST_VALIDITY_YEARS:
        raise InvalidCardError({"expiry": "No card is valid for that long: type month and year again."})


def _check_name(card: PaymentCard) -> None:
    if not card.name.strip() or not card.name.isprintable() or _DIGITS.search(card.name):
        raise InvalidCardError({"name": "Write the holder's name as on the card: letters, no digits."})
