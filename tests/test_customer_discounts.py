"""Discounts and taxes from the merchant's code to the customer's receipt, over a whole market in memory."""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from cli import Terminal, veilmart
from customer_shop import Bazaar, build, home, lose
from readme import text_of

from common import codec, messages
from common.amounts import line_amounts, total_of
from common.config import MAXIMUM_AMOUNT
from common.credentials import RECEIPT_LABEL
from common.errors import (
    DiscountRefusedError,
    IdempotencyConflictError,
    NotFoundError,
    PriceChangedError,
    RejectedError,
    UntrustedError,
    UsageError,
)
from common.keys import IdentityKey
from customer_node import Market
from customer_node.checkout import Checkout
from customer_node.receipts import Bundle, check_accepted
from customer_node.schema import receipts as receipt_rows
from customer_node.views import TaxView
from merchant_node import pricing
from merchant_node.promotions import Promotions

BOOK, BOOK_TAX = 1190, 1900
SONG, SONG_TAX = 250, 700


@pytest.fixture(scope="module")
def bazaar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bazaar]:
    built = build(tmp_path_factory.mktemp("bazaar"))
    built.add("sports", "BOOK", BOOK, b"book", tax_rate=BOOK_TAX)
    built.add("sports", "SONG", SONG, b"song", tax_rate=SONG_TAX)
    yield built
    built.world.close()


@pytest.fixture
def promotions(bazaar: Bazaar) -> Iterator[Promotions]:
    made = Promotions(bazaar.world.merchants["sports"].store)
    yield made
    for each in made.all():
        made.remove(each.code)


def money(market: Market) -> int:
    wallet = market.wallet()
    return wallet.usable + wallet.young + wallet.reserved


def used(promotions: Promotions, code: str) -> int:
    return next(each.used for each in promotions.all() if each.code == code)


# --- buying --------------------------------------------------------------------------------------------


def test_what_is_quoted_is_paid_and_stands_on_the_receipt(
    bazaar: Bazaar, promotions: Promotions, tmp_path: Path
):
    promotions.add("SUMMER", rate=1000, use_limit=1)
    with bazaar.customer() as market:
        market.cart.add("sports", "BOOK", 2)
        cart = market.cart.add("sports", "SONG")
        assert cart.taxes == (TaxView(SONG_TAX, 234, 16), TaxView(BOOK_TAX, 2000, 380))
        quote = market.quote({"sports": " summer "})
        assert [(line.discount, line.amount, line.tax) for line in quote.lines] == [
            (238, 2142, 342),
            (25, 225, 15),
        ]
        assert (quote.subtotal, quote.discount, quote.total) == (2630, 263, 2367)
        assert (quote.totals, quote.codes) == ({"sports": 2367}, {"sports": "SUMMER"})
        assert quote.taxes == (TaxView(SONG_TAX, 210, 15), TaxView(BOOK_TAX, 1800, 342))
        assert 0 < quote.valid_until - market._context.clock() <= pricing.QUOTE_LIFE_MS + 1000
        assert used(promotions, "SUMMER") == 0
        (order,) = market.buy(codes=quote.codes, totals=quote.totals)
        assert (order.subtotal, order.discount, order.total, order.code) == (2630, 263, 2367, "SUMMER")
        assert order.taxes == quote.taxes
        assert money(market) == 4000 - 2367
        assert used(promotions, "SUMMER") == 1
        receipt = market.export_receipt(order.order_id, tmp_path / "receipt.json")
        assert (receipt.subtotal, receipt.discount, receipt.total) == (2630, 263, 2367)
        assert receipt.taxes == quote.taxes
        assert [(line.amount, line.tax.amount) for line in receipt.lines] == [(2142, 342), (225, 15)]
        files = market.download(order.order_id, tmp_path)
        assert sorted(file.path.read_bytes() for file in files) == [b"book", b"song"]
        with pytest.raises(DiscountRefusedError, match="as often as it could be") as refused:
            market.buy_now("sports", "BOOK", code="SUMMER")
        assert refused.value.reason == "code_used_up"
        assert money(market) == 4000 - 2367
    with bazaar.customer(bundles=0) as another:
        assert another.verify_receipt(tmp_path / "receipt.json") == receipt


def test_a_code_is_for_one_merchant_and_the_other_is_not_told(bazaar: Bazaar, promotions: Promotions):
    promotions.add("SUMMER", rate=1000)
    with bazaar.customer() as market:
        market.cart.add("sports", "BOOK")
        market.cart.add("maps", "ROUTE")
        with pytest.raises(DiscountRefusedError, match="no such discount code"):
            market.quote({"sports": "SUMMER", "maps": "SUMMER"})
        quote = market.quote({"sports": "SUMMER"})
        assert quote.totals == {"sports": 1071, "maps": 77}
        bought = market.buy(codes=quote.codes, totals=quote.totals)
        assert {order.merchant: (order.total, order.code) for order in bought} == {
            "sports": (1071, "SUMMER"),
            "maps": (77, ""),
        }


def test_a_code_for_nothing_in_the_cart_is_not_silently_dropped(bazaar: Bazaar):
    with bazaar.customer() as market:
        market.cart.add("maps", "ROUTE")
        for act in (market.quote, lambda codes: market.buy(codes=codes)):
            with pytest.raises(UsageError, match="code for sports, and nothing to buy there"):
                act({"sports": "SUMMER"})
        assert market.orders() == ()


@pytest.mark.parametrize("code", ["", "abc", "no spaces", "ÄÖÜSS", "A" * 33])
def test_what_cannot_be_a_code_is_not_sent(bazaar: Bazaar, code: str):
    with bazaar.customer() as market, pytest.raises(UsageError, match="no discount code"):
        market.quote({"sports": code})


def test_each_refusal_has_its_reason_and_costs_nothing(bazaar: Bazaar, promotions: Promotions):
    promotions.add("LARGE", rate=1000, minimum=5000)
    promotions.add("SONGS", rate=1000, sku="SONG")
    promotions.add("GIFT", rate=10_000)
    with bazaar.customer() as market:
        for code, reason, words in (
            ("NEVER", "code_unknown", "no such discount code"),
            ("LARGE", "code_minimum", r"from 50\.00 EUR on"),
            ("SONGS", "code_unfit", "none of these products"),
            ("GIFT", "nothing_to_pay", "Nothing would be left"),
        ):
            for act in (market.quote_now, market.buy_now):
                with pytest.raises(DiscountRefusedError, match=words) as refused:
                    act("sports", "BOOK", 1, code=code)
                assert (refused.value.reason, refused.value.exit_code) == (reason, 4)
        assert market.orders() == ()
        assert money(market) == 4000


def test_a_discount_that_shrinks_after_the_quote_is_never_silently_taken(
    bazaar: Bazaar, promotions: Promotions
):
    promotions.add("SUMMER", rate=5000)
    with bazaar.customer() as market:
        agreed = market.quote_now("sports", "BOOK", code="SUMMER").total
        promotions.remove("SUMMER")
        promotions.add("SUMMER", rate=1000)
        with pytest.raises(PriceChangedError, match=r"costs 10\.71 EUR instead of 5\.95 EUR"):
            market.buy_now("sports", "BOOK", code="SUMMER", total=agreed)
        assert market.orders() == ()
        assert market.buy_now("sports", "BOOK", code="SUMMER").total == 1071


def test_a_code_that_ends_while_the_order_is_under_way_gives_the_money_back(
    bazaar: Bazaar, promotions: Promotions, monkeypatch: pytest.MonkeyPatch
):
    promotions.add("SUMMER", rate=1000)
    settle = Checkout.settle

    def remove_then_settle(checkout: Checkout, session: Any, order_id: bytes) -> None:
        if promotions.all():
            promotions.remove("SUMMER")
        settle(checkout, session, order_id)

    monkeypatch.setattr(Checkout, "settle", remove_then_settle)
    with bazaar.customer() as market:
        with pytest.raises(DiscountRefusedError, match=r"no such discount code.*money is back") as refused:
            market.buy_now("sports", "BOOK", code="SUMMER")
        assert refused.value.reason == "code_unknown"
        assert (market.last_order().state, market.last_order().failure) == ("refunded", "code_unknown")
        assert money(market) == 4000


def test_a_key_stands_for_its_code_too(bazaar: Bazaar, promotions: Promotions):
    promotions.add("SUMMER", rate=1000)
    with bazaar.customer() as market:
        first = market.buy_now("sports", "BOOK", 1, "monday", code="SUMMER")
        assert market.buy_now("sports", "BOOK", 1, "monday", code="SUMMER") == first
        for code in ("", "OTHER"):
            with pytest.raises(IdempotencyConflictError):
                market.buy_now("sports", "BOOK", 1, "monday", code=code)
        assert used(promotions, "SUMMER") == 1


def test_a_void_order_gives_the_use_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bazaar = build(tmp_path, limits={"order_deadline_minimum_ms": 500})
    promotions = Promotions(bazaar.world.merchants["sports"].store)
    promotions.add("ONCE", rate=1000, use_limit=1)
    settle = Checkout.settle

    def without_an_answer(checkout: Checkout, session: Any, order_id: bytes) -> None:
        with bazaar.tampering(lose("sports/out")):
            settle(checkout, session, order_id)

    try:
        with bazaar.customer(timeout_s=5.0) as market:
            with monkeypatch.context() as patched:
                patched.setattr(Checkout, "settle", without_an_answer)
                with pytest.raises(RejectedError, match="money is back"):
                    market.buy_now("sports", "PLAN", code="ONCE", deadline_ms=1500)
            assert bazaar.world.pump(lambda: used(promotions, "ONCE") == 0)
            assert market.buy_now("sports", "PLAN", code="ONCE").total == 1111
        assert used(promotions, "ONCE") == 1
    finally:
        bazaar.world.close()


def test_a_cart_beyond_what_a_market_can_handle(bazaar: Bazaar):
    bazaar.add("sports", "PALACE", MAXIMUM_AMOUNT, b"palace")
    with bazaar.customer() as market:
        market.cart.add("sports", "PALACE")
        market.cart.add("sports", "BOOK")
        for act in (
            lambda: market.cart.add("sports", "PALACE"),
            lambda: market.cart.set("sports", "PALACE", 2),
            market.quote,
            market.buy,
        ):
            with pytest.raises(RejectedError):
                act()
        assert market.cart.view().total == MAXIMUM_AMOUNT + BOOK
        assert market.orders() == ()


# --- what a merchant might try -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"total": 1071 + 1},
        {"discount": 0},
        {"subtotal": 1},
        {"taxes": []},
        {"currency": "USD"},
        {"lines": "amount"},
        {"lines": "tax"},
        {"lines": "sku"},
        {"lines": "discount"},
    ],
)
def test_a_quote_that_does_not_add_up_is_refused(
    bazaar: Bazaar, promotions: Promotions, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
):
    promotions.add("SUMMER", rate=1000)
    answer = pricing.answer_quote

    def lie(*arguments: Any) -> Any:
        quote = answer(*arguments)
        (line,) = quote.lines
        lines = {
            "amount": {"amount": line.amount - 1},
            "tax": {"tax": msgspec.structs.replace(line.tax, base=line.tax.base - 1)},
            "sku": {"sku": "SONG"},
            "discount": {"discount": line.unit_price + 1},
        }
        if "lines" not in changes:
            # A list of no taxes would not even be decoded: one of another rate.
            other = [messages.Tax(rate=0, base=quote.total, amount=0)]
            return msgspec.structs.replace(quote, **(changes if "taxes" not in changes else {"taxes": other}))
        return msgspec.structs.replace(
            quote, lines=[msgspec.structs.replace(line, **lines[changes["lines"]])]
        )

    monkeypatch.setattr("merchant_node.browse.answer_quote", lie)
    with bazaar.customer() as market:
        for act in (market.quote_now, market.buy_now):
            with pytest.raises(UntrustedError):
                act("sports", "BOOK", code="SUMMER")
        assert market.orders() == ()
        assert money(market) == 4000


def test_a_discount_nobody_asked_for_is_refused(
    bazaar: Bazaar, promotions: Promotions, monkeypatch: pytest.MonkeyPatch
):
    """A price of a customer's own would mark that customer's order."""
    promotions.add("SUMMER", rate=1000)
    find = pricing.Redemptions.find
    monkeypatch.setattr(pricing.Redemptions, "find", lambda self, _code, now: find(self, "SUMMER", now))
    monkeypatch.setattr(
        "merchant_node.browse.Redemptions",
        lambda tx, _codes: pricing.Redemptions(tx, ["SUMMER"]),
    )
    with bazaar.customer() as market, pytest.raises(UntrustedError, match="does not add up"):
        market.quote_now("sports", "BOOK")


def signed_anew(bazaar: Bazaar, packed: bytes, **changes: Any) -> tuple[bytes, bytes]:
    receipt = msgspec.structs.replace(codec.RECEIPT.unpack(packed), **changes)
    again = codec.pack(receipt)
    key = IdentityKey.load(bazaar.world.root / "merchants" / "sports" / "identity.key")
    return again, key.sign(RECEIPT_LABEL, again)


def test_a_signed_receipt_that_does_not_add_up_proves_nothing(
    bazaar: Bazaar, promotions: Promotions, tmp_path: Path
):
    promotions.add("SUMMER", rate=1000)
    path = tmp_path / "receipt.json"
    with bazaar.customer() as market:
        order = market.buy_now("sports", "BOOK", 2, code="SUMMER")
        market.export_receipt(order.order_id, path)
        bundle = json.loads(path.read_text())
        genuine = base64.b64decode(bundle["receipt"])
        receipt = codec.RECEIPT.unpack(genuine)
        (line,) = receipt.lines
        (tax,) = receipt.taxes
        replace = msgspec.structs.replace
        for changes in (
            {"total": receipt.total + 1},
            {"subtotal": receipt.subtotal - 1},
            {"discount": receipt.discount + 1},
            {"taxes": [replace(tax, base=tax.base + 1, amount=tax.amount - 1)]},
            {"taxes": [replace(tax, rate=0)]},
            {"taxes": [tax, tax]},
            {"lines": [replace(line, amount=line.amount + 1)]},
            {"lines": [replace(line, discount=0)]},
            {"lines": [replace(line, discount=MAXIMUM_AMOUNT)]},
            {"lines": [replace(line, tax=replace(line.tax, amount=0, base=line.amount))]},
            {"lines": [replace(line, unit_price=MAXIMUM_AMOUNT)]},
            {"lines": [line, line]},
        ):
            again, signature = signed_anew(bazaar, genuine, **changes)
            forged = {
                **bundle,
                "receipt": base64.b64encode(again).decode(),
                "signature": base64.b64encode(signature).decode(),
            }
            path.write_text(json.dumps(forged))
            with pytest.raises(UntrustedError, match=r"does not prove|not what the merchant"):
                market.verify_receipt(path)
            with pytest.raises(UntrustedError, match="not about this order"):
                accept(bazaar, market, order.order_id, again, signature)
        # One that adds up, but to something else than was ordered.
        figures = line_amounts(line.unit_price, line.quantity, line.discount + 1, line.tax.rate)
        other = replace(line, discount=figures.discount, amount=figures.amount, tax=figures.tax)
        sums = total_of([figures])
        again, signature = signed_anew(
            bazaar, genuine, lines=[other], discount=sums.discount, taxes=list(sums.taxes), total=sums.total
        )
        with pytest.raises(UntrustedError, match="not about this order"):
            accept(bazaar, market, order.order_id, again, signature)
        accept(bazaar, market, order.order_id, *signed_anew(bazaar, genuine))


def accept(bazaar: Bazaar, market: Market, order_id: str, receipt: bytes, signature: bytes) -> None:
    """Check an answer to an order as checkout does."""
    from customer_node import orders  # noqa: PLC0415 - used here alone

    with market._context.profile.store.immediate() as tx:
        order = orders.load(tx, bytes.fromhex(order_id))
    identity = bazaar.world.merchants["sports"].shop.identity.public
    accepted = messages.OrderAccepted(receipt=receipt, signature=signature)
    check_accepted(order, accepted, identity, market._context.profile.market_id)


# --- what was signed before there were taxes -----------------------------------------------------------


def test_a_receipt_from_before_taxes_still_proves(bazaar: Bazaar, tmp_path: Path):
    with bazaar.customer() as market:
        order = market.buy_now("sports", "PLAN", 2)
        store = market._context.profile.store
        with store.immediate() as tx:
            packed = tx.scalar(sa.select(receipt_rows.c.receipt))
        now = codec.RECEIPT.unpack(packed)
        lines = [[*(getattr(line, name) for name in EARLIER_LINE)] for line in now.lines]
        before = codec.pack([now.market, now.merchant, now.order_id, lines, now.total, now.currency, now.at])
        key = IdentityKey.load(bazaar.world.root / "merchants" / "sports" / "identity.key")
        with store.immediate() as tx:
            tx.execute(
                sa.update(receipt_rows).values(receipt=before, signature=key.sign(RECEIPT_LABEL, before))
            )
        receipt = market.receipt(order.order_id)
        assert (receipt.total, receipt.discount, receipt.taxes) == (2468, 0, (TaxView(0, 2468, 0),))
        assert market.order(order.order_id).cells == 3
        (file,) = market.download(order.order_id, tmp_path)
        assert file.size == 150_000
        market.export_receipt(order.order_id, tmp_path / "receipt.json")
        assert market.verify_receipt(tmp_path / "receipt.json") == receipt
        with pytest.raises(UntrustedError):
            accept(bazaar, market, order.order_id, before, key.sign(RECEIPT_LABEL, before))


EARLIER_LINE = (
    "sku",
    "title",
    "record",
    "quantity",
    "unit_price",
    "amount",
    "file_name",
    "size",
    "digest",
    "first_cell",
    "cells",
)


# --- the commands --------------------------------------------------------------------------------------


@pytest.fixture
def command(bazaar: Bazaar, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("veilmart.cli.profiles.Market", partial(Market, connect=bazaar.world.connect))
    with bazaar.customer() as market:
        pass

    def run(*words: Any) -> Any:
        return veilmart(*words, "--profile", home(market))

    return run


def merchant(bazaar: Bazaar, *words: Any) -> Any:
    return veilmart("merchant", *words, "--home", bazaar.world.root / "merchants" / "sports")


def test_codes_are_made_listed_and_removed_by_command(bazaar: Bazaar, promotions: Promotions):
    made = merchant(
        bazaar, "discount", "add", "summer-25", "--percent", "7.5", "--from", "2026-01-01", "--until",
        "2099-12-31", "--limit", "3", "--minimum", "5.00", "--sku", "BOOK", "--json",
    ).data  # fmt: skip
    assert (made["code"], made["rate"], made["minimum"], made["use_limit"]) == ("SUMMER-25", 750, 500, 3)
    assert made["ends"] - made["starts"] == 27028 * 86_400_000
    merchant(bazaar, "discount", "add", "FIVER", "--amount", "5.00")
    listed = merchant(bazaar, "discount", "list")
    assert listed.out.splitlines()[1:] == [
        "FIVER\t5.00 EUR\teverything\t\t\t\t0",
        "SUMMER-25\t7.5 %\tBOOK\t5.00 EUR\t2026-01-01\t2099-12-31\t0 of 3",
    ]
    told = merchant(bazaar, "privacy")
    assert "BOOK\tFIVER\t6.90 EUR\t1\t0\t" in told.out
    assert "narrows down who may have used it" in told.out
    assert merchant(bazaar, "discount", "remove", "fiver").code == 0
    assert [each.code for each in promotions.all()] == ["SUMMER-25"]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("FIVER", "--amount", "5.001"), 2),
        (("FIVER", "--amount", "0"), 2),
        (("FIVER", "--percent", "101"), 2),
        (("FIVER", "--percent", "-1"), 2),
        (("FIVER",), 2),
        (("FIVER", "--percent", "5", "--amount", "1"), 2),
        (("FIVER", "--percent", "5", "--until", "soon"), 2),
        (("FIVER", "--percent", "5", "--until", "1999-12-31"), 2),
        (("FIVER", "--percent", "5", "--limit", "0"), 2),
        (("FIVER", "--percent", "5", "--sku", "NONE"), 3),
        (("F", "--percent", "5"), 2),
    ],
)
def test_codes_that_make_no_sense_by_command(
    bazaar: Bazaar, promotions: Promotions, words: tuple[str, ...], code: int
):
    assert merchant(bazaar, "discount", "add", *words, "--json").code == code
    assert promotions.all() == []


def test_buying_with_a_code_by_command(bazaar: Bazaar, promotions: Promotions, command: Any, tmp_path: Path):
    promotions.add("SUMMER", rate=1000)
    command("cart", "add", "sports", "BOOK", "--quantity", "2")
    shown = command("cart", "add", "sports", "SONG")
    assert shown.out.splitlines()[-2:] == [
        "in it 7 % tax on 2.34 EUR: 0.16 EUR",
        "in it 19 % tax on 20.00 EUR: 3.80 EUR",
    ]
    quoted = command("cart", "show", "--code", "summer").out.splitlines()
    assert quoted[1] == "sports\tBOOK\tBOOK of sports\t2\t11.90 EUR\t\tin\t-2.38 EUR\t21.42 EUR"
    assert quoted[3:] == [
        "together 23.67 EUR (26.30 EUR less 2.63 EUR by SUMMER)",
        "in it 7 % tax on 2.10 EUR: 0.15 EUR",
        "in it 19 % tax on 18.00 EUR: 3.42 EUR",
    ]
    assert command("buy", "--dry-run", "--code", "SUMMER", "--json").data["quote"]["total"] == 2367
    refused = command("buy", "--yes", "--code", "WINTER", "--json")
    assert (refused.code, refused.error["code"], refused.error["reason"]) == (
        4,
        "discount_refused",
        "code_unknown",
    )
    bought = command("buy", "--yes", "--code", "sports=SUMMER", "--json").data
    assert bought["orders"][0]["total"] == 2367
    receipt = command("receipt", "--last", "--out", tmp_path / "receipt.json").out
    for line in (
        "subtotal\t26.30 EUR",
        "discount\t-2.63 EUR",
        "total\t23.67 EUR",
        "tax in it, 7 %\t0.15 EUR on 2.10 EUR",
        "tax in it, 19 %\t3.42 EUR on 18.00 EUR",
    ):
        assert line in receipt.splitlines()
    assert "BOOK of sports\t2\t11.90 EUR\t-2.38 EUR\t21.42 EUR\t19 %: 3.42 EUR\tbook.bin" in receipt
    assert "the receipt holds" in command("receipt", "verify", tmp_path / "receipt.json").out
    order = command("order", "show", bought["orders"][0]["order_id"]).out
    assert "discount\t-2.63 EUR" in order


def test_a_person_is_asked_about_the_discounted_total(
    bazaar: Bazaar, promotions: Promotions, command: Any, monkeypatch: pytest.MonkeyPatch
):
    promotions.add("SUMMER", rate=1000)
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    bought = command("buy", "sports", "BOOK", "--code", "SUMMER")
    assert "Buy 1 x BOOK of sports of sports for 10.71 EUR (11.90 EUR less 1.19 EUR by SUMMER)?" in bought.err
    assert bought.code == 0
    command("cart", "add", "sports", "SONG")
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    bought = command("buy", "--code", "SUMMER")
    assert "Buy for 2.25 EUR? [y/N]" in bought.err
    assert "accepted, 2.25 EUR" in bought.out


def test_whose_code_it_is_has_to_be_said(bazaar: Bazaar, promotions: Promotions, command: Any):
    promotions.add("SUMMER", rate=1000)
    command("cart", "add", "sports", "BOOK")
    command("cart", "add", "maps", "ROUTE")
    for words in (("--code", "SUMMER"), ("--code", "sports=A-CODE", "--code", "sports=SUMMER")):
        assert command("cart", "show", *words).code == 2
    assert command("cart", "show", "--code", "nobody=SUMMER").code == 2
    assert "by SUMMER" in command("cart", "show", "--code", "sports=SUMMER").out


def test_a_product_has_the_shops_tax_or_its_own(bazaar: Bazaar, command: Any, tmp_path: Path):
    place = bazaar.world.root / "merchants" / "sports"
    (tmp_path / "taxed").write_text("taxed")
    words = ("product", "add", tmp_path / "taxed", "--title", "Taxed", "--price", "1.07")
    assert merchant(bazaar, *words, "--sku", "T-OWN", "--tax", "7", "--json").data["tax_rate"] == 700
    assert merchant(bazaar, *words, "--sku", "T-SHOP", "--json").data["tax_rate"] == 0
    init = (
        "merchant",
        "init",
        "sports",
        "--name",
        "S",
        "--market",
        bazaar.world.market_path,
        "--home",
        place,
    )
    veilmart(*init, "--tax", "19")
    veilmart(*init)
    assert merchant(bazaar, *words, "--sku", "T-NEW", "--json").data["tax_rate"] == 1900
    assert merchant(bazaar, "product", "edit", "T-NEW", "--tax", "0", "--json").data["tax_rate"] == 0
    assert merchant(bazaar, *words, "--sku", "T-MUCH", "--tax", "101").code == 2
    for sku in ("T-OWN", "T-SHOP", "T-NEW"):
        merchant(bazaar, "product", "remove", sku)


def test_there_is_nothing_of_a_merchant_that_sells_nothing_like_it(bazaar: Bazaar):
    with bazaar.customer() as market, pytest.raises(NotFoundError):
        market.quote_now("sports", "NOTHING")


def test_the_bundle_of_an_earlier_form_is_no_receipt(tmp_path: Path):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(
            {
                "veilmart_receipt": 1,
                **dict.fromkeys(("receipt", "signature", "certificate", "ca_certificate", "market"), ""),
                "order": {},
            },
            Bundle,
        )


def test_the_readmes_section_on_prices_works(
    bazaar: Bazaar, promotions: Promotions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    block = text_of("prices")
    bazaar.add("sports", "PLAN-10K", 990, b"run, rest, run", "plan.md")
    with bazaar.customer() as market:
        pass
    monkeypatch.setattr("veilmart.cli.profiles.Market", partial(Market, connect=bazaar.world.connect))
    monkeypatch.chdir(tmp_path)
    here = {"VEILMART_PROFILE": str(home(market)), "VEILMART_MERCHANT": "sports"}
    shown = {}
    for line in block.splitlines():
        words = shlex.split(line)
        assert words[0] == "veilmart"
        ran = veilmart(*words[1:], home=bazaar.world.root, **here)
        assert ran.code == 0, (line, ran.err)
        shown[" ".join(words[1:4])] = ran.out
    assert "8.91 EUR (9.90 EUR less 0.99 EUR by SUMMER)" in shown["customer cart show"]
    assert "the receipt holds" in shown["customer receipt verify"]
    assert "1 of 100" in shown["merchant discount list"]
