"""`veilmart merchant web`: the dashboard, in a browser on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from common.logs import log_to_stderr
from veilmart.cli.homes import Home, MerchantId, merchant_home, output

Port = Annotated[int, typer.Option(min=0, max=65535, help="The port, any free one for 0.")]
Open = Annotated[bool, typer.Option("--open", help="Open the link in this machine's browser.")]


def web(
    context: typer.Context,
    port: Port = 0,
    merchant: MerchantId = None,
    home: Home = None,
    *,
    open_: Open = False,
) -> None:
    """Open the dashboard as pages for a browser on this machine, until SIGTERM or SIGINT.

    It works beside `merchant run`, or without it. The link that it prints lets one browser in, once. Programs
    use /api/v1 with the token in the file that it names (docs/rest.md).
    """
    # What serves pages takes long to import, and no other command needs it.
    from merchant_node.web.dashboard import run_dashboard  # noqa: PLC0415
    from veilmart.cli.web_ready import announcing  # noqa: PLC0415

    shown = output(context)

    place = merchant_home(home, merchant)
    log_to_stderr()
    run_dashboard(place, port, announcing(shown, place, opening=open_))
