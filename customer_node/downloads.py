"""Downloads: an accepted order's stream of cells becomes files.

    plan (names chosen) --> batches of cells --> disk --> progress stored -> digest --> name, confirmed

Rule 1. Progress is stored after what it speaks of is on the disk. After a crash only what is missing is
asked for.

Rule 2. One stream serves the whole order, padding included: how its files lie in it cannot be seen.

Rule 3. A file appears under its name only when its SHA-256 is the one that the merchant signed; what came
instead is kept elsewhere (`wrong_content`).

Rule 4. One delivery of an order at a time: two would write the same files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from common import config
from common.errors import BusyError, RejectedError, UntrustedError, UsageError, VeilmartError
from common.store import Tx
from customer_node import orders, receipts, wrong_content
from customer_node.context import Context
from customer_node.fetching import Fetch
from customer_node.files import Span, Target, Writer, free_names, make_folder, spans
from customer_node.orders import Order
from customer_node.schema import deliveries, delivery_files
from customer_node.shop import Shop, Visit, merchant_place, order_place
from customer_node.standing import CONFIRM_MS, Standing, unconfirmed
from customer_node.views import DeliveredFile, Progress

BATCH: Final = 64
"""Cells between two entries of progress."""


@dataclass(frozen=True)
class Delivery:
    """An order's files, how many cells its stream has, and how many of them are on disk."""

    order: Order
    targets: tuple[Target, ...]
    cells: int
    done: int

    def progress(self, done: int) -> Progress:
        """Say how far `done` cells are."""
        return Progress(
            cells_done=done,
            cells=self.cells,
            bytes_done=sum(_bytes_done(target.span, done) for target in self.targets),
            size=sum(target.span.size for target in self.targets),
        )


def _bytes_done(span: Span, done: int) -> int:
    return min(span.size, max(0, done - span.first_cell) * config.CELL_CONTENT)


def _spans(tx: Tx, order: Order) -> tuple[list[Span], int]:
    """Give an accepted order's files, and how many cells they all lie in."""
    lines = receipts.stored(tx, order.id).lines
    salt = order.answer_key.salt("keys")
    return [span for line in lines for span in spans(line, salt)], sum(line.cells for line in lines)


class Downloads:
    """Shop scope: cells."""

    def __init__(self, context: Context, shop: Shop, standing: Standing) -> None:
        self._context = context
        self._shop = shop
        self._standing = standing
        self._under_way: set[bytes] = set()

    def place_of(self, order: Order) -> str:
        """Name the session for an order: the visit in which it was placed, or else one of its own."""
        visit = self._shop.visiting(order.merchant)
        placed_here = visit is not None and visit.session == order.visit
        return merchant_place(order.merchant) if placed_here else order_place(order.id)

    def steps(
        self, order_id: bytes, folder: Path | None, batch: int = BATCH
    ) -> Generator[Progress, None, None]:
        """Deliver an order, `batch` cells by `batch`. `folder` None goes on in the one where it began.

        Raises `UsageError`, `RejectedError` for an order that was not accepted, `UntrustedError` for
        content that the merchant did not sign, `BusyError` while it is downloaded already, and what a visit
        raises. Whatever is raised, or if the iteration is given up: the next call goes on where this one
        ended.
        """
        with self._alone(order_id):
            yield from self._steps(order_id, folder, batch)

    @contextmanager
    def _alone(self, order_id: bytes) -> Iterator[None]:
        if order_id in self._under_way:
            raise BusyError(
                f"Order {order_id.hex()} is being downloaded already.",
                "Wait for that, or close the iteration that was begun.",
            )
        self._under_way.add(order_id)
        try:
            yield
        finally:
            self._under_way.discard(order_id)

    def _steps(self, order_id: bytes, folder: Path | None, batch: int) -> Iterator[Progress]:
        delivery = self._plan(order_id, folder)
        yield delivery.progress(delivery.done)
        place, merchant = self.place_of(delivery.order), delivery.order.merchant
        with closing(Writer(delivery.targets)) as writer:
            # Whoever wants a step after few cells shall not wait for many that were asked for at once.
            fetch = Fetch(delivery.order, delivery.done, delivery.cells, writer.write, batch // 2)
            try:
                while fetch.done < delivery.cells:
                    self._shop.at(merchant, partial(self._batch, delivery, fetch, writer, batch), place)
                    yield delivery.progress(fetch.done)
            finally:
                self._record(delivery.order.id, writer.settle(fetch.done).result())
            self._finish(delivery, writer)
        self._confirm(place, delivery.order.id)

    def files(self, order_id: bytes) -> tuple[DeliveredFile, ...]:
        """List a delivered order's files."""
        with self._context.profile.store.immediate() as tx:
            delivery = self._stored(tx, orders.load(tx, order_id))
            keys = orders.key_texts(tx, order_id)
        if delivery is None:
            return ()
        return tuple(
            DeliveredFile(target.path, target.span.sku, target.span.size, _plain_digest(target, keys))
            for target in delivery.targets
        )

    # --- plan ------------------------------------------------------------------------------------------

    def _plan(self, order_id: bytes, folder: Path | None) -> Delivery:
        with self._context.profile.store.immediate() as tx:
            order = orders.load(tx, order_id)
            if order.state in orders.NOTHING_TO_DELIVER:
                raise RejectedError(
                    f"Order {order_id.hex()} is {order.state}: there is nothing to download.",
                    "`veilmart resume` takes open orders to their end.",
                )
            present = self._stored(tx, order)
            wanted = make_folder(folder) if folder is not None else None
            if present is not None and wanted in (None, present.targets[0].path.parent):
                return self._again(tx, present)
            if wanted is None:
                raise UsageError("Name a folder to download into.")
            if present is not None:
                _forget(tx, present)
            delivery = self._begin(tx, order, wanted)
            if order.state == "accepted":
                orders.step(tx, order_id, "downloading")
        return delivery

    def _again(self, tx: Tx, present: Delivery) -> Delivery:
        """Go on with a delivery, or start it over where its files are gone."""
        if present.order.state == "complete":
            intact = all(target.right for target in present.targets)
        else:
            begun = [target for target in present.targets if _bytes_done(target.span, present.done)]
            intact = all(target.part.exists() or target.path.exists() for target in begun)
        if intact:
            return present
        folder = present.targets[0].path.parent
        _forget(tx, present)
        return self._begin(tx, present.order, folder)

    def _begin(self, tx: Tx, order: Order, folder: Path) -> Delivery:
        files, cells = _spans(tx, order)
        names = free_names(folder, [span.name for span in files])
        tx.execute(sa.insert(deliveries), {"order_id": order.id, "folder": str(folder), "done": 0})
        for position, name in enumerate(names):
            row = {"order_id": order.id, "position": position, "name": name}
            tx.execute(sa.insert(delivery_files), row)
        targets = (Target(span, folder / name) for span, name in zip(files, names, strict=True))
        return Delivery(order, tuple(targets), cells, 0)

    def _stored(self, tx: Tx, order: Order) -> Delivery | None:
        row = tx.one(sa.select(deliveries).where(deliveries.c.order_id == order.id))
        if row is None:
            return None
        names = tx.all(
            sa.select(delivery_files.c.name)
            .where(delivery_files.c.order_id == order.id)
            .order_by(delivery_files.c.position)
        )
        files, cells = _spans(tx, order)
        folder = Path(row["folder"])
        targets = (Target(span, folder / name["name"]) for span, name in zip(files, names, strict=True))
        return Delivery(order, tuple(targets), cells, row["done"])

    # --- cells -----------------------------------------------------------------------------------------

    def _batch(self, delivery: Delivery, fetch: Fetch, writer: Writer, batch: int, visit: Visit) -> None:
        """Fetch on to the next entry of progress, while the last batch is brought to the disk."""
        settled = writer.settle(fetch.done)
        fetch.run(visit, min(fetch.done + batch, delivery.cells))
        self._record(delivery.order.id, settled.result())

    def _record(self, order_id: bytes, done: int) -> None:
        with self._context.profile.store.immediate() as tx:
            tx.execute(sa.update(deliveries).where(deliveries.c.order_id == order_id).values(done=done))

    def _finish(self, delivery: Delivery, writer: Writer) -> None:
        wrong = writer.finish()
        if wrong:
            for each in wrong:
                wrong_content.keep(self._context.profile, delivery.order.id, each, self._context.clock())
            self._record(delivery.order.id, min(each.target.span.first_cell for each in wrong))
            raise UntrustedError(
                f"The content of {wrong[0].target.span.sku} is not what {delivery.order.merchant} signed.",
                "The next download starts it over; the receipt proves what was promised. What came is kept "
                "to be shown (`veilmart order show`); `veilmart order dispute` asks for the money back.",
            )
        keys = {target.span.sku: _keys_in(target) for target in delivery.targets if target.span.keys}
        with self._context.profile.store.immediate() as tx:
            orders.keep_keys(tx, delivery.order.id, keys)
            if orders.load(tx, delivery.order.id).state == "downloading":
                orders.step(tx, delivery.order.id, "complete")

    def _confirm(self, place: str, order_id: bytes) -> None:
        with self._context.profile.store.immediate() as tx:
            if not unconfirmed(tx, order_id):
                return
        # The files are there, whoever is silent now; `resume` says it again.
        with suppress(VeilmartError):
            self._shop.within(place, lambda session: self._standing.confirm(session, order_id, CONFIRM_MS))


def _plain_digest(target: Target, keys: Mapping[str, str]) -> str:
    """Give SHA-256 of a file's content alone; that of keys which are not here yet is not known."""
    if not target.span.keys:
        return target.span.digest.hex()
    text = keys.get(target.span.sku)
    return "" if text is None else hashlib.sha256(text.encode()).hexdigest()


def _keys_in(target: Target) -> str:
    """Read the keys that were delivered. Raises `UntrustedError` where fewer or more were bought."""
    text = target.path.read_bytes().decode(errors="replace")
    found = sum(bool(line.strip()) for line in text.split("\n"))
    if found != target.span.keys:
        raise UntrustedError(
            f"{target.path} holds {found} keys of {target.span.sku}, not {target.span.keys}.",
            "`veilmart order dispute` asks for the money back.",
        )
    return text


def _forget(tx: Tx, delivery: Delivery) -> None:
    for target in delivery.targets:
        target.part.unlink(missing_ok=True)
    tx.execute(sa.delete(delivery_files).where(delivery_files.c.order_id == delivery.order.id))
    tx.execute(sa.delete(deliveries).where(deliveries.c.order_id == delivery.order.id))
