"""The merchant's `/api/v1` over a home in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from dashboards import Dashboard, opened_dashboard
from merchant_world import make_identities
from programs import Program


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    root = tmp_path_factory.mktemp("rest")
    (root / "home").mkdir()
    with opened_dashboard(root / "home", make_identities(root / "keys"), root / "keys") as dashboard:
        yield dashboard


@pytest.fixture
def program(shop: Dashboard) -> Program:
    return Program(shop.browser, shop.token)


def plan(shop: Dashboard, root: Path, sku: str, **more: object) -> None:
    file = root / "plan.md"
    file.write_text(f"the plan called {sku}")
    shop.world.inventory.add(file, sku, title=f"Plan {sku}", price=990, **more)  # type: ignore[arg-type]


def test_stock_is_set_and_changed(shop: Dashboard, program: Program, tmp_path: Path) -> None:
    plan(shop, tmp_path, "STOCK-1")
    assert program.get("/stock/STOCK-1") == {"sku": "STOCK-1", "stock": None, "keys": False}
    assert program.call("PATCH", "/stock/STOCK-1", {"change": 1}).failed == (422, "usage")
    assert program.call("PUT", "/stock/STOCK-1", {"stock": 5}).data["stock"] == 5
    assert program.call("PATCH", "/stock/STOCK-1", {"change": -2}).data["stock"] == 3
    refused = program.call("PATCH", "/stock/STOCK-1", {"change": -4})
    assert refused.failed == (409, "rejected")
    assert "Only 3" in refused.error["message"]
    assert program.get("/stock?limit=1")["products"] == [{"sku": "STOCK-1", "stock": 3, "keys": False}]
    assert program.call("PUT", "/stock/NOTHING", {"stock": 5}).failed == (404, "not_found")
