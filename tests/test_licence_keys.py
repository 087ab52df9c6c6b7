"""Licence keys: one for each copy, never twice, whatever crashes, is repeated or becomes void."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from merchant_world import Identities, make_identities
from merchant_world import World as Shop
from structlog.testing import capture_logs

from common import codec, config, messages
from common.errors import UsageError
from common.receipts import cells_needed, check_line, has_keys
from common.sealing import AnswerKey
from customer_node.files import spans
from merchant_node import licence_keys, schema
from merchant_node.licence_keys import AddedKeys, KeyCounts

SECRET = bytes(32)


class CrashError(Exception):
    """The process ends here."""


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Identities:
    return make_identities(tmp_path_factory.mktemp("market"))


def listed(folder: Path, *keys: str) -> Path:
    path = folder / "list.txt"
    path.write_text("".join(f"{key}\n" for key in keys))
    return path


def opened(folder: Path, identities: Identities, *keys: str) -> Shop:
    shop = Shop(folder, identities)
    shop.inventory.add(None, "KEY", title="A key", price=100, keys=listed(folder, *keys))
    shop.open_session()
    return shop


@pytest.fixture
def shop(identities: Identities, tmp_path: Path) -> Iterator[Shop]:
    shop = opened(tmp_path, identities, *(f"key-{number}" for number in range(5)))
    yield shop
    shop.close()


@dataclass
class Sale:
    """An order, and what its customer has read of it."""

    order: messages.ForwardOrder
    key: AnswerKey
    line: messages.ReceiptLine | None
    paid: bool = False
    void: bool = False
    read: list[bytes] = field(default_factory=list)

    @property
    def holds(self) -> int:
        """How many keys it has."""
        return self.line.quantity if self.line is not None and not self.void else 0


def sold(shop: Shop, quantity: int = 1, sku: str = "KEY") -> Sale:
    order, key = shop.order((sku, quantity), fetch_secret=SECRET)
    return answered(shop, order, key)


def answered(shop: Shop, order: messages.ForwardOrder, key: AnswerKey) -> Sale:
    (answer,) = shop.ask(order)
    body: Any = key.unseal(answer.answer)
    accepted = answer.verdict == "accepted"
    return Sale(order, key, codec.RECEIPT.unpack(body.receipt).lines[0] if accepted else None)


def read(shop: Shop, sale: Sale) -> bytes:
    """Fetch the line's last cell, and give the keys in it as they were signed."""
    line = sale.line
    assert line is not None
    fetch, key = shop.fetch(sale.order.order_id, line.cells - 1, 1, secret=SECRET)
    assert shop.ask(fetch) == []
    (cell,) = shop.cells()
    _, content = key.unseal_cell(cell)
    assert not any(content[line.keys_size :])
    text = content[: line.keys_size]
    assert hashlib.sha256(sale.key.salt("keys") + text).digest() == line.keys_digest
    return text


def void(shop: Shop, sale: Sale) -> None:
    shop.ask(messages.OrderOutcome(order_id=sale.order.order_id, outcome="void"))


def counts(shop: Shop, sku: str = "KEY") -> KeyCounts:
    found = shop.inventory.key_counts(sku)
    (product,) = (each for each in shop.inventory.products() if each.record.sku == sku)
    assert product.stock == found.left, "the stock is what is left of the keys"
    return found


# --- one for each copy ---------------------------------------------------------------------------------


def test_each_copy_gets_a_key_of_its_own_and_the_same_one_each_time(shop: Shop):
    first, second = sold(shop, 2), sold(shop)
    for sale in (first, second):
        shop.captured(sale.order)
    assert read(shop, first) == b"key-0\nkey-1\n"
    assert read(shop, second) == b"key-2\n"
    again = answered(shop, first.order, first.key)
    assert again.line == first.line, "a repeated order takes none"
    shop.start()
    shop.open_session()
    assert read(shop, first) == b"key-0\nkey-1\n", "nor does another process"
    assert counts(shop) == KeyCounts(left=2, given=3)


def test_one_batch_and_one_order_of_several_lines(shop: Shop):
    asked = [shop.order(("KEY", 2), fetch_secret=SECRET) for _ in range(3)]
    twice = shop.order(("KEY", 1), ("KEY", 1), fetch_secret=SECRET)
    answers = shop.ask(asked[0][0], twice[0], asked[1][0], asked[2][0], asked[0][0])
    assert sorted(answer.verdict for answer in answers) == ["accepted"] * 3 + ["rejected"] * 2
    assert counts(shop) == KeyCounts(left=1, given=4)


def test_unpaid_orders_are_served_nothing_and_void_ones_give_their_keys_back(shop: Shop):
    sale = sold(shop, 3)
    fetch, key = shop.fetch(sale.order.order_id, 0, 1, secret=SECRET)
    (refusal,) = shop.ask(fetch)
    assert key.unseal(refusal.answer) == messages.RequestRefused(code="not_yet")
    for _ in range(2):
        void(shop, sale)
        assert counts(shop) == KeyCounts(left=5, given=0)
    (refusal,) = shop.ask(fetch)
    assert shop.cells() == []
    other = sold(shop, 3)
    shop.captured(other.order)
    assert read(shop, other) == b"key-0\nkey-1\nkey-2\n"
    void(shop, sale)
    assert counts(shop) == KeyCounts(left=2, given=3)


def test_a_refunded_sale_keeps_its_key(shop: Shop):
    sale = sold(shop)
    shop.captured(sale.order)
    shop.ask(messages.OrderOutcome(order_id=sale.order.order_id, outcome="refunded"))
    assert counts(shop) == KeyCounts(left=4, given=1)


def test_a_crash_before_the_commit_gives_nothing_away(shop: Shop, monkeypatch: pytest.MonkeyPatch):
    order, key = shop.order(("KEY", 2), fetch_secret=SECRET)

    def crash(*_: object) -> None:
        raise CrashError

    # After the keys are marked, before the transaction ends.
    with monkeypatch.context() as patch:
        patch.setattr("common.store.Tx.commit", crash)
        with pytest.raises(CrashError):
            shop.ask(order)
    assert counts(shop) == KeyCounts(left=5, given=0)
    shop.start()
    shop.open_session()
    sale = answered(shop, order, key)
    shop.captured(order)
    assert read(shop, sale) == b"key-0\nkey-1\n"


STEPS = st.lists(
    st.tuples(
        st.sampled_from(("order", "repeat", "void", "captured", "read", "crash", "add")), st.integers(0, 7)
    ),
    max_size=24,
)


@pytest.fixture(scope="module")
def long_lived(identities: Identities, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    shop = opened(tmp_path_factory.mktemp("shop"), identities, "first")
    yield shop
    shop.close()


@settings(max_examples=25, deadline=None)
@given(STEPS)
def test_whatever_happens_no_key_is_read_in_two_sales(long_lived: Shop, steps: list[tuple[str, int]]):
    shop, sku = long_lived, f"KEY-{long_lived.random(8).hex()}"
    keys = [f"{sku} {number}" for number in range(3)]
    shop.inventory.add(None, sku, title="A key", price=100, keys=listed(shop.home, *keys))
    sales: list[Sale] = []
    for step, number in steps:
        if step == "order":
            sales.append(sold(shop, 1 + number % 3, sku))
        elif step == "add":
            # The last one is known already, sold or not.
            new = [f"{sku} {len(keys) + index}" for index in range(2)]
            assert shop.inventory.add_keys(sku, listed(shop.home, keys[-1], *new)).added == 2
            keys += new
        elif step == "crash":
            shop.start()
            shop.open_session()
        elif sales:
            go_on(shop, sales[number % len(sales)], step)
        assert counts(shop, sku).given == sum(sale.holds for sale in sales)
    given_keys = [key for sale in sales if sale.paid for key in read(shop, sale).split(b"\n")[:-1]]
    assert len(set(given_keys)) == len(given_keys)
    assert all(len(set(sale.read)) <= 1 for sale in sales)
    assert sum(vars(counts(shop, sku)).values()) == len(keys)


def go_on(shop: Shop, sale: Sale, step: str) -> None:
    match step:
        case "repeat":
            assert answered(shop, sale.order, sale.key).line == sale.line
        case "void" if not sale.paid:
            void(shop, sale)
            sale.void = True
        case "captured" if sale.line is not None and not sale.void:
            shop.captured(sale.order)
            sale.paid = True
        case "read" if sale.paid:
            sale.read.append(read(shop, sale))
        case _:
            pass


# --- lists ---------------------------------------------------------------------------------------------


def test_a_key_is_known_once_in_the_shop(shop: Shop, tmp_path: Path):
    void_of = sold(shop)
    more = listed(tmp_path, "key-0", "key-9", "  ", "key-9", "key-4")
    assert shop.inventory.add_keys("KEY", more) == AddedKeys(added=1, known=3, left=5)
    assert shop.inventory.add_keys("KEY", more) == AddedKeys(added=0, known=4, left=5)
    shop.inventory.add(None, "OTHER", title="Other", price=5, keys=listed(tmp_path, "key-1", "mine"))
    assert shop.inventory.key_counts("OTHER") == KeyCounts(left=1, given=0)
    shop.inventory.remove("KEY")
    void(shop, void_of)
    shop.inventory.add(None, "KEY", title="Again", price=100, keys=listed(tmp_path, "key-10"))
    assert counts(shop) == KeyCounts(left=7, given=0)


def test_a_product_without_keys_does_not_end_because_none_is_new(shop: Shop, tmp_path: Path):
    plan = tmp_path / "plan.md"
    plan.write_bytes(b"plan")
    before = shop.inventory.add(plan, "PLAIN", title="Plain", price=5)
    with pytest.raises(UsageError, match="none of the keys is new"):
        shop.inventory.add_keys("PLAIN", listed(tmp_path, "key-0"))
    (present,) = (each for each in shop.inventory.products() if each.record.sku == "PLAIN")
    assert (present.record, present.stock) == (before, None)
    assert shop.inventory.add_keys("PLAIN", listed(tmp_path, "key-0", "new")).left == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no key"),
        (b"\n \n", "no key"),
        (b"good\nsecret\x1b[2J\n", "line 2"),
        (b"a" * 1025, "line 1"),
        (b"\xff\xfe", "UTF-8"),
    ],
)
def test_what_is_no_list_of_keys(tmp_path: Path, content: bytes, said: str):
    path = tmp_path / "keys"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=said) as refused:
        licence_keys.read_file(path)
    assert "secret" not in f"{refused.value.message}{refused.value.hint}"


def test_stock_and_keys_exclude_each_other(shop: Shop, tmp_path: Path):
    keys = listed(tmp_path, "x")
    with pytest.raises(UsageError, match="stock"):
        shop.inventory.add(None, "X", title="X", price=1, keys=keys, stock=3)
    with pytest.raises(UsageError, match="stock"):
        shop.inventory.edit("KEY", stock=3)
    with pytest.raises(UsageError, match="file"):
        shop.inventory.add(None, "X", title="X", price=1)


def test_long_keys_are_sold_as_far_as_they_fit_one_cell(identities: Identities, tmp_path: Path):
    shop = opened(tmp_path, identities, *(f"{number:01024}" for number in range(70)))
    order, key = shop.order(("KEY", 64), fetch_secret=SECRET)
    (answer,) = shop.ask(order)
    refused: Any = key.unseal(answer.answer)
    assert (refused.code, refused.available) == ("out_of_stock", 63)
    sale = sold(shop, 63)
    assert sale.line is not None
    assert (sale.line.cells, sale.line.keys_size) == (1, 63 * 1025)
    shop.captured(sale.order)
    assert len(read(shop, sale).splitlines()) == 63
    shop.close()


def test_the_merchant_is_warned_when_few_are_left(identities: Identities, tmp_path: Path):
    shop = opened(tmp_path, identities, *(f"key {number}" for number in range(12)))
    with capture_logs() as logs:
        sold(shop)
        assert not logs
        sold(shop)
        sold(shop)
    (warning,) = logs
    assert (warning["event"], warning["sku"], warning["left"]) == ("few licence keys are left", "KEY", 10)
    shop.close()


def test_a_receipt_without_the_promised_keys_contradicts_its_record(shop: Shop):
    sale = sold(shop)
    assert sale.line is not None
    with shop.store.immediate() as tx:
        packed = tx.scalar(
            schema.product_versions.select().with_only_columns(schema.product_versions.c.record)
        )
    body: Any = sale.key.unseal(shop.ask(sale.order)[0].answer)
    receipt = codec.RECEIPT.unpack(body.receipt)
    check_line(sale.line, packed, receipt)
    fields = {name: getattr(sale.line, name) for name in sale.line.__struct_fields__}
    for changed in ({"keys_size": 0, "keys_digest": b""}, {"keys_digest": b""}, {"keys_size": 0}):
        line = messages.ReceiptLine(**(fields | changed))
        assert has_keys(line) is not True
        with pytest.raises(Exception, match="promise of licence keys"):
            check_line(line, packed, receipt)


@given(st.integers(0, 5 * config.CELL_CONTENT), st.booleans(), st.integers(0, 3))
def test_files_and_keys_never_share_a_cell(size: int, keys: bool, more: int):  # noqa: FBT001 - drawn
    cells = cells_needed(size, keys=keys) + more
    line = messages.ReceiptLine(
        sku="X", title="X", record=bytes(32), quantity=2, unit_price=1, discount=0, amount=2,
        tax=messages.Tax(rate=0, base=2, amount=0), file_name="x", size=size, digest=bytes(32),
        first_cell=7, cells=cells, keys_size=9 * keys, keys_digest=bytes(32 * keys),
    )  # fmt: skip
    found = spans(line, b"")
    assert [span.keys for span in found] == ([0] if size or not keys else []) + [2] * keys
    taken = [cell for span in found for cell in range(span.first_cell, span.first_cell + span.cells)]
    assert len(set(taken)) == len(taken)
    assert set(taken) <= set(range(7, 7 + cells))
    assert all(span.size <= span.cells * config.CELL_CONTENT for span in found)
