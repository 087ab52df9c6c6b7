"""Cards: every field checked, with an error of its own that repeats nothing of what was typed."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import codec, messages, payment_cards
from common.errors import InvalidCardError, MalformedError, UsageError
from common.payment_cards import BRANDS, brand_of, card, check, luhn

NOW = int(datetime(2026, 11, 30, 23, 59, tzinfo=UTC).timestamp() * 1000)
GOOD = ("4242 4242-4242 4242", "11/26", "123", "Ada  Lovelace")

# What the brands' own and the payment companies' test pages list.
NUMBERS = {
    "4242424242424242": "visa",
    "4222222222222": "visa",
    "5555555555554444": "mastercard",
    "2223003122003222": "mastercard",
    "2720990000000007": "mastercard",
    "378282246310005": "amex",
    "341111111111111": "amex",
    "6011111111111117": "discover",
    "6500000000000002": "discover",
    "3056930009020004": "diners",
    "36227206271667": "diners",
    "3566002020360505": "jcb",
    "6200000000000005": "unionpay",
    "6205500000000000004": "unionpay",
    "6759649826438453": "maestro",
}


def with_check_digit(digits: str) -> str:
    return next(digits + last for last in "0123456789" if luhn(digits + last))


@pytest.mark.parametrize(("number", "brand"), NUMBERS.items())
def test_known_numbers(number: str, brand: str) -> None:
    assert luhn(number)
    found = brand_of(number)
    assert found.name == brand
    assert len(number) in found.lengths


def test_a_card_as_it_is_typed() -> None:
    read = card(*GOOD)
    assert (read.number, read.month, read.year) == ("4242424242424242", 11, 2026)
    assert (read.security_code, read.name) == ("123", "Ada Lovelace")
    assert check(read, NOW).name == "visa"
    assert payment_cards.last_four(read) == "4242"
    assert card(GOOD[0], "1-2031", *GOOD[2:]).year == 2031


@given(st.text("0123456789", min_size=15, max_size=15), st.integers(0, 14), st.integers(1, 9))
def test_luhn_finds_every_single_wrong_digit(digits: str, place: int, more: int) -> None:
    number = with_check_digit(digits)
    wrong = str((int(number[place]) + more) % 10)
    assert not luhn(number[:place] + wrong + number[place + 1 :])


@given(st.text("0123456789", min_size=15, max_size=15), st.integers(0, 14))
def test_luhn_finds_two_neighbours_exchanged(digits: str, place: int) -> None:
    number = with_check_digit(digits)
    one, other = number[place : place + 2]
    exchanged = number[:place] + other + one + number[place + 2 :]
    # All but 09 and 90, which is known of it.
    assert luhn(exchanged) == (one == other or {one, other} == {"0", "9"})


def faults_of(number: str, expiry: str, code: str, name: str) -> dict[str, str]:
    with pytest.raises(InvalidCardError) as raised:
        check(card(number, expiry, code, name), NOW)
    typed = (number, code, name)
    assert not [text for text in typed if len(text) > 2 and text in str(raised.value)]
    assert isinstance(raised.value, UsageError)
    return raised.value.faults


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("number", ""),
        ("number", "4242"),
        ("number", "4242 4242 4242 4243"),
        ("number", "424242424242424"),
        ("number", "9999999999999995"),
        ("number", "xxxxxxxxxxxxxxxx"),
        ("number", "٤٢٤٢٤٢٤٢٤٢٤٢٤٢٤٢"),
        ("expiry", "10/26"),
        ("expiry", "13/26"),
        ("expiry", "00/28"),
        ("expiry", "12"),
        ("expiry", "01/47"),
        ("security_code", ""),
        ("security_code", "12"),
        ("security_code", "1234"),
        ("security_code", "12345"),
        ("security_code", "abc"),
        ("name", "  "),
        ("name", "4242 4242 4242 4242"),
        ("name", "x" * 65),
        ("name", "Ada\x1b[2J"),
    ],
)
def test_each_field_has_an_error_of_its_own(field: str, value: str) -> None:
    fields = dict(zip(("number", "expiry", "code", "name"), GOOD, strict=True))
    fields[{"security_code": "code"}.get(field, field)] = value
    found = faults_of(**fields)
    assert set(found) == {field}
    assert len(found[field]) > 20


def test_all_that_is_wrong_is_said_at_once() -> None:
    assert set(faults_of("1", "2", "3", "")) == {"number", "expiry", "security_code", "name"}
    assert set(faults_of("4242424242424243", "01/20", "123", "7")) == {"number", "expiry", "name"}


def test_a_card_counts_through_its_last_month() -> None:
    read = card(*GOOD)
    assert check(read, NOW)
    with pytest.raises(InvalidCardError, match="expired"):
        check(read, NOW + 60_000)


def test_an_amex_has_four_digits() -> None:
    assert check(card("3782 822463 10005", "01/30", "1234", "A B"), NOW).name == "amex"
    assert set(faults_of("378282246310005", "01/30", "123", "A B")) == {"security_code"}


def test_brands_have_no_number_in_common() -> None:
    beginnings = [f"{n:04}" for n in range(10_000)]
    assert all(sum(brand.has(beginning) for brand in BRANDS) <= 1 for beginning in beginnings)


def test_a_card_shows_nothing_of_itself() -> None:
    read = card(*GOOD)
    top_up = messages.TopUp(operation=bytes(16), amount=500, currency="EUR", card=read)
    for text in (repr(read), str(read), repr(top_up), f"{top_up}"):
        assert not [secret for secret in (read.number, "4242", "123", "Ada") if secret in text]


@pytest.mark.parametrize(
    "change", [{"number": "4" * 20}, {"security_code": "12"}, {"month": 13}, {"name": ""}]
)
def test_a_card_out_of_bounds_cannot_be_decoded(change: dict[str, object]) -> None:
    read = card(*GOOD)
    fields = {name: getattr(read, name) for name in read.__struct_fields__}
    wrong = codec.pack(messages.PaymentCard(**{**fields, **change}))
    with pytest.raises(MalformedError):
        codec.Codec[messages.PaymentCard](messages.PaymentCard).unpack(wrong)
