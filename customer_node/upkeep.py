"""The wallet looks after itself: the plan of `tending`, read from the profile and carried out.

    shop work first, each in a session of its own --> then, if it may be, a draw from the account

Rule 1. A time is stored before it is waited for, and goes once its work is done. What failed keeps its
time, and is tried again by whoever tends next.

Rule 2. One thing that goes no further does not hold up the others: each is reported with its error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import sqlalchemy as sa

from common import config, slots
from common.errors import InsufficientFundsError, VeilmartError
from common.store import Tx
from customer_node import ageing, apart, issuers, kept, tending
from customer_node.account import Account
from customer_node.context import Context
from customer_node.funds import Funds
from customer_node.refusals import RetiredKeyError
from customer_node.schema import tending as times_table
from customer_node.schema import visits
from customer_node.shop import Shop, ShopSession
from customer_node.tending import Due, Situation
from customer_node.views import DueView, TendedView, TendView, Work
from customer_node.wallet import TICKET, Stock

POOR_MS: Final = config.DAY_MS
"""An account that holds too little for a bundle is asked again after a day."""


class Upkeep:
    """Plans and works."""

    def __init__(self, context: Context, account: Account, shop: Shop, funds: Funds) -> None:
        self._context = context
        self._account = account
        self._shop = shop
        self._funds = funds

    def due(self, tx: Tx, bundles: int = 1) -> tuple[DueView, ...]:
        """Say what is due next, by the times that were drawn. Asks nobody."""
        situation = self._situation(tx)
        return tuple(_view(due) for due in tending.plan(situation, _times(tx), bundles))

    def run(self, bundles: int, log_in: Callable[[], None] | None) -> TendView:
        """Draw the times that are missing, and do what is due. `log_in` opens an account session.

        Without it a draw waits for a session that somebody else opens. Raises nothing of what stands in
        the results.
        """
        done = [self._swap(work) for work in tending.SHOP_WORK if self._is_due(work, bundles)]
        if self._is_due("draw", bundles) and (log_in is not None or self._account.logged_in):
            done.append(self._draw(bundles, log_in))
        logged_in = self._account.logged_in
        with self._context.profile.store.immediate() as tx:
            self._plan(tx, bundles)
            return TendView(tuple(done), self.due(tx, bundles), logged_in)

    # --- planning --------------------------------------------------------------------------------------

    def _is_due(self, work: Work, bundles: int) -> bool:
        with self._context.profile.store.immediate() as tx:
            planned = self._plan(tx, bundles)
        now = self._context.clock()
        return any(due.work == work and due.now(now) for due in planned)

    def _plan(self, tx: Tx, bundles: int) -> Sequence[Due]:
        """Store the times of what is needed, and forget those of what no longer is."""
        before = _times(tx)
        planned = tending.draw_times(self._situation(tx), before, self._context.random, bundles)
        for work in set(before) - {due.work for due in planned}:
            _forget(tx, work)
        for due in planned:
            if before.get(due.work) != due.at:
                _store(tx, due.work, due.at)
        return planned

    def _situation(self, tx: Tx) -> Situation:
        context, now = self._context, self._context.clock()
        wallet = context.wallet
        stock, _ = wallet.stock(tx, now)
        tickets = stock.pop(TICKET, Stock())
        in_hand = sum(value * (each.usable + each.young) for (_, value), each in stock.items())
        month = slots.month_of(now)
        kept.sweep(tx, visits, now)
        return Situation(
            now=now,
            age_ms=context.age_ms,
            held=wallet.held(tx, now),
            top=issuers.largest(tx),
            worth=in_hand + wallet.reserved(tx),
            tickets=tickets.usable + tickets.young - wallet.ending_tickets(tx, now),
            ending=sum(value * count for value, count in wallet.ending(tx, now).items()),
            ending_at=slots.month_start(slots.next_month(month)),
            ended=sum(each.worth for each in ageing.ended(tx, now) if not each.lost),
            visit_until=apart.visit_until(tx, now),
            shopped=apart.last_used(tx, "shop"),
            banked=apart.last_used(tx, "account"),
        )

    # --- working ---------------------------------------------------------------------------------------

    def _swap(self, work: Work) -> TendedView:
        actions: dict[Work, Callable[[ShopSession], None]] = {
            "exchange": self._funds.exchange,
            "renew": self._funds.renew,
            "spread": self._funds.spread,
        }
        try:
            self._shop.within(f"tend/{work}", actions[work])
        except RetiredKeyError as lost:
            self._done(work)
            return TendedView(work, "lost", lost)
        except VeilmartError as error:
            return TendedView(work, "open", error)
        self._done(work)
        return TendedView(work, "done", None)

    def _draw(self, bundles: int, log_in: Callable[[], None] | None) -> TendedView:
        context = self._context
        with context.profile.store.immediate() as tx:
            money = tending.draws_money(self._situation(tx), bundles)
        try:
            if not self._account.logged_in and log_in is not None:
                log_in()
            (self._account.withdraw if money else self._account.draw_tickets)()
        except InsufficientFundsError as poor:
            with context.profile.store.immediate() as tx:
                _store(tx, "draw", context.clock() + POOR_MS)
            return TendedView("draw", "open", poor)
        except VeilmartError as error:
            return TendedView("draw", "open", error)
        self._done("draw")
        return TendedView("draw", "done", None)

    def _done(self, work: Work) -> None:
        with self._context.profile.store.immediate() as tx:
            _forget(tx, work)


def _view(due: Due) -> DueView:
    return DueView(due.work, max(due.at, due.free_at) if due.at else 0)


def _times(tx: Tx) -> dict[Work, int]:
    rows = {row["what"]: int(row["at"]) for row in tx.all(sa.select(times_table))}
    return {work: rows[work] for work in tending.ORDER if work in rows}


def _store(tx: Tx, what: str, at: int) -> None:
    _forget(tx, what)
    tx.execute(sa.insert(times_table), {"what": what, "at": at})


def _forget(tx: Tx, what: str) -> None:
    tx.execute(sa.delete(times_table).where(times_table.c.what == what))
