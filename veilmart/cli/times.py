"""Times as people read them."""

from __future__ import annotations

from datetime import UTC, datetime

from common.errors import UsageError


def day_of(milliseconds: int) -> str:
    """Give the day, in UTC."""
    return _moment(milliseconds).strftime("%Y-%m-%d")


def minute_of(milliseconds: int) -> str:
    """Give day and minute in the local time zone, with its offset."""
    return _moment(milliseconds).astimezone().strftime("%Y-%m-%d %H:%M%z")


def wait_of(hop: str, until: int | None) -> str:
    """Say for whom something waits, and until when."""
    return f"the {hop}, " + ("without a limit" if until is None else f"until {minute_of(until)}")


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def rfc3339(milliseconds: int) -> str:
    """Give a time as spreadsheets and scripts read it: RFC 3339, UTC, in seconds."""
    return _moment(milliseconds).strftime("%Y-%m-%dT%H:%M:%SZ")


def day_start(text: str) -> int:
    """Give the start of a day that is written YYYY-MM-DD, UTC. Raises `UsageError`."""
    try:
        day = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise UsageError(f"{text!r} is not a day.", "Write it as 2026-01-31.") from None
    return int(day.timestamp() * 1000)
