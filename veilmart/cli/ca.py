"""`veilmart ca`: sign, renew and revoke, in the CA's own home, which may be off line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from common import clock
from common.errors import UsageError
from common.keys import replace_file
from veilmart import bus, ca
from veilmart.cli.certificates import issued, read_request
from veilmart.cli.homes import Home, home_of, output
from veilmart.cli.lists import install_list
from veilmart.cli.times import day_of
from veilmart.output import Table

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    help="The market's certificate authority, in the home that `veilmart init` made.",
)

Out = Annotated[Path | None, typer.Option(help="Write the certificate here; without it, to stdout.")]
BrokerHome = Annotated[Path | None, typer.Option(help="Install it in this broker's home at once.")]
BusHome = Annotated[Path | None, typer.Option(help="Install it in this bus's home at once.")]


@app.command()
def sign(
    context: typer.Context,
    request: Annotated[Path, typer.Argument(metavar="CSR", help="The merchant's signing request.")],
    out: Out = None,
    merchant: Annotated[
        str | None, typer.Option(help="Refuse the request unless it is this merchant's.")
    ] = None,
    home: Home = None,
) -> None:
    """Certify a merchant's key for one year."""
    pem, name = read_request(request)
    certificate = ca.sign_csr(home_of(home, "ca"), pem, merchant or name, now_ms=clock.now_ms())
    _show_certificate(context, name, certificate, [out] if out else [], f"certified {name}")


@app.command()
def renew(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A merchant's id, `broker` or `bus`.")],
    out: Out = None,
    host: Annotated[
        list[str] | None, typer.Option(help="For `bus`: the hosts that it is reached by. Repeatable.")
    ] = None,
    broker_home: BrokerHome = None,
    bus_home: BusHome = None,
    home: Home = None,
) -> None:
    """Certify the same key for another year."""
    targets = [out] if out else []
    for of, folder, file in (
        ("broker", broker_home, ca.IDENTITY_CERTIFICATE_FILE),
        ("bus", bus_home, bus.SERVER_CERTIFICATE_FILE),
    ):
        if folder is not None:
            if of != name:
                raise UsageError(f"This is the certificate of {name}, not of {of}.")
            _must_be_a_home(folder)
            targets.append(folder / file)
    certificate = ca.renew(home_of(home, "ca"), name, hosts=host, now_ms=clock.now_ms())
    _show_certificate(context, name, certificate, targets, f"renewed the certificate of {name}")


@app.command()
def revoke(
    context: typer.Context,
    merchant: Annotated[str, typer.Argument(metavar="MID", help="The merchant's id.")],
    broker_home: BrokerHome = None,
    bus_home: BusHome = None,
    home: Home = None,
) -> None:
    """Take back every certificate of a merchant, for good."""
    path = ca.revoke(home_of(home, "ca"), merchant, now_ms=clock.now_ms())
    installed = [
        install_list(folder, ca.CRL_FILE, ca.CA_CERTIFICATE_FILE, path)[0]["path"]
        for folder in (broker_home, bus_home)
        if folder is not None
    ]
    shown = output(context)
    shown.show(
        {"merchant": merchant, "crl": path, "installed": installed},
        f"revoked {merchant}; the new list is {path}",
        *(f"installed {each}" for each in installed),
    )
    if broker_home is None or bus_home is None:
        shown.note("It counts where the list is installed: `broker install-crl` and `bus install-crl`.")


@app.command("list")
def list_issued(context: typer.Context, home: Home = None) -> None:
    """List what was certified."""
    found = issued(home_of(home, "ca"), clock.now_ms())
    rows = [(each.name, each.state, day_of(each.ends), each.serial) for each in found]
    output(context).show(found, Table(("name", "state", "ends", "serial"), rows))


def _must_be_a_home(folder: Path) -> None:
    if not (folder / ca.CA_CERTIFICATE_FILE).is_file():
        raise UsageError(f"{folder} is not a home of this market.", "Name the folder that `init` made.")


def _show_certificate(
    context: typer.Context, name: str, certificate: bytes, targets: list[Path], done: str
) -> None:
    for target in targets:
        replace_file(target, certificate)
    pem = certificate.decode("ascii")
    data: dict[str, Any] = {"name": name, "certificate": pem, "written": targets}
    if targets:
        output(context).show(data, f"{done}: {', '.join(map(str, targets))}")
    else:
        output(context).show(data, pem.rstrip("\n"))
