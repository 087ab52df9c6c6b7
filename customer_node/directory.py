"""Who the broker and the merchants are, and which keys they use now: cards, verified.

Rule 1. A card counts only with the market CA's certificate for its sender, and the broker's only under
the key that the market file names.

Rule 2. A merchant's identity key is pinned at first sight. Whoever holds the CA could certify itself as
the merchant; so a change is an `UntrustedError`, and the new card is kept as evidence.

Rule 3. One key per calendar slot (`key_slots`). A second one for the same slot is refused, and both cards
are kept: whoever is shown a key of its own can be recognised by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import sqlalchemy as sa

from common import cards, codec, messages, topics
from common.errors import (
    BrokerUnreachableError,
    MalformedError,
    NotFoundError,
    StaleError,
    UntrustedError,
    WireError,
)
from common.keys import PublicIdentity
from customer_node import key_slots
from customer_node.connection import Link
from customer_node.profile import Profile
from customer_node.schema import merchants
from customer_node.timing import Clock

_INSERT_MERCHANT: Final = sa.insert(merchants)


@dataclass(frozen=True)
class Merchant:
    """A merchant whose card was verified and whose identity is the pinned one."""

    id: str
    card: messages.MerchantCard = field(repr=False)
    identity: PublicIdentity = field(repr=False)
    fingerprint: bytes
    certificate: bytes = field(repr=False)


class Directory:
    """Reads cards off a link."""

    def __init__(self, profile: Profile, clock: Clock) -> None:
        self._profile = profile
        self._clock = clock

    def broker(self, link: Link, timeout_ms: int) -> messages.BrokerCard:
        """Give the broker's card. Raises `BrokerUnreachableError` or `UntrustedError`."""
        payload = link.wait_for(topics.broker_card(), self._clock, timeout_ms)
        if payload is None:
            raise link.silence() or BrokerUnreachableError(
                "The broker has published no card.", "Start it with `veilmart broker run`."
            )
        if (present := _verified(link, topics.broker_card(), payload)) is not None:
            body: messages.BrokerCard = present
            return body
        market = self._profile.market
        try:
            card = cards.open_broker_card(
                payload, self._profile.ca_der, self._profile.market_id, self._clock()
            )
        except WireError as error:
            _distrust("The broker's card", error)
        if card.certificate.fingerprint != market.broker_identity or card.body.currency != market.currency:
            self._profile.keep_evidence("broker card", payload, self._clock())
            raise UntrustedError(
                "The broker's card is not that of the market file's broker.",
                "Ask the market's operator for the present market file.",
            )
        now = self._clock()
        shown = key_slots.slot_keys("broker", "hello", card.body.hello_keys, now)
        self._remember("broker", [*shown, *key_slots.issuer_slots(card.body.issuer_keys, now)], payload)
        link.verified[topics.broker_card()] = (payload, card.body)
        return card.body

    def merchant(self, link: Link, merchant: str) -> Merchant:
        """Give a merchant. Raises `NotFoundError` or `UntrustedError`."""
        try:
            topic = topics.merchant_card(merchant)
        except MalformedError:
            raise _no_merchant(merchant) from None
        link.settle(self._clock, topic)
        payload = link.board.get(topic)
        if not payload:
            raise _no_merchant(merchant)
        return self._open(link, merchant, payload)

    def merchants(self, link: Link) -> tuple[list[Merchant], dict[str, UntrustedError]]:
        """Give every merchant whose card holds, in the order of their ids, and what is wrong with others."""
        link.settle(self._clock)
        good: list[Merchant] = []
        bad: dict[str, UntrustedError] = {}
        for topic in sorted(link.board):
            try:
                parsed = topics.parse(topic)
            except MalformedError:
                continue
            if isinstance(parsed, topics.MerchantCard) and link.board[topic]:
                try:
                    good.append(self._open(link, parsed.merchant_id, link.board[topic]))
                except UntrustedError as error:
                    bad[parsed.merchant_id] = error
        return good, bad

    def _open(self, link: Link, merchant: str, payload: bytes) -> Merchant:
        topic = topics.merchant_card(merchant)
        opened: Merchant = _verified(link, topic, payload) or self._verify(merchant, payload)
        link.verified[topic] = (payload, opened)
        return opened

    def _verify(self, merchant: str, payload: bytes) -> Merchant:
        now = self._clock()
        try:
            card = cards.open_merchant_card(
                payload, self._profile.ca_der, self._profile.market_id, merchant, now
            )
        except WireError as error:
            _distrust(f"The card of {merchant}", error)
        if self._pin(merchant, card.certificate.fingerprint, now) != card.certificate.fingerprint:
            with self._profile.store.immediate() as tx:
                known = key_slots.latest_card(tx, f"merchant/{merchant}") or b""
            self._profile.keep_evidence("merchant identity", codec.pack([known, payload]), now)
            raise UntrustedError(
                f"The identity key of {merchant} is not the one that this profile knows.",
                "Ask the merchant by another way. Nothing was sent to it.",
            )
        shown = key_slots.slot_keys(merchant, "browse", card.body.browse_prekeys, now)
        shown += key_slots.slot_keys(merchant, "order", card.body.order_prekeys, now)
        self._remember(f"merchant/{merchant}", shown, payload)
        return Merchant(
            id=merchant,
            card=card.body,
            identity=card.certificate.public_key,
            fingerprint=card.certificate.fingerprint,
            certificate=card.certificate_der,
        )

    def _pin(self, merchant: str, fingerprint: bytes, now: int) -> bytes:
        with self._profile.store.immediate() as tx:
            pinned: bytes | None = tx.scalar(
                sa.select(merchants.c.fingerprint).where(merchants.c.merchant == merchant)
            )
            if pinned is None:
                row = {"merchant": merchant, "fingerprint": fingerprint, "first_seen": now}
                tx.insert(_INSERT_MERCHANT, row)
        return fingerprint if pinned is None else pinned

    def _remember(self, holder: str, shown: Sequence[key_slots.Shown], payload: bytes) -> None:
        now = self._clock()
        try:
            with self._profile.store.immediate() as tx:
                key_slots.remember(tx, holder, shown, payload, now)
        except key_slots.SecondKeyError as second:
            self._profile.keep_evidence(f"second key: {holder}", codec.pack([second.first, payload]), now)
            raise UntrustedError(
                f"{holder} shows a second {second.purpose} key for the same time.",
                "Both cards were kept as evidence. Do not withdraw or buy; ask the market's operator.",
            ) from None


def _verified(link: Link, topic: str, payload: bytes) -> Any:
    """Give what was read off these very bytes on this connection."""
    seen, read = link.verified.get(topic, (b"", None))
    return read if seen == payload else None


def _distrust(what: str, error: WireError) -> NoReturn:
    if isinstance(error, StaleError):
        raise UntrustedError(
            f"{what} is not valid at this time.", "Check this machine's clock; the card may be an old one."
        ) from error
    raise UntrustedError(f"{what} does not prove what it claims: {error}.") from error


def _no_merchant(merchant: str) -> NotFoundError:
    return NotFoundError(
        f"This market has no merchant {merchant!r}.", "`veilmart merchants` lists those that there are."
    )
