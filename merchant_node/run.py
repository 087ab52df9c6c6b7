"""A running merchant: everything is wired here.

Ready means that the session with the broker is open: from then on an order can arrive. Bus and broker may
come later, go and come back, in any order.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from common import bus, clock, topics
from common.client_ids import client_id
from common.config import Limits
from common.core import Lane
from common.node import Loop, set_memory_aside
from common.pools import Pools
from common.presence import presence
from common.store import Store
from merchant_node.home import MerchantHome
from merchant_node.inventory import Inventory
from merchant_node.merchant import Merchant
from merchant_node.reports import Reports
from merchant_node.shop import Shop


@dataclass(frozen=True)
class MerchantNode:
    """A merchant, wired and ready to run; inventory and reports work on the same store."""

    home: Path
    limits: Limits
    shop: Shop
    store: Store
    merchant: Merchant
    inventory: Inventory
    reports: Reports

    @classmethod
    def open(cls, home: Path) -> MerchantNode:
        """Load keys and store. Raises `VeilmartError` where the home is not usable."""
        place = MerchantHome(home)
        shop, limits, content = place.shop(clock.now_ms()), place.limits(), place.content()
        merchant = Merchant(shop, place.prekeys(), content, limits)
        store = place.store()
        inventory = Inventory(shop, store, content, limits)
        inventory.renew()
        return cls(home, limits, shop, store, merchant, inventory, Reports(store))

    def close(self) -> None:
        """Close the store."""
        self.store.close()


def connections(home: Path, merchant: str, *, tls: bool = True) -> dict[Lane, bus.Connection]:
    """Give the merchant's two connections: small messages, and cells."""
    place = MerchantHome(home)
    nodes = place.market().nodes
    address = bus.Address(nodes.host, nodes.port, place.tls().context() if tls else None)
    status = topics.merchant_status(merchant)
    main = bus.Settings(
        address,
        client_id(home, "main"),
        (topics.broker_card(),),
        live_subscriptions=(topics.merchant_in(merchant),),
        durable=True,
        will=bus.Will(status, presence("offline")),
        greeting=((status, presence("online", clock.now_ms())),),
    )
    cells = bus.Settings(address, client_id(home, "cells"), (), durable=True)
    return {"main": bus.Connection(main), "cells": bus.Connection(cells)}


def run_merchant(
    home: Path,
    stop: threading.Event,
    announce: Callable[[str], None],
    *,
    tls: bool = True,
    on_start: Callable[[Pools], None] = lambda _pools: None,
) -> None:
    """Run the merchant of `home` until `stop` is set.

    `announce` gets the one ready line, `on_start` the pools, whose `wake` ends a wait. Raises
    `VeilmartError` where the home is not usable, `TooManyFailuresError` where our own code fails again
    and again.
    """
    with MerchantHome(home).running():
        node = MerchantNode.open(home)
        lanes = connections(home, node.shop.merchant, tls=tls)
        pools = Pools({})
        on_start(pools)
        loop = Loop(node.merchant, node.store, lanes, pools, node.limits)
        try:
            _work(loop, node, stop, announce)
        finally:
            # A DISCONNECT silences the last will, and the retained "online" would stand.
            status = topics.merchant_status(node.shop.merchant)
            lanes["main"].put(status, presence("offline", clock.now_ms()), retain=True)
            for lane in lanes.values():
                lane.close()
            pools.close()
            node.close()


def _work(loop: Loop, node: MerchantNode, stop: threading.Event, announce: Callable[[str], None]) -> None:
    log = structlog.get_logger("veilmart.merchant")
    log.info("started", merchant=node.shop.merchant)
    while not stop.is_set() and not node.merchant.session.usable:
        loop.round()
    if not stop.is_set():
        set_memory_aside()
        announce(f"merchant ready: {node.shop.merchant} ({node.shop.name})")
    loop.run(stop)
    log.info("stopped", refused=dict(loop.refused + node.merchant.refused))
