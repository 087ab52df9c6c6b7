"""Bugs as they happen, to be planted into the product: that a test finds them shows that it sees.

Each is one forgotten line, by name, with a pattern of what the finder says. Whoever moves the code that a bug
is planted in moves the bug with it: a plant that finds no place fails.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import pytest
import sqlalchemy as sa

from broker_node import (
    accounts,
    answers,
    exchange,
    kept_refusals,
    ledger,
    mint,
    operations,
    order_rows,
    orders,
    payments,
    refusals,
    schema,
    signed_once,
    telling,
    topups,
)
from broker_node.sends import ToSession
from broker_node.signing import Asked
from common import messages
from common.errors import RefusedError
from customer_node import account, funds
from customer_node.account import Account
from customer_node.wallet import Wallet

Plant: TypeAlias = Callable[[pytest.MonkeyPatch], None]


class Forgetful:
    """A transaction that does not insert the rows of one book."""

    def __init__(self, tx: Any, book: str) -> None:
        self._tx = tx
        self._book = book

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tx, name)

    def insert(self, statement: Any, row: Mapping[str, Any]) -> None:
        if row.get("book") != self._book:
            self._tx.insert(statement, row)


def skip_a_row(patch: pytest.MonkeyPatch) -> None:
    """A posting of many entries loses its last one."""
    post = ledger.post

    def posting(tx: Any, reference: bytes, entries: Mapping[str, int], now: int) -> None:
        books = [book for book, amount in entries.items() if amount]
        post(Forgetful(tx, books[-1]) if len(books) > 2 else tx, reference, entries, now)  # type: ignore[arg-type]

    patch.setattr(ledger, "post", posting)


def let_ids_collide(patch: pytest.MonkeyPatch) -> None:
    """Nobody asks whether something else was posted under an order's id."""
    patch.setattr(order_rows, "taken", lambda _tx, _order_ids: set())


def charge_for_what_was_given_back(patch: pytest.MonkeyPatch) -> None:
    """The operator's share is computed of the whole order, whatever was given back of it."""

    def settling(tx: Any, rows: Any, basis_points: int, now: int) -> None:
        for row in rows:
            left = row["amount"] - row["refunded"]
            share = min(left, ledger.commission_of(row["amount"], basis_points))
            books = (ledger.pending_book(row["merchant"]), ledger.available_book(row["merchant"]))
            entries = dict(zip((*books, ledger.COMMISSION), (-left, left - share, share), strict=True))
            ledger.post(tx, row["order_id"], entries, now)

    patch.setattr(ledger, "settle", settling)


def refuse_stored_answers(patch: pytest.MonkeyPatch) -> None:
    """While payments are stopped nothing is answered, and the wallet takes that for the last word."""
    patch.setattr(payments, "is_known", lambda _tx, _arrival: False)
    patch.setattr(account, "PaymentsStoppedError", NeverError)
    patch.setattr(funds, "PaymentsStoppedError", NeverError)


class NeverError(Exception):
    """Raised by nobody."""


def skip_swaps(patch: pytest.MonkeyPatch) -> None:
    """Coins against coins are not posted: the sum is the same, after all."""
    post = ledger.post

    def posting(tx: Any, reference: bytes, entries: Mapping[str, int], now: int) -> None:
        if not all(book.startswith("coins:") for book in entries):
            post(tx, reference, entries, now)

    patch.setattr(ledger, "post", posting)


def sign_twice(patch: pytest.MonkeyPatch) -> None:
    """A second claim for one order is taken for the first one again, and its own coins are signed."""
    claim = exchange.Exchange.claim

    def signing(self: Any, tx: Any, session: Any, request: Any, now: int, random: Any) -> Any:
        try:
            return claim(self, tx, session, request, now, random)
        except RefusedError as error:
            if error.code != "idempotency_conflict":
                raise
            signatures = self._mint.sign(request.blinded)
            return [
                ToSession(
                    session.sid, messages.RefundIssued(operation=request.operation, signatures=signatures)
                )
            ]

    patch.setattr(exchange.Exchange, "claim", signing)


def forget_answers(patch: pytest.MonkeyPatch) -> None:
    """What was signed is not kept: a withdrawal that comes again is another withdrawal."""
    store = operations.store

    def storing(tx: Any, key: bytes, shown: bytes, response: Any) -> Any:
        return None if isinstance(response, messages.Withdrawn) else store(tx, key, shown, response)

    patch.setattr(operations, "store", storing)


def forget_refusals(patch: pytest.MonkeyPatch) -> None:
    """What was refused is not kept: a copy that comes when the reason has gone is granted."""

    def refusing(_self: Any, _tx: Any, sender: Any, request: Any, error: RefusedError, _now: int) -> Any:
        return refusals.refuse(sender, request, error)

    patch.setattr(kept_refusals.KeptRefusals, "refuse", refusing)


def give_nothing_up(patch: pytest.MonkeyPatch) -> None:
    """What a search was told is unknown is executed when it comes."""
    patch.setattr(kept_refusals.KeptRefusals, "give_up", lambda *_: None)


def release_a_late_accept(patch: pytest.MonkeyPatch) -> None:
    """An answer is taken whenever it comes before the clock has ended the order."""
    take = answers.Answers._take

    def taking(self: Any, tx: Any, row: Any, *others: Any) -> Any:
        return take(self, tx, {**row, "deadline": 2**52}, *others)

    patch.setattr(answers.Answers, "_take", taking)


def pay_for_a_void_order(patch: pytest.MonkeyPatch) -> None:
    """A merchant whose order is over hears that it is paid."""
    patch.setitem(telling.OUTCOMES, "refundable", "captured")


def see_no_double_spend(patch: pytest.MonkeyPatch) -> None:
    """What was there already is not looked at."""
    spend = mint.spend
    patch.setattr(exchange, "spent_by_others", lambda _tx, _claims: set())
    for module in (exchange, orders):
        patch.setattr(module, "spend", lambda tx, claims: spend(tx, claims) and set())


def free_the_winners_coins(patch: pytest.MonkeyPatch) -> None:
    """Who loses a double spend has its coins given back by their marks, which are the winner's too."""
    spend = mint.spend

    def spending(tx: Any, claims: Mapping[bytes, mint.Checked]) -> set[bytes]:
        losers = spend(tx, claims)
        marks = [mark for loser in losers for mark, _ in claims[loser].marks]
        tx.execute(sa.delete(schema.spent).where(schema.spent.c.mark.in_(marks)))
        return losers

    for module in (exchange, orders):
        patch.setattr(module, "spend", spending)


def debit_nobody(patch: pytest.MonkeyPatch) -> None:
    """The entry of a withdrawal is written, the row that the next one looks at is not changed."""
    change = ledger.change_balance

    def changing(tx: Any, account: int, amount: int) -> None:
        if amount > 0:
            change(tx, account, amount)

    patch.setattr(ledger, "change_balance", changing)


def sign_a_value_again(patch: pytest.MonkeyPatch) -> None:
    """Nobody asks whether a blinded value was signed before: it is the same coin, and debited again."""
    patch.setattr(signed_once, "wanted_again", lambda _tx, _requests: set())
    patch.setattr(signed_once, "note", lambda _tx, _marks: None)


def count_nothing(patch: pytest.MonkeyPatch) -> None:
    """Coins that are handed out are not counted."""
    patch.setattr(mint.Mint, "count_issued", staticmethod(lambda _tx, _blinded: None))


def compare_no_sums(patch: pytest.MonkeyPatch) -> None:
    """A swap may ask for what it likes."""

    def checking(self: Any, asked: Asked, now: int) -> Asked:
        spent = self._mint.verify(asked.request.coins, "coin", now)  # type: ignore[union-attr]
        return replace(asked, spent=spent, made=self._mint.check_blinded(asked.blinded, "coin", now))

    patch.setattr(exchange.Exchange, "_check_swap", checking)


def refund_what_was_captured(patch: pytest.MonkeyPatch) -> None:
    """A claim is good in every state: nobody looks at how much was given back."""
    check = order_rows.check_claim

    def checking(row: Any, secret: bytes) -> Any:
        found = check(row, secret)
        return {**found, "refunded": found["amount"]}

    orders_of = schema.orders.c
    unbounded = (
        sa.update(schema.orders)
        .where(orders_of.order_id == sa.bindparam("of"), orders_of.state == sa.bindparam("old"))
        .values(claimed=orders_of.claimed + sa.bindparam("more"), state=sa.bindparam("new"))
    )
    patch.setattr(order_rows, "check_claim", checking)
    patch.setattr(exchange, "_CLAIM", unbounded)


def take_silence_for_no(patch: pytest.MonkeyPatch) -> None:
    """A charge that the gateway does not answer for in time counts as declined."""
    patch.setattr(
        topups.TopUps, "_put_off", lambda self, tx, row, _now: self._decline(tx, row, "not_charged")
    )


def keep_spent_coins(patch: pytest.MonkeyPatch) -> None:
    """The wallet sets free what the broker has taken."""
    patch.setattr(Wallet, "spend", Wallet.release)


def forget_withdrawals(patch: pytest.MonkeyPatch) -> None:
    """A withdrawal that a crash cut short is not taken up again."""
    patch.setattr(Account, "_open_operations", lambda _self: [])


def forget_who_closes(patch: pytest.MonkeyPatch) -> None:
    """What an account is logged in to with is erased when it is closed."""
    close = accounts.close

    def closing(tx: Any, account: int) -> None:
        close(tx, account)
        accounts.sweep(tx, 2**52, 0)

    patch.setattr(accounts, "close", closing)


PLANTED: Mapping[str, tuple[Plant, str]] = {
    plant.__name__: (plant, found)
    for plant, found in (
        (skip_a_row, "posting .* sums to"),
        (sign_twice, "coins owed and coins held differ"),
        (release_a_late_accept, "captured after its deadline"),
        (see_no_double_spend, "coins were issued"),
        (skip_swaps, "coins were issued|coins:.* is negative"),
        (forget_answers, "coins owed and coins held differ|another sum"),
        (pay_for_a_void_order, "told both|told that it is paid|at the merchant"),
        (free_the_winners_coins, "coins were issued"),
        (debit_nobody, "account.* shows|account.* is negative"),
        (count_nothing, "coins were issued"),
        (compare_no_sums, "failed in its own code"),
        (refund_what_was_captured, "escrow is|told that it is paid|at the merchant"),
        (take_silence_for_no, "failed in its own code|gateway"),
        (keep_spent_coins, "coins owed and coins held differ|OrderView|customers/alice|another sum"),
        (forget_withdrawals, "customers/alice"),
        (let_ids_collide, "its entries are those of another state|no hold of its amount"),
        (charge_for_what_was_given_back, "another commission"),
        (forget_refusals, "coins owed and coins held differ|another sum|refused, and done"),
        (sign_a_value_again, "coins owed and coins held differ|the thief has another sum"),
        (give_nothing_up, "coins owed and coins held differ|another sum|no customer knows|is nobody's"),
        (forget_who_closes, "customers/alice"),
        (refuse_stored_answers, "coins owed and coins held differ|customers/alice|another sum"),
    )
}
"""Name -> the plant and what its finder says."""
