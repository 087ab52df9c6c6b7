"""The merchant's core: what arrives, what is decided, what goes out. `common.node` is its loop.

    broker/card             -> session            whom to greet, under which key
    merchant/<mid>/in       -> Welcome            session.py
                               Forward            browse.py     a sealed question, answered at once
                               ForwardOrder       fulfil.py     accepted or rejected, and stored
                               OrderOutcome       settle.py     paid, given back, or void
                               RefundTaken, Refused   refunds.py    what we gave back
                               DisputeOpened, DisputeAnswered   disputes.py
                               ForwardFetch       delivery.py   cells, on the connection for cells
                               Statement, PayoutAnswer, PayoutRefused   money.py

Rule 1. `check`, `receive_all` and `tick` change nothing but `tx`; memory follows after the commit, in
`seen` and `frame`. Three things are handed in that touch files: the prekeys (`tick` has them made and
erased), images (browsed) and the content, which is read by cell sources alone.

Rule 2. What a peer gets wrong inside an opened frame is dropped and counted in `refused`, one message at
a time: the others of its batch are not harmed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from common import cards, clock, messages, sealing, topics
from common.config import HOUR_MS, Limits
from common.core import Arrival, CellSource, Incoming, Job, Outgoing
from common.errors import ForgedError, MalformedError
from common.store import Tx
from merchant_node import disputes, money, refunds, schema
from merchant_node.browse import Browse
from merchant_node.catalog import Catalog, catalog_version
from merchant_node.content import ContentFolder
from merchant_node.delivery import Delivery, Window, WindowSource
from merchant_node.fulfil import Fulfilment
from merchant_node.prekeys import ORDER_SCHEDULE, Prekeys
from merchant_node.session import HelloAnswered, Session
from merchant_node.settle import settle_all
from merchant_node.shop import Shop

CARD_PERIOD_MS: Final = HOUR_MS

_COUNTER = sa.select(schema.counters.c.value).where(schema.counters.c.name == "hello")
_COUNT = sa.update(schema.counters).where(schema.counters.c.name == "hello").values(value=sa.bindparam("to"))


@dataclass(frozen=True)
class Greet:
    """A new `Hello` is due; its counter is stored."""

    counter: int


@dataclass(frozen=True)
class Repeat:
    """The pending `Hello` is due again."""


@dataclass(frozen=True)
class Announce:
    """The card is due."""

    catalog_version: int


class Merchant:
    """A merchant: `common.core.Core`."""

    def __init__(
        self,
        shop: Shop,
        prekeys: Prekeys,
        content: ContentFolder,
        limits: Limits,
        *,
        cell_clock: Callable[[], int] = clock.now_ms,
    ) -> None:
        self._shop = shop
        self._prekeys = prekeys
        self._content = content
        self._limits = limits
        self._cell_clock = cell_clock
        self._in = topics.merchant_in(shop.merchant)
        self._announced: int | None = None
        self._announced_at = 0
        self.refused: Counter[str] = Counter()
        """What was dropped after its frame had opened, by reason."""
        self.session = Session(shop, limits)
        catalog = Catalog()
        self._browse = Browse(shop, prekeys, catalog, content)
        self._fulfilment = Fulfilment(shop, prekeys, catalog)
        self._delivery = Delivery(shop, prekeys)

    # --- check -----------------------------------------------------------------------------------------

    def unknown(self, incoming: Sequence[Incoming]) -> bool:  # noqa: ARG002 - part of `Core`
        """Nothing that `check` needs is in the store."""
        return False

    def warm(self, tx: Tx, incoming: Sequence[Incoming]) -> None:
        """Do nothing: see `unknown`."""

    def check(self, incoming: Incoming, now: int) -> Sequence[Arrival]:
        """Open what arrived. Raises `WireError`."""
        if incoming.topic == self._in:
            return self.session.check(incoming.payload, now)
        if incoming.topic == topics.broker_card():
            return [Arrival("broker", b"", self._check_card(incoming.payload, now))]
        raise MalformedError("not a topic that we read")

    def _check_card(self, payload: bytes, now: int) -> cards.Card[messages.BrokerCard]:
        card = cards.open_broker_card(payload, self._shop.ca_der, self._shop.market, now)
        if card.certificate.fingerprint != self._shop.broker_fingerprint:
            raise ForgedError("the card of another broker")
        if card.body.currency != self._shop.currency:
            raise ForgedError("a card with another currency than the market file's")
        for key in card.body.hello_keys:
            sealing.load_public(key.public)
        return card

    # --- decide ----------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Do nothing: memory follows after the commit alone."""

    def receive_all(self, tx: Tx, arrivals: Sequence[Arrival], now: int, random: clock.Random) -> list[Any]:
        """Decide about a batch, each kind of message in one go; cards and welcomes wait for `seen`."""
        kinds: defaultdict[type, list[Any]] = defaultdict(list)
        for arrival in arrivals:
            kinds[type(arrival.body)].append(arrival.body)
        at = self.session.broker_clock(now)
        # Orders before outcomes: an order that is void by now must not be accepted after that.
        sends: list[Any] = []
        sends += self._fulfilment.answer_all(tx, kinds[messages.ForwardOrder], at, random, self.refused)
        sends += settle_all(tx, kinds[messages.OrderOutcome], at, self.refused)
        disputes.closed(tx, kinds[messages.OrderOutcome])
        # What is disputed is paid; where the word of that was lost, it does not come again.
        settle_all(tx, disputes.paid(kinds[messages.DisputeOpened]), at, self.refused)
        sends += disputes.opened(tx, kinds[messages.DisputeOpened], at)
        disputes.said(tx, kinds[messages.DisputeAnswered], kinds[messages.Refused])
        refunds.taken(tx, kinds[messages.RefundTaken])
        refunds.refused(tx, kinds[messages.Refused])
        if kinds[HelloAnswered] or kinds[cards.Card]:
            # The broker begins anew, or this session does: what was sent before may be lost.
            refunds.all_due(tx)
            disputes.all_due(tx)
        sends += self._delivery.decide_all(tx, kinds[messages.ForwardFetch], random, self.refused)
        sends += self._browse.answer_all(tx, kinds[messages.Forward], at, random, self.refused)
        money.read(tx, kinds[messages.Statement], now, self.refused)
        money.answered(tx, [*kinds[messages.PayoutAnswer], *kinds[messages.PayoutRefused]], self.refused)
        if kinds[messages.OrderOutcome] or kinds[messages.DisputeOpened]:
            money.ask_soon(tx)
        return sends

    def tick(self, tx: Tx, now: int, random: clock.Random) -> list[Any]:
        """Renew prekeys, card and session when due; ask again for refunds."""
        sends: list[Any] = []
        if self._prekeys.refresh(now):
            self._announced = None
        version = catalog_version(tx)
        if self._announced != version or now >= self._announced_at + CARD_PERIOD_MS:
            sends.append(Announce(version))
        if self.session.usable:
            sends += refunds.due(tx, now, self._limits)
            sends += disputes.due(tx, now, self._limits)
        match self.session.due(now):
            case "greet":
                # Stored before it is used: after a crash the next one is still higher.
                counter = max(now, int(tx.scalar(_COUNTER)) + 1)
                tx.changed(_COUNT, {"to": counter})
                sends.append(Greet(counter))
                money.ask_soon(tx)
            case "repeat":
                sends.append(Repeat())
            case "nothing":
                pass
        if self.session.usable:
            sends += money.questions(tx, now, random)
        return sends

    def seen(self, arrivals: Iterable[Arrival], now: int) -> None:
        """Remember committed arrivals, and let the session take the steps that they call for."""
        committed = list(arrivals)
        self.session.expire(now)
        self.session.seen(committed, now)
        if any(isinstance(arrival.body, cards.Card) for arrival in committed):
            # It comes on each connection and when the broker begins anew: the bus may have lost our card.
            self._announced = None

    # --- send ------------------------------------------------------------------------------------------

    def frame(
        self, sends: Sequence[Any], now: int, random: clock.Random
    ) -> list[Outgoing | Job | CellSource]:
        """Make frames, the card and cell sources of what was decided."""
        framed: list[Outgoing | Job | CellSource] = []
        bodies: list[messages.Message] = []
        for send in sends:
            match send:
                case messages.Message():
                    bodies.append(send)
                case Window():
                    framed.append(WindowSource(send, self._content, self.session, self._cell_clock, random))
                case Greet(counter=counter):
                    framed += self.session.greet(counter, now, random)
                case Repeat():
                    framed += self.session.repeat(now)
                case Announce(catalog_version=version):
                    framed.append(self._announce(version, now))
                case _:
                    raise TypeError(f"nothing sends a {type(send).__name__}")
        framed += self.session.seal(bodies, now, random)
        return framed

    def _announce(self, version: int, now: int) -> Outgoing:
        order_slots = self._prekeys.order_slots(now)
        body = messages.MerchantCard(
            market=self._shop.market,
            merchant=self._shop.merchant,
            issued=now,
            not_after=order_slots[-1].slot + ORDER_SCHEDULE.period_ms,
            name=self._shop.name,
            description=self._shop.description,
            browse_prekeys=self._prekeys.browse_slots(now),
            order_prekeys=order_slots,
            catalog_version=version,
        )
        card = cards.make_card(self._shop.identity, self._shop.certificate_der, "merchant", body)
        self._announced, self._announced_at = version, now
        return Outgoing(topics.merchant_card(self._shop.merchant), card, retain=True)
