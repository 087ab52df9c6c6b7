"""The gate: bytes from a topic become checked arrivals, and what the core wants sent becomes frames.

Inwards, in this order: topic, size, session, MAC over the received bytes, decryption, types of the
session's own scope, freshness, replay. Outwards: grouped by destination, shuffled, padded, sealed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from broker_node.hello import Greeting
from broker_node.keys import BrokerKeys
from broker_node.sends import CellsToSession, ToMerchant, ToSession
from broker_node.sessions import Live, Sessions
from common import cards, codec, frames, grouping, messages, sealing, topics
from common.clock import Random
from common.config import Limits
from common.core import Arrival, Incoming, Job, Outgoing
from common.errors import MalformedError, StaleError
from common.presence import read_presence

CELL_MESSAGES = (messages.Cells,)


@dataclass(frozen=True, slots=True)
class MerchantPresence:
    """A merchant's retained status."""

    merchant: str
    online: bool


@dataclass(frozen=True, slots=True)
class MerchantShown:
    """A merchant's retained card, verified as a customer does."""

    card: cards.Card[messages.MerchantCard]


class Gate:
    """Opens and seals."""

    def __init__(self, keys: BrokerKeys, sessions: Sessions, limits: Limits) -> None:
        self._keys = keys
        self._sessions = sessions
        self._limits = limits
        self._seen = grouping.SeenIds(limits.freshness_ms)

    # --- inwards ---------------------------------------------------------------------------------------

    def unknown(self, incoming: Sequence[Incoming]) -> list[bytes]:
        """Give the session ids that are not in the cache."""
        return [
            place.session_id
            for message in incoming
            if isinstance(place := _place(message.topic), topics.SessionUp)
            and self._sessions.find(place.session_id) is None
            and len(message.payload) != frames.HELLO_SIZE
        ]

    def check(self, incoming: Incoming, now: int) -> Sequence[Arrival]:
        """Open one payload. Raises `WireError`."""
        match topics.parse(incoming.topic):
            case topics.SessionUp(session_id=sid):
                if frames.frame_type(incoming.payload) == frames.HELLO_TYPE:
                    return [self._greeting(incoming, sid, None)]
                return self._frame(incoming, self._sessions.find(sid), now)
            case topics.MerchantOut(merchant_id=merchant):
                if frames.frame_type(incoming.payload) == frames.HELLO_TYPE:
                    return [self._greeting(incoming, None, merchant)]
                return self._of_merchant(incoming, merchant, now, cells=False)
            case topics.MerchantCells(merchant_id=merchant):
                return self._of_merchant(incoming, merchant, now, cells=True)
            case (topics.MerchantStatus() | topics.MerchantCard()) as retained:
                return self._retained(retained, incoming.payload, now)
        raise MalformedError("nothing is read from this topic")

    def _greeting(self, incoming: Incoming, sid: bytes | None, merchant: str | None) -> Arrival:
        hello_key = self._keys.hello.by_id.get(frames.hello_key_id(incoming.payload))
        if hello_key is None:
            raise StaleError("a hello to a key that is gone")
        hello = frames.open_hello(hello_key, self._keys.market, incoming.topic, incoming.payload)
        # Before anything is decided: a `Hello` that cannot be answered spends no ticket.
        sealing.XWingPublicKey.from_bytes(hello.ephemeral)
        return Arrival(None, b"", Greeting(incoming.payload, hello, sid, merchant))

    def _retained(
        self, topic: topics.MerchantStatus | topics.MerchantCard, payload: bytes, now: int
    ) -> Sequence[Arrival]:
        if not payload:
            # A revoked merchant's, which we cleared.
            return []
        if isinstance(topic, topics.MerchantStatus):
            online = read_presence(payload).state == "online"
            return [Arrival(None, b"", MerchantPresence(topic.merchant_id, online=online))]
        card = cards.open_merchant_card(payload, self._keys.ca_der, self._keys.market, topic.merchant_id, now)
        return [Arrival(None, b"", MerchantShown(card))]

    def _of_merchant(self, incoming: Incoming, merchant: str, now: int, *, cells: bool) -> Sequence[Arrival]:
        frames.frame_type(incoming.payload)
        live = self._sessions.by_key_id(merchant, frames.frame_key_id(incoming.payload))
        arrivals = self._frame(incoming, live, now)
        if any(isinstance(arrival.body, CELL_MESSAGES) != cells for arrival in arrivals):
            raise MalformedError("cells and other messages have a topic each")
        return arrivals

    def _frame(self, incoming: Incoming, live: Live | None, now: int) -> Sequence[Arrival]:
        if live is None or live.ended(now):
            raise StaleError("no such session, or it is over")
        content = frames.open_frame(live.keys.up, incoming.topic, incoming.payload)
        envelopes = _CODECS[live.session.scope].unpack(content)
        if len({envelope.id for envelope in envelopes}) != len(envelopes):
            raise MalformedError("one id twice in a frame")
        for envelope in envelopes:
            self._seen.check(envelope.id, envelope.at, now)
        live.last_seen = now
        live.bytes_used += len(incoming.payload)
        return [Arrival(live.session, envelope.id, envelope.body) for envelope in envelopes]

    def seen(self, arrivals: Iterable[Arrival], now: int) -> None:
        """Remember what was committed."""
        self._seen.add((arrival.id for arrival in arrivals if arrival.sender is not None), now)

    # --- outwards --------------------------------------------------------------------------------------

    def frame(self, sends: Sequence[Any], now: int, random: Random) -> list[Outgoing | Job]:
        """Make frames of what goes to one place; jobs and ready publishes pass."""
        sessions: dict[bytes, list[messages.Message]] = defaultdict(list)
        merchants: dict[str, list[messages.Message]] = defaultdict(list)
        passed: list[Outgoing | Job] = []
        cells: list[Outgoing | Job] = []
        for send in sends:
            match send:
                case ToSession(sid=sid, body=body):
                    sessions[sid].append(body)
                case ToMerchant(merchant=merchant, body=body):
                    merchants[merchant].append(body)
                case CellsToSession(sid=sid, body=body):
                    cells += self._to_session(sid, [body], now, random, lane="cells")
                case _:
                    passed.append(send)
        grouped: list[Outgoing | Job] = []
        for sid, bodies in sessions.items():
            grouped += self._to_session(sid, bodies, now, random, lane="main")
        for merchant, bodies in merchants.items():
            live = self._sessions.of_merchant(merchant, now)
            topic = topics.merchant_in(merchant)
            grouped += self._seal(live, topic, bodies, now, random, lane="main")
        return passed + [grouped[n] for n in grouping.shuffled(len(grouped), random)] + cells

    def _to_session(
        self, sid: bytes, bodies: list[messages.Message], now: int, random: Random, *, lane: Any
    ) -> list[Outgoing]:
        live = self._sessions.find(sid)
        return self._seal(live, topics.session_down(sid), bodies, now, random, lane=lane)

    def _seal(
        self,
        live: Live | None,
        topic: str,
        bodies: list[messages.Message],
        now: int,
        random: Random,
        *,
        lane: Any,
    ) -> list[Outgoing]:
        if live is None:
            # Its session is gone: whoever still wants this asks again in another one.
            return []
        outgoing = [
            Outgoing(
                topic,
                frames.seal_frame(live.keys.down, topic, content, random(frames.NONCE)),
                lane=lane,
                expiry_ms=self._limits.freshness_ms,
            )
            for content in grouping.pack_frames(bodies, now, random)
        ]
        live.bytes_used += sum(len(item.payload) for item in outgoing)
        return outgoing


_CODECS: dict[str, codec.Codec[Any]] = {
    "account": codec.FROM_ACCOUNT,
    "shop": codec.FROM_SHOP,
    "merchant": codec.FROM_MERCHANT,
}


def _place(topic: str) -> topics.Topic | None:
    try:
        return topics.parse(topic)
    except MalformedError:
        return None
