"""Fetching: windows of cells, several under way, each cell put where it belongs.

    GetCells (sealed) in FetchCells --> MerchantCells, MerchantCells, ... --> Writer

Rule 1. The customer pulls: what was not asked for is dropped, what does not come is asked for again, and
only that.

Rule 2. Each window is a request of its own, with its own keys; a cell's index is authenticated with it.
How many cells it has goes by how fast they come (`pace`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from common import codec, config, messages, sealing
from common.errors import NotFoundError, RejectedError, UntrustedError, VeilmartError, WireError
from customer_node.connection import POLL_MS, Link
from customer_node.orders import Order
from customer_node.pace import LARGEST_WINDOW, WINDOWS_UNDER_WAY, Asked, Pace
from customer_node.refusals import refusal_error
from customer_node.shop import Visit
from customer_node.timing import Countdown

PATIENCE_MS: Final = 11 * config.SECOND_MS
"""How long nothing comes before all is asked for again: a little longer than the broker keeps the place of
a window that nobody serves, so that the new windows do not queue behind the lost ones."""

PAUSE_MS: Final = 250


@dataclass
class _Window:
    key: sealing.AnswerKey = field(repr=False)
    missing: set[int]
    cells: int
    asked: Asked
    _stream: sealing.CellStream | None = field(default=None, repr=False)

    def unseal(self, cell: bytes) -> tuple[int, bytes]:
        """Open a cell: its index and its content. Raises `ForgedError`."""
        n = cell[: sealing.NONCE_SALT]
        if self._stream is None or self._stream.n != n:
            self._stream = self.key.stream(n)
        return self._stream.unseal(cell)


class Fetch:
    """Fetches cells `first` to `last - 1` of an order's stream, in as many visits as it takes."""

    def __init__(
        self,
        order: Order,
        first: int,
        last: int,
        write: Callable[[int, bytes], None],
        largest_window: int = LARGEST_WINDOW,
    ) -> None:
        self._order = order
        self._write = write
        self._next = first
        self._last = last
        self._lost: deque[tuple[int, int]] = deque()
        """Ranges that were asked for and did not come: first cell and count."""
        self._windows: dict[bytes, _Window] = {}
        self._pace = Pace(largest_window)
        self._link: Link | None = None
        self._pause: Countdown | None = None

    @property
    def done(self) -> int:
        """Every cell before this one has been written."""
        open_ranges = [min(window.missing) for window in self._windows.values()]
        return min([self._next, *open_ranges, *(first for first, _ in self._lost)])

    def run(self, visit: Visit, until: int) -> None:
        """Fetch until every cell before `until` is there; what follows is asked for meanwhile.

        Raises `SessionOverError`, `MerchantOfflineError`, `DeadlineError`, `RejectedError`,
        `UntrustedError`; what has been written until then counts.
        """
        context, session = visit.context, visit.session
        if session.link is not self._link:
            # What was under way on another connection does not come on this one.
            self._give_up_all()
            self._link = session.link
        silence = Countdown(context.clock, context.timeout_ms)
        patience = Countdown(context.clock, PATIENCE_MS)
        while self.done < until:
            self._ask(visit)
            if not session.link.cells:
                for body in session.receive(POLL_MS / 1000):
                    self._heed(visit, body)
            taken = [
                self._take(visit, body.request, cell) for body in session.take_cells() for cell in body.cells
            ]
            if any(taken):
                silence = Countdown(context.clock, context.timeout_ms)
                patience = Countdown(context.clock, PATIENCE_MS)
            elif silence.over:
                raise visit.silence()
            elif patience.over:
                patience = Countdown(context.clock, PATIENCE_MS)
                self._give_up_all()

    def _ask(self, visit: Visit) -> None:
        context = visit.context
        if self._pause is not None and not self._pause.over:
            return
        while len(self._windows) < WINDOWS_UNDER_WAY and (wanted := self._wanted()) is not None:
            first, count = wanted
            body = messages.GetCells(
                order_id=self._order.id,
                fetch_secret=self._order.secrets.fetch,
                first=first,
                count=count,
            )
            sealed, key = visit.seal_browse(body, "cells", codec.pack(count))
            question = messages.FetchCells(
                request=context.random(16), merchant=self._order.merchant, cells=count, sealed=sealed
            )
            missing = set(range(first, first + count))
            self._windows[question.request] = _Window(key, missing, count, Asked(context.clock))
            visit.session.post(question)

    def _wanted(self) -> tuple[int, int] | None:
        """Take the next range to ask for: what was lost comes first."""
        if self._lost:
            first, count = self._lost.popleft()
            if count > self._pace.cells:
                self._lost.appendleft((first + self._pace.cells, count - self._pace.cells))
            return first, min(count, self._pace.cells)
        first, self._next = self._next, min(self._next + self._pace.cells, self._last)
        return (first, self._next - first) if first < self._next else None

    def _give_up_all(self) -> None:
        self._pace.begin_again()
        for request in list(self._windows):
            self._give_up(request)

    def _give_up(self, request: bytes) -> None:
        """Put what a window still misses back to the front, as ranges."""
        missing = sorted(self._windows.pop(request).missing)
        while missing:
            first = missing[0]
            run = [index for offset, index in enumerate(missing) if index == first + offset]
            self._lost.appendleft((first, len(run)))
            missing = missing[len(run) :]

    def _heed(self, visit: Visit, body: messages.ToShop) -> None:
        """Take note of a window that is not served."""
        if isinstance(body, messages.MerchantAnswer) and body.request in self._windows:
            self._merchant_refused(visit, body)
        if isinstance(body, messages.Refused) and body.reference in self._windows:
            self._broker_refused(visit, body)

    def _take(self, visit: Visit, request: bytes, cell: bytes) -> bool:
        """Take a cell; tell whether it was one that was missing."""
        window = self._windows.get(request)
        if window is None:
            return False
        try:
            index, content = window.unseal(cell)
        except WireError as error:
            visit.session.dropped[error.reason] += 1
            return False
        if index not in window.missing or len(content) != config.CELL_CONTENT:
            visit.session.dropped["malformed"] += 1
            return False
        self._write(index, content)
        window.missing.discard(index)
        if not window.missing:
            del self._windows[request]
            self._pace.came(window.asked)
        return True

    def _merchant_refused(self, visit: Visit, body: messages.MerchantAnswer) -> None:
        try:
            answer = self._windows[body.request].key.unseal(body.answer)
        except WireError as error:
            visit.session.dropped[error.reason] += 1
            return
        self._give_up(body.request)
        if isinstance(answer, messages.RequestRefused) and answer.code == "not_yet":
            # The merchant has not heard yet that it is paid: the broker tells it until it has.
            self._wait(visit)
            return
        raise _refusal(answer)

    def _broker_refused(self, visit: Visit, body: messages.Refused) -> None:
        cells = self._windows[body.reference].cells
        self._give_up(body.reference)
        if body.code == "busy":
            self._wait(visit)
        elif body.code != "policy" or not self._pace.refused(cells):
            raise refusal_error(body.code)

    def _wait(self, visit: Visit) -> None:
        self._pause = Countdown(visit.context.clock, PAUSE_MS)


def _refusal(answer: messages.SealedAnswer) -> VeilmartError:
    match answer:
        case messages.RequestRefused(code="not_found"):
            return NotFoundError("The merchant does not know this order.")
        case messages.RequestRefused(code=code):
            return RejectedError(f"The merchant does not deliver this order: {code}.")
        case _:
            return UntrustedError("The merchant answered something else than cells.")
