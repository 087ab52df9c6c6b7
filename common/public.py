"""The public listener, for whoever has nothing but the market file: status and auditors."""

from __future__ import annotations

import secrets
import ssl
from collections.abc import Sequence

from common import bus
from common.market_file import MarketFile


def public_connection(
    market: MarketFile, subscriptions: Sequence[str], proxy: str | None = None
) -> bus.Connection:
    """Give an anonymous connection under a fresh client id, not opened yet."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.minimum_version = ssl.TLSVersion.TLSv1_3
    tls.load_verify_locations(cadata=market.ca_certificate)
    address = bus.Address(market.public.host, market.public.port, tls, proxy)
    return bus.Connection(bus.Settings(address, secrets.token_hex(16), subscriptions))
