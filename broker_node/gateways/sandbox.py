"""The sandbox gateway: no money anywhere, and test cards for whatever a real gateway may answer.

    4242 4242 4242 4242   charged (so are the other brands' test numbers, see `CHARGED`)
    4000 0000 0000 0002   declined
    4000 0000 0000 9995   declined: insufficient funds
    4000 0000 0000 0069   declined: expired
    4000 0000 0000 0127   declined: security code
    4000 0000 0000 1000   no answer in time; charged a few seconds later
    4000 0000 0000 2008   no answer in time; never charged

Rule 1. It keeps its charges in a file of its own, as a real gateway keeps them elsewhere: a broker that
crashes, or loses its store, finds them as they were.

Rule 2. It takes its test numbers alone and keeps none of them: nobody's card is of any use here.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from broker_node.payment_gateway import Charged, DeclineCode, Declined, GatewayError, Outcome, Unknown
from common.config import SECOND_MS
from common.messages import PaymentCard

FILE: Final = "sandbox-gateway.db"
LATE_MS: Final = 3 * SECOND_MS

CHARGED: Final = frozenset(
    {
        "4242424242424242",
        "5555555555554444",
        "2223003122003222",
        "378282246310005",
        "6011111111111117",
        "3056930009020004",
        "3566002020360505",
        "6200000000000005",
    }
)
DECLINED: Final[dict[str, DeclineCode]] = {
    "4000000000000002": "card_declined",
    "4000000000009995": "card_insufficient_funds",
    "4000000000000069": "card_expired",
    "4000000000000127": "card_security_code",
}
CHARGED_LATE: Final = "4000000000001000"
NEVER_ANSWERED: Final = "4000000000002008"

_TABLE: Final = """
    CREATE TABLE IF NOT EXISTS charges (
        id TEXT PRIMARY KEY, amount INTEGER NOT NULL, currency TEXT NOT NULL,
        state TEXT NOT NULL, code TEXT NOT NULL DEFAULT '', charged_at INTEGER NOT NULL DEFAULT 0
    )
"""


class SandboxGateway:
    """`PaymentGateway` over a file. `clock` gives milliseconds since 1970."""

    kind = "sandbox"

    def __init__(self, home: Path, clock: Callable[[], int]) -> None:
        self._path = home / FILE
        self._clock = clock
        if not self._path.exists():
            self._path.touch(mode=0o600)
        with self._transaction() as store:
            store.execute(_TABLE)

    def open(self, key: str, amount: int, currency: str) -> str:
        """Prepare a charge. Raises `GatewayError` where the key is known with another amount."""
        charge = "sandbox_" + hashlib.sha256(key.encode()).hexdigest()[:24]
        with self._transaction() as store:
            store.execute(
                "INSERT INTO charges (id, amount, currency, state) VALUES (?, ?, ?, 'open') "
                "ON CONFLICT DO NOTHING",
                (charge, amount, currency),
            )
            kept = store.execute("SELECT amount, currency FROM charges WHERE id = ?", (charge,)).fetchone()
        if kept != (amount, currency):
            raise GatewayError("the key is known with another amount")
        return charge

    def pay(self, charge: str, card: PaymentCard) -> Outcome:
        """Charge a test card."""
        if card.number == NEVER_ANSWERED:
            return Unknown()
        if card.number in CHARGED or card.number == CHARGED_LATE:
            late = LATE_MS if card.number == CHARGED_LATE else 0
            state, code, at = "charged", "", self._clock() + late
        else:
            state, code, at = "declined", DECLINED.get(card.number, "card_declined"), 0
        with self._transaction() as store:
            store.execute(
                "UPDATE charges SET state = ?, code = ?, charged_at = ? WHERE id = ? AND state = 'open'",
                (state, code, at, charge),
            )
        return self._outcome(charge)

    def settle(self, charge: str) -> Outcome:
        """Say what became of a charge; void it where no card has come."""
        with self._transaction() as store:
            store.execute(
                "UPDATE charges SET state = 'declined', code = 'not_charged' WHERE id = ? AND state = 'open'",
                (charge,),
            )
        return self._outcome(charge)

    def received(self) -> int:
        """Sum what was charged, in minor units: what the gateway's statement would say."""
        with self._transaction() as store:
            query = "SELECT coalesce(sum(amount), 0) FROM charges WHERE state = 'charged'"
            return int(store.execute(query).fetchone()[0])

    def _outcome(self, charge: str) -> Outcome:
        with self._transaction() as store:
            query = "SELECT state, code, charged_at FROM charges WHERE id = ?"
            row = store.execute(query, (charge,)).fetchone()
        match row:
            case ("charged", _, at) if at <= self._clock():
                return Charged()
            case ("declined", code, _):
                return Declined(code)
        return Unknown()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._path, timeout=10, isolation_level="IMMEDIATE")) as store:
            store.execute("PRAGMA synchronous = FULL")
            with store:
                yield store
