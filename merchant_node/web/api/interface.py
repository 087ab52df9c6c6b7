"""The merchant's interface put together."""

from __future__ import annotations

from typing import Final

from starlette.routing import Mount

from common.web import rest
from common.web.endpoints import Endpoint
from merchant_node.web.api.orders import OrderEndpoints
from merchant_node.web.api.products import ProductEndpoints
from merchant_node.web.api.refunds import RefundEndpoints
from merchant_node.web.api.sales import SalesEndpoints
from merchant_node.web.api.stock import StockEndpoints
from merchant_node.web.desk import Desk

TITLE: Final = "Veilmart, a merchant's books"


def endpoints(desk: Desk) -> list[Endpoint]:
    """Give every endpoint."""
    resources = (
        ProductEndpoints(desk),
        StockEndpoints(desk),
        OrderEndpoints(desk),
        RefundEndpoints(desk),
        SalesEndpoints(desk),
    )
    return [endpoint for each in resources for endpoint in each.endpoints()]


def interface(desk: Desk) -> Mount:
    """Give the route for `/api`."""
    return rest.mounted(TITLE, endpoints(desk))
