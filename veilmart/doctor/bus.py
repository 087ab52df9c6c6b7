"""The bus: both listeners, what they prove by TLS, and what stands on them.

Each step is asked only where the one before it succeeded: an address that accepts, a certificate of the
market's CA under that name, then MQTT and the retained cards.

Rule. A node's own certificate is shown to the nodes' listener, and nothing is said after it: no client id
is used, so no running node is evicted.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from typing import Final

from common import clock, topics
from common.errors import (
    AuthenticationError,
    BrokerUnreachableError,
    BusUnreachableError,
    LedgerBrokenError,
    MalformedError,
    MerchantOfflineError,
    UntrustedError,
)
from common.market_file import Address, MarketFile
from common.presence import Presence, read_presence
from common.validity import NEAR_END_MS
from veilmart import ca
from veilmart.cli.reach import read_board
from veilmart.cli.times import day_of
from veilmart.doctor.certificates import merchant_of
from veilmart.doctor.findings import Check, Finding
from veilmart.doctor.places import Home, Places

Board = dict[str, bytes]
"""What is retained, by topic."""

PUBLIC: Final = ("public listener", "TLS, public listener")
"""The checks that MQTT rests on."""
_START: Final = "Start it with `veilmart bus run`, or correct the address in the market file."
_NAME: Final = (
    "Ask the operator for the present market file; `veilmart ca renew bus --host NAME` adds a name, and the "
    "bus reads the new certificate by itself."
)
_RENEW: Final = "Renew it with `veilmart ca renew`."


def check_listeners(
    places: Places, market: MarketFile, timeout_s: float, proxy: str | None
) -> Iterator[Finding]:
    """Connect to both listeners of a market, as whoever has the homes that are here may; the public first."""
    if proxy is None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(cadata=market.ca_certificate)
        yield from _listener("public listener", market.public, context, timeout_s)
    else:
        yield Check("bus", "public listener").not_applicable("is reached through the proxy: see MQTT")
    nodes = places.of("broker", "merchant")
    if not nodes or proxy is not None:
        yield Check("bus", "nodes' listener").not_applicable("only a broker or merchant is let in there")
        return
    for home in nodes:
        yield from _as_node(home, market, timeout_s)


def _as_node(home: Home, market: MarketFile, timeout_s: float) -> Iterator[Finding]:
    name = f"nodes' listener, {home.name}"
    certificate, key = (home.path / file for file in (ca.IDENTITY_CERTIFICATE_FILE, ca.IDENTITY_KEY_FILE))
    if not certificate.exists():
        yield Check("bus", name).not_applicable("it has no certificate yet: see keys")
        return
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(cadata=market.ca_certificate)
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError):
        yield Check("bus", name).not_applicable("its certificate and key do not load: see keys")
        return
    yield from _listener(name, market.nodes, context, timeout_s)


def _listener(name: str, address: Address, context: ssl.SSLContext, timeout_s: float) -> Iterator[Finding]:
    reach, tls = Check("bus", name), Check("bus", f"TLS, {name}")
    where = f"{address.host}:{address.port}"
    try:
        plain = socket.create_connection((address.host, address.port), timeout=timeout_s)
    except OSError as error:
        yield reach.problem(f"no answer at {where} ({error.strerror or error})", _START, BusUnreachableError)
        return
    with plain:
        yield reach.ok(f"answers at {where}")
        try:
            with context.wrap_socket(plain, server_hostname=address.host) as secured:
                shown = secured.getpeercert() or {}
                # Whether our certificate is taken is told only after the handshake (RFC 8446, 4.4).
                secured.unwrap()
        except ssl.SSLCertVerificationError as error:
            yield tls.problem(f"its certificate does not hold: {error.verify_message}", _NAME, UntrustedError)
        except ssl.SSLError as error:
            yield _refused(tls, error)
        except OSError as error:
            yield tls.problem(
                f"ended the connection ({error.strerror or error})", _START, BusUnreachableError
            )
        else:
            yield _end(tls, str(shown.get("notAfter", "")))


def _refused(check: Check, error: ssl.SSLError) -> Finding:
    reason = error.reason or "no reason"
    if "ALERT" in reason:
        return check.problem(
            f"does not take our certificate ({reason})",
            "It was revoked or has ended: let the CA sign or renew it, and install it.",
            AuthenticationError,
        )
    return check.problem(f"does not speak TLS 1.3 ({reason})", _START, UntrustedError)


def _end(check: Check, not_after: str) -> Finding:
    ends = round(ssl.cert_time_to_seconds(not_after) * 1000)
    detail = f"of the market's CA, under the right name, until {day_of(ends)}"
    return check.warning(detail, _RENEW) if ends - clock.now_ms() <= NEAR_END_MS else check.ok(detail)


def check_board(
    places: Places, market: MarketFile, timeout_s: float, proxy: str | None, *, reached: bool
) -> tuple[list[Finding], Board]:
    """Read what is retained, and say who is there; `reached` is what the public listener has shown."""
    check = Check("bus", "MQTT")
    if not reached:
        return [check.not_applicable("nobody answers as the market's bus: see public listener")], {}
    try:
        board = read_board(market, timeout_s, proxy)
    except BusUnreachableError as error:
        return [check.failed(error)], {}
    findings = [check.ok("takes strangers, and shows what is retained"), _broker(board)]
    findings += [_merchant(home, board) for home in places.of("merchant")]
    return findings, board


def _broker(board: Board) -> Finding:
    check, found = Check("bus", "broker"), presence_at(board, topics.broker_status())
    if found is None or found.state != "online":
        return check.problem("is not online", "Start it with `veilmart broker run`.", BrokerUnreachableError)
    if found.payments is not None:
        return check.problem(
            "has stopped payments: its books are wrong, or were not checked since",
            '`veilmart broker ledger check` says why; docs/operating.md, "When the books are wrong".',
            LedgerBrokenError,
        )
    return check.ok("is online")


def _merchant(home: Home, board: Board) -> Finding:
    merchant = merchant_of(home) or home.path.name
    check, found = Check("bus", home.name), presence_at(board, topics.merchant_status(merchant))
    if found is None or found.state != "online":
        return check.problem("is not online", "Start it with `veilmart merchant run`.", MerchantOfflineError)
    return check.ok("is online")


def presence_at(board: Board, topic: str) -> Presence | None:
    """Give the presence that stands on a topic, None where there is none that can be read."""
    try:
        return read_presence(board.get(topic, b""))
    except MalformedError:
        return None
