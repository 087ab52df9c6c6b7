"""Money: parsing, printing, rounding."""

from __future__ import annotations

import csv
import re
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import money
from common.config import MAXIMUM_AMOUNT
from common.errors import UsageError

amounts = st.integers(min_value=0, max_value=MAXIMUM_AMOUNT)
currencies = st.sampled_from(sorted(money.EXPONENTS))


def test_the_table_is_that_of_iso_4217() -> None:
    # iso_4217.csv: list one as the standard's maintenance agency publishes it (2025), its codes with a
    # minor unit, by number. Debian's iso-codes has the same numbers, and not yet XCG and ZWG.
    with (Path(__file__).parent / "iso_4217.csv").open() as file:
        published = {row["code"]: int(row["minor_unit"]) for row in csv.DictReader(file)}
    assert published == money.EXPONENTS
    assert len(published) == 165


@pytest.mark.parametrize(
    ("currency", "places"),
    [("JPY", 0), ("EUR", 2), ("KWD", 3), ("USD", 2), ("ISK", 0), ("CLF", 4), ("UYW", 4)],
)
def test_exponents(currency: str, places: int) -> None:
    assert money.exponent(currency) == places


@pytest.mark.parametrize("currency", ["", "eur", "XXX", "EURO", "€", "XAU", "DEM"])
def test_an_unknown_currency_is_said_so(currency: str) -> None:
    with pytest.raises(UsageError, match="unknown currency"):
        money.exponent(currency)


@given(st.integers(0, 10_000))
def test_a_rate_that_is_printed_is_read_back(rate: int) -> None:
    assert money.parse_rate(money.format_rate(rate)) == rate
    assert money.parse_rate(f"{Decimal(rate) / 100:f}") == rate


@pytest.mark.parametrize("text", ["-1", "100.01", "101", "7.123", "1e1", "", "%", "x", "5 %%", "٣"])
def test_what_is_no_percentage_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no percentage"):
        money.parse_rate(text)


@given(amounts, currencies)
def test_what_is_printed_is_read_back(amount: int, currency: str) -> None:
    text = money.format_amount(amount, currency)
    assert text.endswith(f" {currency}")
    assert money.parse_amount(text.removesuffix(f" {currency}"), currency) == amount
    assert re.fullmatch(rf"\d+(\.\d{{{money.exponent(currency)}}})? [A-Z]{{3}}", text)


@given(amounts, currencies)
def test_printing_agrees_with_decimal(amount: int, currency: str) -> None:
    places = money.exponent(currency)
    expected = Decimal(amount).scaleb(-places)
    assert money.format_amount(amount, currency) == f"{expected:.{places}f} {currency}"
    if amount:
        assert money.format_amount(-amount, currency) == f"-{expected:.{places}f} {currency}"


@pytest.mark.parametrize(
    ("text", "currency", "amount"),
    [
        ("12.5", "EUR", 1250),
        ("12", "EUR", 1200),
        (" 0.01 ", "EUR", 1),
        ("0", "EUR", 0),
        ("007", "JPY", 7),
        ("1.234", "KWD", 1234),
        ("1.2345", "CLF", 12345),
        ("10000000000.00", "EUR", MAXIMUM_AMOUNT),
    ],
)
def test_amounts_are_read(text: str, currency: str, amount: int) -> None:
    assert money.parse_amount(text, currency) == amount


@pytest.mark.parametrize(
    ("text", "currency"),
    [
        ("12.345", "EUR"),
        ("12.5", "JPY"),
        ("1.2345", "KWD"),
        ("1.23456", "UYW"),
        ("12.", "EUR"),
        (".5", "EUR"),
        ("-1", "EUR"),
        ("+1", "EUR"),
        ("1,50", "EUR"),
        ("1e3", "EUR"),
        ("1_000", "EUR"),
        ("", "EUR"),
        ("٣", "EUR"),
        ("NaN", "EUR"),
        ("1\n", "EUR ".strip() + "O"),
        ("10000000000.01", "EUR"),
        ("9" * 40, "EUR"),
    ],
)
def test_whatever_is_no_amount_is_refused_and_never_rounded(text: str, currency: str) -> None:
    with pytest.raises(UsageError):
        money.parse_amount(text, currency)


@given(st.text(max_size=30), currencies)
def test_any_text_is_an_amount_or_a_usage_error(text: str, currency: str) -> None:
    try:
        amount = money.parse_amount(text, currency)
    except UsageError:
        return
    assert 0 <= amount <= MAXIMUM_AMOUNT


@given(st.integers(-(10**15), 10**15), st.integers(1, 10**6))
def test_halves_round_away_from_zero(numerator: int, denominator: int) -> None:
    expected = (Decimal(numerator) / Decimal(denominator)).quantize(Decimal(1), ROUND_HALF_UP)
    assert money.divide_half_up(numerator, denominator) == int(expected)


@given(st.lists(st.integers(0, 10**9), max_size=20), st.integers(1, 100))
def test_rounding_by_line_is_off_by_half_a_unit_a_line_at_most(lines: list[int], percent: int) -> None:
    exact = Decimal(sum(lines)) * percent / 100
    by_line = sum(money.divide_half_up(line * percent, 100) for line in lines)
    assert abs(by_line - exact) <= Decimal(len(lines)) / 2
