"""Whether money moves: it does not while the books are wrong.

    running --a check finds a fault--> stopped --a whole check finds none--> running

Rule 1. Stopped, the broker goes on relaying, browsing and delivering, and answers questions (`HARMLESS`);
whatever else there is, or will be, is refused with `payments_stopped` and changes nothing. What was done
before is answered again (`repetitions`): that moves nothing. A merchant's first answer to an order is not
answered: the protocol repeats it until it counts.

Rule 2. The state is a row, read in the transaction that would move money: a check by another process
counts from the next transaction on, and a restart changes nothing.

Rule 3. Nobody can start payments by hand: only a check of everything that finds nothing wrong does.

Rule 4. While it stands still nobody can dispute an order: what is to settle by time settles as much later.

Rule 5. It is said aloud: an error in the log once a minute, the ready line, the public status, an event.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa
import structlog

from broker_node import books, schema
from broker_node.account_changes import PasswordShown
from broker_node.audit import Audit
from broker_node.books import Report
from broker_node.gate import MerchantPresence, MerchantShown
from broker_node.hello import Greeting, PasswordResult
from broker_node.postings import note_payments, payments_state
from broker_node.repetitions import is_known
from common import messages, topics
from common.clock import Random
from common.config import MINUTE_MS
from common.core import Arrival, Outgoing
from common.presence import presence
from common.states import Table, step
from common.store import Tx

PAYMENTS: Final[Table] = {"running": frozenset({"stopped"}), "stopped": frozenset({"running"})}
ALARM_EVERY_MS: Final = MINUTE_MS
REFUSAL: Final = "payments_stopped"
ALARM: Final = "PAYMENTS STOPPED: the books are wrong, see `veilmart broker ledger check`"

HARMLESS: Final[frozenset[type]] = frozenset(
    {
        *(Greeting, PasswordResult, MerchantPresence, MerchantShown),
        *(messages.GetBalance, messages.AskTopUp, messages.LogOut),
        *(messages.ChangePassword, messages.EnableTotp, messages.DisableTotp, PasswordShown),
        *(messages.AskMerchant, messages.AskOrder, messages.AnswerKept, messages.FetchCells),
        messages.AnswerDispute,
        *(messages.AnswerForward, messages.OutcomeKept, messages.FetchRefused, messages.Cells),
        *(messages.BeginRestore, messages.FetchIssued, messages.RepeatSwap, messages.FindOrder),
        messages.GetStatement,
    }
)
"""What moves no money. Whatever is not in this list does: forgetting one stops too much, never too little."""

_CHANGE = sa.insert(schema.payments)
_STOPPED = sa.select(schema.payments).order_by(schema.payments.c.number.desc()).limit(1)


def act_on(tx: Tx, report: Report, audit: Audit, now: int, random: Random) -> str:
    """Stop or resume as a check's report says, and keep how far it came; gives the state after it."""
    books.keep(tx, report, now)
    old = payments_state(tx)
    new = "stopped" if report.faults else "running" if report.complete else old
    if new != old:
        step(PAYMENTS, old, new)
        if new == "running":
            _put_settlements_off(tx, now)
        tx.insert(_CHANGE, {"at": now, "state": new, "faults": len(report.faults)})
        note_payments(tx, new)
        if new == "stopped":
            audit.record(tx, "payments.stopped", {}, now, random)
        else:
            audit.record(tx, "payments.resumed", {}, now, random)
    return new


def _put_settlements_off(tx: Tx, now: int) -> None:
    """Let orders settle as much later as payments stood still."""
    stopped = tx.first(_STOPPED)
    stood_still = max(0, now - stopped["at"]) if stopped is not None else 0
    orders = schema.orders.c
    tx.execute(
        sa.update(schema.orders)
        .where(orders.settle_at.is_not(None))
        .values(settle_at=orders.settle_at + stood_still)
    )


class Payments:
    """What the running broker knows of it, and how it says so."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit
        self._log = structlog.get_logger("veilmart.broker")
        self._state = "running"
        self._next_alarm = 0
        self._to_show = False
        self._shown_now = False
        """Whether this transaction makes the status; done only once it is committed."""

    @property
    def stopped(self) -> bool:
        """Whether money stands still, as far as was heard."""
        return self._state == "stopped"

    def start(self, tx: Tx, report: Report, now: int, random: Random) -> None:
        """Take in what the check at the start has found."""
        act_on(tx, report, self._audit, now, random)
        self._hear(tx, now)

    def sort(self, tx: Tx, arrivals: Sequence[Arrival]) -> tuple[Sequence[Arrival], Sequence[Arrival]]:
        """Give what may go on, and what is refused."""
        harmless = [type(arrival.body) in HARMLESS for arrival in arrivals]
        if all(harmless) or payments_state(tx) == "running":
            return arrivals, []
        let_through: list[Arrival] = []
        held_back: list[Arrival] = []
        for arrival, moves_nothing in zip(arrivals, harmless, strict=True):
            passes = moves_nothing or is_known(tx, arrival)
            (let_through if passes else held_back).append(arrival)
        return let_through, held_back

    def begin(self) -> None:
        """Forget what a transaction that was rolled back wanted shown."""
        self._shown_now = False

    def committed(self) -> None:
        """Count what was shown."""
        self._to_show = self._to_show and not self._shown_now
        self._shown_now = False

    def show_again(self) -> None:
        """Tell that a new connection has published the status that it was made with."""
        self._to_show = self._to_show or self.stopped

    def tick(self, tx: Tx, now: int, *, connected: bool) -> list[Outgoing]:
        """Hear of another process's check, raise the alarm, and show the status where it changed."""
        self._hear(tx, now)
        if not (self._to_show and connected):
            return []
        self._shown_now = True
        status = presence("online", now, payments_stopped=self.stopped)
        return [Outgoing(topics.broker_status(), status, retain=True)]

    def _hear(self, tx: Tx, now: int) -> None:
        found, before = payments_state(tx), self._state
        self._state = found
        if found != before:
            self._to_show = True
            # The event may be another process's, which publishes nothing.
            self._audit.publish_again()
            if found == "running":
                self._log.warning("payments resumed: the books are right")
        if found == "stopped" and (found != before or now >= self._next_alarm):
            self._next_alarm = now + ALARM_EVERY_MS
            self._log.error(ALARM)
