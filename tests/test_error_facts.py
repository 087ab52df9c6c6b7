"""What a program needs of an error is an attribute of it, and never has to be read out of its text."""

from __future__ import annotations

import inspect
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from customer_shop import PASSWORD, Bazaar, build
from test_customer_refunds import deaf
from test_documents_run import attributes_of
from test_readme import families

from common.clock import now_ms
from common.envelope import error_fields
from common.errors import (
    BrokerUnreachableError,
    BusUnreachableError,
    DeadlineError,
    DiscountRefusedError,
    GatewayUnreachableError,
    IdempotencyConflictError,
    InsufficientFundsError,
    MerchantOfflineError,
    OutOfStockError,
    OutOfTicketsError,
    PriceChangedError,
    TooSoonError,
    UnreachableError,
    VeilmartError,
)
from common.web.statuses import failure
from merchant_node.promotions import Promotions


@pytest.fixture(scope="module")
def bazaar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bazaar]:
    built = build(tmp_path_factory.mktemp("bazaar"))
    yield built
    built.world.close()


@pytest.fixture(scope="module")
def careful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bazaar]:
    """A market whose coins and tickets have to rest for a minute."""
    built = build(tmp_path_factory.mktemp("careful"), minimum_age_seconds=60)
    yield built
    built.world.close()


def test_a_changed_price(bazaar: Bazaar) -> None:
    bazaar.add("sports", "MOVES", 100, b"moves")
    inventory = bazaar.world.merchants["sports"].inventory
    with bazaar.customer(timeout_s=0.5) as market:
        with pytest.raises(PriceChangedError) as here:
            market.buy_now("sports", "MOVES", unit_price=90)
        assert (here.value.sku, here.value.old_price, here.value.new_price) == ("MOVES", 90, 100)
        with pytest.raises(PriceChangedError) as all_of_it:
            market.buy_now("sports", "MOVES", 2, total=199)
        facts = (all_of_it.value.sku, all_of_it.value.old_price, all_of_it.value.new_price)
        assert facts == (None, 199, 200)
        # The merchant changes it while the order is on its way.
        with deaf(bazaar, market, "/up"), pytest.raises(DeadlineError):
            market.buy_now("sports", "MOVES", idempotency_key="late")
        inventory.edit("MOVES", price=150)
        with pytest.raises(PriceChangedError) as there:
            market.buy_now("sports", "MOVES", idempotency_key="late")
        assert (there.value.sku, there.value.old_price, there.value.new_price) == ("MOVES", 100, 150)


def test_too_few(bazaar: Bazaar) -> None:
    bazaar.add("sports", "RARE", 100, b"rare", stock=1)
    with bazaar.customer() as market:
        for _ in range(2):
            with pytest.raises(OutOfStockError) as some:
                market.buy_now("sports", "RARE", 2)
            assert (some.value.sku, some.value.available) == ("RARE", 1)
        market.buy_now("sports", "RARE")
        with pytest.raises(OutOfStockError) as none:
            market.buy_now("sports", "RARE")
        assert (none.value.sku, none.value.available) == ("RARE", 0)


def test_too_little_money(bazaar: Bazaar) -> None:
    with bazaar.customer(bundles=1) as market:
        with pytest.raises(InsufficientFundsError) as wallet:
            market.buy_now("sports", "PLAN", 2)
        assert (wallet.value.missing, wallet.value.retry_at) == (2 * 1234 - 2000, None)
        with pytest.raises(InsufficientFundsError) as account:
            market.withdraw(3)
        assert account.value.missing == 6000


def test_another_purchase_under_the_same_key(bazaar: Bazaar) -> None:
    with bazaar.customer() as market:
        market.buy_now("sports", "PLAN", idempotency_key="monday")
        with pytest.raises(IdempotencyConflictError) as failure:
            market.buy_now("maps", "PLAN", idempotency_key="monday")
        assert failure.value.key == "monday"


def test_a_discount_that_asks_for_more(bazaar: Bazaar) -> None:
    store = bazaar.world.merchants["sports"].store
    Promotions(store).add("EXTRA", rate=1000, minimum=5000)
    with bazaar.customer() as market:
        with pytest.raises(DiscountRefusedError) as failure:
            market.quote_now("sports", "PLAN", code="EXTRA")
        assert (failure.value.reason, failure.value.minimum) == ("code_minimum", 5000)
        with pytest.raises(DiscountRefusedError) as unknown:
            market.quote_now("sports", "PLAN", code="NOBODY")
        assert (unknown.value.reason, unknown.value.minimum) == ("code_unknown", None)


def test_when_it_is_worth_another_try(careful: Bazaar) -> None:
    with careful.customer(bundles=0) as market:
        with pytest.raises(OutOfTicketsError) as none:
            market.show("sports", "PLAN")
        assert none.value.retry_at is None
    with careful.customer() as market:
        before = now_ms()
        with pytest.raises(OutOfTicketsError) as young:
            market.show("sports", "PLAN")
        assert before < (young.value.retry_at or 0) <= before + 60_000
    with careful.customer(allow_young=True, timeout_s=0.5) as hurried:
        with deaf(careful, hurried, "/down"), pytest.raises(DeadlineError):
            hurried.buy_now("sports", "PLAN")
        hurried.log_in(f"customer{careful.customers}", PASSWORD)
    with careful.again(hurried) as market:
        (waiting,) = market.resume()
        assert isinstance(waiting.error, TooSoonError)
        assert now_ms() < (waiting.error.retry_at or 0) <= now_ms() + 60_000


def test_who_is_silent(bazaar: Bazaar) -> None:
    hops = {
        BusUnreachableError: "bus",
        BrokerUnreachableError: "broker",
        MerchantOfflineError: "merchant",
        GatewayUnreachableError: "gateway",
    }
    assert {kind: kind("away").hop for kind in hops} == hops
    assert DeadlineError("late", hop="gateway").hop == "gateway"


# --- the same in the envelope --------------------------------------------------------------------------

TEXTS = {"message", "hint", "sku", "reason", "key", "hop", "month"}
KINDS = [
    kind
    for kind in sorted(families(VeilmartError), key=lambda kind: kind.__name__)
    if kind is not UnreachableError
]


def of_every_fact(kind: type[VeilmartError]) -> VeilmartError:
    given: dict[str, Any] = {
        name: {"number": "why"} if name == "faults" else "text" if name in TEXTS else 7
        for name in inspect.signature(kind).parameters
    }
    return kind(**given)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_attribute_of_an_error_is_a_fact_of_its_envelope(kind: type[VeilmartError]) -> None:
    error = of_every_fact(kind)
    facts = error_fields(error).get("facts", {})
    assert facts.keys() == attributes_of(kind)
    assert None not in facts.values()
    # Over REST too, whose document has their types.
    assert failure(error).facts == (facts or failure(VeilmartError("no")).facts)


def test_the_table_of_facts_is_that_of_the_code() -> None:
    found: dict[str, set[str]] = defaultdict(set)
    for kind in KINDS:
        if facts := error_fields(of_every_fact(kind)).get("facts"):
            found[kind.code] |= set(facts)
    text = (Path(__file__).parent.parent / "docs/cli.md").read_text()
    _, _, table = text.partition("| `error.code` | `error.facts` |")
    rows = [line.split("|")[1:3] for line in table.partition("\n\n")[0].splitlines()[2:]]
    described = {
        code: set(re.findall(r"`(\w+)`", facts.partition(";")[0] if code == "price_changed" else facts))
        for codes, facts in rows
        for code in re.findall(r"`(\w+)`", codes)
    }
    assert described == found
