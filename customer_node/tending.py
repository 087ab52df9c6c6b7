"""What the wallet does by itself, and when: a plan, made of what it holds.

    exchange   coins whose month is over    ask whether the operator still swaps them
    renew      coins in their last week     swapped for coins of this month
    spread     a gap in the denominations   one coin swapped, so that small amounts can be paid exactly again
    draw       too little in hand           a bundle of always the same coins, or tickets alone

Rule 1. Nothing is done at the moment at which it becomes needed: that moment is known to whoever sees the
purchase or the draw before it. A time is drawn at random, stored, and only then waited for.

Rule 2. Account and shop keep apart by the market's minimum age (`apart`): nothing is drawn while a visit is
open, or within that age of any shop session's use; nothing is swapped within it of the account's. What falls
into such a time is put off, to a new random one after it.

Rule 3. What would be lost by waiting is not put off: coins in their last day are renewed at once.

Rule 4. In a market without a minimum age, and where the customer asks for it (`--now`), all of it is done
at once.

No I/O, clock or randomness: times and `random` are arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from common import coins, config
from common.clock import Random
from customer_node.change import spread_swap
from customer_node.views import Work

ORDER: Final[tuple[Work, ...]] = ("exchange", "renew", "spread", "draw")
SHOP_WORK: Final[tuple[Work, ...]] = ("exchange", "renew", "spread")

TICKETS_KEPT: Final = 8
WORTH_OF_A_BUNDLE: Final = sum(coins.BUNDLE)

AGES_OF: Final[Mapping[Work, int]] = {"exchange": 1, "renew": 24, "spread": 1, "draw": 6}
"""Over how many minimum ages a time is drawn: over six hours for a draw, where the age is one hour."""


@dataclass(frozen=True)
class Situation:
    """What the plan rests on. Amounts are minor units, times milliseconds since 1970, 0 for never.

    `held` counts usable coins by value, `worth` is that and what is young or under way; `ending` and
    `ended` are worths. `age_ms` is the market's minimum age, 0 where nothing has to wait; `shopped` and
    `banked` are the last uses of a shop session and of the account.
    """

    now: int
    age_ms: int
    held: Mapping[int, int]
    top: int
    worth: int
    tickets: int
    ending: int
    ending_at: int
    ended: int
    visit_until: int
    shopped: int
    banked: int


@dataclass(frozen=True)
class Due:
    """Something to do. `at` is 0 where no time was drawn for it yet; before `free_at` it may not be done."""

    work: Work
    at: int
    free_at: int

    def now(self, now: int) -> bool:
        """Whether its time has come."""
        return 0 < self.at <= now and self.free_at <= now


def needed(situation: Situation, bundles: int) -> list[Work]:
    """Say what should be done at some time. `bundles` is how many bundles' worth stays in hand."""
    found: dict[Work, bool] = {
        "exchange": situation.ended > 0,
        "renew": situation.ending > 0,
        "spread": spread_swap(situation.held, situation.top) is not None,
        "draw": draws_money(situation, bundles) or situation.tickets < TICKETS_KEPT,
    }
    return [work for work in ORDER if found[work]]


def draws_money(situation: Situation, bundles: int) -> bool:
    """Whether coins are wanted too: tickets alone are drawn where the wallet holds enough."""
    return situation.worth < bundles * WORTH_OF_A_BUNDLE


def plan(situation: Situation, times: Mapping[Work, int], bundles: int) -> list[Due]:
    """Say what is needed, with the times that were drawn for it."""
    return [Due(work, times.get(work, 0), _free_at(situation, work)) for work in needed(situation, bundles)]


def draw_times(situation: Situation, times: Mapping[Work, int], random: Random, bundles: int) -> list[Due]:
    """Plan, and draw the times that are missing or that the rules no longer allow."""
    return [_timed(situation, due, random) for due in plan(situation, times, bundles)]


def _timed(situation: Situation, due: Due, random: Random) -> Due:
    now, span = situation.now, AGES_OF[due.work] * situation.age_ms
    at = due.at
    if at == 0 or at < due.free_at > now:
        at = max(now, due.free_at) + _below(span, random)
    if due.work == "renew":
        at = min(at, max(now, situation.ending_at - config.DAY_MS))
    return Due(due.work, at, due.free_at)


def _free_at(situation: Situation, work: Work) -> int:
    """Give the moment before which account and shop would come too near to each other."""
    if situation.age_ms == 0 or _urgent(situation, work):
        return 0
    last = situation.shopped if work == "draw" else situation.banked
    return max(situation.visit_until, last + situation.age_ms if last else 0)


def _urgent(situation: Situation, work: Work) -> bool:
    return work == "renew" and situation.now >= situation.ending_at - config.DAY_MS


def _below(span: int, random: Random) -> int:
    # 64 bits over less than a month in milliseconds: the bias is below 2**-30, and hides nothing.
    return int.from_bytes(random(8)) % span if span else 0
