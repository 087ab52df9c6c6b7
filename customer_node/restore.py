"""Restoring: every unspent coin comes back with the wallet's words and the account's login.

    account session    BeginRestore (an era of its own), FetchIssued (what the account drew), tickets
    no session         the public spent set
    shop sessions      RepeatSwap, FindOrder: one that is found for each session; refunds are claimed

Rule 1. Nothing in the account session names a swap, an order, a serial or a mark. In shop sessions ids are
named that the broker knows from such sessions, and no two that it finds stand in one, unless the owner
says so (`together`): that costs a ticket each and ties nothing to anything.

Rule 2. Whatever was learnt is stored with how far the search has come: after a crash it goes on there. A
token that is there already is left as it is. Where all of it came to its end, an account that is named again
begins anew, in a further era: the profile may have come back from an old copy since. Asking about refunds
does not.

Rule 3. What comes back from the account session rests for the market's minimum age, as if drawn now.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection
from typing import Final

import sqlalchemy as sa

from common import messages, slots
from common.errors import AuthenticationError, OutOfTicketsError, UsageError, VeilmartError
from common.store import Row, Tx
from customer_node import numbers
from customer_node.account import Account, AccountSession
from customer_node.context import Context
from customer_node.finding import Finding, open_searches, waiting
from customer_node.refusals import AccountClosedError
from customer_node.restored import Restored
from customer_node.schema import eras, issuer_keys, restored_orders, restores, searches, unmatched
from customer_node.shop import Shop
from customer_node.views import RestoredOrderView, RestoreView

TICKETS: Final = 16
"""How many tickets are drawn, less those that came back, for the sessions that look for swaps and orders."""


class Restore:
    """Brings a wallet back into a profile that has its seed."""

    def __init__(self, context: Context, account: Account, shop: Shop) -> None:
        self._context = context
        self._account = account
        self._shop = shop
        self._closed = False
        """Whether the account was heard to be closed: those tickets that came back have to do."""

    def run(self, name: str | None, together: int, *, refunds: bool = False) -> RestoreView:
        """Go on where the last call ended, or begin anew; what stops it stands in the result.

        `name` is the account's, whose session is open; None where it has been asked already. `refunds`
        asks again about orders that were paid. Raises `UsageError` where there is nothing to restore.
        """
        if together < 1:
            raise UsageError("At least one swap or order is looked for in a session.")
        if name is None and not self._begun():
            raise UsageError("Which account?", "Name it, and log in to it.")
        error: VeilmartError | None = None
        restored = Restored(self._context)
        finding = Finding(self._context, self._shop, restored)
        try:
            if name is not None:
                self._account.within(
                    lambda session: self._ask_account(session, name, restored, refunds=refunds)
                )
            restored.match_spent()
            if name is not None:
                self._account.within(lambda session: self._draw_tickets(session, refunds=refunds))
            finding.search_all(together)
            finding.ask_again(refunds=refunds)
            restored.match_rest()
            self._end()
        except VeilmartError as failure:
            error = self._explained(failure)
        return self._view(restored, error)

    def _explained(self, error: VeilmartError) -> VeilmartError:
        """Say where tickets are to be had, where this account gives none any more."""
        if not (self._closed and isinstance(error, OutOfTicketsError)):
            return error
        hint = "The account is closed. `veilmart login` to another one, `veilmart withdraw`, and go on."
        return OutOfTicketsError(error.message, hint, retry_at=error.retry_at)

    # --- account scope ---------------------------------------------------------------------------------

    def _begun(self) -> bool:
        with self._context.profile.store.immediate() as tx:
            return (
                tx.one(sa.select(restores.c.number).where(restores.c.count.is_not(None)).limit(1)) is not None
            )

    def _ask_account(self, session: AccountSession, name: str, restored: Restored, *, refunds: bool) -> None:
        account = self._account.hash_of(name)
        if account != self._account.present():
            raise AuthenticationError("Another account is logged in.", f"Log in as {name} first.")
        self._context.broker(session.link)
        row = self._begin(account)
        if row["count"] is None:
            self._count(row, name, self._ask_count(session, row["operation"]), session.now)
        elif not refunds and row["ended"] is not None:
            # It is stored with its answer: one that a crash cut short is an era without anything in it.
            operation = self._context.random(16)
            self._count_anew(row, name, self._ask_count(session, operation), session.now)
        self._fetch(session, account, restored)

    def _begin(self, account: bytes) -> Row:
        """Give the row of this account: the one there is, one without an account yet, or a new one."""
        of_account = sa.select(restores).where(restores.c.account == account)
        with self._context.profile.store.immediate() as tx:
            present = tx.one(of_account)
            if present is None:
                first = tx.one(sa.select(restores.c.number).where(restores.c.account.is_(None)))
                if first is not None:
                    where = restores.c.number == first["number"]
                    tx.execute(sa.update(restores).where(where).values(account=account))
                else:
                    tx.execute(
                        sa.insert(restores),
                        {"account": account, "operation": self._context.random(16), "fetched": 0},
                    )
                present = tx.one(of_account)
        if present is None:
            raise LookupError("the row that was just written")
        return present

    def _ask_count(self, session: AccountSession, operation: bytes) -> int:
        question = messages.BeginRestore(operation=operation)
        return session.ask(question, messages.RestoreBegun, self._context.timeout_ms).count

    def _end(self) -> None:
        """Note that nothing is left: a crash or an error before this goes on, and begins nothing anew."""
        with self._context.profile.store.immediate() as tx:
            begun = sa.update(restores).where(restores.c.count.is_not(None))
            tx.execute(begun.values(ended=self._context.clock()))

    def _count(self, row: Row, name: str, count: int, now: int) -> None:
        """Begin an era of our own, and note which ones are to be looked through."""
        with self._context.profile.store.immediate() as tx:
            _note_count(tx, row, count)
            if tx.one(sa.select(eras.c.era).limit(1)) is None:
                self._begin_era(tx, name, count)
            own = {each["era"] for each in tx.all(sa.select(eras))}
            self._search(tx, {*self._eras_before(name, count)} - own, now)

    def _count_anew(self, row: Row, name: str, count: int, now: int) -> None:
        """Begin a further era, and look through all that there were again, our own too."""
        with self._context.profile.store.immediate() as tx:
            _note_count(tx, row, count)
            before = {each["era"] for each in (*tx.all(sa.select(eras)), *tx.all(sa.select(searches)))}
            tx.execute(sa.delete(searches))
            self._begin_era(tx, name, count)
            self._search(tx, before.union(self._eras_before(name, count)), now)

    def _eras_before(self, name: str, count: int) -> list[int]:
        return [numbers.era_of(self._context.profile.seed, name, each) for each in range(count)]

    def _begin_era(self, tx: Tx, name: str, count: int) -> None:
        tx.execute(sa.insert(eras), {"era": numbers.era_of(self._context.profile.seed, name, count)})
        # Counts begin anew in it, also in a profile that has drawn before: no hole to be looked over.
        tx.execute(sa.update(issuer_keys).values(next_counter=0))

    @staticmethod
    def _search(tx: Tx, through: Collection[int], now: int) -> None:
        month = slots.month_of(now)
        months = [month, slots.previous_month(month), slots.previous_month(slots.previous_month(month))]
        there = {(each["kind"], each["era"], each["month"]) for each in tx.all(sa.select(searches))}
        for place in itertools.product(numbers.KINDS, through, months):
            if place not in there:
                row = dict(zip(("kind", "era", "month"), place, strict=True))
                tx.execute(sa.insert(searches), {**row, "next": 0, "misses": 0})

    def _fetch(self, session: AccountSession, account: bytes, restored: Restored) -> None:
        context = self._context
        where = restores.c.account == account
        more = True
        while more:
            with context.profile.store.immediate() as tx:
                after = tx.scalar(sa.select(restores.c.fetched).where(where))
            question = messages.FetchIssued(request=context.random(16), after=after)
            page = session.ask(question, messages.Issued, context.timeout_ms)
            last = max((batch.number for batch in page.batches), default=after)
            more = page.more and last > after
            usable_from = context.clock() + 1000 * context.profile.market.minimum_age_seconds
            with context.profile.store.immediate() as tx:
                for batch in page.batches:
                    restored.take(tx, "account", "coin", batch.coins, usable_from)
                    restored.take(tx, "account", "ticket", batch.tickets, usable_from)
                tx.execute(sa.update(restores).where(where).values(fetched=last))

    def _draw_tickets(self, session: AccountSession, *, refunds: bool) -> None:
        """Draw tickets for the sessions to come, where any are to come."""
        with self._context.profile.store.immediate() as tx:
            if not open_searches(tx) and not waiting(tx, refunds=refunds):
                return
            stock, _ = self._context.wallet.stock(tx, self._context.clock())
        present = sum(held.usable + held.young for kind, held in stock.items() if kind[0] == "ticket")
        self._account.finish_open(session)
        try:
            while present < TICKETS:
                present += self._account.tickets_in(session).tickets
        except AccountClosedError:
            self._closed = True
        except OutOfTicketsError:
            # Today's are all drawn; those that came back may do.
            return

    # --- what is shown ---------------------------------------------------------------------------------

    def _view(self, restored: Restored, error: VeilmartError | None) -> RestoreView:
        with self._context.profile.store.immediate() as tx:
            found = tx.all(sa.select(restored_orders).order_by(restored_orders.c.deadline))
            left = tx.scalar(sa.select(sa.func.count()).select_from(unmatched))
            open_ = bool(open_searches(tx))
            sources = restored.sources(tx)
        return RestoreView(
            sources=sources,
            orders=tuple(
                RestoredOrderView(
                    order_id=row["order_id"].hex(),
                    state=row["state"],
                    amount=row["amount"],
                    claimed=row["claimed"],
                    deadline=row["deadline"],
                )
                for row in found
            ),
            currency=self._context.profile.market.currency,
            unmatched=left,
            missing_marks=restored.missing,
            complete=error is None and not open_,
            error=error,
        )


def _note_count(tx: Tx, row: Row, count: int) -> None:
    """Note how often the account was restored, which begins a restoring: none is at its end now."""
    tx.execute(sa.update(restores).values(ended=None))
    tx.execute(sa.update(restores).where(restores.c.number == row["number"]).values(count=count))
