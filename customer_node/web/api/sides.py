"""Which side a request is of: shops, or this profile alone. The account is opened on the pages only."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from customer_node.market import Market
from customer_node.reading import Reading
from customer_node.web.desk import SIDE, AccountOpenError, Desk

Result = TypeVar("Result")


class Sides:
    """The desk, as endpoints may use it."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    @property
    def reading(self) -> Reading:
        """What lies in the profile."""
        return self.desk.reading

    def enter_shops(self) -> None:
        """Be of the shops' side from here on. Raises `AccountOpenError`."""
        if self.desk.reading.logged_in():
            raise AccountOpenError
        SIDE.set("shop")

    async def shops(self, action: Callable[[Market], Result]) -> Result:
        """Ask merchants or the broker, anonymously. Raises `AccountOpenError`, and what a visit raises."""
        self.enter_shops()
        return await self.desk.ask(action)

    async def here(self, action: Callable[[Market], Result]) -> Result:
        """Do what asks nobody."""
        SIDE.set("local")
        return await self.desk.ask(action)
