"""Two who keep to no rule: a customer that wants more than its money, a merchant that answers too late.

Both speak the protocol message by message (`client.py`) in a `simulation.Simulation`, and keep account of
what they got: the thief holds each coin that ever verified and that nothing took which the broker admits.
So does another device of an honest customer, which draws what the wallet is about to draw.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from client import (
    Blinded,
    Customer,
    Order,
    Peer,
    Session,
    Shopkeeper,
    accept,
    blinded,
    fresh,
    log_in,
    reject,
)
from simulation import TIME, Simulation

from broker_node import ledger, operations, schema
from broker_node.kept_refusals import OPEN
from common import coins, messages
from common.config import HOUR_MS, MINUTE_MS
from common.errors import ForgedError, WireError

IDLE_MS = 10 * MINUTE_MS
FILMS = "films"
TOP_DOWN = [2**exponent for exponent in reversed(range(15))]


def heard_by(peer: Peer) -> list[Any]:
    """Give what a scripted party has heard, and drop what does not open, as everybody does."""
    for delivery in peer.connection.take(1000):
        peer.connection.inbox.append(delivery)
        try:
            peer._read()
        except WireError:
            continue
    heard, peer.inbox = peer.inbox, []
    return heard


class Films(Shopkeeper):
    """A merchant without a shop: it accepts and rejects what, and when, the test says."""

    def __init__(self, world: Simulation) -> None:
        self.orders: dict[bytes, messages.ForwardOrder] = {}
        self.told: defaultdict[bytes, set[str]] = defaultdict(set)
        self.refusals: set[bytes] = set()
        """Ids of refunds and payouts that were refused, and of those that were made."""
        self.done: set[bytes] = set()
        with world.calm():
            super().__init__(world, FILMS)

    def listen(self) -> None:
        """Note new orders and outcomes; what is told is confirmed."""
        for body in heard_by(self):
            if isinstance(body, messages.ForwardOrder):
                self.orders[body.order_id] = body
            elif isinstance(body, messages.OrderOutcome):
                self.told[body.order_id].add(body.outcome)
                self.say(messages.OutcomeKept(order_id=body.order_id, outcome=body.outcome))
            elif isinstance(body, messages.DisputeOpened):
                self.say(messages.OutcomeKept(order_id=body.order_id, outcome="disputed"))
            else:
                self._note(body)

    def _note(self, body: Any) -> None:
        match body:
            case (
                messages.Refused(reference=name, code=code)
                | messages.PayoutRefused(payout_id=name, code=code)
            ):
                if code not in OPEN:
                    self.refusals.add(name)
            case messages.RefundTaken(refund=name) | messages.PayoutAnswer(payout_id=name):
                self.done.add(name)

    def decide(self, *, yes: bool, late: bool) -> None:
        """Answer every order: those that nobody has told it about, or, late, those that were void."""
        self.listen()
        for order_id, order in self.orders.items():
            if bool(self.told[order_id]) == late:
                self.say(accept(order) if yes else reject(order))

    def give_back(self, share: int) -> None:
        """Refund a part of every paid order, ask for the same again, and then for more than there is."""
        self.listen()
        for order_id, told in self.told.items():
            if told & {"captured", "settled"}:
                part = max(1, self.orders[order_id].amount * share // 100)
                refund = messages.RefundOrder(order_id=order_id, refund=fresh(), amount=part)
                beyond = messages.RefundOrder(
                    order_id=order_id, refund=fresh(), amount=self.orders[order_id].amount
                )
                self.say(refund)
                self.say(refund, beyond)

    def want_payout(self, amount: int, payout_id: bytes = b"") -> bytes:
        """Ask for a payout twice, for another sum under its id, and for more than there is; gives the id."""
        payout_id = payout_id or fresh()
        wish = messages.RequestPayout(payout_id=payout_id, amount=amount, destination="mine")
        other = messages.RequestPayout(payout_id=wish.payout_id, amount=amount + 1, destination="mine")
        more = messages.RequestPayout(payout_id=fresh(), amount=10**9, destination="mine")
        self.say(wish)
        self.say(wish, other, more)
        return payout_id

    def want_more_than_there_is(self, surplus: int) -> None:
        """Ask for a payout of so much more than is available now."""
        with self.world.broker.store.immediate() as tx:
            available = ledger.available(tx, FILMS)
        self.say(messages.RequestPayout(payout_id=fresh(), amount=available + surplus, destination="mine"))


class OtherDevice:
    """An honest customer's, beside the one with the wallet."""

    def __init__(self, world: Simulation, name: str, password: str) -> None:
        self.world = world
        self.holds: Counter[int] = Counter()
        self._name, self._password = name, password

    def draw(self) -> int:
        """Draw all that the account holds; gives how much."""
        with self.world.calm():
            session = Session(self.world)
            session.greet(log_in(self._name, self._password))
            left = session.ask(messages.GetBalance(request=fresh()), messages.Balance).amount
            values = coins.spread(left, dict.fromkeys(TOP_DOWN, 1), TOP_DOWN[0])
            wanted = blinded(self.world, values)
            request = messages.Withdraw(operation=fresh(), coins=wanted.tokens, tickets=[])
            if values:
                wanted.unblind(session.ask(request, messages.Withdrawn).coins)
        self.holds.update(values)
        return left

    def close(self) -> None:
        """Draw all that the account holds, and close it, unless a charge is under way."""
        self.draw()
        with self.world.calm():
            session = Session(self.world)
            session.greet(log_in(self._name, self._password))
            request = messages.CloseAccount(request=fresh(), password=self._password, code="")
            session.ask(request, messages.AccountChanged | messages.Refused)


class Thief:
    """A customer with a purse who tries everything twice."""

    def __init__(self, world: Simulation, customer: Customer) -> None:
        self.world = world
        self.customer = customer
        self.purse = {token.serial: token for token in customer.coins}
        self.paid: dict[bytes, Order] = {}
        self.spent: set[bytes] = set()
        """Serials that went into something: what came of that is asked at the end."""
        self.asked: defaultdict[bytes, list[tuple[Any, Blinded]]] = defaultdict(list)
        """Id of an operation -> everything that was ever asked under it."""
        self.swapped: set[bytes] = set()
        self.unknown: set[bytes] = set()
        """Ids of which the broker has said that there is nothing."""
        self.states: dict[bytes, str] = {}
        self._sessions: dict[str, tuple[Session, int]] = {}

    # --- sessions --------------------------------------------------------------------------------------

    def account(self, number: int = 0) -> Session:
        return self._session(f"account {number}")

    def shop(self) -> Session:
        return self._session("shop")

    def _session(self, name: str) -> Session:
        known = self._sessions.get(name)
        if known is None or TIME.ms - known[1] > IDLE_MS:
            self.listen()
            with self.world.calm():
                session = self.customer.shop() if name == "shop" else self.customer.account()
        else:
            session = known[0]
        self._sessions[name] = (session, TIME.ms)
        return session

    def listen(self) -> None:
        for session, _ in list(self._sessions.values()):
            for body in heard_by(session):
                self._hear(body)

    def _hear(self, body: Any) -> None:
        match body:
            case messages.Withdrawn(operation=operation, coins=signatures):
                self._take(operation, signatures)
            case messages.Swapped(operation=operation, signatures=signatures):
                self.swapped.add(operation)
                self._take(operation, signatures)
            case messages.RefundIssued(operation=operation, signatures=signatures):
                self._take(operation, signatures)
            case messages.Refused(reference=reference, code="not_found"):
                self.unknown.add(reference)
            case messages.OrderAnswer(order_id=order_id, state=state):
                self.states[order_id] = state

    def _take(self, operation: bytes, signatures: Sequence[bytes]) -> None:
        for _, wanted in self.asked[operation]:
            try:
                for token in wanted.unblind(signatures):
                    self.purse.setdefault(token.serial, token)
            except (ForgedError, AssertionError):
                continue  # these are the signatures of another of its requests

    # --- money -----------------------------------------------------------------------------------------

    def value(self, token: messages.Token) -> int:
        return self.customer.values_of[token.key_id]

    def choose(self, amount: int, *, used: bool = False) -> list[messages.Token]:
        """Take coins of about this sum: fresh ones, or such as went into something before."""
        there = [token for serial, token in sorted(self.purse.items()) if (serial in self.spent) == used]
        values = coins.exact(Counter(map(self.value, there)), amount) or [self.value(t) for t in there[:1]]
        chosen: list[messages.Token] = []
        for value in values:
            token = next(token for token in there if self.value(token) == value)
            there.remove(token)
            chosen.append(token)
        return chosen

    def pay(self, merchant: str, paid: list[messages.Token], order_id: bytes = b"") -> Order | None:
        """Order for what these coins are worth."""
        if not paid:
            return None
        amount, order_id = sum(map(self.value, paid)), order_id or fresh()
        order = self.customer.order(
            amount, merchant, coins=paid, deadline=TIME.ms + HOUR_MS, order_id=order_id
        )
        self.paid[order.id] = order
        self.spent |= {token.serial for token in paid}
        self.shop().say(order.place)
        return order

    def swap(self, paid: list[messages.Token], surplus: int = 0) -> None:
        """Swap for one value less than the largest, and the rest; `surplus` more than they are worth."""
        if not paid:
            return
        self.spent |= {token.serial for token in paid}
        values = coins.spread(sum(map(self.value, paid)) + surplus, {}, 256)
        self._swap(paid, blinded(self.world, values))

    def swap_for_the_same(self) -> None:
        """Swap other coins for the very ones that a swap has brought."""
        done = [asked for operation, asked in self.asked.items() if operation in self.swapped]
        request, wanted = done[-1][0] if done else (None, None)
        paid = self.choose(sum(map(self.value, request.coins))) if request else []
        if paid and wanted:
            self.spent |= {token.serial for token in paid}
            self._swap(paid, wanted)

    def _swap(self, paid: list[messages.Token], wanted: Blinded) -> None:
        request = messages.Swap(operation=fresh(), coins=paid, blinded=wanted.tokens)
        self._ask(self.shop(), request.operation, request, wanted)

    def withdraw(self, amount: int, account: int = 0) -> messages.Withdraw:
        wanted = blinded(self.world, coins.spread(amount, {}, 256))
        request = messages.Withdraw(operation=fresh(), coins=wanted.tokens, tickets=[])
        self._ask(self.account(account), request.operation, request, wanted)
        return request

    def claim(self, order: Order, amount: int = 0, operation: bytes = b"") -> None:
        """Ask for the money back, all of it or a part, in coins that were never asked for before."""
        wanted = blinded(self.world, coins.spread(amount or order.place.amount, {}, 256))
        request = order.claim(wanted, operation=operation or order.id)
        self._ask(self.shop(), request.operation, request, wanted)

    def dispute_all(self) -> None:
        """Dispute whatever there is, twice."""
        for order in list(self.paid.values()):
            dispute = messages.OpenDispute(
                order_id=order.id,
                attempt=order.id,
                claim_secret=order.claim_secret,
                kind="not_delivered",
                statement="nothing came",
                evidence=[],
            )
            self.shop().say(dispute, dispute)

    def names(self) -> list[bytes]:
        """Give ids, in hand or computed, of what it did that is no order: to call an order like it."""
        requests = [request for asked in self.asked.values() for request, _ in asked]
        names = [request.operation for request in requests] + list(map(operations.key_of, requests))
        names += [session.sid for session, _ in self._sessions.values()]
        return [name for name in dict.fromkeys(names) if name not in self.paid]

    def cancel_all(self) -> None:
        """Call off whatever there is."""
        for order in list(self.paid.values()):
            self.shop().say(order.cancelled)

    def _ask(self, session: Session, operation: bytes, request: Any, wanted: Blinded) -> None:
        self.asked[operation].append((request, wanted))
        session.say(request)

    def is_restored(self, amount: int, *, swaps: bool) -> None:
        """Have a swap or an order on the bus; its new self is told that there is none; then it arrives.

        What it would bring is nobody's: the new self does not know of it, and goes on with the coins.
        """
        paid = self.choose(amount)
        if not paid:
            return
        worth = sum(map(self.value, paid))
        if swaps:
            wanted = blinded(self.world, coins.spread(worth, {}, 256))
            lost: Any = messages.Swap(operation=fresh(), coins=paid, blinded=wanted.tokens)
            name, search = lost.operation, messages.RepeatSwap(operation=lost.operation)
        else:
            order = self.customer.order(worth, FILMS, coins=paid, deadline=TIME.ms + HOUR_MS)
            lost, name, search = order.place, order.id, order.find()
        session = self.shop()
        with self.world.calm():
            frame = session.seal(lost)
            session.say(search)
            self.world.settle()
            self.listen()
            if name in self.unknown:
                session.put(frame)
                self.world.settle()

    # --- the end ---------------------------------------------------------------------------------------

    def repeat_all(self) -> None:
        """Say again everything that could bring something, and ask how every order stands."""
        for requests in list(self.asked.values()):
            for request, _ in requests:
                account = isinstance(request, messages.Withdraw)
                (self.account() if account else self.shop()).say(request)
                self.world.settle()
        for order in list(self.paid.values()):
            self.shop().say(order.place, order.asked)
        self.world.settle()
        self.listen()

    def claim_all(self) -> None:
        """Claim what was given back and is not claimed yet."""
        with self.world.broker.store.immediate() as tx:
            rows = tx.all(sa.select(schema.orders).where(schema.orders.c.refunded > schema.orders.c.claimed))
        for row in rows:
            if row["order_id"] in self.paid:
                self.claim(self.paid[row["order_id"]], row["refunded"] - row["claimed"], fresh())
                self.world.settle()
        self.listen()

    def holds(self) -> Counter[int]:
        """Count by value the coins that it can still spend, by what the broker has admitted to it."""
        gone = {
            token.serial
            for order_id in self.states.keys() & self.paid.keys()
            for token in self.paid[order_id].place.coins
        }
        for operation in self.swapped:
            for request, _ in self.asked[operation]:
                # An order may be called like a swap, and its money is claimed under the order's name.
                if isinstance(request, messages.Swap):
                    gone |= {token.serial for token in request.coins}
        return Counter(self.value(token) for serial, token in self.purse.items() if serial not in gone)
