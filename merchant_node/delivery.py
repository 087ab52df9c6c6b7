"""Delivery: the fetch secret proves the right to ask, and cells come one at a time.

Rule 1. Only a captured order is delivered. One stream numbers the cells of the whole order; padding cells
are zeros and are served like all others, so that a delivery's length says no more than the bucket does.

Rule 2. Cells are made, a frame of them at a time, when the connection has room for it: a file of any size
takes the memory of a few.

Rule 3. Licence keys are the last cell of their line, read with the order: the same for every request.

Rule 4. An order counts as delivered when its last cell has been asked for. It can be fetched again.
"""

from __future__ import annotations

import hashlib
import hmac
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

import sqlalchemy as sa
import structlog

from common import codec, config, messages
from common.clock import Random
from common.core import Outgoing
from common.errors import ForgedError
from common.messages import FetchRefused, ForwardFetch, GetCells
from common.sealing import AnswerKey, CellStream, open_request
from common.states import MERCHANT_ORDER, sources
from common.store import Row, Tx, one_of
from merchant_node import licence_keys, schema
from merchant_node.content import ContentFolder
from merchant_node.prekeys import Prekeys
from merchant_node.session import Session
from merchant_node.shop import Shop

REFUSAL_SIZE: Final = config.PRODUCT_ANSWER

RefusalReason: TypeAlias = Literal["not_found", "wrong_secret", "wrong_state", "not_yet"]

_ORDERS = sa.select(
    schema.orders.c.order_id,
    schema.orders.c.number,
    schema.orders.c.state,
    schema.orders.c.fetch_lock,
    schema.orders.c.cells,
).where(schema.orders.c.order_id.in_(sa.bindparam("ids", expanding=True)))
_LINES = (
    sa.select(
        schema.order_lines.c.order_number,
        schema.order_lines.c.position,
        schema.order_lines.c.first_cell,
        schema.order_lines.c.cells,
        schema.order_lines.c.digest,
        schema.order_lines.c.key_count,
    )
    .where(schema.order_lines.c.order_number.in_(sa.bindparam("numbers", expanding=True)))
    .order_by(schema.order_lines.c.order_number, schema.order_lines.c.position)
)
_DELIVERED = (
    sa.update(schema.orders)
    .where(
        schema.orders.c.number == sa.bindparam("of"),
        one_of(schema.orders.c.state, sources(MERCHANT_ORDER, "delivered")),
    )
    .values(state="delivered")
)


@dataclass(frozen=True)
class Piece:
    """One line of an order: where its cells begin in the stream, its file's digest, the cell of its keys."""

    first_cell: int
    digest: bytes
    position: int
    keys_cell: int | None

    def has_keys_in(self, request: GetCells) -> bool:
        """Tell whether the cells that are asked for are to hold licence keys."""
        cell = self.keys_cell
        return cell is not None and request.first <= cell < request.first + request.count


@dataclass(frozen=True)
class Window:
    """Cells that were asked for and may be served."""

    fetch: ForwardFetch
    first: int
    pieces: Sequence[Piece]
    keys: Mapping[int, bytes] = field(repr=False)
    """Licence keys by the cell that begins with them."""
    stream: CellStream = field(repr=False)


class Delivery:
    """Opens `ForwardFetch`es and decides about them in bulk."""

    def __init__(self, shop: Shop, prekeys: Prekeys) -> None:
        self._shop = shop
        self._prekeys = prekeys

    def decide_all(
        self, tx: Tx, fetches: Sequence[ForwardFetch], random: Random, refused: Counter[str]
    ) -> list[FetchRefused | Window]:
        """Decide a batch: what is served, and what is refused, with the reason sealed."""
        opened: list[tuple[ForwardFetch, GetCells, AnswerKey]] = []
        for fetch in fetches:
            try:
                opened.append((fetch, *self._open(fetch)))
            except ForgedError as error:
                refused[error.reason] += 1
        if not opened:
            return []
        ids = (request.order_id for _, request, _ in opened)
        orders = {row["order_id"]: row for row in tx.among(_ORDERS, ids)}
        pieces = _pieces(tx, (row["number"] for row in orders.values()))
        result: list[FetchRefused | Window] = []
        delivered: set[int] = set()
        for fetch, request, key in opened:
            reason = _reason(orders.get(request.order_id), request)
            if reason is not None:
                refusal = messages.RequestRefused(code=reason)
                sealed = key.seal(refusal, random(32), size=REFUSAL_SIZE)
                result.append(FetchRefused(reference=fetch.reference, token=fetch.token, answer=sealed))
                continue
            order = orders[request.order_id]
            if order["state"] == "captured" and request.first + request.count == order["cells"]:
                delivered.add(order["number"])
            lines = pieces[order["number"]]
            keys = _keys(tx, request, [line for line in lines if line.has_keys_in(request)])
            result.append(Window(fetch, request.first, lines, keys, key.stream(random(32))))
        tx.step(_DELIVERED, [{"of": number} for number in sorted(delivered)])
        return result

    def _open(self, fetch: ForwardFetch) -> tuple[GetCells, AnswerKey]:
        binding = self._shop.binding("cells", codec.pack(fetch.cells))
        body, key = open_request(self._prekeys.browse.by_id, binding, fetch.sealed)
        if not isinstance(body, GetCells) or body.count != fetch.cells:
            raise ForgedError("cannot open")
        return body, key


def _reason(order: Row | None, request: GetCells) -> RefusalReason | None:
    if order is None:
        return "not_found"
    lock = hashlib.sha256(request.fetch_secret).digest()
    if not hmac.compare_digest(lock, order["fetch_lock"]):
        return "wrong_secret"
    if order["state"] == "accepted":
        return "not_yet"
    if order["state"] not in ("captured", "delivered"):
        return "wrong_state"
    return None if request.first + request.count <= order["cells"] else "not_found"


def _pieces(tx: Tx, numbers: Iterable[int]) -> dict[int, list[Piece]]:
    pieces: dict[int, list[Piece]] = defaultdict(list)
    for row in tx.among(_LINES, numbers):
        last = row["first_cell"] + row["cells"] - 1
        keys_cell = last if row["key_count"] else None
        piece = Piece(row["first_cell"], row["digest"], row["position"], keys_cell)
        pieces[row["order_number"]].append(piece)
    return pieces


def _keys(tx: Tx, request: GetCells, lines: Sequence[Piece]) -> dict[int, bytes]:
    if not lines:
        return {}
    texts = licence_keys.texts(tx, [request.order_id])
    return {
        line.keys_cell: texts[request.order_id, line.position] for line in lines if line.keys_cell is not None
    }


class WindowSource:
    """Serves one window, frame by frame: a `common.core.CellSource`. Edge code: it reads files."""

    def __init__(
        self,
        window: Window,
        content: ContentFolder,
        session: Session,
        now: Callable[[], int],
        random: Random,
    ) -> None:
        self._window = window
        self._content = content
        self._session = session
        self._now = now
        self._random = random
        self._next = window.first
        self._log = structlog.get_logger("veilmart.merchant")

    def next_frame(self) -> Outgoing | None:
        """Give the next cells, or None at the end, without a session, or where their file is gone."""
        fetch, cells = self._window.fetch, self._next_cells()
        if not cells:
            return None
        self._next += len(cells)
        group = messages.Cells(reference=fetch.reference, token=fetch.token, cells=cells)
        return self._session.seal_cells(group, self._now(), self._random)

    def _next_cells(self) -> list[bytes]:
        end = self._window.first + self._window.fetch.cells
        cells: list[bytes] = []
        for index in range(self._next, min(self._next + config.CELLS_PER_FRAME, end)):
            try:
                cells.append(self._window.stream.seal(index, self._read(index)))
            except OSError as error:
                self._log.error("cannot read sold content", error=error.strerror)
                break
        return cells

    def _read(self, index: int) -> bytes:
        keys = self._window.keys.get(index)
        if keys is not None:
            return keys.ljust(config.CELL_CONTENT, b"\0")
        pieces = self._window.pieces
        piece = pieces[bisect_right(pieces, index, key=lambda each: each.first_cell) - 1]
        return self._content.piece(piece.digest, index - piece.first_cell)
