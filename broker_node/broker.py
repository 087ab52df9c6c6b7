"""The broker's core: what arrives is sorted by kind, decided in one transaction, and answered.

    Hello           hello.py      who may do what, until when
    TopUp, AskTopUp               topups.py     a card against money
    ChangePassword, EnableTotp, DisableTotp, CloseAccount   account_changes.py
    Withdraw, Swap, ClaimRefund   exchange.py   money against coins
    PlaceOrder, AskOrder, AnswerKept   orders.py
    AnswerOrder, OutcomeKept           answers.py
    ConfirmDelivery                    settlement.py
    GetStatement, RequestPayout        payouts.py
    CancelOrder, RefundOrder           refunds.py
    OpenDispute, AnswerDispute         disputes.py
    AskMerchant, FetchCells, AnswerForward, Cell, FetchRefused   relay.py

A request that the rules refuse is answered with `Refused` and changes nothing, nor does a copy of it that
comes later (`kept_refusals.py`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import sqlalchemy as sa
import structlog

from broker_node import account_changes, accounts, delays, ledger, payments, schema, signed_once
from broker_node.account_changes import AccountChanges, PasswordShown
from broker_node.announced import Announced
from broker_node.answers import Answers
from broker_node.audit import Audit
from broker_node.books import Report
from broker_node.card import CardMaker
from broker_node.disputes import Disputes
from broker_node.exchange import Exchange
from broker_node.gate import Gate, MerchantPresence, MerchantShown
from broker_node.hello import Greeting, PasswordResult, Reception
from broker_node.kept_refusals import KeptRefusals
from broker_node.keys import BrokerKeys, Revocations
from broker_node.mint import Mint
from broker_node.orders import Orders
from broker_node.payment_gateway import PaymentGateway
from broker_node.payments import Payments
from broker_node.payouts import Payouts
from broker_node.recovery import Recovery
from broker_node.refunds import Refunds
from broker_node.relay import Relay
from broker_node.sends import Session, ToMerchant, ToSession
from broker_node.sessions import Sessions
from broker_node.settlement import Settlement
from broker_node.signing import Signed
from broker_node.spent_set import SpentSet
from broker_node.telling import Telling
from broker_node.topups import Ended, Opened, TopUps
from common import config, messages, topics
from common.clock import Random
from common.config import Limits
from common.core import Arrival, CellSource, Incoming, Job, Outgoing
from common.errors import RefusedError, WireError
from common.store import Tx

BatchHandler: TypeAlias = Callable[[Tx, Sequence[Arrival], int, Random], list[Any]]
Handler: TypeAlias = Callable[[Tx, Any, Any, int, Random], list[Any]]

SWEEP_EVERY_MS = 60 * config.SECOND_MS
LOOK_EVERY_MS = config.SECOND_MS
"""How often the store is asked for events that the operator's commands wrote."""
QUIET: Final = 8
"""Arrivals of a round that publishes its events itself: a busier one leaves them to the next tick, which
publishes those of many rounds for the price of one."""


class Broker:
    """`common.core.Core` of the broker."""

    def __init__(
        self,
        keys: BrokerKeys,
        issuing: Mint,
        revocations: Revocations,
        limits: Limits,
        gateway: PaymentGateway | None = None,
    ) -> None:
        self._keys = keys
        self._revocations = revocations
        self._limits = limits
        self._audit = Audit(keys.market, limits)
        self._new_keys = Announced(self._audit)
        self._card = CardMaker(keys, issuing, self._new_keys, self._audit, limits)
        self._sessions = Sessions(keys, self._audit, limits)
        self._reception = Reception(keys, issuing, self._audit, revocations, self._sessions, limits)
        self._changes = AccountChanges(self._sessions, limits)
        self._gate = Gate(keys, self._sessions, limits)
        self._top_ups = TopUps(gateway, self._sessions, keys.currency, limits)
        self._kept = KeptRefusals(limits)
        self._exchange = Exchange(issuing, self._sessions, self._audit, self._kept, limits)
        self._telling = Telling(keys.currency, limits, self.merchant_online)
        self._answers = Answers(self._telling, self._audit, limits)
        self._orders = Orders(issuing, self._telling, self._answers, self._audit, keys.currency, limits)
        self._settlement = Settlement(self._telling, self._audit, limits)
        self.payments = Payments(self._audit)
        self._recovery = Recovery(self._sessions, self._kept)
        self._spent = SpentSet(keys, issuing)
        self._payouts = Payouts(limits)
        self._refunds = Refunds(self._telling, self._audit)
        self._disputes = Disputes(keys, self._telling, self._audit, limits)
        self._relay = Relay(keys.relay, limits, self.merchant_online, self._over_budget)
        self._online: set[str] = set()
        self._next_sweep = self._next_look = 0
        self._hour = 0
        self._card_due = False
        self._connected = False
        self._revocations_due = True
        self._announced_now = False
        self._revoked_now = False
        """What this transaction does of both; done only once it is committed."""
        self.refused: Counter[str] = Counter()
        self._log = structlog.get_logger("veilmart.broker")
        # In this order: what is erased first leaves its pages to what is stored next, and none of them is
        # written to the disk twice.
        self._batches: Mapping[type, BatchHandler] = {
            messages.AnswerKept: self._orders.answer_kept,
            messages.OutcomeKept: self._answers.outcome_kept,
            messages.AnswerOrder: self._answers.answered,
            messages.PlaceOrder: self._place,
            messages.ConfirmDelivery: self._settlement.confirm,
            Signed: self._exchange.signed,
            messages.Swap: self._exchange.swaps,
        }
        self._handlers: Mapping[type, Handler] = {
            Greeting: self._greet,
            PasswordResult: self._password_checked,
            MerchantPresence: self._presence,
            MerchantShown: self._shown,
            messages.GetBalance: self._balance,
            **dict.fromkeys(account_changes.REQUESTS, self._changes.ask),
            PasswordShown: self._changes.shown,
            messages.LogOut: self._log_out,
            messages.TopUp: self._top_ups.top_up,
            messages.AskTopUp: self._top_ups.ask,
            Opened: self._top_ups.opened,
            Ended: self._top_ups.ended,
            messages.Withdraw: self._exchange.withdraw,
            messages.ClaimRefund: self._exchange.claim,
            messages.BeginRestore: self._recovery.begin,
            messages.FetchIssued: self._recovery.fetch_issued,
            messages.RepeatSwap: self._recovery.repeat_swap,
            messages.FindOrder: self._recovery.find_order,
            messages.AskOrder: self._orders.ask,
            messages.GetStatement: self._payouts.statement,
            messages.RequestPayout: self._payouts.request,
            messages.CancelOrder: self._refunds.cancel,
            messages.RefundOrder: self._refunds.refund,
            messages.OpenDispute: self._disputes.open,
            messages.AnswerDispute: self._disputes.answer,
            messages.AskMerchant: self._relay.ask,
            messages.FetchCells: self._relay.fetch,
            messages.AnswerForward: self._relay.answer,
            messages.FetchRefused: self._relay.refuse_fetch,
            messages.Cells: self._relay.cells,
        }

    # --- common.core.Core ------------------------------------------------------------------------------

    def unknown(self, incoming: Sequence[Incoming]) -> bool:
        """Whether a session is not in the cache."""
        return bool(self._gate.unknown(incoming))

    def warm(self, tx: Tx, incoming: Sequence[Incoming]) -> None:
        """Bring sessions into the cache."""
        self._sessions.load(tx, self._gate.unknown(incoming))

    def check(self, incoming: Incoming, now: int) -> Sequence[Arrival]:
        """Open one payload. Raises `WireError`."""
        return self._gate.check(incoming, now)

    def begin(self) -> None:
        """Forget what a transaction that was rolled back had staged."""
        self._announced_now = self._revoked_now = False
        self._sessions.begin()
        self._reception.begin()
        self._top_ups.begin()
        self._changes.begin()
        self._exchange.begin()
        self._relay.begin()
        self.payments.begin()
        self._audit.begin()
        self._spent.begin()

    def receive_all(self, tx: Tx, arrivals: Sequence[Arrival], now: int, random: Random) -> list[Any]:
        """Decide on a batch."""
        by_kind: dict[type, list[Arrival]] = defaultdict(list)
        single: list[Arrival] = []
        let_through, held_back = self.payments.sort(tx, arrivals)
        for arrival in let_through:
            kind = type(arrival.body)
            (by_kind[kind] if kind in self._batches else single).append(arrival)
        sends: list[Any] = []
        for arrival in held_back:
            self.refused[payments.REFUSAL] += 1
            sends += self._refuse(tx, arrival.sender, arrival.body, RefusedError(payments.REFUSAL), now)
        # Orders first, so that a question about one that came with it finds it.
        for kind, decide in self._batches.items():
            if kind in by_kind:
                sends += decide(tx, by_kind[kind], now, random)
        for arrival in single:
            sends += self.receive(tx, arrival.sender, arrival.body, now, random)
        return sends + (self._events(tx) if len(arrivals) <= QUIET else [])

    def receive(self, tx: Tx, sender: Any, message: Any, now: int, random: Random) -> list[Any]:
        """Decide on one message of a kind that has no batch of its own."""
        try:
            if (refusals := self._kept.again(tx, sender, message, now)) is not None:
                return list(refusals)
            return self._handlers[type(message)](tx, sender, message, now, random)
        except RefusedError as error:
            self.refused[error.code] += 1
            return self._refuse(tx, sender, message, error, now)
        except WireError as error:
            self.refused[error.reason] += 1
            return []

    def seen(self, arrivals: Iterable[Arrival], now: int) -> None:
        """Remember what was committed."""
        self._card_due = self._card_due and not self._announced_now
        self._revocations_due = self._revocations_due and not self._revoked_now
        self._announced_now = self._revoked_now = False
        self._sessions.committed()
        self._reception.committed()
        self._top_ups.committed()
        self._changes.committed()
        self._exchange.committed()
        self._relay.committed()
        self.payments.committed()
        self._audit.committed()
        self._spent.committed()
        self._gate.seen(arrivals, now)

    def frame(self, sends: Sequence[Any], now: int, random: Random) -> list[Outgoing | Job | CellSource]:
        """Make frames; then erase the keys of sessions that have just had their last one."""
        framed = self._gate.frame(sends, now, random)
        self._sessions.forget_ended()
        return list(framed)

    def tick(self, tx: Tx, now: int, random: Random) -> list[Any]:
        """Tell again, end what is over, publish what changed."""
        sends: list[Any] = [*self._orders.tick(tx, now, random), *self._relay.tick(now, random)]
        sends += self.payments.tick(tx, now, connected=self._connected)
        if not self.payments.stopped:
            sends += [*self._settlement.tick(tx, now, random), *self._top_ups.tick(tx, now)]
        if now >= self._next_sweep:
            self._next_sweep = now + SWEEP_EVERY_MS
            self._sessions.sweep(tx, now)
            self._disputes.sweep(tx, now)
            account_changes.sweep(tx)
            self._new_keys.sweep(tx, now)
            self._spent.sweep(tx, now)
            self._kept.sweep(tx, now)
            signed_once.sweep(tx, now)
            tx.execute(sa.delete(schema.order_answers).where(schema.order_answers.c.until < now))
        if now >= self._next_look:
            self._next_look = now + LOOK_EVERY_MS
            self._audit.look_again()
        if now // config.HOUR_MS != self._hour:
            self._hour = now // config.HOUR_MS
            delays.decay(tx, now)
            accounts.sweep(tx, now, self._limits.retired_exchange_ms)
        if self._revocations_due and self._connected:
            self._revoked_now = True
            sends += self._revoke(tx, now, random)
        new_totals = self._audit.totals(tx, now, random)
        if new_totals:
            self._spent.extend(tx, random)
        if self._connected:
            sends += self._spent.outbox(tx, now)
        if (self._card_due or new_totals) and self._connected:
            self._announced_now = True
            sends.append(self._card.make(tx, now, random))
        return sends + self._events(tx)

    def _events(self, tx: Tx) -> list[Outgoing]:
        return self._audit.outbox(tx) if self._connected else []

    # --- told by the edge ------------------------------------------------------------------------------

    def start(self, tx: Tx, report: Report, now: int, random: Random) -> None:
        """Read what has to be in memory from the beginning; `report` is what the check found just now."""
        self._sessions.load_merchants(tx)
        self.payments.start(tx, report, now, random)

    def connected(self, *, there: bool) -> None:
        """Tell whether the bus is there.

        Events wait in the store until it is. Whatever was published last may have been lost with an old
        connection: on a new one the card is made anew, and cards of revoked merchants are cleared again.
        """
        if there and not self._connected:
            self._card_due = self._revocations_due = True
            self._audit.publish_again()
            self._spent.publish_again()
            self.payments.show_again()
        self._connected = there

    def keys_changed(self) -> None:
        """Tell that the card has to be made anew."""
        self._card_due = True

    def revocations_changed(self) -> None:
        """Tell that the revocation list is another one."""
        self._revocations_due = True

    def note_keys(self, tx: Tx, issuers: Sequence[messages.IssuerKey], now: int, random: Random) -> None:
        """Record new blind-signature keys as public events."""
        for issuer in issuers:
            self._new_keys.issuer(tx, issuer, now, random)

    # --- handlers that need several parts --------------------------------------------------------------

    def _place(self, tx: Tx, arrivals: Sequence[Arrival], now: int, random: Random) -> list[Any]:
        left, refused = self._kept.orders_left(tx, arrivals, now)
        return [*refused, *self._orders.place(tx, left, now, random)]

    def _greet(self, tx: Tx, _sender: None, greeting: Greeting, now: int, random: Random) -> list[Any]:
        sends: list[Any] = list(self._reception.greet(tx, greeting, now, random))
        if greeting.merchant is not None and self._sessions.opens(greeting.merchant):
            self._telling.merchant_is_back(tx, greeting.merchant, now)
        return sends

    def _password_checked(
        self, tx: Tx, _sender: None, result: PasswordResult, now: int, random: Random
    ) -> list[Any]:
        return list(self._reception.password_checked(tx, result, now, random))

    def _presence(
        self, tx: Tx, _sender: None, presence: MerchantPresence, now: int, _random: Random
    ) -> list[Any]:
        (self._online.add if presence.online else self._online.discard)(presence.merchant)
        if presence.online:
            # It comes when one of us has connected anew: what was sent before may be lost.
            self._telling.merchant_is_back(tx, presence.merchant, now)
        return []

    def _shown(self, tx: Tx, _sender: None, shown: MerchantShown, now: int, random: Random) -> list[Any]:
        if self._revocations.has_serial(shown.card.certificate.serial_number):
            raise RefusedError("revoked")
        self._new_keys.of_merchant(tx, shown.card.body, now, random)
        return []

    def _balance(
        self, tx: Tx, session: Session, question: messages.GetBalance, now: int, _random: Random
    ) -> list[Any]:
        account = self._sessions.require_account(tx, session)
        balance = messages.Balance(
            request=question.request,
            amount=ledger.balance(tx, account),
            currency=self._keys.currency,
            tickets_left=self._exchange.tickets_left(tx, account, now),
        )
        return [ToSession(session.sid, balance)]

    def _log_out(
        self, tx: Tx, session: Session, request: messages.LogOut, _now: int, _random: Random
    ) -> list[Any]:
        self._sessions.end(tx, session)
        return [ToSession(session.sid, messages.LoggedOut(request=request.request))]

    def merchant_online(self, merchant: str, now: int) -> bool:
        """Whether the merchant says that it is there, and has a session."""
        return merchant in self._online and self._sessions.of_merchant(merchant, now) is not None

    def _over_budget(self, session: Session) -> bool:
        live = self._sessions.find(session.sid)
        return live is not None and live.bytes_used > self._limits.session_byte_budget

    def _refuse(
        self, tx: Tx, sender: Session | None, message: Any, error: RefusedError, now: int
    ) -> list[Any]:
        request = message
        match message:
            case Ended():
                # Whether a card was charged is asked again: nobody may be told that it was not.
                return []
            case Signed():
                request = message.asked.request
            case Opened() | PasswordShown():
                request = message.request
        return list(self._kept.refuse(tx, sender, request, error, now))

    # --- what is published -----------------------------------------------------------------------------

    def _revoke(self, tx: Tx, now: int, random: Random) -> list[Any]:
        admitted = tx.all(sa.select(schema.merchants).where(schema.merchants.c.state == "admitted"))
        revoked = [row["id"] for row in admitted if self._revocations.has_serial(int(row["serial"], 16))]
        newly = self._sessions.revoke_merchants(tx, revoked, now, random)
        self._online.difference_update(newly)
        gone = tx.all(sa.select(schema.merchants.c.id).where(schema.merchants.c.state == "revoked"))
        sends: list[Any] = [ToMerchant(name, messages.SessionEnded(code="revoked")) for name in newly]
        for row in gone:
            # An empty retained payload clears what stands there.
            sends.append(Outgoing(topics.merchant_card(row["id"]), b"", retain=True))
            sends.append(Outgoing(topics.merchant_status(row["id"]), b"", retain=True))
        return sends
