"""Lines and their sums: for whatever prices, quantities, discounts and rates there are, they add up."""

from __future__ import annotations

import doctest
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import amounts, codec, money
from common.amounts import LineAmounts, line_amounts, percent_off, spread, total_of
from common.config import MAXIMUM_AMOUNT, MAXIMUM_QUANTITY, WHOLE_IN_BASIS_POINTS
from common.errors import RefusedError
from common.messages import Tax

rates = st.integers(0, WHOLE_IN_BASIS_POINTS)
subtotals = st.lists(st.integers(0, 10**10), min_size=1, max_size=20)


@st.composite
def lines(draw: st.DrawFn) -> LineAmounts:
    quantity = draw(st.integers(1, MAXIMUM_QUANTITY))
    unit_price = draw(st.integers(0, MAXIMUM_AMOUNT // quantity))
    discount = draw(st.integers(0, unit_price * quantity))
    return line_amounts(unit_price, quantity, discount, draw(rates))


@given(lines())
def test_base_and_tax_make_up_the_amount_and_amount_and_discount_the_subtotal(line: LineAmounts):
    assert line.tax.base + line.tax.amount == line.amount
    assert line.amount + line.discount == line.subtotal
    assert min(line.tax.base, line.tax.amount, line.amount, line.discount) >= 0


@given(lines())
def test_the_base_is_rounded_half_up_as_decimal_rounds_it(line: LineAmounts):
    exact = Decimal(line.amount) * WHOLE_IN_BASIS_POINTS / (WHOLE_IN_BASIS_POINTS + line.tax.rate)
    assert line.tax.base == int(exact.quantize(Decimal(1), ROUND_HALF_UP))


@given(lines())
def test_the_tax_is_off_by_half_a_unit_at_most(line: LineAmounts):
    exact = Fraction(line.amount * line.tax.rate, WHOLE_IN_BASIS_POINTS + line.tax.rate)
    assert abs(line.tax.amount - exact) <= Fraction(1, 2)


@given(st.lists(lines().filter(lambda line: line.subtotal <= 10**10), min_size=1, max_size=20))
def test_every_way_of_adding_an_order_up_gives_the_same(order: list[LineAmounts]):
    sums = total_of(order)
    assert sums.total == sum(line.amount for line in order)
    assert sums.subtotal - sums.discount == sums.total
    assert sum(tax.base + tax.amount for tax in sums.taxes) == sums.total
    assert [tax.rate for tax in sums.taxes] == sorted({line.tax.rate for line in order})
    for tax in sums.taxes:
        of_rate = [line.tax for line in order if line.tax.rate == tax.rate]
        assert tax.amount == sum(each.amount for each in of_rate)
        assert codec.Codec(Tax).unpack(codec.pack(tax)) == tax
    assert total_of(order[::-1]) == sums


@given(subtotals, rates)
def test_a_percentage_is_never_negative_and_never_more_than_its_line(whole: list[int], rate: int):
    parts = percent_off(whole, rate)
    assert all(0 <= part <= line for part, line in zip(parts, whole, strict=True))
    for part, line in zip(parts, whole, strict=True):
        assert abs(part - Fraction(line * rate, WHOLE_IN_BASIS_POINTS)) <= Fraction(1, 2)


@given(subtotals, st.integers(0, 10**11))
def test_a_fixed_discount_is_spread_to_the_last_unit_and_never_more_than_a_line(
    whole: list[int], amount: int
):
    parts = spread(amount, whole)
    assert sum(parts) == min(amount, sum(whole))
    assert all(0 <= part <= line for part, line in zip(parts, whole, strict=True))
    for part, line in zip(parts, whole, strict=True):
        if sum(whole):
            assert abs(part - Fraction(sum(parts) * line, sum(whole))) <= 1


def test_examples():
    assert line_amounts(1190, 1, 0, 1900) == LineAmounts(1190, 0, 1190, Tax(rate=1900, base=1000, amount=190))
    # 100 / 1.08 is 92.59…; a third of a cent more or less decides.
    assert line_amounts(100, 1, 0, 800).tax == Tax(rate=800, base=93, amount=7)
    # Exactly a half goes up: 3 / 2 is 1.5.
    assert line_amounts(3, 1, 0, WHOLE_IN_BASIS_POINTS).tax == Tax(
        rate=WHOLE_IN_BASIS_POINTS, base=2, amount=1
    )
    assert line_amounts(999, 3, 2997, 700) == LineAmounts(2997, 2997, 0, Tax(rate=700, base=0, amount=0))
    assert percent_off([999, 1, 5], 1000) == [100, 0, 1]
    assert spread(100, [1, 1, 1]) == [1, 1, 1]
    assert spread(2, [1, 1, 1]) == [1, 0, 1]
    assert spread(500, [999, 0, 450]) == [345, 0, 155]
    assert spread(5, [0, 0]) == [0, 0]


@pytest.mark.parametrize(
    "line",
    [
        (-1, 1, 0, 0),
        (1, 0, 0, 0),
        (1, -1, 0, 0),
        (1, MAXIMUM_QUANTITY + 1, 0, 0),
        (1, 1, -1, 0),
        (1, 1, 2, 0),
        (1, 1, 0, -1),
        (1, 1, 0, WHOLE_IN_BASIS_POINTS + 1),
        (MAXIMUM_AMOUNT, 2, 0, 0),
        (MAXIMUM_AMOUNT, 2, MAXIMUM_AMOUNT, 0),
    ],
)
def test_what_no_line_can_be_is_refused(line: tuple[int, int, int, int]):
    with pytest.raises(RefusedError) as refused:
        line_amounts(*line)
    assert refused.value.code == "wrong_amount"


def test_the_largest_line_is_one_and_two_of_them_are_too_much():
    largest = line_amounts(MAXIMUM_AMOUNT, 1, 0, 1900)
    assert total_of([largest]).total == MAXIMUM_AMOUNT
    with pytest.raises(RefusedError, match="more than a market"):
        total_of([largest, line_amounts(1, 1, 1, 0)])


@pytest.mark.parametrize("module", [amounts, money])
def test_the_examples_in_the_docstrings_are_true(module: ModuleType):
    assert doctest.testmod(module).failed == 0
    assert doctest.testmod(module).attempted
