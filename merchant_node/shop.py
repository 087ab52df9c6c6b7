"""Who this merchant is, in which market: what every other module here needs, and nothing that changes."""

from __future__ import annotations

from dataclasses import dataclass, field

from common import keys
from common.market_file import MarketFile
from common.sealing import Binding, Purpose


@dataclass(frozen=True, kw_only=True)
class Shop:
    """A merchant in its market. `market` is the market's id, `fingerprint` of the merchant's own key."""

    merchant: str
    name: str
    description: str
    identity: keys.IdentityKey
    certificate_der: bytes = field(repr=False)
    market: bytes
    ca_der: bytes = field(repr=False)
    broker_fingerprint: bytes
    currency: str
    fingerprint: bytes
    tax_rate: int = 0

    @classmethod
    def in_market(
        cls,
        market: MarketFile,
        merchant: str,
        identity: keys.IdentityKey,
        certificate_der: bytes,
        *,
        name: str,
        description: str,
        tax_rate: int = 0,
    ) -> Shop:
        """Put a merchant into the market that the file describes."""
        return cls(
            merchant=merchant,
            name=name,
            description=description,
            identity=identity,
            certificate_der=certificate_der,
            market=market.market_id,
            ca_der=market.ca_der,
            broker_fingerprint=market.broker_identity,
            currency=market.currency,
            fingerprint=keys.identity_fingerprint(identity.public),
            tax_rate=tax_rate,
        )

    def binding(self, purpose: Purpose, outer: bytes = b"") -> Binding:
        """Give what a request sealed to this merchant is bound to."""
        return Binding(self.market, self.fingerprint, purpose, outer)
