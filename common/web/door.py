"""The door: a link that works once, and the browser sessions that begin with it.

    veilmart ... web  -->  http://127.0.0.1:PORT/enter?token=...  -->  cookie

Rule 1. A token is used up by its first use; whoever comes second stands before a closed door, and a page
says so. There is one unused token at most.

Rule 2. Sessions live in memory: they end with the server, after `IDLE_S` without a request, or when
`MOST_SESSIONS` newer ones exist. What is kept of a cookie is its hash.

Rule 3. A form's CSRF token belongs to its session, and to no cookie.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from starlette.requests import Request

IDLE_S: Final = 12 * 3600
MOST_SESSIONS: Final = 16
MOST_NOTICES: Final = 8
SECRET_BYTES: Final = 32

Kind: TypeAlias = Literal["info", "good", "bad"]


@dataclass(frozen=True)
class Notice:
    """A sentence for the next page that the person sees."""

    text: str
    kind: Kind


@dataclass
class BrowserSession:
    """One browser that came in by a link."""

    csrf: str = field(repr=False)
    last_used: float
    notices: list[Notice] = field(default_factory=list)

    def add_notice(self, text: str, kind: Kind) -> None:
        """Keep a sentence for the next page, in place of the oldest where there are too many."""
        self.notices = [*self.notices, Notice(text, kind)][-MOST_NOTICES:]

    def take_notices(self) -> list[Notice]:
        """Give what the next page says, once."""
        taken, self.notices = self.notices, []
        return taken


class Door:
    """Makes links and knows sessions."""

    def __init__(
        self,
        announce: Callable[[str], None] = lambda _token: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Tell `announce` each new token; `clock` counts seconds."""
        self._announce = announce
        self._clock = clock
        self._token = ""
        self._sessions: dict[bytes, BrowserSession] = {}

    def token(self) -> str:
        """Give the unused token, a new one where there is none."""
        if not self._token:
            self._token = secrets.token_urlsafe(SECRET_BYTES)
        return self._token

    def announce(self) -> None:
        """Show the unused token where the server was started, for a browser that stands outside."""
        self._announce(self.token())

    def enter(self, token: str) -> str | None:
        """Use a token up and give a new session's cookie; None where it is not the unused one."""
        if not self._token or not hmac.compare_digest(token.encode(), self._token.encode()):
            return None
        self._token = ""
        cookie = secrets.token_urlsafe(SECRET_BYTES)
        self._sweep()
        self._sessions[_digest(cookie)] = BrowserSession(secrets.token_urlsafe(SECRET_BYTES), self._clock())
        return cookie

    def find(self, cookie: str) -> BrowserSession | None:
        """Give the session of a cookie, if it is still open; counts as used."""
        found = self._sessions.get(_digest(cookie))
        if found is None or self._is_over(found):
            return None
        found.last_used = self._clock()
        return found

    def leave(self, cookie: str) -> None:
        """End a session."""
        self._sessions.pop(_digest(cookie), None)

    def _is_over(self, session: BrowserSession) -> bool:
        return self._clock() - session.last_used > IDLE_S

    def _sweep(self) -> None:
        open_ones = [item for item in self._sessions.items() if not self._is_over(item[1])]
        open_ones.sort(key=lambda item: item[1].last_used)
        self._sessions = dict(open_ones[-(MOST_SESSIONS - 1) :])


def session_of(request: Request) -> BrowserSession | None:
    """Give the session that the guard has found; None on the pages before the door."""
    found = getattr(request.state, "browser_session", None)
    return found if isinstance(found, BrowserSession) else None


def _digest(cookie: str) -> bytes:
    return hashlib.sha256(cookie.encode()).digest()
