"""What every browser test shares."""

from __future__ import annotations

from backoffice import backoffice
from playwright.sync_api import expect
from shopfront import PATIENCE_MS, browser, opened, playwright, shopfront, web_market

__all__ = ["backoffice", "browser", "opened", "playwright", "shopfront", "web_market"]  # fixtures

expect.set_options(timeout=PATIENCE_MS)
