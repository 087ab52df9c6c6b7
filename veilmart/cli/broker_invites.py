"""`veilmart broker invite`: one-time codes for a market that takes sign-ups by invitation."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from broker_node import invites
from common import clock
from common.config import DAY_MS
from common.invites import text_of
from veilmart.cli.broker_store import broker_store
from veilmart.cli.homes import Home, output
from veilmart.cli.times import minute_of
from veilmart.output import Table

app: Final = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    help='One-time invite codes, for a market with `sign_up = "invite"` in its limits.toml.',
)
LONGEST_NOTE: Final = 200


@app.command("create")
def create(
    context: typer.Context,
    note: Annotated[str, typer.Option(help="Whom it is for; only you see it.")] = "",
    days: Annotated[int | None, typer.Option(min=1, max=3650, help="How long it counts.")] = None,
    home: Home = None,
) -> None:
    """Make a code for one sign-up. It is shown this once."""
    now = clock.now_ms()
    with broker_store(home) as desk:
        life = desk.limits.invite_life_ms if days is None else days * DAY_MS
        code = text_of(invites.create(desk.tx, now, life, note[:LONGEST_NOTE], clock.random_bytes))
    data = {"code": code, "expires": now + life}
    output(context).show(data, code, f"for one sign-up until {minute_of(now + life)}")


@app.command("list")
def list_invites(context: typer.Context, home: Home = None) -> None:
    """List codes by their ids, and what became of them."""
    with broker_store(home) as desk:
        found = invites.listing(desk.tx, clock.now_ms())
    rows = [(each.id, each.state, minute_of(each.expires), each.note) for each in found]
    output(context).show(found, Table(("id", "state", "until", "note"), rows))


@app.command("revoke")
def revoke(
    context: typer.Context,
    identifier: Annotated[str, typer.Argument(metavar="ID", help="As `list` shows it.")],
    home: Home = None,
) -> None:
    """Take no sign-up for a code any more."""
    with broker_store(home) as desk:
        invites.revoke(desk.tx, identifier, clock.now_ms())
    output(context).show({"id": identifier, "state": "revoked"}, f"{identifier} is revoked")
