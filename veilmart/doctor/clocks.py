"""Clocks: whether this machine's agrees with the broker's, as far as that shows without an account.

A message counts for `freshness_ms` around its time, five minutes unless the operator says otherwise. What
nodes sign has the time of its making, so a clock here that is *behind* by more than that shows at once; one
that is *ahead* shows by the end of the broker's card, which is made anew at least once a day. A customer's
last session tells the difference itself: `Welcome` gave the broker's clock.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Final

from common import cards, codec, messages, topics
from common.config import HOUR_MS, MINUTE_MS, SECOND_MS, Limits
from common.errors import StaleError, UntrustedError, VeilmartError, WireError
from common.market_file import MarketFile
from customer_node.profile import STORE_FILE
from veilmart.doctor.bus import Board, presence_at
from veilmart.doctor.findings import Check, Finding
from veilmart.doctor.places import Home, Places
from veilmart.doctor.stores import read_only

TOLERANCE_MS: Final = Limits().freshness_ms
_ADVICE: Final = "Set the clock (`timedatectl set-ntp true`); a wrong one makes every message too old or new."
_OFFSET: Final = (
    'SELECT "offset" FROM (SELECT "offset", last_used FROM account_sessions UNION ALL '
    'SELECT "offset", last_used FROM visits) ORDER BY last_used DESC LIMIT 1'
)


def check_clock(places: Places, market: MarketFile, board: Board, now: int) -> Iterator[Finding]:
    """Compare this machine's time with what the broker has signed, and with the last sessions."""
    yield broker_card(market, board, now)
    for home in places.of("customer"):
        yield _last_session(home)


def broker_card(market: MarketFile, board: Board, now: int) -> Finding:
    """Compare `now` with the broker's card."""
    check, card = Check("clock", "against the broker's card"), board.get(topics.broker_card())
    if not card:
        return check.not_applicable("there is no card to compare with", "Start bus and broker.")
    try:
        body = verified_card(card, market)
    except WireError as error:
        return check.problem(
            f"the broker's card does not hold: {error}",
            "Ask the operator for the present market file, and whether this broker is his.",
            UntrustedError,
        )
    shown = presence_at(board, topics.broker_status())
    newest = max(body.issued, (shown.since if shown is not None else None) or 0)
    if newest > now + TOLERANCE_MS:
        return check.problem(f"this clock is {_minutes(newest - now)} or more behind the broker's", _ADVICE)
    if now >= body.not_after:
        detail = f"the card ended {_minutes(now - body.not_after)} ago"
        if shown is None or shown.state != "online":
            return check.warning(f"{detail}, and the broker is away", "Start it, and look again.")
        return check.problem(
            f"{detail}, yet the broker is there: this clock, or the broker's, is wrong", _ADVICE
        )
    return check.ok(
        f"not behind by more than {_minutes(TOLERANCE_MS)}, not ahead by more than "
        f"{_minutes(body.not_after - now)}: the card is {_minutes(max(0, now - body.issued))} old"
    )


def verified_card(card: bytes, market: MarketFile) -> messages.BrokerCard:
    """Verify the card at the time that it states itself: whether that is now is asked elsewhere.

    Raises `WireError`.
    """
    stated = _stated(card)
    try:
        return cards.open_broker_card(card, market.ca_der, market.market_id, stated.issued).body
    except StaleError as error:
        raise WireError("it ends before it begins") from error


def _stated(card: bytes) -> messages.BrokerCard:
    rest = card
    for _ in ("certificate", "signature"):
        rest = rest[2 + int.from_bytes(rest[:2], "big") :]
    return codec.BROKER_CARD.unpack(rest)


def _last_session(home: Home) -> Finding:
    check = Check("clock", f"{home.name}'s last session")
    try:
        with closing(read_only(home.path / STORE_FILE)) as connection:
            row = connection.execute(_OFFSET).fetchone()
    except sqlite3.Error as error:
        return check.not_applicable(f"cannot be read ({type(error).__name__}): see disk")
    if row is None:
        return check.not_applicable("none is kept: there was none yet, or it has ended")
    offset = int(row[0])
    detail = f"the broker's clock was {abs(offset) / SECOND_MS:.1f} s {'ahead' if offset >= 0 else 'behind'}"
    return check.problem(detail, _ADVICE, VeilmartError) if abs(offset) > TOLERANCE_MS else check.ok(detail)


def _minutes(milliseconds: int) -> str:
    if milliseconds >= HOUR_MS:
        return f"{milliseconds / HOUR_MS:.0f} h"
    return f"{milliseconds / MINUTE_MS:.0f} min"
