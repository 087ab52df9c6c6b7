"""The broker's card: what customers and merchants read before anything else."""

from __future__ import annotations

from typing import Final

from broker_node.announced import Announced
from broker_node.audit import Audit
from broker_node.keys import BrokerKeys
from broker_node.mint import Mint
from common import cards, config, messages, topics
from common.clock import Random
from common.config import Limits
from common.core import Outgoing
from common.store import Tx

CARD_GRACE_MS: Final = config.HOUR_MS


class CardMaker:
    """Makes the card out of keys, limits and the last public totals."""

    def __init__(
        self, keys: BrokerKeys, issuing: Mint, announced: Announced, audit: Audit, limits: Limits
    ) -> None:
        self._keys = keys
        self._mint = issuing
        self._announced = announced
        self._audit = audit
        self._limits = limits

    def make(self, tx: Tx, now: int, random: Random) -> Outgoing:
        """Make the card; the keys that it is the first to show get their events in this transaction."""
        hello_keys = [
            messages.SlotKey(slot=slot, public=key.public.raw) for slot, key in self._keys.hello.from_now(now)
        ]
        self._announced.own(tx, hello_keys, self._keys.log_public, now, random)
        issuers = self._mint.announced(now)
        months = {issuer.month for issuer in issuers}
        totals_at, totals = self._audit.last_totals(tx)
        body = messages.BrokerCard(
            market=self._keys.market,
            issued=now,
            not_after=self._keys.hello.end_of(hello_keys[0].slot) + CARD_GRACE_MS,
            currency=self._keys.currency,
            hello_keys=hello_keys,
            issuer_keys=issuers,
            log_key=self._keys.log_public,
            order_deadline_ms=self._limits.order_deadline_ms,
            commission_basis_points=self._limits.commission_basis_points,
            totals_at=totals_at,
            totals=[each for each in totals if each.month in months],
        )
        card = cards.make_card(self._keys.identity, self._keys.certificate_der, "broker", body)
        return Outgoing(topics.broker_card(), card, retain=True)
