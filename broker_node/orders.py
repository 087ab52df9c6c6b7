"""Orders: coins against a promise, in escrow until the merchant has answered.

    held --accepted in time--> captured                     the merchant is told until it has stored it
    held --rejected----------> refundable --claim--> refunded
    held --deadline----------> refundable                   the merchant is told that the order is void

Rule 1. One transaction spends every coin of an order, holds its amount and keeps its sealed part. The
same order again is a repetition; another order with one of its coins is a double spend.

Rule 2. What the merchant must learn is due in a row (`orders.due`) and is told again, with growing
delays, until it has answered; a merchant that opens a session is told everything at once.

Rule 3. Which session an answer goes to is known in memory alone. After a crash the customer asks again,
with the status secret: an order id by itself authorises nothing.

These handlers take the whole batch of one kind, because this is the road that is busy.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import sqlalchemy as sa

from broker_node import ledger, schema
from broker_node.audit import Audit
from broker_node.mint import Checked, Mint, owner_of, spend
from broker_node.sends import Session, ToMerchant, ToSession
from common import codec, messages
from common.clock import Random
from common.config import Limits
from common.errors import RefusedError
from common.node import Arrival
from common.states import BROKER_ORDER, sources, step
from common.store import Row, Tx, one_of

Send: TypeAlias = ToSession | ToMerchant

DUE_AT_ONCE = 500
ROUTES_KEPT = 100_000
FOR_EVER = 2**52

_ORDER = sa.insert(schema.orders)
_BODY = sa.insert(schema.order_bodies)
_ANSWER = sa.insert(schema.order_answers)
_ORDERS = sa.select(schema.orders).where(schema.orders.c.order_id.in_(sa.bindparam("wanted", expanding=True)))
_BODIES = sa.select(schema.order_bodies).where(
    schema.order_bodies.c.order_id.in_(sa.bindparam("wanted", expanding=True))
)
_FORGET_BODY = sa.delete(schema.order_bodies).where(schema.order_bodies.c.order_id == sa.bindparam("of"))
_FORGET_ANSWER = sa.delete(schema.order_answers).where(schema.order_answers.c.order_id == sa.bindparam("of"))
_ANSWER_OF = sa.select(schema.order_answers.c.answer).where(
    schema.order_answers.c.order_id == sa.bindparam("of")
)
_MERCHANTS = sa.select(schema.merchants.c.id).where(schema.merchants.c.state == "admitted")
_STEPS = {
    state: sa.update(schema.orders)
    .where(schema.orders.c.order_id == sa.bindparam("of"))
    .where(one_of(schema.orders.c.state, sources(BROKER_ORDER, state)))
    .values(state=state, due=sa.bindparam("next"), attempts=0)
    for state in ("captured", "refundable")
}
_TOLD = (
    sa.update(schema.orders)
    .where(schema.orders.c.order_id == sa.bindparam("of"))
    .values(due=sa.bindparam("next"), attempts=schema.orders.c.attempts + 1)
)
_KEPT = sa.update(schema.orders).where(schema.orders.c.order_id == sa.bindparam("of")).values(due=None)
_DUE = (
    sa.select(schema.orders)
    .where(schema.orders.c.due <= sa.bindparam("now"))
    .order_by(schema.orders.c.due)
    .limit(DUE_AT_ONCE)
)


class Orders:
    """Places, answers and repeats."""

    def __init__(
        self,
        mint: Mint,
        audit: Audit,
        currency: str,
        limits: Limits,
        online: Callable[[str, int], bool],
    ) -> None:
        self._mint = mint
        self._audit = audit
        self._currency = currency
        self._limits = limits
        self._online = online
        self._route: dict[bytes, bytes] = {}
        self.refused: Counter[str] = Counter()

    # --- customer -> broker ----------------------------------------------------------------------------

    def place(self, tx: Tx, arrivals: Sequence[Arrival], now: int, random: Random) -> list[Send]:
        """Hold the coins of every new order and forward it."""
        sends: list[Send] = []
        known = _by_id(tx, [arrival.body.order_id for arrival in arrivals])
        admitted = {row["id"] for row in tx.all(_MERCHANTS)}
        fresh: dict[bytes, tuple[Session, messages.PlaceOrder, bytes, Checked]] = {}
        for arrival in arrivals:
            session, order = arrival.sender, arrival.body
            content_hash = hashlib.sha256(codec.pack(order)).digest()
            try:
                if (row := known.get(order.order_id)) is not None:
                    _same(row["content_hash"], content_hash)
                    self._remember(order.order_id, session.sid)
                    sends.append(self._answer(tx, session.sid, row, now))
                elif (other := fresh.get(order.order_id)) is not None:
                    _same(other[2], content_hash)
                else:
                    checked = self._check(order, admitted, now)
                    self._remember(order.order_id, session.sid)
                    fresh[order.order_id] = (session, order, content_hash, checked)
            except RefusedError as error:
                sends.append(_refusal(session.sid, order.order_id, error.code))
        owners = {owner_of("order", order_id): order_id for order_id in fresh}
        for loser in spend(tx, {owner: fresh[order_id][3] for owner, order_id in owners.items()}):
            session = fresh.pop(owners[loser])[0]
            sends.append(_refusal(session.sid, owners[loser], "double_spend"))
        for session, order, content_hash, checked in fresh.values():
            sends += self._hold(tx, session, order, content_hash, checked, now, random)
        return sends

    def _check(self, order: messages.PlaceOrder, admitted: set[str], now: int) -> Checked:
        if order.currency != self._currency:
            raise RefusedError("wrong_currency")
        if order.merchant not in admitted:
            raise RefusedError("not_found")
        earliest = now + self._limits.order_deadline_minimum_ms
        latest = now + self._limits.order_deadline_ms + self._limits.freshness_ms
        if not earliest <= order.deadline <= latest:
            raise RefusedError("deadline")
        checked = self._mint.verify(order.coins, "coin", now)
        if checked.total != order.amount:
            raise RefusedError("wrong_amount")
        return checked

    def _hold(
        self,
        tx: Tx,
        session: Session,
        order: messages.PlaceOrder,
        content_hash: bytes,
        checked: Checked,
        now: int,
        random: Random,
    ) -> list[Send]:
        entropy = random(32)
        row = {
            "order_id": order.order_id,
            "merchant": order.merchant,
            "amount": order.amount,
            "deadline": order.deadline,
            "content_hash": content_hash,
            "claim_lock": order.claim_lock,
            "status_lock": order.status_lock,
            "pseudonym": entropy[:16],
            "salt": entropy[16:],
            "state": "held",
            "due": self._next(0, order.deadline, now),
            "attempts": 0,
        }
        tx.insert(_ORDER, row)
        tx.insert(_BODY, {"order_id": order.order_id, "sealed": order.sealed})
        entries = {ledger.coins_book(value): -amount for value, amount in checked.by_value.items()}
        ledger.post(tx, order.order_id, {**entries, ledger.ESCROW: order.amount}, now)
        self._audit.order_step(tx, "held", row, now, random)
        if self._online(order.merchant, now):
            return [_forward(row, order.sealed, self._currency)]
        return [self._status(session.sid, row, b"", now)]

    def ask(
        self, tx: Tx, session: Session, question: messages.AskOrder, now: int, _random: Random
    ) -> list[Send]:
        """Tell whoever holds the status secret where the order stands. Raises `RefusedError`."""
        row = _by_id(tx, [question.order_id]).get(question.order_id)
        _check_status(row, question.status_secret)
        self._remember(question.order_id, session.sid)
        return [self._answer(tx, session.sid, row, now)] if row is not None else []

    def answer_kept(self, tx: Tx, arrivals: Sequence[Arrival], _now: int, _random: Random) -> list[Send]:
        """Erase answers that their customers have stored."""
        rows = _by_id(tx, [arrival.body.order_id for arrival in arrivals])
        erase = []
        for arrival in arrivals:
            try:
                _check_status(rows.get(arrival.body.order_id), arrival.body.status_secret)
                erase.append({"of": arrival.body.order_id})
                self._route.pop(arrival.body.order_id, None)
            except RefusedError as error:
                self.refused[error.code] += 1
        tx.each(_FORGET_ANSWER, erase)
        return []

    # --- merchant -> broker ----------------------------------------------------------------------------

    def answered(self, tx: Tx, arrivals: Sequence[Arrival], now: int, random: Random) -> list[Send]:
        """Capture what was accepted in time; make refundable what was not."""
        rows = _by_id(tx, [arrival.body.order_id for arrival in arrivals])
        steps: dict[str, list[dict[str, Any]]] = {"captured": [], "refundable": []}
        settled: set[bytes] = set()
        sends: list[Send] = []
        for arrival in arrivals:
            answer: messages.AnswerOrder = arrival.body
            row = rows.get(answer.order_id)
            if row is None or row["merchant"] != arrival.sender.merchant:
                self.refused["not_found"] += 1
            elif answer.verdict == "accepted" and not answer.answer:
                # Nobody could ever show what was bought with it.
                self.refused["wrong_state"] += 1
            elif row["state"] != "held" or answer.order_id in settled:
                sends += self._late(row, answer)
            else:
                settled.add(answer.order_id)
                sends += self._settle(tx, row, answer, steps, now, random)
        for state, changes in steps.items():
            tx.step(_STEPS[state], changes)
        tx.each(_FORGET_BODY, [{"of": order_id} for order_id in sorted(settled)])
        return sends

    def _settle(
        self,
        tx: Tx,
        row: Row,
        answer: messages.AnswerOrder,
        steps: dict[str, list[dict[str, Any]]],
        now: int,
        random: Random,
    ) -> list[Send]:
        late = row["deadline"] <= now
        state = "captured" if answer.verdict == "accepted" and not late else "refundable"
        step(BROKER_ORDER, row["state"], state)
        # A merchant that rejected in time needs not be told; every other outcome is told until kept.
        told = late or state == "captured"
        due = now + self._limits.reforward_first_ms if told else None
        steps[state].append({"of": answer.order_id, "next": due})
        if state == "captured":
            entries = {ledger.ESCROW: -row["amount"], ledger.merchant_book(row["merchant"]): row["amount"]}
            ledger.post(tx, answer.order_id, entries, now)
        kept = b"" if late else answer.answer
        # What was paid for is kept until its customer has shown that it is stored there, however long.
        until = now + self._limits.answer_kept_ms if state == "refundable" else FOR_EVER
        tx.insert(_ANSWER, {"order_id": answer.order_id, "answer": kept, "until": until})
        self._audit.order_step(tx, state, row, now, random)
        sends: list[Send] = [_outcome(row["merchant"], answer.order_id, state)] if told else []
        sid = self._route.get(answer.order_id)
        if sid is not None:
            sends.append(self._status(sid, {**row, "state": state}, kept, now))
        return sends

    def _late(self, row: Row, answer: messages.AnswerOrder) -> list[Send]:
        """Answer a repetition, or a late accept, which is void: the order is settled."""
        self.refused["wrong_state"] += 1
        if answer.verdict == "accepted" and row["state"] != "held":
            return [_outcome(row["merchant"], answer.order_id, row["state"])]
        return []

    def outcome_kept(self, tx: Tx, arrivals: Sequence[Arrival], _now: int, _random: Random) -> list[Send]:
        """Stop telling a merchant what it has stored."""
        rows = _by_id(tx, [arrival.body.order_id for arrival in arrivals])
        kept = []
        for arrival in arrivals:
            row = rows.get(arrival.body.order_id)
            if row is None or row["merchant"] != arrival.sender.merchant or row["state"] == "held":
                self.refused["wrong_state"] += 1
            else:
                kept.append({"of": arrival.body.order_id})
        tx.each(_KEPT, kept)
        return []

    # --- by time ---------------------------------------------------------------------------------------

    def merchant_is_back(self, tx: Tx, merchant: str, now: int) -> None:
        """Make everything due that this merchant has to be told."""
        tx.execute(
            sa.update(schema.orders)
            .where(schema.orders.c.merchant == merchant)
            .where(schema.orders.c.due.is_not(None))
            .values(due=now, attempts=0)
        )

    def tick(self, tx: Tx, now: int, random: Random) -> list[Send]:
        """Tell merchants what is due, and end what is past its deadline."""
        due = tx.all(_DUE, {"now": now})
        if not due:
            return []
        sends: list[Send] = []
        expired = [row for row in due if row["state"] == "held" and row["deadline"] <= now]
        others = [row for row in due if not (row["state"] == "held" and row["deadline"] <= now)]
        for row in expired:
            self._audit.order_step(tx, "refundable", row, now, random)
            sends.append(_outcome(row["merchant"], row["order_id"], "refundable"))
            sid = self._route.get(row["order_id"])
            if sid is not None:
                sends.append(self._status(sid, {**row, "state": "refundable"}, b"", now))
        first = now + self._limits.reforward_first_ms
        tx.step(_STEPS["refundable"], [{"of": row["order_id"], "next": first} for row in expired])
        tx.each(_FORGET_BODY, [{"of": row["order_id"]} for row in expired])
        return sends + self._tell_again(tx, others, now)

    def _tell_again(self, tx: Tx, rows: Sequence[Row], now: int) -> list[Send]:
        if not rows:
            return []
        later = [
            {
                "of": row["order_id"],
                "next": self._next(
                    row["attempts"] + 1, row["deadline"] if row["state"] == "held" else 0, now
                ),
            }
            for row in rows
        ]
        tx.each(_TOLD, later)
        held = [row["order_id"] for row in rows if row["state"] == "held"]
        bodies = {row["order_id"]: row["sealed"] for row in tx.among(_BODIES, held)}
        return [
            _forward(row, bodies[row["order_id"]], self._currency)
            if row["state"] == "held"
            else _outcome(row["merchant"], row["order_id"], row["state"])
            for row in rows
            if self._online(row["merchant"], now)
        ]

    def _next(self, attempts: int, deadline: int, now: int) -> int:
        """When to tell again: after 30 s doubling to 10 min, and for a held order at its deadline."""
        delay = min(self._limits.reforward_first_ms << min(attempts, 16), self._limits.reforward_longest_ms)
        return min(now + delay, deadline) if deadline else now + delay

    # --- answering -------------------------------------------------------------------------------------

    def _remember(self, order_id: bytes, sid: bytes) -> None:
        self._route[order_id] = sid
        while len(self._route) > ROUTES_KEPT:
            self._route.pop(next(iter(self._route)))

    def _answer(self, tx: Tx, sid: bytes, row: Row, now: int) -> ToSession:
        answer = b"" if row["state"] == "held" else tx.scalar(_ANSWER_OF, {"of": row["order_id"]}) or b""
        return self._status(sid, row, answer, now)

    def _status(self, sid: bytes, row: Row, answer: bytes, now: int) -> ToSession:
        return ToSession(
            sid,
            messages.OrderAnswer(
                order_id=row["order_id"],
                state=row["state"],
                deadline=row["deadline"],
                merchant_online=self._online(row["merchant"], now),
                audit=row["pseudonym"],
                answer=answer,
            ),
        )


def _by_id(tx: Tx, order_ids: Sequence[bytes]) -> dict[bytes, Row]:
    return {row["order_id"]: row for row in tx.among(_ORDERS, order_ids)}


def _same(stored: bytes, shown: bytes) -> None:
    if not hmac.compare_digest(stored, shown):
        raise RefusedError("idempotency_conflict")


def _check_status(row: Row | None, secret: bytes) -> None:
    if row is None:
        raise RefusedError("not_found")
    if not hmac.compare_digest(row["status_lock"], hashlib.sha256(secret).digest()):
        raise RefusedError("wrong_secret")


def _refusal(sid: bytes, order_id: bytes, code: str) -> ToSession:
    return ToSession(sid, messages.Refused(reference=order_id, code=code))  # type: ignore[arg-type] # codes of ours


def _forward(row: Row, sealed: bytes, currency: str) -> ToMerchant:
    return ToMerchant(
        row["merchant"],
        messages.ForwardOrder(
            order_id=row["order_id"],
            amount=row["amount"],
            currency=currency,
            deadline=row["deadline"],
            claim_lock=row["claim_lock"],
            status_lock=row["status_lock"],
            sealed=sealed,
        ),
    )


def _outcome(merchant: str, order_id: bytes, state: str) -> ToMerchant:
    outcome = messages.OrderOutcome(order_id=order_id, outcome="captured" if state == "captured" else "void")
    return ToMerchant(merchant, outcome)
