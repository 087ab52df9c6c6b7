"""The spent set in public: which coins and tickets are spent, per key, for wallets that lost their disk.

    veilmart/v1/spent/<key id>/<number>     retained, signed by the broker, always of one size

Rule 1. New marks are published only where totals are (`audit`): at fixed boundaries, over at least 20
orders, and in the same transaction, so that the marks of a key are as many as its total says. Never one by
one: an event per spend would be a time per spend.

Rule 2. The marks of one boundary stand in random order: nothing shows which were spent together. A mark is
SHA-256 of 64 random bytes and more that only its wallet has shown; here stands the first half of it.

Rule 3. A chunk is filled up to the end with chance, is replaced until it is full, and goes when its key's
months are over.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from broker_node import schema
from broker_node.keys import BrokerKeys
from broker_node.mint import Mint
from common import cards, config, messages, topics
from common.clock import Random
from common.core import Outgoing
from common.store import Row, Tx

AT_ONCE: Final = 32
"""Chunks in one round, about 300 KiB: after a new connection all of them are published again."""

_MARK: Final = config.SPENT_MARK
_ROOM: Final = config.SPENT_PER_CHUNK

_chunks = schema.spent_chunks
_NEW: Final = (
    sa.update(schema.spent)
    .where(schema.spent.c.published.is_(None))
    .values(published=1)
    .returning(schema.spent.c.key_id, schema.spent.c.mark)
)
_LAST: Final = (
    sa.select(_chunks)
    .where(_chunks.c.key_id == sa.bindparam("of"))
    .order_by(_chunks.c.number.desc())
    .limit(1)
)
_DUE: Final = (
    sa.select(_chunks)
    .where(_chunks.c.due.is_not(None))
    .order_by(_chunks.c.key_id, _chunks.c.number)
    .limit(AT_ONCE)
)
_INSERT: Final = sa.insert(_chunks)
_SENT: Final = (
    sa.update(_chunks)
    .where(_chunks.c.key_id == sa.bindparam("of"), _chunks.c.number == sa.bindparam("at"))
    .values(due=None)
)


class SpentSet:
    """Writes the chunks and gives those that are to be published."""

    def __init__(self, keys: BrokerKeys, mint: Mint) -> None:
        self._keys = keys
        self._mint = mint
        self._again = False
        self._done = False
        """Whether all is to be published again, and whether this transaction has seen to that."""

    def begin(self) -> None:
        """Forget what a transaction that was rolled back had done."""
        self._done = False

    def committed(self) -> None:
        """Note what the transaction has done."""
        self._again = self._again and not self._done
        self._done = False

    def publish_again(self) -> None:
        """Publish every chunk again: the bus may have lost them, the certificate may be another one."""
        self._again = True

    def extend(self, tx: Tx, random: Random) -> None:
        """Put the marks that are new since the last boundary into chunks."""
        by_key: dict[bytes, list[bytes]] = defaultdict(list)
        for row in tx.all(_NEW):
            by_key[row["key_id"]].append(row["mark"][:_MARK])
        for key_id, marks in sorted(by_key.items()):
            self._append(tx, key_id, _shuffled(marks, random), random)

    def _append(self, tx: Tx, key_id: bytes, marks: Sequence[bytes], random: Random) -> None:
        last = tx.one(_LAST, {"of": key_id})
        number = 0 if last is None else last["number"]
        if last is not None and last["used"] < _ROOM:
            room = _ROOM - last["used"]
            _fill(tx, last, marks[:room])
            marks = marks[room:]
        first = 0 if last is None else number + 1
        for place, start in enumerate(range(0, len(marks), _ROOM)):
            content = marks[start : start + _ROOM]
            row = {
                "key_id": key_id,
                "number": first + place,
                "used": len(content),
                "content": b"".join(content) + random((_ROOM - len(content)) * _MARK),
                "due": 1,
            }
            tx.insert(_INSERT, row)

    def outbox(self, tx: Tx, now: int) -> list[Outgoing]:
        """Give the next chunks that are to be published; call it while the bus is there."""
        if self._again and not self._done:
            tx.execute(sa.update(_chunks).values(due=1))
            self._done = True
        rows = tx.rows(_DUE)
        counting = {issuer.key_id: issuer for issuer in self._mint.announced(now)}
        sends: list[Outgoing] = []
        for row in rows:
            topic = topics.spent_chunk(row["key_id"], row["number"])
            if row["key_id"] in counting:
                tx.execute(_SENT, {"of": row["key_id"], "at": row["number"]})
                sends.append(Outgoing(topic, self._signed(row, now), retain=True))
            else:
                tx.execute(sa.delete(_chunks).where(*_is(row)))
                sends.append(Outgoing(topic, b"", retain=True))
        return sends

    def sweep(self, tx: Tx, now: int) -> None:
        """Let the chunks of keys whose months are over be cleared."""
        counting = [issuer.key_id for issuer in self._mint.announced(now)]
        tx.execute(sa.update(_chunks).where(_chunks.c.key_id.not_in(counting)).values(due=1))

    def _signed(self, row: Row, now: int) -> bytes:
        body = messages.SpentChunk(
            market=self._keys.market,
            issued=now,
            not_after=now + config.SPENT_CHUNK_LIFE_MS,
            key_id=row["key_id"],
            number=row["number"],
            marks=row["content"],
        )
        return cards.make_card(self._keys.identity, self._keys.certificate_der, "spent", body)


def _fill(tx: Tx, last: Row, marks: Sequence[bytes]) -> None:
    start, end = last["used"] * _MARK, (last["used"] + len(marks)) * _MARK
    content = last["content"][:start] + b"".join(marks) + last["content"][end:]
    values = {"used": last["used"] + len(marks), "content": content, "due": 1}
    tx.execute(sa.update(_chunks).where(*_is(last)).values(**values))


def _is(row: Row) -> tuple[sa.ColumnElement[bool], ...]:
    return (_chunks.c.key_id == row["key_id"], _chunks.c.number == row["number"])


def _shuffled(marks: Sequence[bytes], random: Random) -> list[bytes]:
    """Give the marks in random order: by 16 fresh random bytes each."""
    chance = random(16 * len(marks))
    order = sorted(range(len(marks)), key=lambda n: chance[16 * n : 16 * n + 16])
    return [marks[n] for n in order]
