"""Size buckets: every property that customers rely on, and what the merchant is advised."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from common.config import CELL_CONTENT
from common.receipts import cells_needed
from merchant_node.buckets import Sized, assign, privacy, rung

GROUP, OVERHEAD = 4, 4
LADDER = sorted({1 << n for n in range(25)} | {3 << n for n in range(24)})


@st.composite
def offers(draw: st.DrawFn) -> list[Sized]:
    needs = draw(st.lists(st.integers(1, 300), max_size=30))
    return [
        Sized(
            sku=f"p{n}",
            price=draw(st.sampled_from([100, 200])),
            needs=need,
            fixed=draw(st.none() | st.sampled_from([each for each in LADDER if need <= each <= 4 * need])),
        )
        for n, need in enumerate(needs)
    ]


def crowds(products: list[Sized], buckets: dict[str, int]) -> Counter[tuple[int, int]]:
    return Counter((product.price, buckets[product.sku]) for product in products)


def exposed(products: list[Sized], buckets: dict[str, int]) -> int:
    """How many products hide among fewer than a group."""
    return sum(crowd for crowd in crowds(products, buckets).values() if crowd < GROUP)


@given(st.integers(1, 2**24))
def test_a_rung_is_the_lowest_that_is_enough(cells: int) -> None:
    assert rung(cells) == next(each for each in LADDER if each >= cells)


@given(st.integers(0, 10**9))
def test_cells_hold_the_content_and_no_more(size: int) -> None:
    cells = cells_needed(size, keys=False)
    assert cells * CELL_CONTENT >= size
    assert cells == 1 or (cells - 1) * CELL_CONTENT < size


@given(offers())
def test_every_bucket_is_on_the_ladder_large_enough_and_within_the_cap(products: list[Sized]) -> None:
    buckets = assign(products, GROUP, OVERHEAD)
    assert set(buckets) == {product.sku for product in products}
    for product in products:
        bucket = buckets[product.sku]
        assert bucket in LADDER
        assert bucket >= product.needs
        assert bucket <= OVERHEAD * product.needs or bucket == rung(product.needs)


@given(offers())
def test_what_was_sold_keeps_its_bucket(products: list[Sized]) -> None:
    buckets = assign(products, GROUP, OVERHEAD)
    assert all(buckets[product.sku] == product.fixed for product in products if product.fixed)


@given(offers())
def test_merging_never_exposes_more_than_the_ladder_alone(products: list[Sized]) -> None:
    alone = {product.sku: product.fixed or rung(product.needs) for product in products}
    assert exposed(products, assign(products, GROUP, OVERHEAD)) <= exposed(products, alone)


@given(offers())
def test_it_depends_on_the_set_of_products_alone(products: list[Sized]) -> None:
    assert assign(products, GROUP, OVERHEAD) == assign(products[::-1], GROUP, OVERHEAD)


@given(offers())
def test_another_price_changes_nothing(products: list[Sized]) -> None:
    buckets = assign(products, GROUP, OVERHEAD)
    cheap = [product for product in products if product.price == 100]
    assert {sku: buckets[sku] for sku in assign(cheap, GROUP, OVERHEAD)} == assign(cheap, GROUP, OVERHEAD)


def sized(*needs: int, price: int = 100) -> list[Sized]:
    return [Sized(sku=f"p{price}-{n}", price=price, needs=need) for n, need in enumerate(needs)]


def test_groups_are_merged_upwards() -> None:
    assert set(assign(sized(1, 2, 2, 3), GROUP, OVERHEAD).values()) == {3}


def test_the_cap_keeps_the_small_from_the_large() -> None:
    assert assign(sized(1, 100), GROUP, OVERHEAD) == {"p100-0": 1, "p100-1": 128}


def test_a_lone_large_one_is_joined_from_below() -> None:
    assert set(assign(sized(9, 10, 11, 12, 13), GROUP, OVERHEAD).values()) == {16}
    six = assign(sized(5, 5, 5, 5, 5, 5, 5, 7), GROUP, OVERHEAD)
    assert Counter(six.values()) == {6: 4, 8: 4}


def test_advice() -> None:
    products = [*sized(1, 1, 1, 1), *sized(1, price=150), *sized(40, price=900)]
    buckets = assign(products, GROUP, OVERHEAD)
    report = {each.sku: each for each in privacy(products, buckets, GROUP, OVERHEAD, "EUR")}
    assert (report["p100-0"].others, report["p100-0"].advice) == (3, "")
    assert report["p150-0"].others == 0
    assert "1.00 EUR" in report["p150-0"].advice
    assert "3 more" in report["p900-0"].advice
    assert "12 to 48 cells" in report["p900-0"].advice
