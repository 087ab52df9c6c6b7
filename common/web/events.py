"""Server-sent events (WHATWG HTML, section 9.2): a piece of a page, sent again whenever it changes.

    return events.stream(site, lambda: render_order(...), every_ms=300)

Rule. A stream ends when the last piece says so, when the server stops, and after `LONGEST_S`; a browser
connects again by itself, and loses nothing by that: a piece is always the whole of what is shown.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol

from starlette.responses import StreamingResponse

LONGEST_S: Final = 600
QUIET_S: Final = 15
"""After so long a comment is sent: a browser that has gone is noticed by writing to it."""


@dataclass(frozen=True)
class Piece:
    """What is shown now; `last` is whether it will never change again."""

    html: str
    last: bool = False


class Stoppable(Protocol):
    """What of a site a stream needs."""

    @property
    def stopping(self) -> bool:
        """Whether the server is about to end."""


def stream(
    site: Stoppable, render: Callable[[], Awaitable[Piece]], *, name: str = "piece", every_ms: int = 250
) -> StreamingResponse:
    """Send what `render` gives, now and at each change; it is asked every `every_ms`.

    The event is called `name`; after the last one comes `done`, at which a page stops listening.
    """
    return StreamingResponse(_events(site, render, name, every_ms / 1000), media_type="text/event-stream")


async def _events(
    site: Stoppable, render: Callable[[], Awaitable[Piece]], name: str, every_s: float
) -> AsyncIterator[str]:
    sent, begun = "", time.monotonic()
    said = begun
    while not site.stopping and time.monotonic() - begun < LONGEST_S:
        piece = await render()
        if piece.html != sent:
            sent, said = piece.html, time.monotonic()
            yield event(name, sent)
        elif time.monotonic() - said > QUIET_S:
            said = time.monotonic()
            yield ": still here\n\n"
        if piece.last:
            yield event("done", "")
            return
        await asyncio.sleep(every_s)


def event(name: str, data: str) -> str:
    """Write one event."""
    lines = "".join(f"data: {line}\n" for line in data.splitlines()) or "data:\n"
    return f"event: {name}\n{lines}\n"
