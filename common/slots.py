"""Calendar slots: every key belongs to one hour, day or month of UTC."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache

from common.config import DAY_MS, MINUTE_MS


def slot_start(now: int, period_ms: int) -> int:
    """Give the start of the slot that holds `now`; both in milliseconds since 1970."""
    return now - now % period_ms


def month_of(now: int) -> str:
    """Give the month that holds `now`, as YYYY-MM."""
    return _month_of_day(now // DAY_MS)


@lru_cache(maxsize=8)
def _month_of_day(day: int) -> str:
    return datetime.fromtimestamp(day * DAY_MS / 1000, UTC).strftime("%Y-%m")


def previous_month(month: str) -> str:
    """Give the month before."""
    year, number = int(month[:4]), int(month[5:])
    return f"{year - 1}-12" if number == 1 else f"{year}-{number - 1:02}"


def next_month(month: str) -> str:
    """Give the month after."""
    year, number = int(month[:4]), int(month[5:])
    return f"{year + 1}-01" if number == 12 else f"{year}-{number + 1:02}"  # noqa: PLR2004 - December


def month_start(month: str) -> int:
    """Give the moment, in milliseconds since 1970, at which a month begins."""
    return round(datetime(int(month[:4]), int(month[5:]), 1, tzinfo=UTC).timestamp() * 1000)


def grace_end(month: str) -> int:
    """Give the moment from which tokens of a month's key no longer count: when the month after is over."""
    return month_start(next_month(next_month(month)))


def minute_of(now: int) -> int:
    """Cut a time to the minute."""
    return slot_start(now, MINUTE_MS)
