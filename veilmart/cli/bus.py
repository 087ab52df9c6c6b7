"""`veilmart bus`: Mosquitto in the foreground."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.errors import VeilmartError
from veilmart import bus, ca
from veilmart.cli.homes import Home, home_of, output
from veilmart.cli.lists import install_list
from veilmart.cli.running import announcing

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    help="Mosquitto, in the bus's home that `veilmart init` made.",
)


@app.command()
def run(context: typer.Context, home: Home = None) -> None:
    """Run Mosquitto until SIGTERM or SIGINT."""
    code = bus.run_bus(home_of(home, "bus"), announcing(context))
    if code:
        raise VeilmartError(f"Mosquitto ended with code {code}.", "Its reason stands above.")


@app.command("install-crl")
def install_crl(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The CA's list (crl.pem).")],
    home: Home = None,
) -> None:
    """Install the CA's revocation list; a running Mosquitto reads it by itself."""
    place = home_of(home, "bus")
    output(context).show(*install_list(place, bus.CRL_FILE, ca.CA_CERTIFICATE_FILE, file))
