"""Resume: whatever a crash, a silence or an absent merchant left open is taken to its end.

    open top-ups       asked about, where the account session is still open
    open withdrawals   asked again byte for byte, where the account session is still open
    open swaps         each in a session of its own
    ending coins       swapped for coins of this month, in a session of their own
    open orders        each in its visit, or in a session of its own: answered, refunded, or still open
    refused orders     asked about once: a repetition of them may have been taken
    accepted orders    delivered, where a folder is known
    delivered orders   confirmed, where the broker does not know it; now and then asked about, since their
                       merchant may have given money back
    disputes           said until they are answered, then asked about until they are decided
    money given back   claimed

Rule 1. Account and shop keep apart by the market's minimum age: in a run for everything, while a shop was
visited less than that ago, what takes the account waits, and while the account was used less than that ago,
what takes a shop session, coins in their last day excepted.

Rule 2. One thing that goes no further does not hold up the others: each is reported with its error.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeAlias

from common import config
from common.errors import TooSoonError, VeilmartError
from customer_node import apart, order_views, orders
from customer_node.account import Account
from customer_node.checkout import Checkout
from customer_node.context import Context
from customer_node.disputes import Disputes, unanswered
from customer_node.downloads import Downloads
from customer_node.funds import Funds
from customer_node.orders import Order
from customer_node.refunds import Refunds, uncollected
from customer_node.shop import Shop, ShopSession
from customer_node.standing import Standing, unconfirmed, unheard
from customer_node.topups import TopUps
from customer_node.views import ResumedView
from customer_node.wallet import Operation

Part: TypeAlias = Literal["all", "account", "orders"]
"""`account` is what needs the account session, `orders` what needs shop sessions, deliveries left out."""

Action: TypeAlias = Callable[[ShopSession, bytes], object]


class Resume:
    """Looks for what is open and carries it on."""

    def __init__(
        self,
        context: Context,
        account: Account,
        shop: Shop,
        funds: Funds,
        checkout: Checkout,
        downloads: Downloads,
        standing: Standing,
        top_ups: TopUps,
        refunds: Refunds,
        disputes: Disputes,
    ) -> None:
        self._context = context
        self._refunds = refunds
        self._disputes = disputes
        self._standing = standing
        self._top_ups = top_ups
        self._account = account
        self._shop = shop
        self._funds = funds
        self._checkout = checkout
        self._downloads = downloads

    def run(self, folder: Path | None, part: Part = "all") -> list[ResumedView]:
        """Carry everything on, or a part; `folder` is where deliveries go that have not begun."""
        visited = self._visited() if part == "all" else None
        done = self._waiting_for_account(visited) if visited is not None else []
        if visited is None and part in ("all", "account"):
            done = self._in_account()
        if part == "all" and (soon := self._too_soon()) is not None:
            return done + self._waiting(soon)
        if part in ("all", "orders"):
            done += self._in_shops(folder, deliver=part == "all")
        return done

    def _in_account(self) -> list[ResumedView]:
        done = [ResumedView("top-up", name, state, error) for name, state, error in self._top_ups.resume()]
        return done + [
            ResumedView("withdrawal", name, "open" if error else "done", error)
            for name, error in self._account.resume()
        ]

    def _visited(self) -> TooSoonError | None:
        """Say until when the account waits, where a shop was visited a moment ago."""
        context = self._context
        with context.profile.store.immediate() as tx:
            return apart.too_near_a_visit(tx, context.age_ms, context.clock(), "resume")

    def _waiting_for_account(self, soon: TooSoonError) -> list[ResumedView]:
        """List what would be carried on in the account's session."""
        charges = [each.operation for each in self._top_ups.views() if each.state == "open"]
        with self._context.profile.store.immediate() as tx:
            drawn = self._context.wallet.open_operations(tx, "withdraw")
        return [
            *(ResumedView("top-up", name, "waiting", soon) for name in charges),
            *(ResumedView("withdrawal", each.id.hex(), "waiting", soon) for each in drawn),
        ]

    def _too_soon(self) -> TooSoonError | None:
        """Say until when shop work waits, where the account was used a moment ago."""
        context = self._context
        with context.profile.store.immediate() as tx:
            until = apart.shops_free_at(tx, context.age_ms)
        now = context.clock()
        if until <= now:
            return None
        return TooSoonError(
            "The account was used a moment ago: what a shop would see next to that could be tied to it.",
            f"`veilmart resume` in {apart.minutes(until - now)} min, or with `--now` at once.",
            retry_at=until,
        )

    def _waiting(self, soon: TooSoonError) -> list[ResumedView]:
        """List what would be carried on in shop sessions."""
        with self._context.profile.store.immediate() as tx:
            swaps = self._context.wallet.open_operations(tx, "swap")
            ids = [
                *(unanswered(tx) + orders.in_states(tx, (*orders.OPEN, *orders.TO_DELIVER, "disputed"))),
                *(unconfirmed(tx) + unheard(tx, self._context.clock()) + uncollected(tx)),
            ]
        waiting = [ResumedView("swap", swap.id.hex(), "waiting", soon) for swap in swaps]
        # Coins that end within a day would be lost by waiting.
        urgent = self._funds.ending(config.DAY_MS)
        waiting += self._renew() if urgent else []
        if self._funds.ending() and not urgent:
            waiting.append(ResumedView("renewal", "", "waiting", soon))
        return waiting + [ResumedView("order", each.hex(), "waiting", soon) for each in dict.fromkeys(ids)]

    def _in_shops(self, folder: Path | None, *, deliver: bool) -> list[ResumedView]:
        done: list[ResumedView] = []
        with self._context.profile.store.immediate() as tx:
            swaps = self._context.wallet.open_operations(tx, "swap")
        done += [self._swap(swap) for swap in swaps]
        done += self._renew()
        done += [self._in_its_session(order_id, self._disputes.carry_on) for order_id in self._unanswered()]
        with self._context.profile.store.immediate() as tx:
            open_orders = orders.in_states(tx, orders.OPEN)
            refused = orders.in_states(tx, ("refused",))
        for order_id in open_orders:
            done.append(self._order(order_id))
        for order_id in refused:
            done += self._recall(order_id)
        with self._context.profile.store.immediate() as tx:
            # What was said not to have arrived does not arrive behind the dispute's back.
            disputed = unanswered(tx)
            accepted = orders.in_states(tx, orders.TO_DELIVER)
            undelivered = [order_id for order_id in accepted if order_id not in disputed]
        done += [self._deliver(order_id, folder) for order_id in undelivered if deliver]
        reported = {item.id for item in done}
        with self._context.profile.store.immediate() as tx:
            now = self._context.clock()
            later: list[tuple[list[bytes], Action]] = [
                (orders.in_states(tx, ("disputed",)), self._checkout.ask),
                (unconfirmed(tx), self._standing.confirm),
                (unheard(tx, now), self._checkout.ask),
                (uncollected(tx), self._refunds.collect),
            ]
        for order_ids, action in later:
            for order_id in order_ids:
                if order_id.hex() not in reported:
                    done.append(self._in_its_session(order_id, action))
                    reported.add(order_id.hex())
        return done

    def _unanswered(self) -> list[bytes]:
        with self._context.profile.store.immediate() as tx:
            return unanswered(tx)

    def _swap(self, swap: Operation) -> ResumedView:
        try:
            self._shop.within(f"swap/{swap.id.hex()}", lambda session: self._funds.finish(session, swap))
        except VeilmartError as error:
            return ResumedView("swap", swap.id.hex(), self._swap_state(swap), error)
        return ResumedView("swap", swap.id.hex(), "done", None)

    def _swap_state(self, swap: Operation) -> str:
        with self._context.profile.store.immediate() as tx:
            open_ = self._context.wallet.operation(tx, swap.id)
        return "open" if open_ else "refused"

    def _renew(self) -> list[ResumedView]:
        if not self._funds.ending():
            return []
        try:
            self._shop.within("renewal", self._funds.renew)
        except VeilmartError as error:
            return [ResumedView("renewal", "", "open", error)]
        return [ResumedView("renewal", "", "done", None)]

    def _order(self, order_id: bytes) -> ResumedView:
        return self._in_its_session(order_id, self._checkout.settle)

    def _recall(self, order_id: bytes) -> list[ResumedView]:
        """Ask about a refused order; there is nothing to tell where the broker stays with that."""
        try:
            place = self._downloads.place_of(self._load(order_id))
            known = self._shop.within(place, lambda session: self._checkout.recall(session, order_id))
        except VeilmartError as error:
            return [ResumedView("order", order_id.hex(), self._state(order_id), error)]
        return [self._order(order_id)] if known else []

    def _deliver(self, order_id: bytes, folder: Path | None) -> ResumedView:
        asked = self._in_its_session(order_id, self._checkout.ask)
        if asked.error is not None or asked.outcome not in orders.TO_DELIVER:
            return asked
        failure: VeilmartError | None = None
        try:
            for _ in self._downloads.steps(order_id, self._folder(order_id, folder)):
                pass
        except VeilmartError as error:
            failure = error
        return ResumedView("order", order_id.hex(), self._state(order_id), failure)

    def _in_its_session(self, order_id: bytes, action: Action) -> ResumedView:
        failure: VeilmartError | None = None
        try:
            place = self._downloads.place_of(self._load(order_id))
            self._shop.within(place, lambda session: action(session, order_id))
        except VeilmartError as error:
            failure = error
        return ResumedView("order", order_id.hex(), self._state(order_id), failure)

    def _folder(self, order_id: bytes, folder: Path | None) -> Path | None:
        """Give the folder that a delivery goes on in; None where it has begun and knows its own."""
        if self._load(order_id).state == "downloading":
            return None
        return folder or self._context.profile.home / "downloads" / order_id.hex()

    def _load(self, order_id: bytes) -> Order:
        with self._context.profile.store.immediate() as tx:
            return orders.load(tx, order_id)

    def _state(self, order_id: bytes) -> str:
        with self._context.profile.store.immediate() as tx:
            found = order_views.views(tx, order_id=order_id)
        return found[0].state if found else "dropped"
