"""The merchant's interface put together."""

from __future__ import annotations

from typing import Final

from starlette.routing import Mount

from common.web import rest
from common.web.endpoints import Endpoint
from merchant_node.web.api.stock import StockEndpoints
from merchant_node.web.desk import Desk

TITLE: Final = "Veilmart, a merchant's books"


def endpoints(desk: Desk) -> list[Endpoint]:
    """Give every endpoint."""
    resources = (StockEndpoints(desk),)
    return [endpoint for each in resources for endpoint in each.endpoints()]


def interface(desk: Desk) -> Mount:
    """Give the route for `/api`."""
    return rest.mounted(TITLE, endpoints(desk))
