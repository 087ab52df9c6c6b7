"""The dashboard in a real browser: what a merchant puts on sale there is what a customer sees."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from backoffice import Backoffice
from playwright.sync_api import Page, expect
from shopfront import Shopfront
from test_storefront_pages import ready_to_shop, saved

pytestmark = [pytest.mark.web, pytest.mark.timeout(180)]

Opened: TypeAlias = Callable[..., Page]
both = pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "plain"])


@both
def test_a_merchant_adds_a_product_and_a_customer_buys_it(
    backoffice: Backoffice, shopfront: Shopfront, opened: Opened, tmp_path: Path, *, scripts: bool
) -> None:
    page = opened(backoffice, java_script_enabled=scripts)
    expect(page.get_by_role("heading", name="Today")).to_be_visible()
    expect(page.get_by_text("The shop is open")).to_be_visible()
    page.get_by_role("link", name="Products").click()
    page.get_by_role("link", name="Add a product").click()
    content = b"over the pass\n" * 20_000
    file = tmp_path / "pass road.gpx"
    file.write_bytes(content)
    sku, title = f"PASS-{scripts}", f"The pass road, {'scripts' if scripts else 'plain'}"
    page.get_by_label("The file that is sold").set_input_files(file)
    page.get_by_label("Title").fill(title)
    page.get_by_label("SKU").fill(sku)
    page.get_by_label("Price in EUR").fill("3,50")
    page.get_by_label("Stock").fill("4")
    page.get_by_role("button", name="Put it on sale").click()
    expect(page.locator("#fault-price")).to_be_visible()
    page.get_by_label("Price in EUR").fill("3.50")
    if not scripts:
        # Without scripts a browser forgets what was chosen when a form comes back.
        page.get_by_label("The file that is sold").set_input_files(file)
    page.get_by_role("button", name="Put it on sale").click()
    expect(page.get_by_text(f"{title} is on sale for 3.50 EUR.")).to_be_visible()

    shop = opened(shopfront, java_script_enabled=scripts)
    ready_to_shop(shop, f"guest-{scripts}".lower())
    shop.goto(f"{shopfront.url}/products/sports/{sku}")
    shop.get_by_role("button", name="Buy now").click()
    shop.get_by_role("button", name="Pay 3.50 EUR").click()
    expect(shop.locator("#order[data-state=complete]")).to_be_visible()
    assert saved(shop, tmp_path) == content

    page.get_by_role("link", name="Today").click()
    expect(page.get_by_role("row").filter(has_text=f"1 \u00d7 {sku}")).to_be_visible()
    expect(page.locator(".line").filter(has_text=sku)).to_contain_text("3 left")

    page.get_by_role("row").filter(has_text=f"1 \u00d7 {sku}").get_by_role("link").first.click()
    page.get_by_role("link", name="Give money back").click()
    page.get_by_label("A part").check()
    page.get_by_label("The part, in EUR").fill("1.00")
    page.get_by_label("Why").fill("a page was missing")
    page.get_by_role("button", name="Go on").click()
    expect(page.get_by_text("2.50 EUR stay with you.")).to_be_visible()
    page.get_by_role("button", name="Give 1.00 EUR back").click()
    expect(page.get_by_text("The refund is on its way")).to_be_visible()
    expect(page.get_by_role("row").filter(has_text="a page was missing")).to_be_visible()


@both
def test_a_table_is_tried_and_imported(
    backoffice: Backoffice, opened: Opened, tmp_path: Path, *, scripts: bool
) -> None:
    page = opened(backoffice, java_script_enabled=scripts)
    page.get_by_role("link", name="Products").click()
    page.get_by_role("link", name="Import and export").click()
    table, file = tmp_path / "table.csv", tmp_path / "hut.gpx"
    sku = f"HUT-{scripts}"
    table.write_text(f"sku,title,price,file\n{sku},The hut,2.x0,hut.gpx\n")
    file.write_bytes(b"up\n" * 5)
    page.get_by_label("Table, CSV or JSON").set_input_files(table)
    page.get_by_label("Files that new rows name").set_input_files(file)
    page.get_by_role("button", name="Try it").click()
    expect(page.get_by_role("row").filter(has_text=sku)).to_contain_text("price")
    table.write_text(f"sku,title,price,file\n{sku},The hut,2.00,hut.gpx\n")
    page.get_by_label("Table, CSV or JSON").set_input_files(table)
    page.get_by_label("Files that new rows name").set_input_files(file)
    page.get_by_role("button", name="Import it").click()
    expect(page.get_by_text("Imported: 1 added")).to_be_visible()
    page.get_by_role("link", name="On sale").click()
    expect(page.get_by_role("row").filter(has_text=sku)).to_be_visible()
    with page.expect_download() as download:
        page.goto(f"{backoffice.url}/import")
        page.get_by_role("link", name="CSV").first.click()
    download.value.save_as(tmp_path / "out.csv")
    assert f"{sku},The hut,2.00,EUR" in (tmp_path / "out.csv").read_text()
