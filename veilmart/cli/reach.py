"""What `veilmart status` looks at: both listeners, retained presence, and ends of certificates."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from common import bus, clock, topics
from common.errors import (
    BrokerUnreachableError,
    BusUnreachableError,
    MalformedError,
    MerchantOfflineError,
    UntrustedError,
    VeilmartError,
)
from common.market_file import MarketFile
from common.presence import read_presence
from common.public import public_connection
from veilmart import ca
from veilmart.cli.certificates import Ending, endings
from veilmart.cli.times import day_of, minute_of
from veilmart.output import IncompleteError, Output, Table, View

QUIET_ROUNDS: Final = 4
ROUND_S: Final = 0.05
_SUBSCRIPTIONS: Final = (
    topics.broker_card(),
    topics.broker_status(),
    topics.ALL_MERCHANT_CARDS,
    topics.ALL_MERCHANT_STATUSES,
)


def show_status(
    output: Output,
    home: Path,
    market: MarketFile,
    expected: Sequence[str],
    timeout_s: float,
    proxy: str | None,
) -> None:
    """Show the state of the market.

    Raises `IncompleteError` where the bus is not reachable, or one of `expected` is not online.
    """
    certificates = list(endings(_homes(home), clock.now_ms()))
    problem: VeilmartError | None = None
    board: dict[str, bytes] = {}
    try:
        board = read_board(market, timeout_s, proxy)
    except BusUnreachableError as error:
        problem = error
    data = {
        "bus": {
            "public": _listener(market.public.host, market.public.port, reachable=problem is None),
            # Through a proxy, nodes' listener and customer may well not see each other.
            "nodes": _listener(
                market.nodes.host,
                market.nodes.port,
                reachable=None if proxy else _accepts(home, market, timeout_s),
            ),
        },
        "broker": _presence(board.get(topics.broker_status()))
        | {"card": bool(board.get(topics.broker_card()))},
        "merchants": _merchants(board),
        "certificates": certificates,
    }
    views = _views(data, certificates)
    for each in certificates:
        if each.warning:
            output.note(
                f"warning: {each.path} ends on {day_of(each.ends)}: renew it with `veilmart ca renew`."
            )
    if "payments" in data["broker"]:
        output.note(
            "warning: the broker has STOPPED PAYMENTS: its books are wrong, or were not checked since."
        )
    problem = problem or _missing(expected, data)
    if problem is not None:
        raise IncompleteError(problem, data, *views)
    output.show(data, *views)


def read_board(market: MarketFile, timeout_s: float, proxy: str | None) -> dict[str, bytes]:
    """Give what is retained of cards and presence. Raises `BusUnreachableError`."""
    connection = public_connection(market, _SUBSCRIPTIONS, proxy)
    board: dict[str, bytes] = {}
    deadline = time.monotonic() + timeout_s
    try:
        connection.open(timeout_s)
        quiet = 0
        # MQTT does not say when the last retained message has come: silence has to do.
        while quiet < QUIET_ROUNDS and time.monotonic() < deadline:
            connection.wait(ROUND_S)
            deliveries = connection.take(bus.RECEIVE_MAXIMUM)
            board.update((each.topic, each.payload) for each in deliveries)
            connection.acknowledge(deliveries)
            quiet = 0 if deliveries else quiet + 1
    finally:
        connection.close()
    return board


def _accepts(home: Path, market: MarketFile, timeout_s: float) -> bool:
    host, port = market.nodes.host, market.nodes.port
    try:
        with socket.create_connection((host, port), timeout=timeout_s) as plain:
            broker = home / "broker"
            # Whoever has no certificate can ask no more than whether it accepts.
            if (broker / ca.IDENTITY_KEY_FILE).exists():
                files = bus.TlsFiles(
                    broker / ca.CA_CERTIFICATE_FILE,
                    broker / ca.IDENTITY_CERTIFICATE_FILE,
                    broker / ca.IDENTITY_KEY_FILE,
                )
                with files.context().wrap_socket(plain, server_hostname=host) as secured:
                    secured.unwrap()
    except (OSError, UntrustedError):
        return False
    return True


def _missing(expected: Sequence[str], data: dict[str, Any]) -> VeilmartError | None:
    states = {each["id"]: each["state"] for each in data["merchants"]} | {"broker": data["broker"]["state"]}
    away = [name for name in expected if states.get(name) != "online"]
    if not away:
        return None
    kind = BrokerUnreachableError if "broker" in away else MerchantOfflineError
    return kind(f"Not online: {', '.join(away)}.", "Start it with `veilmart broker run` or `merchant run`.")


def _listener(host: str, port: int, *, reachable: bool | None) -> dict[str, Any]:
    return {"host": host, "port": port, "reachable": reachable}


def _presence(payload: bytes | None) -> dict[str, Any]:
    with contextlib.suppress(MalformedError):
        if payload:
            found = read_presence(payload)
            stopped = {"payments": found.payments} if found.payments is not None else {}
            return {"state": found.state, "since": found.since, **stopped}
    return {"state": "unknown", "since": None}


def _merchants(board: dict[str, bytes]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for topic, payload in board.items():
        with contextlib.suppress(MalformedError):
            match topics.parse(topic):
                case topics.MerchantStatus(merchant_id=merchant) if payload:
                    found.setdefault(merchant, {"id": merchant, "card": False}).update(_presence(payload))
                case topics.MerchantCard(merchant_id=merchant) if payload:
                    unknown = {"id": merchant, "state": "unknown", "since": None}
                    found.setdefault(merchant, unknown)["card"] = True
    return [found[merchant] for merchant in sorted(found)]


def _homes(home: Path) -> dict[str, Path]:
    merchants = home / "merchants"
    present = sorted(merchants.iterdir()) if merchants.is_dir() else []
    nodes = {name: home / name for name in ("ca", "bus", "broker")}
    return nodes | {f"merchant {path.name}": path for path in present if path.is_dir()}


def _views(data: dict[str, Any], certificates: list[Ending]) -> list[View]:
    words = {True: "reachable", False: "not reachable", None: "not tried"}
    rows = [
        (f"bus, {name} listener", words[each["reachable"]], f"{each['host']}:{each['port']}")
        for name, each in (("public", data["bus"]["public"]), ("nodes", data["bus"]["nodes"]))
    ]
    rows.append(("broker", data["broker"]["state"], _since(data["broker"]) + _payments(data["broker"])))
    rows += [(f"merchant {each['id']}", each["state"], _since(each)) for each in data["merchants"]]
    views: list[View] = [Table(("node", "state", "detail"), rows)]
    if certificates:
        ends = [(each.name, day_of(each.ends), each.days_left, str(each.path)) for each in certificates]
        views.append(Table(("certificate", "ends", "days left", "file"), ends))
    return views


def _payments(node: dict[str, Any]) -> str:
    return ", PAYMENTS STOPPED" if "payments" in node else ""


def _since(node: dict[str, Any]) -> str:
    return f"since {minute_of(node['since'])}" if node["since"] else ""
