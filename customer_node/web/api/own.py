"""What is the customer's own: the wallet, to be looked at, and which side is open, to be left."""

from __future__ import annotations

import msgspec

from common.web.endpoints import Endpoint
from customer_node.views import WalletView
from customer_node.web.api.sides import Sides


class Session(msgspec.Struct, frozen=True):
    """Which side is open: the account, or so many shop visits, which end by themselves at `visits_until`."""

    account: bool
    visits: int
    visits_until: int | None


class OwnEndpoints:
    """`/wallet` and `/session`."""

    def __init__(self, sides: Sides) -> None:
        self._sides = sides

    def endpoints(self) -> list[Endpoint]:
        """Give the endpoints."""
        return [
            Endpoint("GET", "/wallet", self.wallet),
            Endpoint("GET", "/session", self.session),
            Endpoint("DELETE", "/session/account", self.log_out),
            Endpoint("DELETE", "/session/visits", self.leave),
        ]

    async def wallet(self) -> WalletView:
        """Count what the wallet holds; asks nobody."""
        return await self._sides.here(lambda market: market.wallet())

    async def session(self) -> Session:
        """Tell whether the account or shop visits are open: never both."""
        visit = self._sides.reading.visit()
        return Session(
            account=self._sides.reading.logged_in(),
            visits=visit.count if visit else 0,
            visits_until=visit.until if visit else None,
        )

    async def log_out(self) -> Session:
        """Close the account, so that the shops open. It is opened on the pages alone."""
        if self._sides.reading.logged_in():
            await self._sides.here(lambda market: market.log_out())
        return await self.session()

    async def leave(self) -> Session:
        """End every shop visit. What is bought later takes new tickets, in sessions of its own."""
        await self._sides.desk.leave_shops()
        return await self.session()
