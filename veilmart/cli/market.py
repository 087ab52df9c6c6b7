"""`veilmart init` and `veilmart status`: the market as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer

from common import clock
from common.keys import KeyType
from common.market_file import Address, MarketFile
from veilmart.cli.homes import MARKET_FILE, MarketHome, Proxy, Timeout, find_market_file, home_of, output
from veilmart.init import (
    DEFAULT_HOSTS,
    DEFAULT_NODE_PORT,
    DEFAULT_PUBLIC_PORT,
    InitReport,
    init_market,
)

app = typer.Typer(add_completion=False, rich_markup_mode=None)
HOUR_SECONDS = 3600
BROKER_STORE = "broker.db"


@app.command()
def init(
    context: typer.Context,
    home: MarketHome = None,
    currency: Annotated[str, typer.Option(help="ISO 4217 code.")] = "EUR",
    bus_host: Annotated[
        list[str] | None,
        typer.Option(
            help="Host name or address of the bus. Repeatable; customers are told the first.",
            show_default=", ".join(DEFAULT_HOSTS),
        ),
    ] = None,
    node_host: Annotated[
        str | None,
        typer.Option(help="Where broker and merchants reach the bus.", show_default="the first --bus-host"),
    ] = None,
    listen: Annotated[str, typer.Option(help="Address that the bus listens on.")] = "127.0.0.1",
    public_port: Annotated[int, typer.Option(help="For customers and auditors.")] = DEFAULT_PUBLIC_PORT,
    node_port: Annotated[int, typer.Option(help="For broker and merchants.")] = DEFAULT_NODE_PORT,
    key_type: Annotated[KeyType, typer.Option(help="Of the CA and of every identity.")] = "ed25519",
    minimum_age: Annotated[
        int, typer.Option(min=0, help="Seconds that coins and tickets rest before they are used.")
    ] = HOUR_SECONDS,
    gateway: Annotated[
        Literal["none", "sandbox"] | None,
        typer.Option(
            help="Who charges customers' cards: nobody, or the sandbox with its test cards.",
            show_default="none",
        ),
    ] = None,
) -> None:
    """Make a market: CA, broker, bus and market file. Repeating it changes nothing."""
    report = init_market(
        home_of(home),
        currency=currency,
        bus_hosts=bus_host or DEFAULT_HOSTS,
        node_host=node_host,
        listen=listen,
        public_port=public_port,
        node_port=node_port,
        key_type=key_type,
        minimum_age_seconds=minimum_age,
        now_ms=clock.now_ms(),
    )
    _prepare_broker(report.broker_home, gateway)
    _show_report(context, report)


def _prepare_broker(home: Path, gateway: Literal["none", "sandbox"] | None) -> None:
    # Store and coin keys take seconds to make: now, so that the first `broker run` is ready at once. What
    # a crash leaves undone here, that run does.
    from broker_node.gateways import configuration  # noqa: PLC0415 - `status` does not need a broker
    from broker_node.run import BrokerNode  # noqa: PLC0415

    if gateway is not None and not (home / configuration.SETTINGS_FILE).exists():
        configuration.save(home, gateway)
    if not (home / BROKER_STORE).exists():
        BrokerNode.open(home).close()


def _show_report(context: typer.Context, report: InitReport) -> None:
    data = {
        "market_file": report.market_path,
        "market_id": report.market.market_id.hex(),
        "currency": report.market.currency,
        "ca_home": report.ca_home,
        "broker_home": report.broker_home,
        "bus_home": report.bus_home,
        "created": report.created,
    }
    output(context).show(
        data,
        f"market {data['market_id']} in {report.market.currency}"
        + ("" if report.created else ": it was there already, nothing was changed"),
        f"market file, for customers and merchants: {report.market_path}",
        f"CA: {report.ca_home} (can be kept off line)",
        f"broker: {report.broker_home}",
        f"bus: {report.bus_home}",
    )


@app.command()
def status(
    context: typer.Context,
    home: MarketHome = None,
    market: Annotated[
        Path | None, typer.Option(help="The market file, where it is not the home's.", show_default=False)
    ] = None,
    expect: Annotated[
        list[str] | None,
        typer.Option(help="`broker` or a merchant's id, which has to be online. Repeatable."),
    ] = None,
    public_host: Annotated[
        str | None,
        typer.Option(help="Reach the bus under this name instead of the market file's.", show_default=False),
    ] = None,
    timeout: Timeout = 5.0,
    proxy: Proxy = None,
) -> None:
    """Show who is reachable, and which certificates end soon. Exit 6 if the bus is not reachable."""
    from veilmart.cli.reach import show_status  # noqa: PLC0415 - `init` does not need MQTT

    place = home_of(home)
    if market is None and (place / MARKET_FILE).is_file():
        market = place / MARKET_FILE
    found = MarketFile.load(find_market_file(market))
    if public_host is not None:
        found = msgspec.structs.replace(found, public=Address(host=public_host, port=found.public.port))
    show_status(output(context), place, found, expect or (), timeout, proxy)
