"""The wallet: coins and tickets as rows, and the operations that bring or take them.

    requested --signed--> free --chosen--> reserved --taken by the broker--> spent
        |                  ^ |                 |
        +--refused--> void +-|----released-----+
        +--refused, and restored meanwhile--> free
                       |     +--of a retired key that nobody swaps--> ended
                       +--drawn by another copy of the profile, and restored--> free | spent

Rule 1. A token's counter is stored, with the exact request, before that request is sent: whatever
crashes in between, the same bytes are sent again and the same token comes out.

Rule 2. Every signature is verified when it arrives and again when the token is rebuilt to be spent.

Rule 3. What the account drew is used only after the market's minimum age, so that the draw and the
purchase do not stand side by side. What came out of a shop session (change, refunds) has no such age.

Rule 4. Coins count for their month and the next. In the last week of that they are spent first, and what
is left of them is swapped (`funds`).

No I/O, clock or randomness: `tx`, `now` and ids are arguments.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import sqlalchemy as sa

from common import coins, config, slots, states
from common.errors import InsufficientFundsError, UntrustedError, WireError
from common.messages import BlindedToken, Token
from common.store import Row, Tx
from customer_node import numbers
from customer_node.issuers import issuer_of
from customer_node.schema import issuer_keys, operations, tokens

OperationKind: TypeAlias = Literal["withdraw", "swap", "refund"]
Key: TypeAlias = tuple[coins.Purpose, int]
"""What a token is: its purpose and value (0 for a ticket)."""

TICKET: Final[Key] = ("ticket", 0)

ENDING_MS: Final = 7 * config.DAY_MS

TOKEN: Final[states.Table] = {
    "requested": frozenset({"free", "void"}),
    "free": frozenset({"reserved", "ended"}),
    "reserved": frozenset({"spent", "free"}),
    "spent": frozenset(),
    "void": frozenset({"free", "spent"}),
    "ended": frozenset(),
}

OPERATION: Final[states.Table] = {
    "open": frozenset({"done", "refused"}),
    "done": frozenset(),
    "refused": frozenset(),
}

_INSERT_TOKEN: Final = sa.insert(tokens)
_INSERT_OPERATION: Final = sa.insert(operations)
WITH_KEY: Final = sa.select(
    tokens, issuer_keys.c.purpose, issuer_keys.c.value, issuer_keys.c.month, issuer_keys.c.public
).join(issuer_keys, tokens.c.key_id == issuer_keys.c.key_id)


@dataclass(frozen=True)
class Stock:
    """Tokens of one kind, counted."""

    usable: int = 0
    young: int = 0
    expired: int = 0


@dataclass(frozen=True)
class Operation:
    """An operation as stored: its id and the exact message."""

    id: bytes
    kind: str
    request: bytes
    account: bytes | None = None


class Wallet:
    """What the rows mean; `allow_young` lets tokens be used before their minimum age."""

    def __init__(self, seed: bytes, *, allow_young: bool) -> None:
        self._seed = seed
        self._allow_young = allow_young

    # --- drawing ---------------------------------------------------------------------------------------

    def draw(self, tx: Tx, operation: bytes, wanted: Sequence[Key], month: str) -> list[BlindedToken]:
        """Allot counters for `wanted` and give the blinded tokens in that order.

        Raises `UntrustedError` where the broker has announced no key for one of them.
        """
        rows = tx.all(sa.select(issuer_keys).where(issuer_keys.c.month == month))
        keys = {(row["purpose"], row["value"]): row for row in rows}
        first = numbers.first_counter(numbers.present_era(tx))
        used: Counter[bytes] = Counter()
        blinded: list[BlindedToken] = []
        for position, kind in enumerate(wanted):
            row = keys.get(kind)
            if row is None:
                raise UntrustedError(f"The broker announces no {kind[0]} key of value {kind[1]} for {month}.")
            counter = first + row["next_counter"] + used[row["key_id"]]
            used[row["key_id"]] += 1
            blinded.append(coins.blind_token(issuer_of(row), self._seed, counter))
            tx.insert(
                _INSERT_TOKEN,
                {
                    "key_id": row["key_id"],
                    "counter": counter,
                    "operation": operation,
                    "position": position,
                    "state": "requested",
                    "usable_from": 0,
                },
            )
        for key_id, count in used.items():
            tx.execute(
                sa.update(issuer_keys)
                .where(issuer_keys.c.key_id == key_id)
                .values(next_counter=issuer_keys.c.next_counter + count)
            )
        return blinded

    def leave_out(self, tx: Tx, month: str, count: int) -> None:
        """Leave out so many counters of every key of a month: they may have been used elsewhere."""
        if count:
            keys = sa.update(issuer_keys).where(issuer_keys.c.month == month)
            tx.execute(keys.values(next_counter=issuer_keys.c.next_counter + count))

    def redraw(self, tx: Tx, operation: bytes, new: bytes, month: str, left_out: int) -> list[BlindedToken]:
        """Give up what an open operation asks for; what takes its place is asked for by `new`.

        The operation ends as refused, and what is reserved for it is reserved for `new`. So many counters
        are left out. Raises as `draw`.
        """
        rows = tx.all(
            WITH_KEY.where(tokens.c.operation == operation, tokens.c.state == "requested").order_by(
                tokens.c.position
            )
        )
        self.end_operation(tx, operation, "refused")
        held = sa.update(tokens).where(tokens.c.holder == operation, tokens.c.state == "reserved")
        tx.execute(held.values(holder=new))
        self.leave_out(tx, month, left_out)
        return self.draw(tx, new, [(row["purpose"], row["value"]) for row in rows], month)

    def issue(self, tx: Tx, operation: bytes, signatures: Sequence[bytes], usable_from: int) -> None:
        """Take the blind signatures, in the order asked for, and end the operation.

        Raises `UntrustedError`, and changes nothing, if one is missing or does not verify.
        """
        rows = tx.all(
            WITH_KEY.where(tokens.c.operation == operation, tokens.c.state == "requested").order_by(
                tokens.c.position
            )
        )
        if len(rows) != len(signatures):
            raise UntrustedError("The broker signed another number of coins than asked for.")
        for row, signature in zip(rows, signatures, strict=True):
            try:
                coins.unblind(issuer_of(row), self._seed, row["counter"], signature)
            except WireError as error:
                raise UntrustedError("The broker's signature under a coin does not verify.") from error
            _step(tx, row, "free", holder=None, blind_signature=signature, usable_from=usable_from)
        self.end_operation(tx, operation, "done")

    # --- operations ------------------------------------------------------------------------------------

    def new_id(self, tx: Tx, kind: numbers.Kind, month: str, now: int) -> bytes:
        """Give the id of a new swap or order, which a restored wallet finds again.

        Raises `RejectedError` where too many are unanswered or refused.
        """
        return numbers.next_id(tx, self._seed, kind, month, now)

    def other_id(self, tx: Tx, kind: numbers.Kind, month: str, skipped: int) -> bytes:
        """Give another id for what has one that was used before the profile came back from a copy."""
        return numbers.other_id(tx, self._seed, kind, month, skipped)

    def give_back(self, tx: Tx, kind: numbers.Kind, given: bytes, usable_from: int) -> None:
        """Let the id of a refused swap or order be given again: nothing is left that refers to it."""
        tx.execute(
            sa.update(tokens).where(tokens.c.holder == given, tokens.c.state == "free").values(holder=None)
        )
        numbers.give_back(tx, self._seed, kind, given, usable_from)

    def renumber(self, tx: Tx, operation: bytes, new: bytes, request: bytes) -> None:
        """Let an open operation go on under another id, with the same tokens."""
        for column in (tokens.c.operation, tokens.c.holder):
            tx.execute(sa.update(tokens).where(column == operation).values({column: new}))
        tx.execute(
            sa.update(operations)
            .where(operations.c.operation == operation, operations.c.state == "open")
            .values(operation=new, request=request)
        )

    def begin_operation(
        self,
        tx: Tx,
        operation: bytes,
        kind: OperationKind,
        request: bytes,
        now: int,
        account: bytes | None = None,
    ) -> None:
        """Store an operation's exact message, to be repeated until it is answered.

        Of a refused one with the same id (a refund claim in coins of a month that is over) nothing stays.
        """
        tx.execute(
            sa.delete(operations).where(operations.c.operation == operation, operations.c.state == "refused")
        )
        row = {"operation": operation, "kind": kind, "state": "open", "request": request, "created": now}
        tx.execute(_INSERT_OPERATION, {**row, "account": account})

    def open_operations(self, tx: Tx, kind: OperationKind) -> list[Operation]:
        """List what is still to be answered, oldest first."""
        rows = tx.all(
            sa.select(operations)
            .where(operations.c.state == "open", operations.c.kind == kind)
            .order_by(operations.c.created)
        )
        return [_operation(row) for row in rows]

    def operation(self, tx: Tx, operation: bytes) -> Operation | None:
        """Give an open operation."""
        row = tx.one(
            sa.select(operations).where(operations.c.operation == operation, operations.c.state == "open")
        )
        return _operation(row) if row else None

    def end_operation(self, tx: Tx, operation: bytes, outcome: Literal["done", "refused"]) -> None:
        """Note that an operation was answered; what a refused one asked for never comes.

        Unless it was restored while it was asked for: the broker had signed it for another copy (`restored`).
        """
        changed = tx.changed(
            sa.update(operations)
            .where(
                operations.c.operation == operation,
                operations.c.state.in_(states.sources(OPERATION, outcome)),
            )
            .values(state=outcome)
        )
        if changed != 1:
            raise states.UnlistedStepError(f"no operation to be {outcome}")
        if outcome == "refused":
            restored = (tokens.c.state == "requested", tokens.c.holder.is_not(None))
            signed = _move("free").where(tokens.c.operation == operation, *restored)
            tx.execute(signed.values(operation=tokens.c.holder, holder=None))
            tx.execute(_move("void").where(tokens.c.operation == operation))

    # --- spending --------------------------------------------------------------------------------------

    def reserve(self, tx: Tx, holder: bytes, values: Iterable[int], now: int) -> list[Token]:
        """Reserve usable coins of these values for `holder` and give them.

        Raises `InsufficientFundsError` if they are not there.
        """
        wanted = Counter(values)
        chosen: list[Row] = []
        for row in self._usable(tx, "coin", now):
            if wanted[row["value"]]:
                wanted[row["value"]] -= 1
                chosen.append(row)
        if wanted.total():
            raise InsufficientFundsError("The wallet does not hold these coins.")
        return self.take(tx, chosen, holder)

    def reserve_ticket(self, tx: Tx, holder: bytes, now: int) -> Token | None:
        """Reserve a ticket for a session about to be opened, or None if none is usable.

        One that was reserved before comes first: its `Hello` was never answered.
        """
        reserved = tx.all(WITH_KEY.where(issuer_keys.c.purpose == "ticket", tokens.c.state == "reserved"))
        if reserved:
            self.release(tx, reserved[0]["holder"])
        free = self._usable(tx, "ticket", now)
        row = reserved[0] if reserved else (free[0] if free else None)
        if row is None:
            return None
        _step(tx, row, "reserved", holder=holder)
        return self._token(row)

    def spend(self, tx: Tx, holder: bytes) -> None:
        """Note that the broker has taken what is reserved for `holder`; repeating it changes nothing."""
        tx.execute(_move("spent").where(tokens.c.holder == holder))

    def release(self, tx: Tx, holder: bytes) -> None:
        """Set free what was reserved for `holder` and never taken."""
        tx.execute(_move("free").where(tokens.c.holder == holder, tokens.c.state == "reserved"))

    def retake(self, tx: Tx, holder: bytes) -> None:
        """Note that the broker has taken what was reserved for `holder` and set free since.

        What something else has been given meanwhile stays with that: the broker will refuse it there.
        """
        tx.execute(_move("reserved").where(tokens.c.holder == holder))
        self.spend(tx, holder)

    def reserved_for(self, tx: Tx, holder: bytes) -> Sequence[Row]:
        """Give the rows of what is reserved for `holder`."""
        return tx.all(WITH_KEY.where(tokens.c.holder == holder, tokens.c.state == "reserved"))

    def pass_on(self, tx: Tx, row: Row, holder: bytes) -> Token:
        """Reserve what `reserved_for` gave for another holder."""
        _step(tx, row, "free")
        _step(tx, row, "reserved", holder=holder)
        return self._token(row)

    def _usable(self, tx: Tx, purpose: coins.Purpose, now: int) -> Sequence[Row]:
        query = WITH_KEY.where(
            tokens.c.state == "free",
            issuer_keys.c.purpose == purpose,
            issuer_keys.c.month >= _oldest_month(now),
        )
        if not self._allow_young:
            query = query.where(tokens.c.usable_from <= now)
        # The older month first: its coins end sooner.
        return tx.all(query.order_by(issuer_keys.c.month, tokens.c.usable_from, tokens.c.counter))

    def _token(self, row: Row) -> Token:
        return coins.unblind(issuer_of(row), self._seed, row["counter"], row["blind_signature"])

    def take(self, tx: Tx, rows: Iterable[Row], holder: bytes) -> list[Token]:
        """Reserve free tokens, as rows with their keys, for `holder` and give them, in no order.

        That of the wallet would say which of them were drawn together; that of the serials, which are
        random, says nothing.
        """
        taken = list(rows)
        for row in taken:
            _step(tx, row, "reserved", holder=holder)
        return sorted((self._token(row) for row in taken), key=lambda token: token.serial)

    # --- counting --------------------------------------------------------------------------------------

    def held(self, tx: Tx, now: int) -> dict[int, int]:
        """Count usable coins by value."""
        return dict(Counter(row["value"] for row in self._usable(tx, "coin", now)))

    def ending(self, tx: Tx, now: int, within_ms: int = ENDING_MS) -> dict[int, int]:
        """Count usable coins by value that will be void within a time."""
        month = slots.month_of(now)
        if slots.month_of(now + within_ms) == month:
            return {}
        old = [row["value"] for row in self._usable(tx, "coin", now) if row["month"] < month]
        return dict(Counter(old))

    def ending_tickets(self, tx: Tx, now: int) -> int:
        """Count usable tickets that will be void within a week; they cannot be swapped."""
        month = slots.month_of(now)
        if slots.month_of(now + ENDING_MS) == month:
            return 0
        return sum(row["month"] < month for row in self._usable(tx, "ticket", now))

    def reserved(self, tx: Tx) -> int:
        """Sum the coins that are reserved for something under way."""
        rows = tx.all(WITH_KEY.where(tokens.c.state == "reserved"))
        return sum(row["value"] for row in rows)

    def under_way(self, tx: Tx) -> int:
        """Count the operations that are still to be answered."""
        count: int = tx.scalar(
            sa.select(sa.func.count()).select_from(operations).where(operations.c.state == "open")
        )
        return count

    def stock(self, tx: Tx, now: int) -> tuple[dict[Key, Stock], int]:
        """Count free tokens by kind, and give the time when the last young one becomes usable (or 0).

        A reserved ticket counts as free: its session was never opened, the next one takes it.
        """
        oldest = _oldest_month(now)
        counts: Counter[tuple[Key, str]] = Counter()
        last = 0
        unopened = sa.and_(tokens.c.state == "reserved", issuer_keys.c.purpose == "ticket")
        for row in tx.all(WITH_KEY.where(sa.or_(tokens.c.state == "free", unopened))):
            age = _age(row, oldest, now)
            if age == "young":
                last = max(last, row["usable_from"])
            counts[((row["purpose"], row["value"]), age)] += 1
        kinds = {kind for kind, _ in counts}
        return {
            kind: Stock(counts[kind, "usable"], counts[kind, "young"], counts[kind, "expired"])
            for kind in kinds
        }, last


def _oldest_month(now: int) -> str:
    """Give the oldest month whose tokens count.

    There is no newest one: the broker signs with the present month's keys alone, so where a token is of a
    month to come this machine's clock is behind the broker's.
    """
    return slots.previous_month(slots.month_of(now))


def _age(row: Row, oldest: str, now: int) -> Literal["usable", "young", "expired"]:
    if row["month"] < oldest:
        return "expired"
    return "usable" if row["usable_from"] <= now else "young"


def _operation(row: Row) -> Operation:
    return Operation(row["operation"], row["kind"], row["request"], row["account"])


def _move(new: str) -> sa.Update:
    return sa.update(tokens).where(tokens.c.state.in_(states.sources(TOKEN, new))).values(state=new)


def _step(tx: Tx, row: Row, new: str, **values: object) -> None:
    statement = _move(new).where(tokens.c.key_id == row["key_id"], tokens.c.counter == row["counter"])
    if tx.changed(statement.values(**values)) != 1:
        raise states.UnlistedStepError(f"no step of a token to {new}")
