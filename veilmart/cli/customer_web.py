"""`veilmart customer web`: the storefront, in a browser on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from customer_node import Market
from veilmart.cli.homes import Proxy, Timeout, output
from veilmart.cli.profiles import Now, ProfileHome, profile_home
from veilmart.cli.unlocking import KeyFilePath, PassphraseFile, present_unlock

app = typer.Typer(add_completion=False, rich_markup_mode=None)

Port = Annotated[int, typer.Option(min=0, max=65535, help="The port, any free one for 0.")]
Open = Annotated[bool, typer.Option("--open", help="Open the link in this machine's browser.")]


@app.command("web")
def web(
    context: typer.Context,
    port: Port = 0,
    profile: ProfileHome = None,
    timeout: Timeout = 30.0,
    proxy: Proxy = None,
    passphrase_file: PassphraseFile = None,
    key_file: KeyFilePath = None,
    *,
    open_: Open = False,
    now: Now = False,
) -> None:
    """Open the shop as pages for a browser on this machine, until SIGTERM or SIGINT.

    The link that it prints lets one browser in, once. Programs use /api/v1 with the token in the file that it
    names (docs/rest.md). Nobody else's machine can reach it.
    """
    # What serves pages takes long to import, and no other command needs it.
    from common.logs import log_to_stderr  # noqa: PLC0415
    from customer_node.web.storefront import run_storefront  # noqa: PLC0415
    from veilmart.cli.web_ready import announcing  # noqa: PLC0415

    shown, home = output(context), profile_home(profile)
    unlock = present_unlock(home, passphrase_file, key_file)
    if now:
        shown.note("warning: young coins and tickets make it easier to tie what follows to you")

    def market() -> Market:
        return Market(home, proxy=proxy, timeout_s=timeout, allow_young=now, unlock=unlock)

    log_to_stderr()
    run_storefront(home, market, port, announcing(shown, home, opening=open_))
