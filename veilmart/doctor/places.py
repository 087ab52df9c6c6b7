"""Which homes there are: a market's folder with everything below it, or one node's home on its own.

A home is known by the file that it cannot be without: `ca.key`, `mosquitto.conf`, `merchant.toml`, `seed`
or `profile.db`, and a broker's by `log.key` or, before its first start, by a key without the rest.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from common.errors import VeilmartError
from common.market_file import MarketFile
from customer_node.profile import SEED_FILE, STORE_FILE
from merchant_node import home as merchant_files
from veilmart import bus, ca
from veilmart.cli.homes import MARKET_FILE
from veilmart.doctor.findings import Check, Finding

Kind: TypeAlias = Literal["ca", "bus", "broker", "merchant", "customer"]


@dataclass(frozen=True)
class Home:
    """One node's home. `name` says whose it is, as a person reads it."""

    kind: Kind
    name: str
    path: Path


@dataclass(frozen=True)
class Places:
    """What `doctor` looks at. `market_files` are all that were found, each beside where it lies."""

    folder: Path
    homes: tuple[Home, ...]
    market_files: tuple[Path, ...]

    def of(self, *kinds: Kind) -> tuple[Home, ...]:
        """Give the homes of these kinds."""
        return tuple(each for each in self.homes if each.kind in kinds)

    def markets(self) -> list[MarketFile]:
        """Give the markets that the readable files name, each once."""
        found: list[MarketFile] = []
        for path in self.market_files:
            try:
                market = MarketFile.load(path)
            except VeilmartError:
                continue  # `settings` tells what is wrong with it
            if market not in found:
                found.append(market)
        return found


def look_around(folder: Path, profile: Path, market: Path | None) -> Places:
    """Find the homes in `folder` (or the one that it is), and the customer's profile."""
    homes: list[Home] = []
    alone = _kind(folder)
    if alone is not None:
        homes.append(Home(alone, alone, folder))
    else:
        homes += [Home(name, name, folder / name) for name in ("ca", "bus", "broker") if _kind(folder / name)]
        homes += [
            Home("merchant", f"merchant {path.name}", path)
            for path in _folders(folder / "merchants")
            if _kind(path) == "merchant"
        ]
    if _kind(profile) == "customer" and profile not in [each.path for each in homes]:
        homes.append(Home("customer", "customer", profile))
    named = [] if market is None else [market]
    possible = [folder / MARKET_FILE, *(each.path / MARKET_FILE for each in homes)]
    files = dict.fromkeys([*named, *(path for path in possible if path.exists())])
    return Places(folder, tuple(homes), tuple(files))


def check_homes(places: Places) -> Iterator[Finding]:
    """Say what is here, and what to do first where nothing is."""
    for home in places.homes:
        check = Check("homes", home.name)
        if not os.access(home.path, os.R_OK | os.X_OK):
            yield check.problem(f"{home.path} cannot be read", "Run as its owner.")
        else:
            yield check.ok(str(home.path))
    if not places.homes:
        yield Check("homes", "homes").warning(
            f"nothing of Veilmart is in {places.folder}",
            "To shop, `veilmart join MARKET-FILE`; to make a market, `veilmart init`; to look around, "
            "`veilmart demo`. Homes elsewhere are named with --home, --profile or their variables.",
        )


def _kind(path: Path) -> Kind | None:
    if (path / merchant_files.PROFILE).exists():
        return "merchant"
    if (path / ca.CA_KEY_FILE).exists():
        return "ca"
    if (path / bus.CONFIGURATION_FILE).exists():
        return "bus"
    if (path / SEED_FILE).exists() or (path / STORE_FILE).exists():
        return "customer"
    # A merchant that has made its key and lost its `merchant.toml` is told apart by its folder.
    if (path / ca.IDENTITY_KEY_FILE).exists():
        return "merchant" if path.parent.name == "merchants" else "broker"
    return None


def _folders(path: Path) -> list[Path]:
    return sorted(each for each in path.iterdir() if each.is_dir()) if path.is_dir() else []
