"""What every part of an open market works with."""

from __future__ import annotations

from dataclasses import dataclass, field

from common.clock import Random
from common.messages import BrokerCard
from customer_node import crowd, issuers, key_slots
from customer_node.connection import Link, Uplink
from customer_node.directory import Directory
from customer_node.profile import Profile
from customer_node.timing import Clock
from customer_node.wallet import Wallet


@dataclass(frozen=True)
class Context:
    """Profile, bus and wallet, with time and chance.

    `timeout_ms` is how long one answer may take; `hurried` is whether the minimum age is not waited for.
    """

    profile: Profile
    uplink: Uplink
    directory: Directory
    wallet: Wallet
    clock: Clock
    random: Random = field(repr=False)
    timeout_ms: int
    hurried: bool

    @property
    def age_ms(self) -> int:
        """The market's minimum age, in milliseconds; 0 where nothing waits for it."""
        return 0 if self.hurried else 1000 * self.profile.market.minimum_age_seconds

    def broker(self, link: Link) -> BrokerCard:
        """Give the broker's card as this link shows it, its coin keys and totals known to the wallet.

        Raises `BrokerUnreachableError` or `UntrustedError`.
        """
        card = self.directory.broker(link, self.timeout_ms)
        announced = key_slots.issuer_keys(card.issuer_keys, self.clock())
        with self.profile.store.immediate() as tx:
            issuers.learn(tx, announced)
            crowd.learn(tx, card)
        return card
