"""The public spent set, read as a whole and matched here: nobody learns which marks were looked for.

Rule. Everything on `spent/+/+` is read, on a connection that belongs to no session. Chunks that the broker
did not sign count for nothing; whether any are missing is told from the card's totals.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from common import cards, config, topics
from common.errors import MalformedError, WireError
from common.messages import BrokerCard
from customer_node.context import Context


@dataclass(frozen=True)
class SpentMarks:
    """Marks cut to their first half; `missing` is how many spent coins the totals count and these do not."""

    marks: frozenset[bytes] = field(repr=False)
    missing: int

    def __contains__(self, mark: bytes) -> bool:
        return mark[: config.SPENT_MARK] in self.marks


def read(context: Context) -> SpentMarks:
    """Read the set. Raises `BusUnreachableError`, `BrokerUnreachableError`, `UntrustedError`."""
    link = context.uplink.link(context.random(16), "spent")
    card = context.broker(link)
    link.settle(context.clock)
    profile, now = context.profile, context.clock()
    marks: set[bytes] = set()
    chunks: Counter[bytes] = Counter()
    for topic, payload in link.board.items():
        chunk = _chunk(topic)
        if chunk is None or not payload:
            continue
        try:
            opened = cards.open_spent_chunk(
                payload, profile.ca_der, profile.market_id, chunk.key_id, chunk.number, now
            )
        except WireError:
            continue
        if opened.certificate.fingerprint != profile.market.broker_identity:
            continue
        chunks[chunk.key_id] += 1
        content, size = opened.body.marks, config.SPENT_MARK
        marks.update(content[start : start + size] for start in range(0, len(content), size))
    return SpentMarks(frozenset(marks), _missing(card, chunks))


def _chunk(topic: str) -> topics.SpentChunk | None:
    try:
        parsed = topics.parse(topic)
    except MalformedError:
        return None
    return parsed if isinstance(parsed, topics.SpentChunk) else None


def _missing(card: BrokerCard, chunks: Counter[bytes]) -> int:
    keys = {(key.value, key.month): key.key_id for key in card.issuer_keys if key.purpose == "coin"}
    room = config.SPENT_PER_CHUNK
    counts = ((total.spent, chunks[keys.get((total.value, total.month), b"")]) for total in card.totals)
    return sum(max(0, spent - room * present) for spent, present in counts)
