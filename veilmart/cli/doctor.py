"""`veilmart doctor`: every check with its result and what to do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from common import clock
from veilmart.cli.homes import MarketHome, Proxy, Timeout, home_of, output
from veilmart.cli.profiles import ProfilePath, profile_home
from veilmart.doctor.examination import Circumstances, examine
from veilmart.doctor.findings import Finding, first_problem
from veilmart.doctor.places import look_around
from veilmart.output import IncompleteError, Table, View

app = typer.Typer(add_completion=False, rich_markup_mode=None)

_WORDS: Final = {"ok": "ok", "warning": "warning", "problem": "PROBLEM", "not_applicable": "not applicable"}


@app.callback()
def group() -> None:
    """Leaves of the root command."""


@app.command()
def doctor(
    context: typer.Context,
    home: MarketHome = None,
    profile: ProfilePath = None,
    market: Annotated[
        Path | None, typer.Option(help="A market file beside those in the homes.", show_default=False)
    ] = None,
    timeout: Timeout = 5.0,
    proxy: Proxy = None,
) -> None:
    """Check homes, settings, versions, disk, bus, TLS, clock and keys, and say what to do.

    Looks at whatever homes there are, also beside running nodes, and changes nothing. Ends with 0 where
    there is no problem, else with the code of the first one.
    """
    place = home_of(home)
    places = look_around(place, profile_home(profile) if profile else _customer(place), market)
    circumstances = Circumstances(
        environment=os.environ,
        downloads=Path.cwd(),
        patience_s=timeout,
        proxy=proxy,
        now=clock.now_ms(),
    )
    findings = examine(places, circumstances)
    data = {"checks": [_data(each) for each in findings], "counts": _counts(findings)}
    views: list[View] = [
        Table(
            ("check", "result", "detail", "what to do"),
            [
                (f"{each.group}: {each.check}", _WORDS[each.result], each.detail, each.advice)
                for each in findings
            ],
        ),
        ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in _counts(findings).items()),
    ]
    problem = first_problem(findings)
    if problem is not None:
        raise IncompleteError(problem, data, *views)
    output(context).show(data, *views)


def _customer(market_home: Path) -> Path:
    found = profile_home(None)
    # A market's folder that was named has its customer below it, like its other homes.
    below = market_home / "customer"
    return below if below.is_dir() and not found.is_dir() else found


def _data(finding: Finding) -> dict[str, Any]:
    return {
        "group": finding.group,
        "check": finding.check,
        "result": finding.result,
        "detail": finding.detail,
        "advice": finding.advice,
        "code": None if finding.error is None else finding.error.code,
    }


def _counts(findings: list[Finding]) -> dict[str, int]:
    return {name: sum(each.result == name for each in findings) for name in _WORDS}
