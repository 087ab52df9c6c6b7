"""Top-ups: a card is charged once, the account is credited once, and neither is lost.

    TopUp -> requested --open--> opened --pay--> charged     credited in the same transaction
                 |                 |  |
                 |                 |  +--> unknown --settle--> charged | declined
                 +---> declined <--+

Rule 1. Each call to the gateway follows the commit of the row that tells of it, and the card is sent only
once the gateway's id of the charge is stored. So whatever is lost, the row says whom to ask about what.

Rule 2. A charge whose end is not known is asked about, at growing intervals and at every start, until it
is known (`PaymentGateway.settle`). Nothing but a clear answer ends it.

Rule 3. The card is in the message and in the job that pays, nowhere else. A row has amount, brand, last
four digits, the charge's id, its state and times. An operation is bound to amount, brand and last four:
a hash over the whole number could be tried out by whoever has the store.

Rule 4. An operation that is asked about and not known is declined there and then: the `TopUp` that may
still be on its way finds it so. Whoever is told "not charged" may try again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import sqlalchemy as sa
import structlog

from broker_node import charges, ledger, schema
from broker_node.payment_gateway import Charged, Declined, GatewayError, Outcome, PaymentGateway, Unknown
from broker_node.sends import Session, ToSession
from broker_node.sessions import Sessions, demand_open
from common import messages, payment_cards
from common.clock import Random
from common.config import MAXIMUM_AMOUNT, SECOND_MS, Limits
from common.core import Arrival, Job
from common.errors import InvalidCardError, RefusedError
from common.states import UnlistedStepError
from common.store import Row, Tx

Sends: TypeAlias = list[ToSession | Job]

POOL: Final = "gateway"
LOOK_EVERY_MS: Final = SECOND_MS
CALLS: Final = 4
"""How many time-outs of the gateway one charge may take, repetitions and waiting in the pool included."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The gateway's id for a charge, or None where it opened none."""

    request: messages.TopUp
    id: bytes
    charge: str | None


@dataclass(frozen=True, slots=True)
class Ended:
    """What the gateway says of a charge. `operation` is the customer's own id, for the answer."""

    id: bytes
    operation: bytes
    outcome: Outcome


@dataclass
class _UnderWay:
    """Ids of charges that a job of this process works on; staged until their transaction is committed."""

    now: set[bytes] = field(default_factory=set)
    staged: set[bytes] = field(default_factory=set)

    def __contains__(self, identifier: bytes) -> bool:
        return identifier in self.now or identifier in self.staged

    def __len__(self) -> int:
        return len(self.now | self.staged)


class TopUps:
    """Charges cards through a gateway, or refuses where there is none."""

    def __init__(
        self, gateway: PaymentGateway | None, sessions: Sessions, currency: str, limits: Limits
    ) -> None:
        self._gateway = gateway
        self._sessions = sessions
        self._currency = currency
        self._limits = limits
        self._under_way = _UnderWay()
        self._next_look = 0
        self._started = False
        self._log = structlog.get_logger("veilmart.topups")

    def begin(self) -> None:
        """Forget what a transaction that was rolled back wanted done."""
        self._under_way.staged.clear()

    def committed(self) -> None:
        """Count what goes to the gateway now."""
        self._under_way.now |= self._under_way.staged
        self._under_way.staged.clear()

    # --- asked -----------------------------------------------------------------------------------------

    def top_up(self, tx: Tx, session: Session, request: messages.TopUp, now: int, _random: Random) -> Sends:
        """Have the card charged; one that is known is answered again. Raises `RefusedError`."""
        owner = self._sessions.require_owner(tx, session)
        identifier = charges.top_up_id(owner.account, request.operation)
        row = charges.find(tx, identifier)
        if row is not None:
            return [ToSession(session.sid, self._again(tx, row, request))]
        account = demand_open(owner)
        if charges.tried(tx, account, now) >= self._limits.top_ups_per_day:
            raise RefusedError("too_many_top_ups")
        if len(self._under_way) >= self._limits.top_up_queue:
            raise RefusedError("busy")
        refusal = self._refusal(tx, account, request, now)
        row = charges.new_row(identifier, account, now) | {
            "amount": request.amount,
            "brand": "" if refusal else payment_cards.brand_of(request.card.number).name,
            "last_four": "" if refusal else payment_cards.last_four(request.card),
        }
        if refusal is not None:
            # Kept, so that a second copy of this message cannot be charged after the first was refused.
            tx.insert(charges.INSERT, row | {"state": "declined", "code": refusal})
            raise RefusedError(refusal)
        tx.insert(charges.INSERT, row | {"state": "requested", "due": self._patience(now)})
        return [
            ToSession(session.sid, _answer(request.operation, row | {"state": "requested"}, 0)),
            self._open(session, request, identifier),
        ]

    def ask(self, tx: Tx, session: Session, question: messages.AskTopUp, now: int, _random: Random) -> Sends:
        """Say what became of an operation; this declines one that is not known. Raises `RefusedError`."""
        owner = self._sessions.require_owner(tx, session)
        identifier = charges.top_up_id(owner.account, question.operation)
        row = charges.find(tx, identifier)
        if row is not None:
            return [ToSession(session.sid, self._stands(tx, row, question.operation))]
        account = demand_open(owner)
        if charges.tried(tx, account, now) >= self._limits.top_ups_per_day:
            raise RefusedError("too_many_top_ups")
        tx.insert(
            charges.INSERT,
            charges.new_row(identifier, account, now) | {"state": "declined", "code": "not_charged"},
        )
        raise RefusedError("not_charged")

    def _patience(self, now: int) -> int:
        # Another process on this store leaves a charge alone while we may still be at it.
        return now + CALLS * self._limits.gateway_timeout_ms

    def _refusal(self, tx: Tx, account: int, request: messages.TopUp, now: int) -> str | None:
        if self._gateway is None:
            return "no_gateway"
        if request.currency != self._currency:
            return "wrong_currency"
        limits = self._limits
        if not limits.top_up_minimum <= request.amount <= limits.top_up_maximum:
            return "wrong_amount"
        if ledger.balance(tx, account) + request.amount > MAXIMUM_AMOUNT:
            return "wrong_amount"
        try:
            payment_cards.check(request.card, now)
        except InvalidCardError:
            return "card_invalid"
        return None

    def _again(self, tx: Tx, row: Row, request: messages.TopUp) -> messages.Message:
        wanted = (request.amount, payment_cards.last_four(request.card))
        if row["state"] != "declined" and (row["amount"], row["last_four"]) != wanted:
            raise RefusedError("idempotency_conflict")
        return self._stands(tx, row, request.operation)

    @staticmethod
    def _stands(tx: Tx, row: Row, operation: bytes) -> messages.Message:
        if row["state"] == "declined":
            return messages.Refused(reference=operation, code=row["code"])
        return _answer(operation, row, ledger.balance(tx, row["account"]))

    # --- done by the gateway ---------------------------------------------------------------------------

    def opened(self, tx: Tx, session: Session, result: Opened, now: int, _random: Random) -> Sends:
        """Store the charge's id, and only then have the card sent."""
        operation, charge = result.request.operation, result.charge
        if charge is None:
            changed = charges.step(tx, result.id, "declined", code="gateway_unavailable", due=None)
        else:
            changed = charges.step(tx, result.id, "opened", charge=charge, due=self._patience(now))
        if not changed or charge is None:
            # Not changed: it was declined meanwhile, and no card was sent.
            return [ToSession(session.sid, self._stands(tx, charges.known(tx, result.id), operation))]
        card = result.request.card
        return [self._call(session, result.id, operation, lambda gateway: gateway.pay(charge, card))]

    def ended(
        self, tx: Tx, session: Session | None, result: Ended, now: int, _random: Random
    ) -> list[ToSession]:
        """Credit what was charged, in one transaction with its step; note what was not."""
        row = charges.known(tx, result.id)
        match result.outcome:
            case Charged():
                self._credit(tx, row, now)
            case Declined(code=code):
                self._decline(tx, row, code)
            case Unknown():
                self._put_off(tx, row, now)
        if session is None or isinstance(result.outcome, Unknown):
            return []
        return [ToSession(session.sid, self._stands(tx, charges.known(tx, result.id), result.operation))]

    def _credit(self, tx: Tx, row: Row, now: int) -> None:
        if row["state"] == "charged":
            return
        if not charges.step(tx, row["id"], "charged", due=None, ended=now):
            raise UnlistedStepError(f"no step from {row['state']} to charged")
        account, amount = row["account"], row["amount"]
        ledger.post(tx, row["id"], {ledger.GATEWAY: -amount, ledger.account_book(account): amount}, now)
        try:
            ledger.change_balance(tx, account, amount)
        except RefusedError:
            # Refused, the step above would be kept and the money be nobody's.
            raise UnlistedStepError("an account that was charged for has no balance") from None

    @staticmethod
    def _decline(tx: Tx, row: Row, code: str) -> None:
        if row["state"] != "declined" and not charges.step(tx, row["id"], "declined", code=code, due=None):
            raise UnlistedStepError(f"no step from {row['state']} to declined")

    def _put_off(self, tx: Tx, row: Row, now: int) -> None:
        charges.step(tx, row["id"], "unknown")
        limits = self._limits
        pause = min(limits.top_up_ask_first_ms << min(row["attempts"], 30), limits.top_up_ask_longest_ms)
        tx.execute(
            sa.update(schema.top_ups)
            .where(schema.top_ups.c.id == row["id"], schema.top_ups.c.state == "unknown")
            .values(due=now + pause, attempts=schema.top_ups.c.attempts + 1)
        )

    # --- asked of the gateway --------------------------------------------------------------------------

    def tick(self, tx: Tx, now: int) -> list[Job]:
        """Ask about what is due; at the first call, about everything that a former process left open."""
        if now < self._next_look:
            return []
        self._next_look = now + LOOK_EVERY_MS
        query = sa.select(schema.top_ups).where(schema.top_ups.c.due.is_not(None))
        if self._started:
            query = query.where(schema.top_ups.c.due <= now)
        self._started = True
        jobs = []
        for row in tx.all(query.order_by(schema.top_ups.c.due).limit(self._limits.top_up_queue)):
            if row["id"] in self._under_way:
                continue
            if row["state"] == "requested":
                # The card is sent after "opened" alone: nobody was charged, and nobody will be.
                self._decline(tx, row, "not_charged")
            elif self._gateway is not None and len(self._under_way) < self._limits.top_up_queue:
                charge = row["charge"]
                jobs.append(self._call(None, row["id"], b"", _settling(charge)))
        return jobs

    def _open(self, session: Session, request: messages.TopUp, identifier: bytes) -> Job:
        gateway = self._gateway

        def work() -> str | None:
            if gateway is None:
                return None
            try:
                return gateway.open(identifier.hex(), request.amount, request.currency)
            except GatewayError:
                return None
            except Exception as error:  # noqa: BLE001 - of a library: no charge was opened that we know of
                self._log.warning("gateway failed", step="open", error=type(error).__name__)
                return None

        def done(charge: str | None) -> Sequence[Arrival]:
            self._under_way.now.discard(identifier)
            return [Arrival(session, b"", Opened(request, identifier, charge))]

        self._under_way.staged.add(identifier)
        return Job(POOL, work, done)

    def _call(
        self,
        session: Session | None,
        identifier: bytes,
        operation: bytes,
        call: Callable[[PaymentGateway], Outcome],
    ) -> Job:
        gateway = self._gateway

        def work() -> Outcome:
            if gateway is None:
                return Unknown()
            try:
                return call(gateway)
            except Exception as error:  # noqa: BLE001 - of a library: what it did is not known, so ask
                self._log.warning("gateway failed", step="call", error=type(error).__name__)
                return Unknown()

        def done(outcome: Outcome) -> Sequence[Arrival]:
            self._under_way.now.discard(identifier)
            return [Arrival(session, b"", Ended(identifier, operation, outcome))]

        self._under_way.staged.add(identifier)
        return Job(POOL, work, done)


def _settling(charge: str) -> Callable[[PaymentGateway], Outcome]:
    return lambda gateway: gateway.settle(charge)


def _answer(operation: bytes, row: Row, balance: int) -> messages.TopUpAnswer:
    return messages.TopUpAnswer(
        operation=operation,
        state="charged" if row["state"] == "charged" else "pending",
        amount=row["amount"],
        brand=row["brand"],
        last_four=row["last_four"],
        charge=row["charge"],
        balance=balance,
    )
