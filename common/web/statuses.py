"""What the status of an answer to a program is: one for each error code, in one table.

Rule 1. Whatever goes wrong below /api/ is answered in the envelope, also what no handler ever saw.

Rule 2. A hint that names a command is for a terminal: a program is told which request to make instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
from starlette.responses import Response

from common.envelope import error_fields, plain
from common.errors import AuthenticationError, RejectedError, UsageError, VeilmartError
from common.web.explained import is_for_a_terminal
from common.web.forms import FieldErrors

JSON: Final = "application/json"


class UnreadableError(UsageError):
    """The body is not what its type says."""

    code = "unreadable"


class ForeignError(UsageError):
    """A page of another site asks."""

    code = "foreign"


class NoSuchMethodError(UsageError):
    """The address is there, and takes other methods."""

    code = "method_not_allowed"


class TooLargeError(UsageError):
    """The body is larger than this address takes."""

    code = "too_large"


class MediaTypeError(UsageError):
    """The body is of a type that this address does not take."""

    code = "media_type"


class MisdirectedError(UsageError):
    """The request was meant for another host."""

    code = "misdirected"


class ExistsError(RejectedError):
    """What was to be made is there already."""

    code = "exists"


STATUSES: Final[Mapping[str, int]] = {
    "unreadable": 400,
    "authentication": 401,
    "insufficient_funds": 402,
    "card_declined": 402,
    "foreign": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "rejected": 409,
    "price_changed": 409,
    "out_of_stock": 409,
    "discount_refused": 409,
    "out_of_tickets": 409,
    "idempotency_conflict": 409,
    "too_soon": 409,
    "exists": 409,
    "account_open": 409,
    "too_large": 413,
    "media_type": 415,
    "misdirected": 421,
    "usage": 422,
    "card_invalid": 422,
    "error": 500,
    "internal": 500,
    "ledger_broken": 500,
    "untrusted": 502,
    "unreachable": 503,
    "bus_unreachable": 503,
    "broker_unreachable": 503,
    "gateway_unreachable": 503,
    "merchant_offline": 503,
    "payments_stopped": 503,
    "busy": 503,
    "timeout": 504,
}
"""Every code, also those of commands that are not offered here yet."""

HINTS: Final[Mapping[str, str]] = {
    "not_found": "The lists show what there is.",
    "price_changed": "Ask for a quote, and agree to its total.",
    "out_of_stock": "Take fewer, or take it out of the cart.",
    "out_of_tickets": "Draw new ones from the account, on the pages.",
    "insufficient_funds": "Top up on the pages, or take something out of the cart.",
    "timeout": "Make the same request again: the same thing is never done twice.",
}
"""In place of a hint for a terminal; without one, none is given."""


class Failure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What went wrong. `code` is stable; `retryable` is whether the same request may succeed later.

    `facts` are what there is to know of it beside, by name (docs/rest.md). The older ones stand here too:
    `faults` by field, `hop` who was waited for, `reason` why a code or a card was refused, `available` how
    many there are.
    """

    code: str
    message: str
    hint: str
    retryable: bool
    hop: str | msgspec.UnsetType = msgspec.UNSET
    reason: str | msgspec.UnsetType = msgspec.UNSET
    available: int | msgspec.UnsetType = msgspec.UNSET
    faults: dict[str, str] | msgspec.UnsetType = msgspec.UNSET
    facts: dict[str, int | str | dict[str, str]] | msgspec.UnsetType = msgspec.UNSET


def failure(error: VeilmartError) -> Failure:
    """Give what a program is told about an error."""
    fields = error_fields(error)
    if isinstance(error, FieldErrors):
        fields["faults"] = error.faults
    if is_for_a_terminal(error.hint):
        fields["hint"] = HINTS.get(error.code, "")
    return msgspec.convert(fields, Failure)


def done(data: object, status: int = 200) -> Response:
    """Answer with data."""
    return _sent({"ok": True, "data": data}, status, {})


def failed(error: VeilmartError, headers: Mapping[str, str] | None = None) -> Response:
    """Answer with an error."""
    return _sent({"ok": False, "error": failure(error)}, STATUSES[error.code], headers or {})


def failed_partly(error: VeilmartError, data: object) -> Response:
    """Answer with an error, and with what was done before it."""
    return _sent({"ok": False, "data": data, "error": failure(error)}, STATUSES[error.code], {})


def _sent(envelope: dict[str, object], status: int, headers: Mapping[str, str]) -> Response:
    content = msgspec.json.encode(envelope, enc_hook=plain)
    return Response(content, status_code=status, headers=dict(headers), media_type=JSON)


def no_token() -> Response:
    """Answer to whoever has not the token."""
    said = AuthenticationError(
        "This needs the token, as the header `Authorization: Bearer TOKEN`.",
        "It is in the file `api-token` of the home that is served.",
    )
    return failed(said, {"www-authenticate": "Bearer"})


def foreign() -> Response:
    """Answer to a page of another site."""
    return failed(ForeignError("A page of another site asks.", "Only programs and our own pages may."))


def misdirected() -> Response:
    """Answer to a request for another host."""
    said = "This server answers to its own address only."
    return failed(MisdirectedError(said, "Use the address that it printed."))


def too_large() -> Response:
    """Answer to a body that is larger than it may be."""
    return failed(TooLargeError("More was sent than this address takes.", "Nothing of it was kept."))


def mistake() -> Response:
    """Answer where a mistake of our own happened. Where it did stands in the terminal."""
    said = Failure(
        code="internal",
        message="Something unexpected happened: a mistake in this program.",
        hint="What was stored is stored. Where it happened stands in the server's log.",
        retryable=False,
    )
    return _sent({"ok": False, "error": said}, STATUSES[said.code], {})
