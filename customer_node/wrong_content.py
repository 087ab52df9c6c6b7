"""Content that is not what was signed: kept, as something to show, until its order is at an end.

    a file with another digest --keep--> PROFILE/wrong/ORDER-NUMBER --order at its end--> erased

Rule 1. It lies in the profile under a name of ours, and never in a folder under its own.

Rule 2. There is at most one for each file of an order, the latest. It goes with the order's last open
question: delivered after all, given back, or its dispute decided. A file without a row is a crash's, and goes
at once.

Rule 3. It shows what came, and proves nothing. Whoever holds a stream's key can make cells of any content,
and both sides hold it; nor do the cells that went over the bus bind anybody, since ChaCha20-Poly1305 does not
commit to its key. So it is sent as a claim (`messages.Arrived`), and labelled as one.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from common import codec, messages
from common.store import Tx
from customer_node.files import Wrong
from customer_node.orders import Order
from customer_node.profile import Profile
from customer_node.schema import deliveries, orders, wrong_files
from customer_node.views import WrongFileView

FOLDER: Final = "wrong"
QUESTIONED: Final = ("accepted", "downloading", "disputed")
"""The states in which an order's content may still have to be shown."""

_OF_ORDER: Final = (
    sa.select(wrong_files).where(wrong_files.c.order_id == sa.bindparam("of")).order_by(wrong_files.c.number)
)


def keep(profile: Profile, order_id: bytes, wrong: Wrong, now: int) -> None:
    """Move what came into the profile. Where there is no room for it, its digest alone is kept."""
    if wrong.digest is None:
        return
    path = _path(profile, order_id, wrong.number)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    try:
        # A copy where the folder is on another disk; a crash in between leaves a file without a row.
        shutil.move(wrong.target.part, path)
    except OSError:
        path.unlink(missing_ok=True)
        wrong.target.part.unlink(missing_ok=True)
    span = wrong.target.span
    row = {"order_id": order_id, "number": wrong.number, "sku": span.sku, "keys": bool(span.keys)}
    with profile.store.immediate() as tx:
        tx.execute(
            sa.delete(wrong_files).where(
                wrong_files.c.order_id == order_id, wrong_files.c.number == wrong.number
            )
        )
        tx.execute(sa.insert(wrong_files), row | {"digest": wrong.digest, "at": now})


def erase_ended(profile: Profile) -> None:
    """Erase what belongs to no order with an open question."""
    folder = profile.home / FOLDER
    if not folder.exists():
        return
    questioned = sa.select(orders.c.order_id).where(orders.c.state.in_(QUESTIONED))
    with profile.store.immediate() as tx:
        tx.execute(sa.delete(wrong_files).where(wrong_files.c.order_id.not_in(questioned)))
        rows = tx.all(sa.select(wrong_files.c.order_id, wrong_files.c.number))
    kept = {_path(profile, row["order_id"], row["number"]) for row in rows}
    for path in folder.iterdir():
        if path not in kept:
            path.unlink()


def views(tx: Tx, profile: Profile, order_id: bytes) -> tuple[WrongFileView, ...]:
    """Show what is kept of an order."""
    shown = []
    for row in tx.all(_OF_ORDER, {"of": order_id}):
        path = _path(profile, order_id, row["number"])
        place = path if path.exists() else None
        shown.append(WrongFileView(row["sku"], row["keys"], row["digest"].hex(), place, row["at"]))
    return tuple(shown)


def arrived(tx: Tx, order: Order) -> messages.Arrived:
    """Say what came of an order, as its dispute does."""
    expected = sum(codec.PRODUCT_RECORD.unpack(line.record).cells for line in order.lines)
    rows = tx.all(_OF_ORDER, {"of": order.id})
    done = tx.scalar(sa.select(deliveries.c.done).where(deliveries.c.order_id == order.id)) or 0
    return messages.Arrived(
        # What is wrong was all there: that it is fetched again does not take it back.
        cells=expected if rows else done,
        expected=expected,
        wrong=[
            messages.WrongFile(sku=row["sku"], keys=row["keys"], digest=row["digest"])
            for row in rows[: 2 * len(order.lines)]
        ],
    )


def _path(profile: Profile, order_id: bytes, number: int) -> Path:
    return profile.home / FOLDER / f"{order_id.hex()}-{number}"
