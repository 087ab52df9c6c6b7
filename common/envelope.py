"""The envelope of an answer to a program, the same on the command line and over HTTP.

    {"ok": true, "data": ...}
    {"ok": false, "error": {"code": "not_found", "message": "...", "hint": "...", "retryable": false}}

What a program needs of an error is in `facts`, by the names of the attributes that the Python API gives it
(docs/python.md); where nothing is known there are no `facts`. The older ones stand beside `code` too:
`hop` of `timeout`, `available` of `out_of_stock`, `reason` of `discount_refused` and `card_declined`,
`faults` of `card_invalid`. Where something was done before something else failed, `data` stands beside
`error`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.errors import (
    CardDeclinedError,
    DeadlineError,
    DiscountRefusedError,
    InvalidCardError,
    OutOfStockError,
    VeilmartError,
)


def error_fields(error: VeilmartError) -> dict[str, Any]:
    """Give what an envelope says about an error."""
    fields: dict[str, Any] = {
        "code": error.code,
        "message": error.message,
        "hint": error.hint,
        "retryable": error.retryable,
    }
    if isinstance(error, DeadlineError):
        fields["hop"] = error.hop
    if isinstance(error, CardDeclinedError):
        fields["reason"] = error.reason
    if isinstance(error, InvalidCardError):
        fields["faults"] = error.faults
    if isinstance(error, OutOfStockError) and error.available is not None:
        fields["available"] = error.available
    if isinstance(error, DiscountRefusedError):
        fields["reason"] = error.reason
    if error.facts:
        fields["facts"] = error.facts
    return fields


def plain(value: object) -> object:
    """Give what msgspec cannot write by itself as something that it can."""
    if isinstance(value, VeilmartError):
        return error_fields(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"no JSON for {type(value).__name__}")
