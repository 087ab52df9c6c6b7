"""The catalog and the inventory: what is offered, what is shown, and what each change does."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from merchant_world import MERCHANT, Identities, World, make_identities

from common import codec, config, messages
from common.credentials import PRODUCT_RECORD_LABEL
from common.errors import NotFoundError, UsageError
from common.keys import verify_identity
from common.messages import GetImage, GetProduct, ListProducts, ProductPage, RequestRefused
from merchant_node import catalog as catalogs
from merchant_node import schema
from merchant_node.catalog import Catalog, Product, page_answer
from merchant_node.content import IMAGE_MAXIMUM

PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Identities:
    return make_identities(tmp_path_factory.mktemp("market"))


@pytest.fixture
def world(identities: Identities, tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path, identities)
    yield world
    world.close()


def add(world: World, sku: str, size: int = 10, **fields: Any) -> messages.ProductRecord:
    file = world.home / f"{sku}.bin"
    file.write_bytes(hashlib.shake_256(sku.encode()).digest(size))
    world.now += 1000
    return world.inventory.add(file, sku, **({"title": sku.title(), "price": 500} | fields))


def find(world: World, search: str = "", **options: Any) -> ProductPage:
    fields = {"category": "", "sort": "title", "offset": 0} | options
    page = world.browse(ListProducts(search=search, **fields))
    assert isinstance(page, ProductPage)
    return page


def skus(page: ProductPage) -> list[str]:
    return [product.sku for product in page.products]


@pytest.fixture
def shop(world: World) -> World:
    add(world, "plan", title="Marathon plan", category="Plans", tags=["running"], price=900, stock=2)
    add(world, "route", title="Lake route", category="Routes", description="Eine RUNDE um den See", price=300)
    add(world, "photo", title="alps at dawn", category="Photos", tags=["Running"], price=300, stock=0)
    world.open_session()
    return world


# --- looking around ------------------------------------------------------------------------------------


def test_search_looks_everywhere_in_any_case(shop: World) -> None:
    assert skus(find(shop)) == ["photo", "route", "plan"]
    assert skus(find(shop, "MARATHON")) == ["plan"]
    assert skus(find(shop, "runde see")) == ["route"]
    assert skus(find(shop, "running")) == ["photo", "plan"]
    assert skus(find(shop, "routes")) == ["route"]
    assert skus(find(shop, "phOTo")) == ["photo"]
    assert skus(find(shop, "running alps")) == ["photo"]
    assert skus(find(shop, "nothing")) == []


def test_category_and_sort(shop: World) -> None:
    assert skus(find(shop, category="Routes")) == ["route"]
    assert skus(find(shop, sort="price")) == ["photo", "route", "plan"]
    assert skus(find(shop, sort="newest")) == ["photo", "route", "plan"]
    assert find(shop).categories == ["Photos", "Plans", "Routes"]


def test_stock_is_shown_as_a_level_only(shop: World) -> None:
    assert {product.sku: product.stock for product in find(shop).products} == {
        "plan": "low",
        "route": "in",
        "photo": "out",
    }
    shop.inventory.edit("plan", stock=4)
    assert shop.browse(GetProduct(sku="plan")).stock == "in"


def test_pages_follow_each_other(world: World) -> None:
    for n in range(45):
        add(world, f"p{n:02}")
    world.open_session()
    seen: list[str] = []
    offset = 0
    while True:
        page = find(world, offset=offset)
        assert page.total == 45
        seen += skus(page)
        offset = page.next_offset
        if not offset:
            break
    assert seen == [f"p{n:02}" for n in range(45)]
    assert find(world, offset=45).products == []
    assert find(world, offset=2**31).next_offset == 0


def test_the_record_is_signed(shop: World) -> None:
    detail = shop.browse(GetProduct(sku="plan"))
    verify_identity(shop.identities.merchant.public, PRODUCT_RECORD_LABEL, detail.record, detail.signature)
    record = codec.PRODUCT_RECORD.unpack(detail.record)
    assert (record.merchant, record.sku, record.version, record.currency) == (MERCHANT, "plan", 1, "EUR")
    assert record.digest == hashlib.sha256((shop.home / "plan.bin").read_bytes()).digest()


def test_images(shop: World) -> None:
    (shop.home / "a.png").write_bytes(PNG)
    shop.inventory.edit("plan", image=shop.home / "a.png", image_alt="A runner")
    image = shop.browse(GetImage(sku="plan"))
    assert (image.media_type, image.data) == ("image/png", PNG)
    record = codec.PRODUCT_RECORD.unpack(shop.browse(GetProduct(sku="plan")).record)
    assert (record.image_digest, record.image_alt) == (hashlib.sha256(PNG).digest(), "A runner")
    for path in (shop.home / "images").iterdir():
        path.unlink()
    shop.start()
    shop.open_session()
    assert shop.browse(GetImage(sku="plan")) == RequestRefused(code="not_found")


def test_what_is_not_there_looks_like_what_is(shop: World) -> None:
    for found, missing in (
        (GetProduct(sku="plan"), GetProduct(sku="none")),
        (ListProducts(search="", category="", sort="title", offset=0),) * 2,
        (GetImage(sku="none"), GetImage(sku="plan")),
    ):
        sizes = set()
        for body in (found, missing):
            forward, key = shop.forward(body)
            (answer,) = shop.ask(forward)
            sizes.add(len(answer.answer))
            key.unseal(answer.answer)
        assert len(sizes) == 1
    assert shop.browse(GetProduct(sku="none")) == RequestRefused(code="not_found")
    assert shop.browse(GetImage(sku="plan")) == RequestRefused(code="not_found")


def test_an_answer_is_never_the_same_twice(shop: World) -> None:
    forward, key = shop.forward(GetProduct(sku="plan"))
    (first,) = shop.ask(forward)
    (second,) = shop.ask(forward)
    assert first.answer != second.answer
    assert key.unseal(first.answer) == key.unseal(second.answer)


def test_what_does_not_belong_here_is_dropped(shop: World) -> None:
    forward, _ = shop.forward(messages.GetCells(order_id=bytes(16), fetch_secret=bytes(32), first=0, count=1))
    good, key = shop.forward(GetProduct(sku="plan"))
    (answer,) = shop.ask(forward, good)
    assert key.unseal(answer.answer)
    assert shop.merchant.refused["forged"] == 1


WIDE = st.text(st.characters(min_codepoint=0x10000, max_codepoint=0x10FFFF), min_size=30, max_size=40)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(WIDE, WIDE, st.integers(0, 16)), min_size=1, max_size=80))
def test_a_page_always_fits_its_size(texts: list[tuple[str, str, int]]) -> None:
    catalog = Catalog()
    products = [product(n, *fields) for n, fields in enumerate(texts)]
    catalog.show(products)
    offset, seen = 0, 0
    while True:
        page = catalog.find(ListProducts(search="", category="", sort="title", offset=offset))
        packed = codec.pack(page_answer(page, 2**52, {}))
        assert len(packed) + 4 <= config.PAGE_ANSWER
        assert codec.SEALED_ANSWER.unpack(packed)
        assert page.products
        seen += len(page.products)
        offset = page.next_offset
        if not offset:
            break
    assert seen == len(products)


def product(number: int, title: str, category: str, tags: int) -> Product:
    record = messages.ProductRecord(
        merchant=MERCHANT,
        sku=f"p{number}".ljust(64, "x"),
        version=1,
        title=title * 5,
        description="",
        category=category * 5,
        tags=[title] * tags,
        group="",
        variant=category * 5,
        price=10**12,
        currency="EUR",
        tax_rate=1900,
        file_name="f",
        size=1,
        digest=bytes(32),
        cells=1,
        image_digest=b"",
        image_alt="",
    )
    return Product(number, record, codec.pack(record), bytes(64), 0)


# --- changing it ---------------------------------------------------------------------------------------


def test_only_what_has_changed_is_read_again(shop: World) -> None:
    with shop.store.immediate() as tx:
        before = {each.record.sku: each for each in catalogs.read_changed(tx, [])}
    shop.inventory.edit("plan", price=1000)
    shop.inventory.remove("photo")
    with shop.store.immediate() as tx:
        after = {each.record.sku: each for each in catalogs.read_changed(tx, before.values())}
        assert after == {each.record.sku: each for each in catalogs.read_on_sale(tx)}
    assert before.keys() - after.keys() == {"photo"}
    assert [sku for sku in after if after[sku] is not before[sku]] == ["plan"]


def test_changes_show_while_the_node_runs(shop: World) -> None:
    before = find(shop).catalog_version
    shop.inventory.edit("plan", price=1000)
    page = find(shop)
    assert page.catalog_version > before
    assert {product.sku: product.price for product in page.products}["plan"] == 1000
    shop.inventory.remove("plan")
    assert skus(find(shop)) == ["photo", "route"]


def test_the_catalog_version_rises_also_within_a_millisecond(shop: World) -> None:
    versions = []
    for price in range(1, 4):
        shop.inventory.edit("route", price=price)
        versions.append(find(shop).catalog_version)
    assert len(set(versions)) == 3
    assert versions == sorted(versions)


def test_an_edit_changes_what_is_given_and_nothing_else(shop: World) -> None:
    before = {listed.record.sku: listed for listed in shop.inventory.products()}["plan"]
    record = shop.inventory.edit("plan", title="Plan B")
    assert (record.version, record.title) == (2, "Plan B")
    assert (record.price, record.tags, record.digest) == (
        before.record.price,
        before.record.tags,
        before.record.digest,
    )
    again = shop.inventory.edit("plan", title="Plan B")
    assert again.version == 2
    listed = {each.record.sku: each for each in shop.inventory.products()}["plan"]
    assert listed.stock == before.stock


def test_stock_can_be_set_and_lifted_without_a_new_version(shop: World) -> None:
    assert shop.inventory.edit("plan", stock=7).version == 1
    assert {each.record.sku: each.stock for each in shop.inventory.products()}["plan"] == 7
    shop.inventory.edit("plan", stock=None)
    assert {each.record.sku: each.stock for each in shop.inventory.products()}["plan"] is None
    with pytest.raises(UsageError):
        shop.inventory.edit("plan", stock=-1)


def test_a_product_that_comes_back_goes_on_counting_its_versions(shop: World) -> None:
    shop.inventory.remove("plan")
    assert add(shop, "plan").version == 2


def test_unknown_and_doubled_skus(shop: World) -> None:
    with pytest.raises(NotFoundError):
        shop.inventory.edit("none", price=1)
    with pytest.raises(NotFoundError):
        shop.inventory.remove("none")
    with pytest.raises(UsageError, match="on sale already"):
        add(shop, "plan")


@pytest.mark.parametrize(
    "fields",
    [
        {"price": 0},
        {"price": -1},
        {"title": ""},
        {"title": "x" * 201},
        {"description": "x" * 4001},
        {"description": "\U0001f3c3" * 1600},
        {"tags": ["x"] * 17},
        {"tags": [""]},
        {"stock": -1},
    ],
)
def test_values_out_of_bounds_are_refused_and_nothing_is_kept(world: World, fields: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        add(world, "plan", **fields)
    assert world.inventory.products() == []
    with world.store.immediate() as tx:
        assert tx.all(sa.select(schema.product_versions)) == []


@pytest.mark.parametrize("sku", ["", "-a", "a b", "a/b", "x" * 65, "ä"])
def test_bad_skus(world: World, sku: str) -> None:
    (world.home / "file").write_bytes(b"x")
    with pytest.raises(UsageError):
        world.inventory.add(world.home / "file", sku, title="x", price=1)


def test_files_and_images_that_cannot_be_taken(world: World) -> None:
    with pytest.raises(UsageError, match="cannot take"):
        world.inventory.add(world.home / "missing", "x", title="x", price=1)
    for name, content, reason in (
        ("text.png", b"not an image", "PNG, JPEG and WebP"),
        ("large.png", PNG.ljust(IMAGE_MAXIMUM + 1, b"\0"), "larger than"),
    ):
        (world.home / name).write_bytes(content)
        with pytest.raises(UsageError, match=reason):
            add(world, "x", image=world.home / name)
    assert world.inventory.products() == []
    assert not [path for path in (world.home / "content").iterdir() if path.name.startswith(".")]


def test_the_largest_image_fits_its_answer(world: World) -> None:
    (world.home / "a.webp").write_bytes(b"RIFF\0\0\0\0WEBP".ljust(IMAGE_MAXIMUM, b"\1"))
    add(world, "x", image=world.home / "a.webp")
    world.open_session()
    assert len(world.browse(GetImage(sku="x")).data) == IMAGE_MAXIMUM


# --- buckets of what is sold ---------------------------------------------------------------------------


def cells(world: World) -> dict[str, int]:
    return {listed.record.sku: listed.record.cells for listed in world.inventory.products()}


def test_buckets_follow_the_offer_until_something_is_sold(world: World) -> None:
    for sku, size in (("one", 1), ("two", 2), ("three", 3)):
        add(world, sku, size * config.CELL_CONTENT)
    assert cells(world) == {"one": 3, "two": 3, "three": 3}
    world.open_session()
    order, _ = world.order(("one", 1))
    world.ask(order)
    add(world, "four", 4 * config.CELL_CONTENT)
    assert cells(world) == {"one": 3, "two": 4, "three": 4, "four": 4}
    world.inventory.remove("four")
    assert cells(world)["one"] == 3
    assert {each.sku: each.others for each in world.inventory.privacy()}["one"] == 2


def test_a_new_bucket_is_a_new_version(world: World) -> None:
    assert add(world, "one").version == 1
    add(world, "two", 2 * config.CELL_CONTENT)
    listed = {each.record.sku: each.record for each in world.inventory.products()}
    assert (listed["one"].cells, listed["one"].version) == (2, 2)
    with world.store.immediate() as tx:
        assert len(tx.all(sa.select(schema.product_versions))) == 3


# --- the store -----------------------------------------------------------------------------------------


def test_the_migrations_make_what_the_code_expects(world: World) -> None:
    made = sa.MetaData()
    engine = sa.create_engine(world.store.url)
    made.reflect(engine)
    engine.dispose()
    assert set(made.tables) == {*schema.metadata.tables, "alembic_version"}
    for name, table in schema.metadata.tables.items():
        present = {(c.name, c.nullable, c.primary_key) for c in made.tables[name].columns}
        assert present == {(c.name, c.nullable, c.primary_key) for c in table.columns}


def test_stock_is_never_below_zero_whatever_the_code_does(shop: World) -> None:
    with (
        sqlite3.connect(shop.home / "merchant.db") as connection,
        pytest.raises(sqlite3.IntegrityError),
    ):
        connection.execute("UPDATE stock SET available = -1")
    connection.close()
