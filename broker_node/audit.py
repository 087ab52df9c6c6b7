"""Public events: CloudEvents 1.0 JSON on `veilmart/v1/audit/event/<type>`.

Rule 1. An event is a row of the transaction that makes its fact, and is published after the commit; what
a crash left unpublished is published at the next start. No event is numbered here: concurrent
transactions commit out of order, so numbering is left to one publisher.

Rule 2. No session, account, product or amount. An order appears under a random pseudonym, with its
merchant and a time cut to the minute; what must be provable later stands in it as a commitment with a
salt of its own.

Rule 3. Totals are published at fixed boundaries only, and only over at least 20 orders: a count between
two events would be the price of what happened between them. They are stored as published, since the
broker's card repeats these numbers, and no newer ones, for whoever did not listen then.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec
import sqlalchemy as sa

from broker_node import schema
from common import codec, messages, slots, topics
from common.clock import Random
from common.config import Limits
from common.core import Outgoing
from common.store import Tx

_EVENT = sa.insert(schema.events)
_UNPUBLISHED = sa.insert(schema.unpublished)
_PUBLISHED = sa.delete(schema.unpublished).where(schema.unpublished.c.event == sa.bindparam("done"))
_WAITING = sa.select(schema.unpublished.c.event).limit(2048)
_BODIES = sa.select(schema.events).where(schema.events.c.id.in_(sa.bindparam("wanted", expanding=True)))
BATCH_ROOM = 48 * 1024


class Audit:
    """Writes events into the transaction and gives what is to be published after it."""

    def __init__(self, market: bytes, limits: Limits) -> None:
        self._source = f"urn:veilmart:market:{market.hex()}"
        self._limits = limits
        self._published: list[bytes] = []
        """What was given out last, to be forgotten in the transaction that looks for more."""
        self._listed: list[bytes] | None = None
        self._due = True
        """Whether anything may wait: a round that only relays shall not ask the store."""
        self._boundary: int | None = None
        self._reached: int | None = None
        """The last boundary, and the one that this transaction has looked at."""

    def record(self, tx: Tx, kind: str, data: Mapping[str, Any], now: int, random: Random) -> None:
        """Write one event into the transaction; `outbox` publishes it."""
        entropy = random(26)
        event = {
            "specversion": "1.0",
            "id": entropy[:16].hex(),
            "source": self._source,
            "type": f"veilmart.{kind}",
            "time": text_of(now),
            "datacontenttype": "application/json",
            "data": dict(data),
        }
        # By time, as in UUIDv7 (RFC 9562): wholly random keys would each cost a page of the store.
        key = now.to_bytes(6, "big") + entropy[16:]
        tx.insert(_EVENT, {"id": key, "type": kind, "body": msgspec.json.encode(event)})
        tx.insert(_UNPUBLISHED, {"event": key})
        self._due = True

    def order_step(self, tx: Tx, state: str, order: Mapping[str, Any], now: int, random: Random) -> None:
        """Record one step of an order (a row of `orders`, or what becomes one).

        The first step carries the commitment to what the order is.
        """
        data = {"order": order["pseudonym"].hex(), "merchant": order["merchant"]}
        if state == "held":
            data["commitment"] = commitment(
                order["salt"], order["order_id"], order["merchant"], order["amount"]
            )
        self.record(tx, f"order.{state}", data, now, random)

    def begin(self) -> None:
        """Forget what a transaction that was rolled back had listed."""
        self._due = self._due or self._listed is not None
        self._listed = None
        self._reached = self._boundary

    def committed(self) -> None:
        """Take what the transaction listed for published: the loop publishes it now."""
        if self._listed is not None:
            self._published = self._listed
        self._listed = None
        self._boundary = self._reached

    def outbox(self, tx: Tx) -> list[Outgoing]:
        """Give what waits to be published, and forget what was published last.

        Once in a transaction: what comes after is given in the next one.
        """
        if self._listed is not None or not (self._due or self._published):
            return []
        self._listed = []
        tx.each(_PUBLISHED, [{"done": event} for event in self._published])
        by_type: dict[str, list[bytes]] = defaultdict(list)
        # Two reads and no join: SQLite would walk through every event there ever was.
        for row in tx.among(_BODIES, [row["event"] for row in tx.rows(_WAITING)]):
            by_type[row["type"]].append(row["body"])
            self._listed.append(row["id"])
        self._due = False
        return [
            Outgoing(topics.audit_event(kind), payload, content_type=content_type)
            for kind, bodies in by_type.items()
            for content_type, payload in _payloads(bodies)
        ]

    def look_again(self) -> None:
        """Ask the store for events that another process wrote: the operator's commands do."""
        self._due = True

    def publish_again(self) -> None:
        """Keep what the last round published: its connection may have broken before it was sent."""
        self._published = []
        self._due = True

    def totals(self, tx: Tx, now: int, random: Random) -> bool:
        """Publish coin totals at an hour's boundary, when enough orders have happened since the last ones.

        Tells whether it did: then the card has to show them.
        """
        boundary = slots.slot_start(now, self._limits.totals_period_ms)
        before = self._boundary
        if before is not None and boundary <= before:
            return False
        self._reached = boundary
        if before is None:
            return False
        orders = int(tx.scalar(sa.select(sa.func.count()).select_from(schema.orders)) or 0)
        counted = int(tx.scalar(sa.select(sa.func.max(schema.totals.c.orders))) or 0)
        if orders - counted < self._limits.totals_minimum_orders:
            return False
        totals = _count(tx)
        row = {"at": boundary, "orders": orders, "coins": codec.pack(totals)}
        tx.insert(sa.insert(schema.totals), row)
        data = {"coins": [msgspec.structs.asdict(each) for each in totals]}
        self.record(tx, "coins.totals", data, boundary, random)
        return True

    @staticmethod
    def last_totals(tx: Tx) -> tuple[int, list[messages.CoinTotal]]:
        """Give the boundary and the numbers of the totals that were published last; (0, none) before."""
        last = tx.one(
            sa.select(schema.totals.c.at, schema.totals.c.coins)
            .where(schema.totals.c.coins.is_not(None))
            .order_by(schema.totals.c.at.desc())
            .limit(1)
        )
        return (0, []) if last is None else (last["at"], codec.COIN_TOTALS.unpack(last["coins"]))


def _count(tx: Tx) -> list[messages.CoinTotal]:
    keys, spent = schema.issuer_keys, schema.spent
    rows = tx.all(
        sa.select(keys.c.value, keys.c.month, keys.c.issued, sa.func.count(spent.c.mark).label("spent"))
        .join(spent, spent.c.key_id == keys.c.key_id, isouter=True)
        .where(keys.c.purpose == "coin")
        .group_by(keys.c.key_id)
        .order_by(keys.c.month, keys.c.value)
    )
    return [messages.CoinTotal(**row) for row in rows]


def text_of(now: int) -> str:
    """Give a time as events show it: RFC 3339, UTC, cut to the minute."""
    return _text(slots.minute_of(now))


@lru_cache(maxsize=8)
def _text(minute: int) -> str:
    return datetime.fromtimestamp(minute / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def commitment(salt: bytes, *facts: object) -> str:
    """Commit to facts that may be opened later: SHA-256 over a label, 16 random bytes and the facts."""
    return hashlib.sha256(b"veilmart v1 commitment\0" + salt + codec.pack(list(facts))).hexdigest()


def _payloads(bodies: Sequence[bytes]) -> list[tuple[str, bytes]]:
    """Give (content type, payload): one event as an object, several of one round as a batch, an array."""
    if len(bodies) == 1:
        return [("application/cloudevents+json", bodies[0])]
    batches: list[list[bytes]] = [[]]
    size = 0
    for body in bodies:
        if batches[-1] and size + len(body) > BATCH_ROOM:
            batches.append([])
            size = 0
        batches[-1].append(body)
        size += len(body) + 2
    return [("application/cloudevents-batch+json", b"[" + b",\n".join(batch) + b"]") for batch in batches]
