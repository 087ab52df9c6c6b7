"""The customer's interface put together."""

from __future__ import annotations

from typing import Final

from starlette.routing import Mount

from common.web import rest
from common.web.endpoints import Endpoint
from customer_node.web.api.cart import CartEndpoints
from customer_node.web.api.orders import OrderEndpoints
from customer_node.web.api.own import OwnEndpoints
from customer_node.web.api.products import ProductEndpoints
from customer_node.web.api.purchases import PurchaseEndpoints
from customer_node.web.api.receipts import ReceiptEndpoints
from customer_node.web.api.sides import Sides
from customer_node.web.desk import Desk

TITLE: Final = "Veilmart, a customer's shop"


def endpoints(desk: Desk) -> list[Endpoint]:
    """Give every endpoint."""
    sides = Sides(desk)
    resources = (
        ProductEndpoints(sides),
        CartEndpoints(sides),
        PurchaseEndpoints(sides),
        OrderEndpoints(sides),
        ReceiptEndpoints(sides),
        OwnEndpoints(sides),
    )
    return [endpoint for each in resources for endpoint in each.endpoints()]


def interface(desk: Desk) -> Mount:
    """Give the route for `/api`."""
    return rest.mounted(TITLE, endpoints(desk))
