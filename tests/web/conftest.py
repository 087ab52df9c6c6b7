"""What every browser test shares."""

from __future__ import annotations

import pytest
from backoffice import backoffice
from playwright.sync_api import expect
from shopfront import PATIENCE_MS, browser, opened, playwright, shopfront, web_market

__all__ = ["backoffice", "browser", "opened", "playwright", "shopfront", "web_market"]  # fixtures

expect.set_options(timeout=PATIENCE_MS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the dashboard's tests come last: they put more on sale in the market that all of them share."""
    items.sort(key=lambda item: item.path.name == "test_dashboard_pages.py")
