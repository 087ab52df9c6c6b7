"""Times as people read them."""

from __future__ import annotations

from datetime import UTC, datetime


def day_of(milliseconds: int) -> str:
    """Give the day, in UTC."""
    return _moment(milliseconds).strftime("%Y-%m-%d")


def minute_of(milliseconds: int) -> str:
    """Give day and minute in the local time zone, with its offset."""
    return _moment(milliseconds).astimezone().strftime("%Y-%m-%d %H:%M%z")


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
