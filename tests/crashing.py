"""Dying at a chosen moment, and what must be true afterwards.

    arm(loop, {Point("ForwardOrder", "after the commit")}, die)   a node dies at one message
    arm(loop, {Point("Signed of Swap", "before the commit")}, die)     or at what ends one kind of request
    with stepping(market, last(17, die)): ...                     a customer dies at the 17th step

`die` is an exception that nobody catches, where the market is in memory, and SIGKILL where this file runs as
a process of its own:

    python crashing.py broker|merchant HOME MESSAGE/MOMENT ...    runs until one of these, which it names
    python crashing.py customer PROFILE FOLDER STEP ACCOUNT       shops until that step, or names how many
    python crashing.py command STEP WORD ...                      runs `veilmart WORD ...` until that step

`shop` is what every customer here does, as a script would: begun again after any crash it goes on. One that
quarrels also calls an order off and disputes one; `give_in` is what merchant and operator do then, and
`make_up` how the customer takes its money back.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NoReturn, TypeAlias

import sqlalchemy as sa

from broker_node import disputes, ledger, payouts, relay, schema
from broker_node.audit import Audit
from broker_node.exchange import Signed
from broker_node.gateways.sandbox import SandboxGateway
from broker_node.run import open_store, run_broker
from common import clock, messages, payment_cards
from common.config import load_limits
from common.errors import DeadlineError, OutOfStockError, VeilmartError
from common.logs import log_to_stderr
from common.market_file import MarketFile
from common.node import Loop
from common.store import Store, Tx
from customer_node import Market, checkout, fetching, files, hello, sessions
from customer_node.standing import unconfirmed
from customer_node.views import ResumedView
from merchant_node import money
from merchant_node import schema as merchant_schema
from merchant_node import session as merchant_session
from merchant_node.disputes import Disputes
from merchant_node.home import MerchantHome
from merchant_node.refunds import Refunds
from merchant_node.run import run_merchant
from merchant_node.treasury import Treasury

MERCHANT = "sports"
PASSWORD = "a long enough password"
FUNDS = 40_000
TOPPED_UP = 5_000
PATIENCE = 20
MOST_WAITS = 600
CELLS = 3
BOUGHT, REFUSED, UNANSWERED = "ROUTE", "RARE", "SLOW"
PRICES = {BOUGHT: 77, REFUSED: 29, UNANSWERED: 41}
"""Of the last one every order is left unanswered, so that it can be called off."""
GIVEN_BACK = 10
CONTENT = {sku: hashlib.shake_256(sku.encode()).digest(CELLS * 64 * 1024 - 100) for sku in PRICES}
RARE_LEFT = 2
LIMITS = "reforward_first_ms = 200\nreforward_longest_ms = 1000\ntop_up_ask_first_ms = 200\n"

Die: TypeAlias = Callable[[], NoReturn]
Moment: TypeAlias = Literal["before the commit", "after the commit", "after publishing"]
MOMENTS: tuple[Moment, ...] = ("before the commit", "after the commit", "after publishing")

BROKER_MESSAGES = (
    "Greeting",
    "PasswordResult",
    "TopUp",
    "Opened",
    "Ended",
    "Withdraw",
    "Swap",
    "Signed of Withdraw",
    "Signed of Swap",
    "Signed of ClaimRefund",
    "AskMerchant",
    "AnswerForward",
    "PlaceOrder",
    "AnswerOrder",
    "OutcomeKept",
    "AnswerKept",
    "FetchCells",
    "Cells",
    "ConfirmDelivery",
    "CancelOrder",
    "OpenDispute",
    "AnswerDispute",
    "RefundOrder",
    "ClaimRefund",
    "GetStatement",
    "RequestPayout",
)
MERCHANT_MESSAGES = (
    "HelloAnswered",
    "Forward",
    "ForwardOrder",
    "OrderOutcome",
    "ForwardFetch",
    "DisputeOpened",
    "DisputeAnswered",
    "RefundTaken",
    "Statement",
    "PayoutAnswer",
)


class Crash(BaseException):
    """The end of a process that is only played."""


def crash() -> NoReturn:
    raise Crash


def kill_myself() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


def stock_shop(inventory: Any, folder: Path) -> None:
    """Put on sale what `shop` buys; of the rare thing there are fewer than it asks for."""
    folder.mkdir(parents=True, exist_ok=True)
    for sku, price in PRICES.items():
        path = folder / f"{sku.lower()}.bin"
        path.write_bytes(CONTENT[sku])
        inventory.add(path, sku, title=sku, price=price, stock=RARE_LEFT if sku == REFUSED else None)


IMPATIENCE = (
    (sessions, "REPEAT_FIRST_MS", 150),
    (hello, "REPEAT_FIRST_MS", 150),
    (checkout, "REPEAT_FIRST_MS", 150),
    (fetching, "PATIENCE_MS", 300),
    (fetching, "PAUSE_MS", 30),
    (relay, "FETCH_PATIENCE_MS", 300),
    (merchant_session, "HELLO_FIRST_MS", 200),
    (money, "STATEMENT_EVERY_MS", 400),
    (money, "STATEMENT_AGAIN_MS", 200),
    (money, "PAYOUT_FIRST_MS", 200),
)
"""Module, name, milliseconds: what is otherwise repeated after seconds."""


# --- nodes ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """The first time that a node handles such a message, and a moment of handling it."""

    message: str
    moment: Moment

    def __str__(self) -> str:
        return f"{self.message}/{self.moment}"

    @classmethod
    def parse(cls, text: str) -> Point:
        message, moment = text.split("/")
        return next(cls(message, known) for known in MOMENTS if known == moment)


def arm(loop: Loop, points: Collection[Point], die: Callable[[Point], NoReturn]) -> None:
    """Let a node's loop die at whichever of `points` comes first."""
    core: Any = loop._core
    receive_all, seen, deliver = core.receive_all, core.seen, loop.deliver
    reached: dict[Moment, Point] = {}

    def deciding(tx: Any, arrivals: Sequence[Any], now: int, random: Any) -> Any:
        sends = receive_all(tx, [each for each in arrivals if not _unanswered(each.body)], now, random)
        kinds = {_kind(arrival.body) for arrival in arrivals}
        reached.update({point.moment: point for point in points if point.message in kinds})
        if "before the commit" in reached:
            tx.flush()
            die(reached["before the commit"])
        return sends

    def committed(arrivals: Any, now: int) -> None:
        if "after the commit" in reached:
            die(reached["after the commit"])
        seen(arrivals, now)

    def delivering(sends: Any, now: int) -> None:
        deliver(sends, now)
        if "after publishing" in reached:
            loop._serve_cells()
            for connection in loop._connections.values():
                connection.flush()
            die(reached["after publishing"])

    core.receive_all, core.seen = deciding, committed
    loop.deliver = delivering  # type: ignore[method-assign]


def _kind(body: Any) -> str:
    """Name a message; what a worker has signed is named with the request that it answers."""
    name = type(body).__name__
    return f"{name} of {type(body.asked.request).__name__}" if isinstance(body, Signed) else name


def _unanswered(body: Any) -> bool:
    return isinstance(body, messages.ForwardOrder) and body.amount == PRICES[UNANSWERED]


# --- customers -----------------------------------------------------------------------------------------


class Steps:
    """Counts what a customer's process does to the world outside it, and calls `at` with each number.

    A step is the moment before or after a commit that changes something, a publish, or a finished file's
    getting its name.
    """

    def __init__(self, at: Callable[[int], None]) -> None:
        self.taken = 0
        self._at = at

    def step(self) -> None:
        self.taken += 1
        self._at(self.taken)

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def stepping(*arguments: Any, **options: Any) -> Any:
            self.step()
            result = function(*arguments, **options)
            self.step()
            return result

        return stepping


def last(number: int, die: Die) -> Callable[[int], None]:
    """Die at one step; 0 is none."""

    def at(step: int) -> None:
        if step == number:
            die()

    return at


@contextmanager
def stepping(market: Market, at: Callable[[int], None]) -> Iterator[Steps]:
    """Call `at` at each step of the process that has this market open."""
    steps = Steps(at)
    context = market._context
    store: Any = context.profile.store
    immediate, connect, link = store.immediate, context.uplink._connect, os.link

    def stepping_connect(settings: Any) -> Any:
        connection: Any = connect(settings)
        put = connection.put

        def put_and_flush(*arguments: Any, **options: Any) -> bool:
            there = bool(put(*arguments, **options))
            connection.flush()
            return there

        connection.put = steps.around(put_and_flush)
        return connection

    store.immediate, context.uplink._connect = _stepping_immediate(immediate, steps), stepping_connect
    files.os.link = steps.around(link)  # type: ignore[attr-defined]
    try:
        yield steps
    finally:
        files.os.link = link  # type: ignore[attr-defined]
        store.immediate, context.uplink._connect = immediate, connect


def _stepping_immediate(immediate: Callable[..., Any], steps: Steps) -> Callable[..., Any]:
    @contextmanager
    def stepping_immediate(*store: Any) -> Iterator[Any]:
        with immediate(*store) as tx:
            before = _changes(tx)
            yield tx
            tx.flush()
            wrote = _changes(tx) > before
            if wrote:
                steps.step()
        if wrote:
            steps.step()

    return stepping_immediate


def _changes(tx: Any) -> int:
    changes: int = tx._connection.connection.driver_connection.total_changes
    return changes


def shop(market: Market, name: str, folder: Path, *, quarrels: bool = False) -> None:
    """Buy one thing that is delivered and one that the merchant refuses, and take all to its end.

    Who quarrels also orders one that is called off, and disputes one, which stays so. What fails is begun
    again, as a person would do it who sees an error; raises the last one after a while.
    """
    expected = QUARRELLED if quarrels else ENDS
    _until_done(lambda: _shop(market, name, folder, quarrels=quarrels), lambda: all_done(market, expected))


ENDS = frozenset({"complete", "refunded"})
QUARRELLED = ENDS | {"disputed"}


def _until_done(go_on: Callable[[], list[ResumedView]], done: Callable[[], bool]) -> None:
    for attempt in range(PATIENCE):
        try:
            results = go_on()
        except VeilmartError as error:
            failure: VeilmartError | None = error
        else:
            failure = next((result.error for result in results if result.error), None)
            if not failure and done():
                return
        time.sleep(0.05 * attempt)
    raise AssertionError("something is still open") from failure


def give_in(broker_home: Path, merchant_home: Path, market: Market, wait: Callable[[], object]) -> None:
    """Let the merchant give a part of one order back and speak to the dispute, which the operator decides."""
    merchant, broker = MerchantHome(merchant_home).store(), open_store(broker_home)
    given, said = Refunds(merchant), Disputes(merchant)
    delivered, disputed = _order_of(market, "one"), _order_of(market, "four")
    try:
        until(lambda: disputed in {each.order_id for each in said.listing()}, wait)
        said.answer(disputed, "it was fetched")
        # One after the other: a node dies at one point of a batch, and never comes to the others of it again.
        until(lambda: all(each.sent for each in said.listing() if each.order_id == disputed), wait)
        given.ask(delivered, GIVEN_BACK, "it rained", clock.now_ms(), clock.random_bytes)
        until(lambda: given.listing(delivered)[0].state == "done", wait)
        with broker.immediate() as tx:
            limits = load_limits(broker_home)
            audit = Audit(MarketFile.load(broker_home / "market.json").market_id, limits)
            now, random = clock.now_ms(), clock.random_bytes
            disputes.decide(tx, audit, limits, disputed, "refunded", "no cell went out", now, random)
        until(lambda: disputed not in {each.order_id for each in said.listing()}, wait)
    finally:
        merchant.close()
        broker.close()


def make_up(market: Market, folder: Path) -> None:
    """Take back what was given back after `shop`."""

    def go_on() -> list[ResumedView]:
        for key in ("one", "four"):
            market.ask(_order_of(market, key).hex())
        return market.resume(folder)

    def done() -> bool:
        one = market.order(_order_of(market, "one").hex())
        return all_done(market) and one.refunded == one.claimed == GIVEN_BACK

    _until_done(go_on, done)


def _order_of(market: Market, key: str) -> bytes:
    return next(bytes.fromhex(each.order_id) for each in market.orders() if each.idempotency_key == key)


def pay_out(broker_home: Path, merchant_home: Path, wait: Callable[[], object]) -> None:
    """Have the merchant's money paid out: the merchant asks for all of it, and the operator confirms.

    `wait` lets some time pass. What was asked for and not answered is asked for again by whoever runs.
    """
    merchant, broker = MerchantHome(merchant_home).store(), open_store(broker_home)
    treasury = Treasury(merchant)
    try:
        payout = _wish(treasury, wait)
        until(lambda: treasury.payout(payout).state == "requested", wait)
        with broker.immediate() as tx:
            audit = Audit(MarketFile.load(broker_home / "market.json").market_id, load_limits(broker_home))
            payouts.decide(tx, audit, payout, "confirmed", "paid by hand", clock.now_ms(), clock.random_bytes)
        until(lambda: treasury.payout(payout).state == "confirmed", wait)
    finally:
        merchant.close()
        broker.close()


def _wish(treasury: Treasury, wait: Callable[[], object]) -> bytes:
    """Ask for all that is available, once the statement has told of it."""
    until(lambda: treasury.balance().available > 0 and not treasury.balance().pending, wait)
    return treasury.ask(None, "an account somewhere", clock.now_ms(), clock.random_bytes).payout_id


def until(there: Callable[[], bool], wait: Callable[[], object]) -> None:
    for _ in range(MOST_WAITS):
        if there():
            return
        wait()
    raise AssertionError("it never came")


def all_done(market: Market, expected: Collection[str] = ENDS) -> bool:
    """Tell whether every order has come to its end, and the broker knows of it."""
    with market._context.profile.store.immediate() as tx:
        waiting = unconfirmed(tx)
    return not waiting and {order.state for order in market.orders()} <= set(expected)


def _shop(market: Market, name: str, folder: Path, *, quarrels: bool) -> list[ResumedView]:
    if all(each.state != "charged" for each in market.top_ups()):
        _log_in(market, name)
        market.top_up(TOPPED_UP, sandbox_card(), "the first")
    draw(market, name)
    known = {order.idempotency_key for order in market.orders()}
    for key, sku, quantity in (("one", BOUGHT, 1), ("two", REFUSED, RARE_LEFT + 1)):
        if key not in known:
            with contextlib.suppress(OutOfStockError):
                market.buy_now(MERCHANT, sku, quantity, key)
    if quarrels:
        _call_off(market)
        _dispute(market)
    return [result for result in market.resume(folder) if not isinstance(result.error, OutOfStockError)]


def _call_off(market: Market) -> None:
    """Order what nobody answers, and call it off."""
    if _state_of(market, "three") in OPENED:
        try:
            with _waiting(market, SHORT_WAIT_MS):
                market.buy_now(MERCHANT, UNANSWERED, 1, "three")
        except DeadlineError:
            if _state_of(market, "three") in OPENED:
                raise  # it was a broker that died, while the coins were changed: begin again
    if _state_of(market, "three") == "placed":
        market.cancel(_order_of(market, "three").hex())


def _dispute(market: Market) -> None:
    """Buy what is there, and dispute it before it is fetched."""
    if _state_of(market, "four") in {*OPENED, "placed"}:
        market.buy_now(MERCHANT, BOUGHT, 1, "four")
    if _state_of(market, "four") == "accepted":
        market.dispute(_order_of(market, "four").hex(), "not_delivered", "nothing came", reveal=False)


OPENED = ("", "draft", "refused")


def _state_of(market: Market, key: str) -> str:
    return next((each.state for each in market.orders() if each.idempotency_key == key), "")


@contextmanager
def _waiting(market: Market, milliseconds: int) -> Iterator[None]:
    context = market._context
    before = context.timeout_ms
    object.__setattr__(context, "timeout_ms", milliseconds)
    try:
        yield
    finally:
        object.__setattr__(context, "timeout_ms", before)


SHORT_WAIT_MS = 600


def draw(market: Market, name: str) -> None:
    """Withdraw where no ticket is left, or go on with what was begun: a ticket shown in vain is given up."""
    wallet = market.wallet()
    if wallet.tickets and not wallet.open_operations:
        return
    _log_in(market, name)
    if wallet.open_operations:
        market.resume()
    if not market.wallet().tickets:
        market.withdraw()


def _log_in(market: Market, name: str) -> None:
    if not market.wallet().logged_in:
        market.log_in(name, PASSWORD)


def sandbox_card(number: str = "4242424242424242") -> messages.PaymentCard:
    """Give a card that the sandbox gateway knows."""
    return payment_cards.card(number, expiry="12/34", security_code="987", name="Augusta King")


# --- what must be true ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Homes:
    """Where every party keeps its records."""

    broker: Path
    merchants: dict[str, Path]
    profiles: Sequence[Path]


def check_books(
    homes: Homes,
    content: Mapping[str, bytes] = CONTENT,
    others_hold: Mapping[int, int] = MappingProxyType({}),
    others_ordered: Collection[bytes] = (),
    drawn_elsewhere: Mapping[str, int] = MappingProxyType({}),
) -> Counter[str]:
    """Compare every party's records with every other's; gives how many orders ended how.

    Each order of each customer is delivered, with `content` by SKU, or refunded; each coin that the broker
    owes lies in a wallet, and none else does; what merchants earned is what was delivered; what cards were
    charged is on the accounts that they were charged for. Each customer has what was ever credited to it: on
    the account, in the wallet, and in things. Customers without a profile hold coins, value -> number, and
    have placed orders, by id. What other devices drew of a customer's account is known by its name.
    """
    broker = _Broker(homes.broker)
    held: Counter[int] = Counter(others_hold)
    charged = 0
    ends: Counter[str] = Counter()
    seen: set[bytes] = set(others_ordered)
    for profile in homes.profiles:
        with Market(profile) as market:
            wallet = market.wallet()
            assert (wallet.open_operations, wallet.reserved) == (0, 0), profile
            mine = Counter({coin.value: coin.usable + coin.young for coin in wallet.coins})
            held += mine
            paid = sum(order.total - order.claimed for order in market.orders())
            charged += sum(each.amount for each in market.top_ups() if each.state == "charged")
            assert all(each.state != "open" for each in market.top_ups()), profile
            has = broker.accounts[profile.name] + sum(value * n for value, n in mine.items()) + paid
            has += drawn_elsewhere.get(profile.name, 0)
            assert has == broker.credited[profile.name], "a customer has another sum than it was given"
            for order in market.orders():
                seen.add(bytes.fromhex(order.order_id))
                ends[_check_order(market, order, broker.orders[bytes.fromhex(order.order_id)], content)] += 1
    assert seen == set(broker.orders), "an order that no customer knows, or the broker does not"
    assert held == broker.outstanding, "coins owed and coins held differ"
    assert charged == broker.charged == -broker.report.books.get(ledger.GATEWAY, 0), (
        "the gateway has another sum"
    )
    for merchant, home in homes.merchants.items():
        _check_merchant(merchant, home, broker)
    return ends


def _check_order(market: Market, order: Any, at_broker: Any, content: Mapping[str, bytes]) -> str:
    assert order.state in ("complete", "refunded"), order
    assert order.total == at_broker["amount"]
    assert (order.refunded, order.claimed) == (at_broker["refunded"], at_broker["claimed"])
    if order.state == "refunded":
        assert at_broker["state"] == "refunded"
        if at_broker["captured_at"] is None:
            assert market.files(order.order_id) == ()
        return "refunded"
    assert at_broker["state"] == "settled"
    delivered = market.files(order.order_id)
    assert [file.sku for file in delivered] == [line.sku for line in order.lines]
    for file in delivered:
        assert file.path.read_bytes() == content[file.sku]
    receipt = market.receipt(order.order_id)
    assert (receipt.total, receipt.order_id) == (order.total, order.order_id)
    return "delivered"


class _Broker:
    """The broker's books, read from its store."""

    def __init__(self, home: Path) -> None:
        store = open_store(home)
        try:
            with store.immediate() as tx:
                self.report = ledger.check(tx)
                self.orders = {row["order_id"]: row for row in tx.all(sa.select(schema.orders))}
                issued = tx.all(sa.select(schema.issuer_keys).where(schema.issuer_keys.c.purpose == "coin"))
                spent = Counter(row["key_id"] for row in tx.all(sa.select(schema.spent)))
                names = {row["id"]: row["name"] for row in tx.all(sa.select(schema.accounts))}
                entries = tx.all(sa.select(schema.ledger).where(schema.ledger.c.book.startswith("account:")))
                paid = tx.all(sa.select(schema.payouts))
                self.kept = _commissions(tx, load_limits(home).commission_basis_points)
        finally:
            store.close()
        assert self.report.faults == ()
        books = {ledger.account_book(number): name for number, name in names.items()}
        self.accounts: Counter[str] = Counter()
        self.credited: Counter[str] = Counter()
        for entry in entries:
            self.accounts[books[entry["book"]]] += entry["amount"]
            self.credited[books[entry["book"]]] += max(0, entry["amount"])
        self.payouts = {row["payout_id"]: row["state"] for row in paid}
        self.paid_out: Counter[str] = Counter()
        for row in paid:
            self.paid_out[row["merchant"]] += row["amount"] if row["state"] == "confirmed" else 0
        assert self.report.books.get(ledger.PAYOUTS, 0) == self.paid_out.total()
        self.charged = SandboxGateway(home, clock.now_ms).received()
        self.outstanding: Counter[int] = Counter()
        for key in issued:
            self.outstanding[key["value"]] += key["issued"] - spent[key["key_id"]]
        self.outstanding = +self.outstanding
        assert self.report.books.get(ledger.ESCROW, 0) == 0, "something in escrow is nobody's"
        owed = {
            book: amount for book, amount in self.report.books.items() if book.startswith("coins:") and amount
        }
        assert owed == {ledger.coins_book(value): value * n for value, n in self.outstanding.items()}


def _commissions(tx: Tx, basis_points: int) -> Counter[str]:
    """Give what the operator kept of each merchant's settled orders, having computed it anew."""
    kept: Counter[str] = Counter()
    lines, entries = schema.merchant_lines.c, schema.ledger.c
    for line in tx.all(sa.select(lines.merchant, lines.posting).where(lines.kind == "settled")):
        of = sa.select(entries.book, entries.amount).where(entries.posting == line["posting"])
        moved = {row["book"]: row["amount"] for row in tx.all(of)}
        share = moved.get(ledger.COMMISSION, 0)
        left = -moved[ledger.pending_book(line["merchant"])]
        assert share == ledger.commission_of(left, basis_points), "another commission than was agreed"
        kept[line["merchant"]] += share
    return kept


def _check_merchant(merchant: str, home: Path, broker: _Broker) -> None:
    theirs = {oid: row for oid, row in broker.orders.items() if row["merchant"] == merchant}
    store: Store = MerchantHome(home).store()
    try:
        with store.immediate() as tx:
            orders = {row["order_id"]: row for row in tx.all(sa.select(merchant_schema.orders))}
            by_number = {row["number"]: order_id for order_id, row in orders.items()}
            sales = [by_number[row["order_number"]] for row in tx.all(sa.select(merchant_schema.sales))]
            reserved = tx.all(
                sa.select(merchant_schema.order_lines, merchant_schema.orders.c.state).join(
                    merchant_schema.orders,
                    merchant_schema.orders.c.number == merchant_schema.order_lines.c.order_number,
                )
            )
            left = {row["sku"]: row["available"] for row in tx.all(sa.select(merchant_schema.stock))}
            wishes = {row["payout_id"]: row["state"] for row in tx.all(sa.select(merchant_schema.payouts))}
    finally:
        store.close()
    expected = {"settled": {"delivered"}, "refunded": {"rejected", "cancelled", "refunded"}}
    for order_id, row in theirs.items():
        if row["captured_at"] is not None or order_id in orders:
            assert orders[order_id]["state"] in expected[row["state"]]
            assert orders[order_id]["amount"] == row["amount"]
            assert (orders[order_id]["state"] == "refunded") == (
                row["state"] == "refunded" and row["captured_at"] is not None
            )
    sold_orders = sorted(oid for oid, row in theirs.items() if row["captured_at"] is not None)
    assert sorted(sales) == sold_orders, "sales are the orders that were paid, each once"
    earned = sum(theirs[order_id]["amount"] - theirs[order_id]["refunded"] for order_id in sold_orders)
    in_books = sum(
        broker.report.books.get(book(merchant), 0) for book in (ledger.available_book, ledger.reserved_book)
    )
    had = in_books + broker.paid_out[merchant] + broker.kept[merchant]
    assert had == earned, "a merchant has another sum than it earned"
    for payout, state in wishes.items():
        assert broker.payouts.get(payout) == state or (state == "refused" and payout not in broker.payouts)
    sold: Counter[str] = Counter()
    for row in reserved:
        if row["state"] in ("accepted", "captured", "delivered", "refunded"):
            sold[row["sku"]] += row["reserved"]
    for sku, available in left.items():
        if sku == REFUSED:
            assert available == RARE_LEFT - sold[sku], "stock that nobody took is gone"


# --- as a process of its own ---------------------------------------------------------------------------


def say(line: object) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def run_node(kind: str, home: Path, points: Collection[Point]) -> None:
    initialise = Loop.__init__
    log_to_stderr()

    def die(point: Point) -> NoReturn:
        say(point)
        kill_myself()

    def armed(loop: Loop, *arguments: Any, **options: Any) -> None:
        initialise(loop, *arguments, **options)
        arm(loop, points, die)

    Loop.__init__ = armed  # type: ignore[method-assign]
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    run = {"broker": run_broker, "merchant": run_merchant}[kind]
    run(home, stop, say)


def run_customer(profile: Path, folder: Path, number: int, name: str) -> None:
    with Market(profile, timeout_s=10.0) as market, stepping(market, last(number, kill_myself)) as steps:
        shop(market, name, folder)
    say(steps.taken)


def run_command(number: int, words: Sequence[str]) -> int:
    """Run a command line in this process; a step is before or after a commit that writes."""
    from veilmart.cli.app import main as veilmart  # noqa: PLC0415 - nodes need none of it

    steps = Steps(last(number, kill_myself))
    Store.immediate = _stepping_immediate(Store.immediate, steps)  # type: ignore[method-assign]
    return veilmart(list(words))


def main() -> None:
    for module, name, milliseconds in IMPATIENCE:
        setattr(module, name, milliseconds)
    match sys.argv[1:]:
        case [("broker" | "merchant") as kind, home, *points]:
            run_node(kind, Path(home), [Point.parse(point) for point in points])
        case ["customer", profile, folder, number, name]:
            run_customer(Path(profile), Path(folder), int(number), name)
        case ["command", number, *words]:
            sys.exit(run_command(int(number), words))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
