"""Settings: every file and variable that a person writes, read by the loader that its node uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from common.config import load_limits
from common.errors import UntrustedError, VeilmartError
from common.market_file import MarketFile
from merchant_node import home as merchant_files
from veilmart import bus
from veilmart.cli.variables import check_variables, unknown
from veilmart.doctor.findings import Check, Finding
from veilmart.doctor.places import Home, Places

LIMITS_FILE: Final = "limits.toml"
GATEWAY_FILE: Final = "gateway.toml"


def check_settings(places: Places, environment: Mapping[str, str]) -> Iterator[Finding]:
    """Read the variables, the market files and what each home is configured with."""
    check = Check("settings", "variables")
    named = sorted(name for name in environment if name.startswith("VEILMART_"))
    yield _read(check, lambda: check_variables(environment), ", ".join(named) or "none is set")
    if strange := unknown(environment):
        yield Check("settings", "unknown variables").warning(
            ", ".join(strange), "Nothing reads them unless a script of yours does: look for a misspelling."
        )
    yield from _market_files(places)
    for home in places.homes:
        yield from _files(home)


def _market_files(places: Places) -> Iterator[Finding]:
    found: dict[str, Path] = {}
    for path in places.market_files:
        check = Check("settings", f"market file {path}")
        try:
            market = MarketFile.load(path)
        except VeilmartError as error:
            yield check.failed(error)
        else:
            found.setdefault(market.market_id.hex(), path)
            yield check.ok(f"market {market.market_id.hex()}")
    check = Check("settings", "market file")
    if len(found) > 1:
        yield check.problem(
            f"these are of different markets: {', '.join(map(str, found.values()))}",
            "Keep a folder (--home) and a profile (--profile) for each market.",
            UntrustedError,
        )
    elif not places.market_files:
        yield check.not_applicable("there is none here", "Name one with --market FILE.")


def _files(home: Home) -> Iterator[Finding]:
    if home.kind in {"broker", "merchant"}:
        path = home.path / LIMITS_FILE
        told = (
            "each entry is known and within its bounds" if path.exists() else "not there: the defaults hold"
        )
        yield _read(Check("settings", f"{LIMITS_FILE}, {home.name}"), lambda: load_limits(home.path), told)
    if home.kind == "merchant":
        path = home.path / merchant_files.PROFILE
        check = Check("settings", f"{path.name}, {home.name}")
        yield _read(check, lambda: merchant_files.Profile.load(path), "is valid")
    if home.kind == "broker":
        from broker_node.gateways import configuration  # noqa: PLC0415 - only where a broker is

        check = Check("settings", f"{GATEWAY_FILE}, {home.name}")
        yield _read(check, lambda: configuration.load(home.path), "is valid, or not there")
    if home.kind == "bus":
        check = Check("settings", f"{bus.CONFIGURATION_FILE}, {home.name}")
        yield _read(check, lambda: bus.read_listeners(home.path), "names both listeners")


def _read(check: Check, load: Callable[[], object], told: str) -> Finding:
    try:
        load()
    except VeilmartError as error:
        return check.failed(error)
    except OSError as error:
        return check.problem(f"{error.filename}: {error.strerror}", "Check the path and its owner.")
    return check.ok(told)
