"""Restoring: every unspent coin comes back with the wallet's words and the account's login.

    account session    BeginRestore (an era of its own), FetchIssued (what the account drew), tickets
    no session         the public spent set
    shop sessions      RepeatSwap, FindOrder: one that is found for each session; refunds are claimed

Rule 1. Nothing in the account session names a swap, an order, a serial or a mark. In shop sessions ids are
named that the broker knows from such sessions, and no two that it finds stand in one, unless the owner
says so (`together`): that costs a ticket each and ties nothing to anything.

Rule 2. Whatever was learnt is stored with how far the search has come: after a crash it goes on there. A
token that is there already is left as it is.

Rule 3. What comes back from the account session rests for the market's minimum age, as if drawn now.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

import sqlalchemy as sa

from common import codec, coins, config, messages, slots
from common.errors import (
    AuthenticationError,
    NotFoundError,
    OutOfTicketsError,
    RejectedError,
    UntrustedError,
    UsageError,
    VeilmartError,
    WireError,
)
from common.store import Row, Tx
from customer_node import issuers, kept, numbers, spent
from customer_node.account import Account, AccountSession
from customer_node.change import refund_coins
from customer_node.context import Context
from customer_node.issuers import issuer_of
from customer_node.matching import Matcher
from customer_node.orders import Secrets
from customer_node.schema import (
    eras,
    issuer_keys,
    restored_orders,
    restores,
    searches,
    tokens,
    unmatched,
    visits,
)
from customer_node.shop import Shop, ShopSession
from customer_node.spent import SpentMarks
from customer_node.views import RestoredOrderView, RestoredSourceView, RestoreView
from customer_node.wallet import Key

Source: TypeAlias = Literal["account", "swaps", "refunds"]

MARKERS: Final[dict[Source, bytes]] = {
    "account": b"restored account",
    "swaps": b"restored swap   ",
    "refunds": b"restored refund ",
}
"""What stands in a restored token's `operation`: where it came back from."""

TICKETS: Final = 16
"""How many tickets are drawn, less those that came back, for the sessions that look for swaps and orders."""

KINDS: Final[tuple[numbers.Kind, ...]] = ("swap", "order")
OPEN: Final = ("held", "refundable", "disputed")
"""States that an order cannot stay in: it is asked about again at each call."""

PAID: Final = ("captured", "settled")
"""States in which a merchant may still give money back: it is asked about where the owner says so."""

_CLAIM: Final[codec.Codec[messages.ClaimRefund]] = codec.Codec(messages.ClaimRefund)


class Restore:
    """Brings a wallet back into a profile that has its seed."""

    def __init__(self, context: Context, account: Account, shop: Shop) -> None:
        self._context = context
        self._account = account
        self._shop = shop
        self._matcher: Matcher | None = None
        self._spent: SpentMarks | None = None
        self._asked: set[bytes] = set()
        """Orders whose state was heard in this call."""

    def run(self, name: str | None, together: int, *, refunds: bool = False) -> RestoreView:
        """Go on where the last call ended; what stops it stands in the result.

        `name` is the account's, whose session is open; None where it has been asked already. `refunds`
        asks again about orders that were paid. Raises `UsageError` where there is nothing to restore.
        """
        if together < 1:
            raise UsageError("At least one swap or order is looked for in a session.")
        if name is None and not self._begun():
            raise UsageError("Which account?", "Name it, and log in to it.")
        error: VeilmartError | None = None
        self._asked.clear()
        try:
            if name is not None:
                self._account.within(lambda session: self._ask_account(session, name))
            self._match_spent()
            if name is not None:
                self._account.within(lambda session: self._draw_tickets(session, refunds=refunds))
            self._search_all(together)
            self._ask_again(refunds=refunds)
            self._match_rest()
        except VeilmartError as failure:
            error = failure
        return self._view(error)

    # --- account scope ---------------------------------------------------------------------------------

    def _begun(self) -> bool:
        with self._context.profile.store.immediate() as tx:
            return (
                tx.one(sa.select(restores.c.number).where(restores.c.count.is_not(None)).limit(1)) is not None
            )

    def _ask_account(self, session: AccountSession, name: str) -> None:
        account = self._account.hash_of(name)
        if account != self._account.present():
            raise AuthenticationError("Another account is logged in.", f"Log in as {name} first.")
        self._context.broker(session.link)
        row = self._begin(account)
        if row["count"] is None:
            question = messages.BeginRestore(operation=row["operation"])
            answer = session.ask(question, messages.RestoreBegun, self._context.timeout_ms)
            self._count(row, name, answer.count, session.now)
        self._fetch(session, account)

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

    def _count(self, row: Row, name: str, count: int, now: int) -> None:
        """Begin an era of our own, and note which ones are to be looked through."""
        seed = self._context.profile.seed
        before = [numbers.era_of(seed, name, each) for each in range(count)]
        month = slots.month_of(now)
        months = [month, slots.previous_month(month), slots.previous_month(slots.previous_month(month))]
        with self._context.profile.store.immediate() as tx:
            tx.execute(sa.update(restores).where(restores.c.number == row["number"]).values(count=count))
            if tx.one(sa.select(eras.c.era).limit(1)) is None:
                tx.execute(sa.insert(eras), {"era": numbers.era_of(seed, name, count)})
            there = {(each["kind"], each["era"], each["month"]) for each in tx.all(sa.select(searches))}
            own = {each["era"] for each in tx.all(sa.select(eras))}
            for kind in KINDS:
                for era in before:
                    for each in months:
                        if (kind, era, each) not in there and era not in own:
                            place = {"kind": kind, "era": era, "month": each}
                            tx.execute(sa.insert(searches), {**place, "next": 0, "misses": 0})

    def _fetch(self, session: AccountSession, account: bytes) -> None:
        context = self._context
        where = restores.c.account == account
        more = True
        while more:
            with context.profile.store.immediate() as tx:
                after = tx.scalar(sa.select(restores.c.fetched).where(where))
            question = messages.FetchIssued(request=context.random(16), after=after)
            page = session.ask(question, messages.Issued, context.timeout_ms)
            more = page.more and bool(page.batches)
            usable_from = context.clock() + 1000 * context.profile.market.minimum_age_seconds
            with context.profile.store.immediate() as tx:
                for batch in page.batches:
                    self._take(tx, "account", "coin", batch.coins, usable_from)
                    self._take(tx, "account", "ticket", batch.tickets, usable_from)
                if page.batches:
                    last = max(batch.number for batch in page.batches)
                    tx.execute(sa.update(restores).where(where).values(fetched=last))

    def _draw_tickets(self, session: AccountSession, *, refunds: bool) -> None:
        """Draw tickets for the sessions to come, where any are to come."""
        with self._context.profile.store.immediate() as tx:
            if not self._open_searches(tx) and not _waiting(tx, refunds=refunds):
                return
            stock, _ = self._context.wallet.stock(tx, self._context.clock())
        present = sum(held.usable + held.young for kind, held in stock.items() if kind[0] == "ticket")
        self._account.finish_open(session)
        try:
            while present < TICKETS:
                present += self._account.tickets_in(session).tickets
        except OutOfTicketsError:
            # Today's are all drawn; those that came back may do.
            return

    # --- what came back --------------------------------------------------------------------------------

    def _take(
        self, tx: Tx, source: Source, purpose: coins.Purpose, signatures: Sequence[bytes], usable_from: int
    ) -> None:
        """Store the tokens that blind signatures belong to; those of none wait until more is known."""
        matcher = self._match(tx)
        for signature in signatures:
            found = matcher.find(purpose, signature)
            if found is None:
                row = {
                    "signature": signature,
                    "purpose": purpose,
                    "source": source,
                    "usable_from": usable_from,
                }
                if tx.one(sa.select(unmatched).where(unmatched.c.signature == signature)) is None:
                    tx.execute(sa.insert(unmatched), row)
                continue
            self._store(tx, source, *found, signature, usable_from)

    def _store(
        self,
        tx: Tx,
        source: Source,
        key: messages.IssuerKey,
        counter: int,
        signature: bytes,
        usable_from: int,
    ) -> None:
        place = (tokens.c.key_id == key.key_id, tokens.c.counter == counter)
        if tx.one(sa.select(tokens.c.state).where(*place)) is not None:
            return
        try:
            token = coins.unblind(key, self._context.profile.seed, counter, signature)
        except WireError:
            return
        mark = coins.spent_mark(coins.prepared(key.purpose, key.key_id, token.prefix, token.serial))
        gone = self._spent is not None and mark in self._spent
        row = {
            "key_id": key.key_id,
            "counter": counter,
            "operation": MARKERS[source],
            "position": 0,
            "state": "spent" if gone else "free",
            "blind_signature": signature,
            "usable_from": usable_from,
        }
        tx.execute(sa.insert(tokens), row)

    def _match(self, tx: Tx) -> Matcher:
        if self._matcher is None:
            keys = [issuer_of(row) for row in tx.all(sa.select(issuer_keys))]
            known = {
                each["era"] for each in [*tx.all(sa.select(searches.c.era)), *tx.all(sa.select(eras.c.era))]
            }
            self._matcher = Matcher(self._context.profile.seed, keys, known)
            restored = sa.select(tokens.c.key_id, tokens.c.counter)
            for row in tx.all(restored.where(tokens.c.operation.in_(MARKERS.values()))):
                self._matcher.note(row["key_id"], row["counter"])
        return self._matcher

    def _match_rest(self) -> None:
        """Look further for what nothing was found for, now that everything else is known."""
        while True:
            with self._context.profile.store.immediate() as tx:
                matcher = self._match(tx)
                rows = tx.all(sa.select(unmatched))
                for row in rows:
                    found = matcher.find(row["purpose"], row["signature"])
                    if found is not None:
                        self._store(tx, row["source"], *found, row["signature"], row["usable_from"])
                        tx.execute(sa.delete(unmatched).where(unmatched.c.signature == row["signature"]))
                left = tx.scalar(sa.select(sa.func.count()).select_from(unmatched))
            if not left or not matcher.widen():
                return

    def _match_spent(self) -> None:
        """Read the public spent set, and mark what of the wallet is in it."""
        self._spent = spent.read(self._context)
        seed = self._context.profile.seed
        query = (
            sa.select(tokens.c.counter, issuer_keys)
            .join(issuer_keys, tokens.c.key_id == issuer_keys.c.key_id)
            .where(tokens.c.state == "free", tokens.c.operation.in_(MARKERS.values()))
        )
        with self._context.profile.store.immediate() as tx:
            for row in tx.all(query):
                key = issuer_of(row)
                if coins.mark_of(key, seed, row["counter"]) in self._spent:
                    place = (tokens.c.key_id == key.key_id, tokens.c.counter == row["counter"])
                    tx.execute(
                        sa.update(tokens).where(*place, tokens.c.state == "free").values(state="spent")
                    )

    # --- shop scope ------------------------------------------------------------------------------------

    def _open_searches(self, tx: Tx) -> list[Row]:
        return list(
            tx.all(
                sa.select(searches)
                .where(searches.c.misses < numbers.GAP)
                .order_by(searches.c.kind.desc(), searches.c.era, searches.c.month.desc())
            )
        )

    def _search_all(self, together: int) -> None:
        """Look for swaps, then for orders."""
        while True:
            with self._context.profile.store.immediate() as tx:
                open_ = self._open_searches(tx)
                found = sum(row["found"] for row in tx.all(sa.select(searches.c.found)))
            if not open_:
                break
            place = f"restore/{found // together}"
            self._shop.within(place, lambda session: self._search(session, together))
            self._leave(place)

    def _ask_again(self, *, refunds: bool) -> None:
        """Look what became of orders that were found before, each in a session of its own."""
        with self._context.profile.store.immediate() as tx:
            waiting = _waiting(tx, refunds=refunds)
        for order_id in [each for each in waiting if each not in self._asked]:
            place = f"restore/order/{order_id.hex()}"
            self._shop.within(place, lambda session, it=order_id: self._find_order(session, it))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            self._leave(place)

    def _leave(self, place: str) -> None:
        with self._context.profile.store.immediate() as tx:
            kept.forget(tx, visits, place)
        self._context.uplink.close()

    def _search(self, session: ShopSession, together: int) -> None:
        """Ask for one number after another until as many are found as may stand in one session."""
        self._context.broker(session.link)
        left = together
        while left:
            with self._context.profile.store.immediate() as tx:
                open_ = self._open_searches(tx)
            if not open_:
                return
            row = open_[0]
            seed = self._context.profile.seed
            wanted = numbers.id_of(seed, row["kind"], row["era"], row["month"], row["next"])
            found = (
                self._find_swap(session, wanted, row)
                if row["kind"] == "swap"
                else self._find_order(session, wanted, row)
            )
            if found:
                left -= 1

    def _find_swap(self, session: ShopSession, operation: bytes, row: Row) -> bool:
        context = self._context
        try:
            answer = session.ask(
                messages.RepeatSwap(operation=operation), messages.Swapped, context.timeout_ms
            )
        except NotFoundError:
            with context.profile.store.immediate() as tx:
                _advance(tx, row, found=False)
            return False
        with context.profile.store.immediate() as tx:
            self._take(tx, "swaps", "coin", answer.signatures, context.clock())
            _advance(tx, row, found=True)
        return True

    def _find_order(self, session: ShopSession, order_id: bytes, row: Row | None = None) -> bool:
        """Ask about an order: take the coins of its claims, and claim what is due."""
        context = self._context
        secrets = Secrets.of(numbers.order_secret(context.profile.seed, order_id))
        # A claim that a crash cut short comes first: what is due is then what the broker says it is.
        self._claim(session, order_id, secrets.claim, begun=True)
        claims: list[list[bytes]] = []
        more = True
        while more:
            question = messages.FindOrder(order_id=order_id, claim_secret=secrets.claim, after=len(claims))
            try:
                answer = session.ask(question, messages.OrderFound, context.timeout_ms)
            except NotFoundError:
                with context.profile.store.immediate() as tx:
                    if row is not None:
                        _advance(tx, row, found=False)
                return False
            claims += answer.claims
            more = answer.more and bool(answer.claims)
        with context.profile.store.immediate() as tx:
            for signatures in claims:
                self._take(tx, "refunds", "coin", signatures, context.clock())
            _keep_order(tx, answer)
            if row is not None:
                _advance(tx, row, found=True)
        self._asked.add(order_id)
        self._claim(session, order_id, secrets.claim)
        return True

    def _claim(
        self, session: ShopSession, order_id: bytes, claim_secret: bytes, *, begun: bool = False
    ) -> None:
        """Claim what of an order nobody claimed before, or only go on with a claim that was begun.

        Raises as asking does, and `UntrustedError`.
        """
        context, month = self._context, slots.month_of(session.now)
        while True:
            with context.profile.store.immediate() as tx:
                request = self._open_claim(tx, order_id)
                if request is None and not begun:
                    request = self._new_claim(tx, order_id, claim_secret, month)
            if request is None:
                return
            try:
                answer = session.ask(request, messages.RefundIssued, context.timeout_ms)
            except RejectedError:
                with context.profile.store.immediate() as tx:
                    context.wallet.end_operation(tx, request.operation, "refused")
                raise
            try:
                with context.profile.store.immediate() as tx:
                    self._claimed(tx, order_id, request.operation, answer.signatures)
            except UntrustedError:
                context.profile.keep_evidence("refund", codec.pack(answer), context.clock())
                raise

    def _open_claim(self, tx: Tx, order_id: bytes) -> messages.ClaimRefund | None:
        row = tx.one(sa.select(restored_orders.c.claim).where(restored_orders.c.order_id == order_id))
        if row is None or row["claim"] is None:
            return None
        present = self._context.wallet.operation(tx, row["claim"])
        return None if present is None else _CLAIM.unpack(present.request)

    def _new_claim(
        self, tx: Tx, order_id: bytes, claim_secret: bytes, month: str
    ) -> messages.ClaimRefund | None:
        context = self._context
        row = tx.one(sa.select(restored_orders).where(restored_orders.c.order_id == order_id))
        if row is None or row["due"] <= 0:
            return None
        held = context.wallet.held(tx, context.clock())
        chosen = sorted(refund_coins(row["due"], held, issuers.top(tx, month)), reverse=True)
        operation = context.random(16)
        kinds: list[Key] = [("coin", value) for value in chosen[: config.MAXIMUM_COINS]]
        request = messages.ClaimRefund(
            operation=operation,
            order_id=order_id,
            claim_secret=claim_secret,
            blinded=context.wallet.draw(tx, operation, kinds, month),
        )
        context.wallet.begin_operation(tx, operation, "refund", codec.pack(request), context.clock())
        where = restored_orders.c.order_id == order_id
        tx.execute(sa.update(restored_orders).where(where).values(claim=operation))
        return request

    def _claimed(self, tx: Tx, order_id: bytes, operation: bytes, signatures: Sequence[bytes]) -> None:
        context, found = self._context, restored_orders
        context.wallet.issue(tx, operation, signatures, context.clock())
        amount: int = tx.scalar(
            sa.select(sa.func.sum(issuer_keys.c.value))
            .select_from(tokens.join(issuer_keys, tokens.c.key_id == issuer_keys.c.key_id))
            .where(tokens.c.operation == operation)
        )
        tx.execute(
            sa.update(found)
            .where(found.c.order_id == order_id)
            .values(due=found.c.due - amount, claimed=found.c.claimed + amount, claim=None)
        )
        tx.execute(
            sa.update(found)
            .where(found.c.order_id == order_id, found.c.due == 0, found.c.state == "refundable")
            .values(state="refunded")
        )

    # --- what is shown ---------------------------------------------------------------------------------

    def _view(self, error: VeilmartError | None) -> RestoreView:
        query = sa.select(
            tokens.c.operation, tokens.c.state, issuer_keys.c.purpose, issuer_keys.c.value
        ).join(issuer_keys, tokens.c.key_id == issuer_keys.c.key_id)
        with self._context.profile.store.immediate() as tx:
            rows = tx.all(query.where(tokens.c.operation.in_(MARKERS.values())))
            found = tx.all(sa.select(restored_orders).order_by(restored_orders.c.deadline))
            left = tx.scalar(sa.select(sa.func.count()).select_from(unmatched))
            open_ = bool(self._open_searches(tx))
        sources = []
        for source, marker in MARKERS.items():
            own = [row for row in rows if row["operation"] == marker]
            live = [row for row in own if row["state"] != "spent"]
            kinds = Counter(row["purpose"] for row in live)
            sources.append(
                RestoredSourceView(
                    source=source,
                    coins=kinds["coin"],
                    amount=sum(row["value"] for row in live),
                    tickets=kinds["ticket"],
                    spent=len(own) - len(live),
                )
            )
        return RestoreView(
            sources=tuple(sources),
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
            missing_marks=0 if self._spent is None else self._spent.missing,
            complete=error is None and not open_,
            error=error,
        )


def _waiting(tx: Tx, *, refunds: bool) -> list[bytes]:
    """List orders that were found and may bring more."""
    found = restored_orders.c
    asked = sa.or_(found.state.in_((*OPEN, *PAID) if refunds else OPEN), found.due > 0)
    return [row["order_id"] for row in tx.all(sa.select(found.order_id).where(asked))]


def _advance(tx: Tx, row: Row, *, found: bool) -> None:
    where = (
        searches.c.kind == row["kind"],
        searches.c.era == row["era"],
        searches.c.month == row["month"],
        searches.c.next == row["next"],
    )
    values = {
        "next": row["next"] + 1,
        "misses": 0 if found else row["misses"] + 1,
        "found": row["found"] + int(found),
    }
    tx.execute(sa.update(searches).where(*where).values(**values))


def _keep_order(tx: Tx, answer: messages.OrderFound) -> None:
    values = {
        "state": answer.state,
        "amount": answer.amount,
        "due": answer.due,
        "deadline": answer.deadline,
    }
    where = restored_orders.c.order_id == answer.order_id
    if not tx.changed(sa.update(restored_orders).where(where).values(**values)):
        tx.execute(sa.insert(restored_orders), {**values, "order_id": answer.order_id, "claimed": 0})
