"""The pictures in the README are taken from the running product.

`make pictures` writes them into `docs/pictures`; every other run takes them too, and looks whether a page
is on them.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from backoffice import Backoffice
from PIL import Image
from playwright.sync_api import Page, expect
from shopfront import Shopfront
from test_storefront_pages import put, ready_to_shop

pytestmark = [pytest.mark.web, pytest.mark.timeout(240)]

Opened: TypeAlias = Callable[..., Page]
WIDTH, HEIGHT = 1200, 800
FEWEST_COLOURS = 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where pictures go; for whoever has named no place, where nobody looks."""
    chosen = Path(os.environ.get("VEILMART_PICTURES", tmp_path))
    chosen.mkdir(parents=True, exist_ok=True)
    return chosen


def take(page: Page, path: Path) -> None:
    page.evaluate(
        "Promise.all(Array.from(document.images)"
        ".filter(it => it.getBoundingClientRect().top < innerHeight).map(it => it.decode()))"
    )
    shot = page.screenshot(full_page=False)
    image = Image.open(io.BytesIO(shot)).convert("RGB")
    assert image.size == (WIDTH, HEIGHT)
    colours = image.getcolors(WIDTH * HEIGHT)
    assert colours is not None
    assert len(colours) > FEWEST_COLOURS, "nothing is on it"
    image.quantize(128).save(path, optimize=True)


def test_pictures(shopfront: Shopfront, backoffice: Backoffice, opened: Opened, folder: Path) -> None:
    size = {"width": WIDTH, "height": HEIGHT}
    page = opened(shopfront, viewport=size, color_scheme="light")
    ready_to_shop(page, "pictures")
    take(page, folder / "storefront.png")
    put(page, "GPX-RIDGE")
    page.goto(f"{shopfront.url}/products/sports/GPX-RIDGE")
    page.emulate_media(color_scheme="dark")
    take(page, folder / "product-dark.png")
    page.emulate_media(color_scheme="light")
    page.goto(f"{shopfront.url}/review")
    page.get_by_role("button", name="Pay 4.50 EUR").click()
    expect(page.locator("#order[data-state=complete]")).to_be_visible()
    take(page, folder / "order.png")
    office = opened(backoffice, viewport=size, color_scheme="light")
    expect(office.get_by_role("heading", name="Today")).to_be_visible()
    take(office, folder / "dashboard.png")
