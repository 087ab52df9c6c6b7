"""The check of the books finds what was planted, and a broker whose books are wrong moves no money."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from client import Customer, Order, Session, Shopkeeper, accept, fresh
from hypothesis import given
from hypothesis import strategies as st
from world import World

from broker_node import books, ledger, postings, schema
from common import clock, messages
from common.store import Store, Tx


def check(world: World) -> books.Report:
    with world.broker.store.snapshot() as tx:
        return ledger.check(tx)


def check_new(world: World) -> books.Report:
    with world.broker.store.snapshot() as tx:
        return books.check_new(tx)


def write(world: World, *steps: Callable[[Tx], Any] | sa.Executable) -> None:
    with world.broker.store.immediate() as tx:
        for each in steps:
            tx.execute(each) if isinstance(each, sa.Executable) else each(tx)


@contextmanager
def planted(world: World, *steps: Callable[[Tx], Any] | sa.Executable) -> Iterator[Tx]:
    """Give a transaction in which something was done that the check shall find; it is rolled back."""
    tx = Tx(world.broker.store._engine, world.broker.store._statements)
    try:
        for each in steps:
            tx.execute(each) if isinstance(each, sa.Executable) else each(tx)
        yield tx
    finally:
        tx.close()


def buy(session: Session, keeper: Shopkeeper, order: Order, *, confirmed: bool = False) -> None:
    session.say(order.place)
    keeper.say(accept(keeper.hear(messages.ForwardOrder)))
    session.hear(messages.OrderAnswer)
    if confirmed:
        session.ask(order.confirmed, messages.OrderAnswer)


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A market with an order in each of three states, checked after the first. Tests leave it as it is."""
    world = World(tmp_path_factory.mktemp("busy"))
    customer, keeper = Customer(world), Shopkeeper(world)
    session = customer.shop()
    buy(session, keeper, customer.order(128), confirmed=True)
    keep_checkpoint(world)
    buy(session, keeper, customer.order(100))
    session.say(customer.order(256).place)
    keeper.hear(messages.ForwardOrder)
    assert check(world).faults == ()
    yield world
    world.close()


def keep_checkpoint(world: World) -> None:
    report = check(world)
    write(world, lambda tx: books.keep(tx, report, clock.now_ms()))


# --- planted faults ------------------------------------------------------------------------------------


def forged(tx: Tx, entries: dict[str, int]) -> None:
    """Append a posting whose link is right, whatever it says."""
    last = postings.head(tx)
    reference, number = fresh(), last.posting + 1
    link = postings.link_of(last.link, number, reference, 1, entries)
    row = {"posting": number, "reference": reference, "at": 1, "link": link}
    tx.insert(sa.insert(schema.postings), row)
    for book, amount in entries.items():
        tx.insert(sa.insert(schema.ledger), {"posting": number, "book": book, "amount": amount})


def forging(**entries: int) -> Callable[[Tx], None]:
    return lambda tx: forged(tx, {name.replace("_", ":"): amount for name, amount in entries.items()})


def without_the_hold(tx: Tx) -> None:
    """Take one order's hold away, as if it had never been, and make the chain anew."""
    hold = tx.scalar(sa.select(schema.orders.c.order_id).where(schema.orders.c.state == "captured"))

    def change(reference: bytes, entries: dict[str, int]) -> dict[str, int]:
        return {} if reference == hold and "pending:sports" not in entries else entries

    rewritten(tx, change)


def without_a_trace(tx: Tx) -> None:
    """Take a captured order away with all of its postings."""
    gone = tx.scalar(sa.select(schema.orders.c.order_id).where(schema.orders.c.state == "captured"))
    tx.execute(sa.delete(schema.orders).where(schema.orders.c.order_id == gone))
    rewritten(tx, lambda reference, entries: {} if reference == gone else entries)


def refunded_and_claimed(which: sa.ColumnElement[bool]) -> sa.Executable:
    """Let orders say that all of them was given back and drawn: escrow and pending know nothing of them."""
    amount = schema.orders.c.amount
    return sa.update(schema.orders).where(which).values(state="refunded", refunded=amount, claimed=amount)


def more_credit(tx: Tx) -> None:
    """Give an account twice as much, and let everything agree to it."""

    def change(_reference: bytes, entries: dict[str, int]) -> dict[str, int]:
        return {book: 2 * amount for book, amount in entries.items()} if "operator" in entries else entries

    rewritten(tx, change)
    tx.execute(sa.update(schema.balances).values(amount=schema.balances.c.amount + 2000))


def payout(tx: Tx, state: str) -> None:
    """Let a merchant have asked for a payout, without an entry."""
    row = {"payout_id": fresh(), "merchant": "sports", "amount": 5, "destination": "a bank", "state": state}
    tx.insert(sa.insert(schema.payouts), {**row, "content_hash": bytes(32), "requested": 1})


def rewritten(tx: Tx, change: Callable[[bytes, dict[str, int]], dict[str, int]]) -> None:
    """Write the whole history anew, links and lines and all."""
    rows = tx.all(sa.select(schema.postings).order_by(schema.postings.c.posting))
    old = [(row["reference"], row["at"], entries_of(tx, row["posting"])) for row in rows]
    for table in (schema.postings, schema.ledger, schema.merchant_lines):
        tx.execute(sa.delete(table))
    for reference, at, entries in old:
        postings.post(tx, reference, change(reference, entries), at)


def entries_of(tx: Tx, posting: int) -> dict[str, int]:
    rows = tx.all(sa.select(schema.ledger).where(schema.ledger.c.posting == posting))
    return {row["book"]: row["amount"] for row in rows}


def first_mark(tx: Tx) -> Any:
    coin = sa.select(schema.issuer_keys.c.key_id).where(schema.issuer_keys.c.purpose == "coin")
    return tx.scalar(sa.select(sa.func.min(schema.spent.c.mark)).where(schema.spent.c.key_id.in_(coin)))


LEDGER, POSTINGS, ORDERS, LINES = schema.ledger, schema.postings, schema.orders, schema.merchant_lines
FAULTS: dict[str, tuple[Any, str]] = {
    "an entry that was changed": (
        sa.update(LEDGER).where(LEDGER.c.book == "escrow", LEDGER.c.posting == 4).values(amount=1),
        "posting 4 ",
    ),
    "two entries that were changed and still balance": (
        lambda tx: [
            tx.execute(
                sa.update(LEDGER)
                .where(LEDGER.c.posting == 1, LEDGER.c.book == book)
                .values(amount=LEDGER.c.amount + change)
            )
            for book, change in (("operator", -1), ("account:1", 1))
        ],
        "posting 1 or what was before it",
    ),
    "an entry that was deleted": (
        sa.delete(LEDGER).where(LEDGER.c.posting == 2, LEDGER.c.book == "account:1"),
        "posting 2 sums to",
    ),
    "a posting that was deleted": (
        lambda tx: [tx.execute(sa.delete(table).where(table.c.posting == 2)) for table in (LEDGER, POSTINGS)],
        "before posting 3 1 are missing",
    ),
    "the last posting deleted": (
        lambda tx: [
            tx.execute(sa.delete(table).where(table.c.posting == postings.head(tx).posting))
            for table in (LEDGER, POSTINGS)
        ],
        "no hold of its amount",
    ),
    "a posting without its number": (
        sa.delete(POSTINGS).where(POSTINGS.c.posting == 3),
        "the entries of posting 3 have lost it",
    ),
    "entries of no posting": (
        sa.insert(LEDGER).values(posting=10_000, book="escrow", amount=5),
        "1 entries belong to no posting",
    ),
    "another reference": (
        sa.update(POSTINGS).where(POSTINGS.c.posting == 3).values(reference=bytes(16)),
        "posting 3 or what was before it",
    ),
    "another time": (
        sa.update(POSTINGS).where(POSTINGS.c.posting == 3).values(at=1),
        "posting 3 or what was before it",
    ),
    "a posting with one side": (forging(operator=-5), "sums to -5"),
    "a changed balance": (sa.update(schema.balances).values(amount=7), "account 1 shows 7"),
    "a balance without entries": (
        sa.insert(schema.balances).values(account=77, amount=7),
        "account 77 shows 7",
    ),
    "negative escrow": (forging(escrow=-500, commission=500), "escrow is negative"),
    "escrow without an order": (forging(escrow=5, operator=-5), "escrow is 261"),
    "an order whose state was changed": (sa.update(ORDERS).values(state="captured"), "entries are those of"),
    "an order that was deleted": (sa.delete(ORDERS).where(ORDERS.c.state == "held"), "escrow is 256"),
    "a settled order that was deleted": (
        sa.delete(ORDERS).where(ORDERS.c.state == "settled"),
        "posting 3 puts 128 into escrow for no order that there is",
    ),
    "an order that was deleted, and its entries as if they had never been": (
        without_a_trace,
        "coins of 100 were spent by no order and no swap",
    ),
    "a settled order of another amount": (
        sa.update(ORDERS).where(ORDERS.c.state == "settled").values(amount=1),
        "and has no hold of its amount",
    ),
    "a settled order that says it was refunded": (
        refunded_and_claimed(ORDERS.c.state == "settled"),
        "is refunded, but its entries are those of another state",
    ),
    "a captured order without its hold": (without_the_hold, "has no hold of its amount"),
    "another amount": (
        sa.update(ORDERS).where(ORDERS.c.state == "held").values(amount=257),
        "has spent coins of 256 for 257",
    ),
    "a coin that was not counted": (
        sa.update(schema.issuer_keys)
        .where(schema.issuer_keys.c.value == 16, schema.issuer_keys.c.issued > 0)
        .values(issued=schema.issuer_keys.c.issued - 1),
        "of value 16, 1 coins were issued",
    ),
    "a spent coin that came back": (
        lambda tx: tx.execute(sa.delete(schema.spent).where(schema.spent.c.mark == first_mark(tx))),
        "coins were issued",
    ),
    "a charge that is not in the books": (
        sa.insert(schema.top_ups).values(
            id=bytes(16),
            account=1,
            amount=5,
            brand="",
            last_four="",
            charge="",
            state="charged",
            code="",
            created=1,
            attempts=0,
        ),
        "cards were charged 5",
    ),
    "a payout that was deleted": (
        lambda tx: postings.post(tx, fresh(), {"available:sports": -5, "reserved:sports": 5}, 1),
        "reserved:sports is 5, payouts that there are say 0",
    ),
    "a payout that is not in the books": (
        lambda tx: payout(tx, "requested"),
        "reserved:sports is 0, payouts that there are say 5",
    ),
    "a payout that says it was paid": (
        lambda tx: payout(tx, "confirmed"),
        "payouts is 0, payouts that there are say 5",
    ),
    "more claimed than given back": (sa.update(ORDERS).values(claimed=1), "1 claimed"),
    "a merchant's sums": (
        sa.update(LINES).where(LINES.c.line == 2).values(available=99),
        "not the line of sports",
    ),
    "a merchant's line of another kind": (sa.update(LINES).values(kind="refunded"), "not the line of sports"),
    "a merchant's line gone": (sa.delete(LINES).where(LINES.c.line == 2), "not the line of sports"),
    "a line without a posting": (
        sa.insert(LINES).values(
            posting=1, merchant="films", line=1, kind="captured", pending=0, available=0, reserved=0
        ),
        "posting 1 is a line of films",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_check_finds_a_planted_fault(busy: World, fault: str) -> None:
    plant, expected = FAULTS[fault]
    with planted(busy, plant) as tx:
        faults = ledger.check(tx).faults
    assert any(expected in found for found in faults), faults


def test_one_change_is_not_a_fault_of_everything_after_it(busy: World) -> None:
    with planted(busy, sa.update(POSTINGS).where(POSTINGS.c.posting == 1).values(at=1)) as tx:
        assert ledger.check(tx).faults == ("posting 1 or what was before it is not what was written",)


def test_a_history_that_was_written_anew_does_not_fit_the_checkpoint(busy: World) -> None:
    with planted(busy, lambda tx: rewritten(tx, lambda _, entries: entries)) as tx:
        assert ledger.check(tx).faults == (), "the same once more is the same"
    with planted(busy, more_credit) as tx:
        (fault,) = ledger.check(tx).faults
        assert fault.endswith("is not the one that was checked before")
        assert fault in books.check_new(tx).faults


# --- from a checkpoint on ------------------------------------------------------------------------------


def test_a_check_of_what_is_new_looks_at_what_is_new_and_comes_to_the_same_sums(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    buy(session, keeper, customer.order(100), confirmed=True)
    keep_checkpoint(world)
    before = check(world)
    again = check_new(world)
    assert (again.walked, again.faults, again.books) == (0, (), before.books)
    buy(session, keeper, customer.order(16), confirmed=True)
    new, whole = check_new(world), check(world)
    assert (new.walked, new.complete, new.faults) == (3, False, ())
    assert (new.books, new.reached) == (whole.books, whole.reached)
    assert (whole.walked, whole.complete, whole.faults) == (before.walked + 3, True, ())
    write(world, lambda tx: books.keep(tx, new, clock.now_ms()))
    assert check_new(world).walked == 0
    assert check_new(world).books == whole.books


@pytest.mark.parametrize(
    "plant",
    [
        forging(operator=-5),
        forging(escrow=-500, commission=500),
        sa.update(schema.balances).values(amount=7),
        sa.update(ORDERS).values(state="captured"),
        sa.update(schema.issuer_keys).values(issued=5),
        lambda tx: forged(tx, {"pending:sports": 5, "escrow": -5}),
        lambda tx: payout(tx, "requested"),
        # The settled order was checked before: the sum of what was earned misses it.
        sa.delete(ORDERS).where(ORDERS.c.state == "settled"),
        sa.update(ORDERS).where(ORDERS.c.state == "settled").values(amount=1),
        refunded_and_claimed(ORDERS.c.state == "settled"),
    ],
)
def test_a_check_of_what_is_new_finds_it_too(busy: World, plant: Any) -> None:
    with planted(busy, plant) as tx:
        assert books.check_new(tx).faults


def test_orders_with_new_postings_are_looked_at_one_by_one(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    old = customer.order(100)
    buy(session, keeper, old)
    keep_checkpoint(world)
    buy(session, keeper, customer.order(128))
    session.ask(old.confirmed, messages.OrderAnswer)
    buy(session, keeper, customer.order(32), confirmed=True)
    assert check_new(world).faults == ()
    # Every sum stays what it was: what one has too little the other has too much.
    exchanged = sa.case((ORDERS.c.amount == 100, 99), (ORDERS.c.amount == 32, 33), else_=ORDERS.c.amount)
    with planted(world, sa.update(ORDERS).values(amount=exchanged)) as tx:
        faults = books.check_new(tx).faults
    assert len(faults) == 2
    assert all("has no hold of its amount" in fault for fault in faults)


def test_postings_that_were_checked_and_are_gone_are_missed(busy: World) -> None:
    with planted(busy, sa.delete(POSTINGS), sa.delete(LEDGER)) as tx:
        assert any("are gone" in fault for fault in ledger.check(tx).faults)
        assert books.check_new(tx).faults


def test_many_faults_are_counted_and_some_are_shown(busy: World) -> None:
    rows = [{"account": n, "amount": 1} for n in range(1000, 1300)]
    with planted(busy, lambda tx: tx.each(sa.insert(schema.balances), rows)) as tx:
        faults = ledger.check(tx).faults
    assert len(faults) == books.FAULTS_SHOWN + 1
    assert faults[-1] == "and 200 more"


# --- postings ------------------------------------------------------------------------------------------


def test_a_link_is_the_hash_that_the_protocol_says() -> None:
    content = b"\x94\x07\xc4\x10" + bytes(16) + b"\x0a\x92\x92\xa6escrow\xfb\x92\xa8operator\x05"
    expected = hashlib.sha256(b"veilmart v1 ledger\0" + bytes(32) + content).digest()
    assert postings.link_of(bytes(32), 7, bytes(16), 10, {"operator": 5, "escrow": -5}) == expected


AMOUNTS = st.integers(1, 10**12)


MOVES = {
    "capture": ("escrow", "pending:m"),
    "settle": ("pending:m", "available:m"),
    "refund": ("pending:m", "escrow"),
    "give back": ("available:m", "escrow"),
    "ask": ("available:m", "reserved:m"),
    "pay": ("reserved:m", "payouts"),
    "reject": ("reserved:m", "available:m"),
}


@given(st.lists(st.tuples(st.sampled_from(sorted(MOVES)), AMOUNTS), max_size=30))
def test_a_merchants_sums_are_those_of_its_entries_and_never_negative(
    store: Store, steps: list[tuple[str, int]]
) -> None:
    sums = dict.fromkeys(("pending:m", "available:m", "reserved:m"), 0)
    lines = 0
    tx = Tx(store._engine, store._statements)
    try:
        for name, amount in steps:
            source, target = MOVES[name]
            if source in sums and sums[source] < amount:
                with pytest.raises(ledger.OverdrawnError):
                    ledger.post(tx, bytes(16), {source: -amount, target: amount}, 0)
                continue
            ledger.post(tx, bytes(16), {source: -amount, target: amount}, 0)
            lines += 1
            for book, change in ((source, -amount), (target, amount)):
                if book in sums:
                    sums[book] += change
        found = ledger.sums(tx, "m")
        assert (found.line, found.pending, found.available, found.reserved) == (lines, *sums.values())
        tx.noted.clear()
        assert ledger.sums(tx, "m") == found, "what was noted is what is stored"
    finally:
        tx.close()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Any:
    store = Store.in_home(tmp_path_factory.mktemp("books"), "broker.db", "broker_node.migrations")
    yield store
    store.close()


@pytest.mark.parametrize(
    "entries",
    [
        {"pending:a": 5, "pending:b": -5},
        {"pending:a": 5, "account:1": -5},
        {"available:a": 5, "operator": -5},
        {"reserved:a": 5, "escrow": -5},
    ],
)
def test_a_posting_that_no_merchant_could_have_is_a_bug(store: Store, entries: dict[str, int]) -> None:
    with pytest.raises(ledger.UnbalancedError), store.immediate() as tx:
        ledger.post(tx, bytes(16), entries, 0)
    with store.immediate() as tx:
        assert postings.head(tx).posting == 0


def test_two_processes_post_in_turn_and_the_chain_goes_on(store: Store, world: World) -> None:
    other = Store.in_home(world.broker_home, "broker.db", "broker_node.migrations")
    for turn in (world.broker.store, other, world.broker.store):
        with turn.immediate() as tx:
            ledger.post(tx, fresh(), {"operator": -1, "coins:1": 1}, 0)
            ledger.post(tx, fresh(), {"operator": 1, "coins:1": -1}, 0)
    other.close()
    assert (check(world).faults, check(world).walked) == ((), 6)
