"""Errors as pages say them: what happened, what was kept, what to do next."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from common.errors import (
    AuthenticationError,
    BrokerUnreachableError,
    BusUnreachableError,
    BusyError,
    DeadlineError,
    MerchantOfflineError,
    NotFoundError,
    RejectedError,
    UnreachableError,
    UntrustedError,
    UsageError,
    VeilmartError,
)

_FOR_A_TERMINAL: Final = re.compile(r"`(?:veilmart|product)\b|(?<![\w-])--[a-z]")
"""A command, or an option."""


@dataclass(frozen=True)
class Explained:
    """A page's words for an error; `links` are further ways on, as address and text."""

    status: int
    title: str
    happened: str
    kept: str
    next: str
    links: tuple[tuple[str, str], ...] = ()


_KINDS: Final[tuple[tuple[type[VeilmartError], Explained], ...]] = (
    (
        NotFoundError,
        Explained(404, "Not found", "", "Nothing was changed.", "Go back and choose something else."),
    ),
    (
        AuthenticationError,
        Explained(403, "Please log in", "", "Nothing was changed.", "Log in and try again."),
    ),
    (
        BusUnreachableError,
        Explained(
            503,
            "The market's bus is away",
            "",
            "Everything on this machine is as it was; whatever was under way goes on from there.",
            "Check the connection to the internet, then try again.",
        ),
    ),
    (
        BrokerUnreachableError,
        Explained(
            503,
            "The market's broker is away",
            "",
            "Everything on this machine is as it was; whatever was under way goes on from there.",
            "Try again in a moment.",
        ),
    ),
    (
        MerchantOfflineError,
        Explained(
            503,
            "The merchant is away",
            "",
            "Nothing was lost: an order that is open stays open, and its money comes back if nobody answers.",
            "Try again later, or look around at another merchant.",
        ),
    ),
    (
        UnreachableError,
        Explained(503, "No answer", "", "Nothing was lost.", "Try again in a moment."),
    ),
    (
        DeadlineError,
        Explained(
            504,
            "No answer in time",
            "",
            "Whatever was under way is stored here and goes on from where it is.",
            "Try again: the same thing is never done twice.",
        ),
    ),
    (
        BusyError,
        Explained(503, "Somebody else works here", "", "Nothing was changed.", "Try again in a moment."),
    ),
    (
        UntrustedError,
        Explained(
            502,
            "This cannot be trusted",
            "",
            "Nothing was accepted of it; what proves it was kept.",
            "Do not go on with this one; tell the market's operator.",
        ),
    ),
    (
        RejectedError,
        Explained(409, "That was refused", "", "Nothing was changed.", "Go back and try something else."),
    ),
    (
        UsageError,
        Explained(400, "That cannot be read", "", "Nothing was sent.", "Go back and correct it."),
    ),
)


def explain(error: VeilmartError) -> Explained:
    """Give the words for any error: its own, and those of its kind where it has none for a page."""
    unknown = Explained(500, "Something went wrong", "", "Nothing was lost.", "Try again.")
    words = next((words for kind, words in _KINDS if isinstance(error, kind)), unknown)
    return replace(words, happened=error.message, next=_hint(error) or words.next)


def said(error: VeilmartError) -> str:
    """Give an error in one line, for the field or form that it is about."""
    return f"{error.message} {_hint(error)}".strip()


def _hint(error: VeilmartError) -> str:
    return "" if is_for_a_terminal(error.hint) else error.hint


def is_for_a_terminal(hint: str) -> bool:
    """Tell whether a hint names a command or an option: no help on a page, nor to a program."""
    return _FOR_A_TERMINAL.search(hint) is not None


def missing() -> Explained:
    """Give the words for an address that leads nowhere."""
    return Explained(
        404,
        "There is nothing here",
        "This address leads nowhere.",
        "Nothing was changed.",
        "Go on from the start page.",
    )


def too_large() -> Explained:
    """Give the words for a body that is larger than it may be."""
    return Explained(
        413,
        "That is too large",
        "More was sent than this form takes.",
        "Nothing of it was kept.",
        "Go back and send less.",
    )


def unreadable() -> Explained:
    """Give the words for a form that is none."""
    return Explained(
        400,
        "That cannot be read",
        "What was sent is no form of ours.",
        "Nothing was changed.",
        "Open the page anew and send it once more.",
    )


def forged() -> Explained:
    """Give the words for a form that is not of this session."""
    return Explained(
        403,
        "This form is not of this session",
        "The page with the form is of an earlier session, or another site sent it.",
        "Nothing was changed.",
        "Open the page anew and send it once more.",
    )


def unexpected() -> Explained:
    """Give the words for a mistake of our own."""
    return Explained(
        500,
        "Something unexpected happened",
        "That is a mistake in this program. Where it happened stands in the terminal.",
        "What was stored is stored: orders and money do not depend on this page.",
        "Go back and try again.",
    )
