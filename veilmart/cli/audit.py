"""`veilmart audit`: what everybody may see.

With `--json` each event is one envelope on a line of its own, like every other answer of the command:
`veilmart audit watch --json | jq .data` gives the CloudEvents themselves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from auditor_node.watch import Seen, watch
from common.errors import DeadlineError
from common.market_file import MarketFile
from common.public import public_connection
from veilmart.cli.homes import Proxy, find_market_file, output

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.callback()
def group() -> None:
    """Watch public events: everyone may, without a certificate."""


@app.command("watch")
def watch_events(
    context: typer.Context,
    market: Annotated[
        Path | None, typer.Option(help="The market file.", show_default="the one that is there")
    ] = None,
    kind: Annotated[
        list[str] | None, typer.Option("--type", help="Only this type, such as order.captured. Repeatable.")
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="End after so many.")] = None,
    timeout: Annotated[
        float | None,
        typer.Option(min=0.1, help="End after so many seconds; exit 27 if --count was not reached."),
    ] = None,
    proxy: Proxy = None,
) -> None:
    """Print events as they happen, one per line."""
    shown = output(context)
    events = watch(
        MarketFile.load(find_market_file(market)),
        types=kind or (),
        timeout_s=timeout,
        connect=lambda file, topics: public_connection(file, topics, proxy),
        on_ready=lambda: shown.note("watching"),
    )
    number = 0
    for number, seen in enumerate(events, 1):
        shown.show(seen, _line(seen))
        if number == count:
            events.close()
            return
    if count is not None:
        raise DeadlineError(f"There were {number} of {count} events in time.", hop="broker")


def _line(seen: Seen) -> str:
    fields: dict[str, Any] = msgspec.to_builtins(seen)
    if "text" in fields:
        return f"checkpoint {fields['text']}".rstrip()
    data = " ".join(f"{name}={_short(value)}" for name, value in fields["data"].items())
    return f"{fields['time']} {fields['type']} {data}"


def _short(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
