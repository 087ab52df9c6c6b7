"""All checks, in the order in which a person mends things: settings first, what rests on them later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from common import topics
from common.errors import WireError
from common.market_file import MarketFile
from veilmart.doctor.bus import PUBLIC, Board, check_board, check_listeners
from veilmart.doctor.clocks import check_clock, verified_card
from veilmart.doctor.coin_keys import check_coin_keys
from veilmart.doctor.disk import check_disk
from veilmart.doctor.findings import Check, Finding
from veilmart.doctor.keys import check_keys
from veilmart.doctor.places import Places, check_homes
from veilmart.doctor.settings import check_settings
from veilmart.doctor.versions import check_versions


@dataclass(frozen=True)
class Circumstances:
    """What an examination is made with. `patience_s` is for one answer, and for reading one store."""

    environment: Mapping[str, str]
    downloads: Path
    patience_s: float
    proxy: str | None
    now: int


def examine(places: Places, given: Circumstances) -> list[Finding]:
    """Make every check, and give what each has found."""
    findings = [*check_homes(places), *check_settings(places, given.environment)]
    findings += check_versions(bus_here=bool(places.of("bus")))
    findings += check_disk(places, given.downloads, given.patience_s)
    markets = places.markets()
    board: Board = {}
    for market in markets:
        shown = [*check_listeners(places, market, given.patience_s, given.proxy)]
        reached = not any(each.result == "problem" and each.check in PUBLIC for each in shown)
        told, board = check_board(places, market, given.patience_s, given.proxy, reached=reached)
        told = [*shown, *told, *check_clock(places, market, board, given.now)]
        # Market files of one folder differ at most in addresses: then each line says whose it is.
        findings += told if len(markets) == 1 else [_named(each, market) for each in told]
    if not markets:
        findings.append(Check("bus", "bus").not_applicable("no market file says where it is"))
        findings.append(Check("clock", "clock").not_applicable("there is nobody to compare with"))
    findings += check_keys(places, given.now)
    findings += check_coin_keys(places, _announced(markets, board), given.now)
    return findings


def _named(finding: Finding, market: MarketFile) -> Finding:
    where = f"{market.public.host}:{market.public.port}"
    return replace(finding, check=f"{finding.check}, market at {where}")


def _announced(markets: list[MarketFile], board: Board) -> list[str] | None:
    card = board.get(topics.broker_card())
    if not card:
        return None
    try:
        body = verified_card(card, markets[-1])
    except WireError:
        return None  # `clock` has told that the card does not hold
    return [each.month for each in body.issuer_keys if each.purpose == "coin"]
