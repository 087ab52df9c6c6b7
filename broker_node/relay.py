"""Relay: everything that a customer asks a merchant and the broker cannot read.

Rule 1. The merchant gets a reply token instead of an address: AES-GCM(relay key; session, request,
expiry), bound to the merchant and to a reference that is fresh for each message. Two messages of one
customer look unrelated, another merchant cannot use the token, and the broker keeps no table.

Rule 2. A session has a byte budget; beyond it, it goes on with a new ticket.

Rule 3. Cells are rationed: so many under way for a session, and for the broker in all. What is beyond
waits here, in the order of asking; whatever is lost is asked for again by the customer.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from cryptography.exceptions import InvalidTag

from broker_node.keys import SymmetricKey
from broker_node.sends import CellsToSession, Session, ToMerchant, ToSession
from common import messages
from common.clock import Random
from common.config import SECOND_MS, Limits
from common.errors import ForgedError, RefusedError, StaleError
from common.keyring import Keyring
from common.store import Tx

Send: TypeAlias = ToSession | ToMerchant | CellsToSession

FETCH_PATIENCE_MS = 10 * SECOND_MS
FETCHES_WAITING = 2048
FETCHES_OF_A_SESSION = 8


@dataclass(slots=True, eq=False)
class Fetch:
    """Cells that a session waits for."""

    session: Session
    question: messages.FetchCells
    left: int
    expires: int


class Relay:
    """Forwards sealed requests and brings answers and cells back."""

    def __init__(
        self,
        keys: Keyring[SymmetricKey],
        limits: Limits,
        online: Callable[[str, int], bool],
        over_budget: Callable[[Session], bool],
    ) -> None:
        self._keys = keys
        self._limits = limits
        self._online = online
        self._over_budget = over_budget
        self._waiting: deque[Fetch] = deque()
        self._under_way: dict[tuple[bytes, bytes], Fetch] = {}
        self._asked: list[Fetch] = []
        self._started: list[Fetch] = []
        """What this transaction has taken in and started: undone when it is rolled back."""

    def begin(self) -> None:
        """Undo what a transaction that was rolled back has taken in and started."""
        for fetch in self._started:
            self._under_way.pop((fetch.session.sid, fetch.question.request), None)
        self._waiting.extendleft(reversed([fetch for fetch in self._started if fetch not in self._asked]))
        self._waiting = deque(fetch for fetch in self._waiting if fetch not in self._asked)
        self.committed()

    def committed(self) -> None:
        """Keep what the transaction has taken in and started."""
        self._asked.clear()
        self._started.clear()

    # --- customer -> merchant --------------------------------------------------------------------------

    def ask(
        self, _tx: Tx, session: Session, question: messages.AskMerchant, now: int, random: Random
    ) -> list[Send]:
        """Forward a sealed request. Raises `RefusedError`."""
        self._check(session, question.merchant, now)
        reference = random(16)
        token = self._token(session.sid, question.request, question.merchant, reference, now, random)
        forward = messages.Forward(reference=reference, token=token, sealed=question.sealed)
        return [ToMerchant(question.merchant, forward)]

    def fetch(
        self, _tx: Tx, session: Session, question: messages.FetchCells, now: int, random: Random
    ) -> list[Send]:
        """Forward a request for cells, now or when its turn comes. Raises `RefusedError`."""
        self._check(session, question.merchant, now)
        if question.cells > self._limits.cell_window:
            raise RefusedError("policy")
        mine = sum(1 for fetch in self._waiting if fetch.session.sid == session.sid)
        if mine >= FETCHES_OF_A_SESSION or len(self._waiting) >= FETCHES_WAITING:
            raise RefusedError("busy")
        fetch = Fetch(session, question, question.cells, now + FETCH_PATIENCE_MS)
        self._asked.append(fetch)
        self._waiting.append(fetch)
        return self._start(now, random)

    def _check(self, session: Session, merchant: str, now: int) -> None:
        if self._over_budget(session):
            raise RefusedError("byte_budget")
        if not self._online(merchant, now):
            raise RefusedError("merchant_offline")

    def _start(self, now: int, random: Random) -> list[Send]:
        sends: list[Send] = []
        busy: dict[bytes, int] = {}
        of_merchant: Counter[str] = Counter()
        for fetch in self._under_way.values():
            busy[fetch.session.sid] = busy.get(fetch.session.sid, 0) + fetch.left
            of_merchant[fetch.question.merchant] += fetch.left
        total = sum(busy.values())
        later: deque[Fetch] = deque()
        while self._waiting and total < self._limits.cells_under_way:
            fetch = self._waiting.popleft()
            sid, cells = fetch.session.sid, fetch.question.cells
            again = (sid, fetch.question.request) in self._under_way
            if again or busy.get(sid, 0) + cells > self._limits.cell_window:
                # Its session has its share: whatever else it asks for stays in order behind this.
                busy[sid] = self._limits.cell_window
                later.append(fetch)
                continue
            if of_merchant[fetch.question.merchant] + cells > self._limits.cells_under_way // 2:
                # A merchant that does not answer must not hold up the others. What else is asked of it stays
                # in order behind this: small windows would take every place that a large one waits for.
                of_merchant[fetch.question.merchant] = self._limits.cells_under_way // 2
                later.append(fetch)
                continue
            of_merchant[fetch.question.merchant] += cells
            fetch.expires = now + FETCH_PATIENCE_MS
            self._under_way[sid, fetch.question.request] = fetch
            self._started.append(fetch)
            busy[sid] = busy.get(sid, 0) + cells
            total += cells
            sends.append(self._forward_fetch(fetch, now, random))
        self._waiting.extendleft(reversed(later))
        return sends

    def _forward_fetch(self, fetch: Fetch, now: int, random: Random) -> ToMerchant:
        question, reference = fetch.question, random(16)
        token = self._token(fetch.session.sid, question.request, question.merchant, reference, now, random)
        return ToMerchant(
            question.merchant,
            messages.ForwardFetch(
                reference=reference, token=token, cells=question.cells, sealed=question.sealed
            ),
        )

    # --- merchant -> customer --------------------------------------------------------------------------

    def answer(
        self, _tx: Tx, session: Session, answer: messages.AnswerForward, now: int, _random: Random
    ) -> list[Send]:
        """Bring an answer back. Raises `WireError` for a token that is not good."""
        sid, request = self._open(answer.token, session, answer.reference, now)
        return [ToSession(sid, messages.MerchantAnswer(request=request, answer=answer.answer))]

    def refuse_fetch(
        self, _tx: Tx, session: Session, answer: messages.FetchRefused, now: int, random: Random
    ) -> list[Send]:
        """Bring a sealed refusal back instead of cells."""
        sid, request = self._open(answer.token, session, answer.reference, now)
        self._under_way.pop((sid, request), None)
        refusal = ToSession(sid, messages.MerchantAnswer(request=request, answer=answer.answer))
        return [refusal, *self._start(now, random)]

    def cells(self, _tx: Tx, session: Session, group: messages.Cells, now: int, random: Random) -> list[Send]:
        """Bring cells back, and start what waited for their place. Raises `WireError`."""
        sid, request = self._open(group.token, session, group.reference, now)
        fetch = self._under_way.get((sid, request))
        if fetch is None or len(group.cells) > fetch.left:
            # Asked for so long ago that its place was given away: the customer has asked again.
            raise StaleError("nobody waits for these cells")
        fetch.left -= len(group.cells)
        fetch.expires = now + FETCH_PATIENCE_MS
        brought = messages.MerchantCells(request=request, cells=group.cells)
        delivered: list[Send] = [CellsToSession(sid, brought)]
        if fetch.left:
            return delivered
        del self._under_way[sid, request]
        return delivered + self._start(now, random)

    # --- by time ---------------------------------------------------------------------------------------

    def tick(self, now: int, random: Random) -> list[Send]:
        """Give up what nobody answers, so that its place is free."""
        for key in [key for key, fetch in self._under_way.items() if fetch.expires <= now]:
            del self._under_way[key]
        self._waiting = deque(fetch for fetch in self._waiting if fetch.expires > now)
        return self._start(now, random) if self._waiting else []

    # --- reply tokens ----------------------------------------------------------------------------------

    def _token(
        self, sid: bytes, request: bytes, merchant: str, reference: bytes, now: int, random: Random
    ) -> bytes:
        key, nonce = self._keys.current(now), random(12)
        expires = (now + self._limits.freshness_ms).to_bytes(8, "big")
        sealed = key.gcm.encrypt(nonce, sid + request + expires, merchant.encode() + reference)
        return key.key_id + nonce + sealed

    def _open(self, token: bytes, session: Session, reference: bytes, now: int) -> tuple[bytes, bytes]:
        key = self._keys.by_id.get(token[:8])
        if key is None:
            raise StaleError("a reply token of a key that is gone")
        bound = (session.merchant or "").encode() + reference
        try:
            opened = key.gcm.decrypt(token[8:20], token[20:], bound)
        except InvalidTag as error:
            raise ForgedError("a reply token that is not this merchant's") from error
        if int.from_bytes(opened[32:], "big") < now:
            raise StaleError("a reply token that is over")
        return opened[:16], opened[16:32]
