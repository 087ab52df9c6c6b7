"""What every part of an open market works with."""

from __future__ import annotations

from dataclasses import dataclass, field

from common.clock import Random
from common.errors import UntrustedError
from common.messages import BrokerCard
from customer_node.connection import Link, Uplink
from customer_node.directory import Directory
from customer_node.profile import Profile
from customer_node.timing import Clock
from customer_node.wallet import SlotConflictError, Wallet


@dataclass(frozen=True)
class Context:
    """Profile, bus and wallet, with time and chance. `timeout_ms` is how long one answer may take."""

    profile: Profile
    uplink: Uplink
    directory: Directory
    wallet: Wallet
    clock: Clock
    random: Random = field(repr=False)
    timeout_ms: int

    def broker(self, link: Link) -> BrokerCard:
        """Give the broker's card as this link shows it, its coin keys known to the wallet.

        Raises `BrokerUnreachableError` or `UntrustedError`.
        """
        card = self.directory.broker(link, self.timeout_ms)
        try:
            with self.profile.store.immediate() as tx:
                self.wallet.learn(tx, card.issuer_keys)
        except SlotConflictError as conflict:
            self.profile.keep_evidence("second coin key", conflict.evidence, self.clock())
            raise UntrustedError(
                f"The broker shows a second key where there may be one: {conflict}.",
                "It was kept as evidence. Do not withdraw; ask the market's operator.",
            ) from None
        return card
