"""Top-ups at the broker: charged once, credited once, known in the end, and no card kept."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from typing import Any

import pytest
import sqlalchemy as sa
from client import Customer, Session, dump, fresh, log_in, sign_up
from conftest import Time
from test_payments import break_the_books
from world import World

from broker_node import accounts, charges, ledger, schema, topups
from broker_node.gateways import sandbox
from broker_node.gateways.sandbox import SandboxGateway
from broker_node.payment_gateway import GatewayError, Outcome, Unknown
from broker_node.run import BrokerNode
from common import clock, messages, topics
from common.config import DAY_MS, MAXIMUM_AMOUNT, MINUTE_MS, SECOND_MS
from common.core import Job
from common.messages import AskTopUp, PaymentCard, TopUp, TopUpAnswer

NUMBER, MASTERCARD = "4242424242424242", "5555555555554444"
NAME = "Augusta Ada King"


def card(number: str = NUMBER, **changes: Any) -> PaymentCard:
    fields = {"number": number, "month": 12, "year": 2034, "security_code": "987", "name": NAME}
    return PaymentCard(**(fields | changes))


def top_up(amount: int = 5000, number: str = NUMBER, **changes: Any) -> TopUp:
    fields = {"operation": fresh(), "amount": amount, "currency": "EUR", "card": card(number)}
    return TopUp(**(fields | changes))


class Gateway(SandboxGateway):
    """The sandbox behind a bad line: what it is told may get lost, on the way there or back."""

    def __init__(self, world: World) -> None:
        super().__init__(world.broker_home, lambda: clock.now_ms())  # noqa: PLW0108 - a test may move it
        self.lost_there: set[str] = set()
        self.lost_back: set[str] = set()
        self.fails: set[str] = set()
        self.calls: list[str] = []
        self.go = threading.Event()
        self.go.set()
        self.back = threading.Event()
        self.back.set()

    def open(self, key: str, amount: int, currency: str) -> str:
        self.calls.append("open")
        if "open" in self.lost_there:
            raise GatewayError("no answer")
        charge = super().open(key, amount, currency)
        if "open" in self.lost_back:
            raise GatewayError("no answer")
        return charge

    def pay(self, charge: str, card: PaymentCard) -> Outcome:
        return self._over_the_line("pay", lambda: SandboxGateway.pay(self, charge, card))

    def settle(self, charge: str) -> Outcome:
        return self._over_the_line("settle", lambda: SandboxGateway.settle(self, charge))

    def _over_the_line(self, call: str, make: Callable[[], Outcome]) -> Outcome:
        self.calls.append(call)
        assert self.go.wait(10)
        if call in self.fails:
            raise ValueError(NUMBER)
        if call in self.lost_there:
            return Unknown()
        outcome = make()
        assert self.back.wait(10)
        return Unknown() if call in self.lost_back else outcome


@pytest.fixture
def gateway(world: World) -> Gateway:
    return install(world)


def install(world: World) -> Gateway:
    made = Gateway(world)
    world.broker.broker._top_ups._gateway = made
    return made


@pytest.fixture
def account(world: World) -> Session:
    return open_account(world, "alice")


def open_account(world: World, name: str) -> Session:
    session = Session(world)
    answer = session.greet(sign_up(name, "correct horse"))
    assert isinstance(answer, messages.Welcome)
    return session


def charged(session: Session, request: TopUp) -> TopUpAnswer:
    assert session.ask(request, TopUpAnswer).state == "pending"
    answer = session.hear(TopUpAnswer)
    assert answer.state == "charged"
    return answer


def declined(session: Session, request: TopUp) -> str:
    session.say(request)
    return session.hear(messages.Refused).code


def balance(session: Session) -> int:
    return session.ask(messages.GetBalance(request=fresh()), messages.Balance).amount


def rows(world: World) -> list[Any]:
    with world.broker.store.immediate() as tx:
        return list(tx.all(sa.select(schema.top_ups).order_by(schema.top_ups.c.created)))


def check_books(world: World, received: int) -> None:
    """The books are right, and the gateway's statement says the same."""
    with world.broker.store.immediate() as tx:
        report = ledger.check(tx)
    assert report.faults == ()
    assert -report.books.get(ledger.GATEWAY, 0) == received
    assert SandboxGateway(world.broker_home, clock.now_ms).received() == received


def wait_for(world: World, state: str) -> None:
    assert world.pump(lambda: rows(world)[-1]["state"] == state, 10), rows(world)


# --- charged -------------------------------------------------------------------------------------------


def test_a_card_is_charged_and_the_account_credited(world: World, account: Session, gateway: Gateway) -> None:
    request = top_up(5000)
    answer = charged(account, request)
    assert (answer.operation, answer.amount, answer.balance) == (request.operation, 5000, 5000)
    assert (answer.brand, answer.last_four) == ("visa", "4242")
    assert answer.charge.startswith("sandbox_")
    assert balance(account) == 5000
    assert gateway.calls == ["open", "pay"]
    check_books(world, 5000)


def test_what_is_kept_of_it(world: World, account: Session, gateway: Gateway) -> None:
    answer = charged(account, top_up(5000, MASTERCARD))
    (row,) = rows(world)
    assert {"amount": 5000, "brand": "mastercard", "last_four": "4444"}.items() <= row.items()
    assert (row["charge"], row["state"]) == (answer.charge, "charged")
    assert row["ended"] >= row["created"]
    with closing(sqlite3.connect(world.broker_home / "broker.db")) as store:
        text = "\n".join(store.iterdump())
    kept = b"".join(path.read_bytes() for path in world.broker_home.rglob("*") if path.is_file())
    for secret in (MASTERCARD, MASTERCARD[:12], NAME):
        assert secret not in text
        assert secret.encode() not in kept
        assert secret.encode().hex() not in text.lower()


def test_a_repetition_is_not_charged_again(world: World, account: Session, gateway: Gateway) -> None:
    request = top_up(5000)
    gateway.go.clear()
    for _ in range(3):
        assert account.ask(request, TopUpAnswer).state == "pending"
    gateway.go.set()
    assert account.hear(TopUpAnswer).state == "charged"
    other = Session(world)
    other.greet(log_in("alice", "correct horse"))
    for session in (account, other):
        for question in (request, AskTopUp(operation=request.operation)):
            assert session.ask(question, TopUpAnswer).state == "charged"
    assert gateway.calls == ["open", "pay"]
    check_books(world, 5000)


def test_a_repetition_is_answered_while_payments_are_stopped(
    world: World, account: Session, gateway: Gateway
) -> None:
    request = top_up()
    charged(account, request)
    break_the_books(world)
    assert account.ask(request, TopUpAnswer).state == "charged"
    assert declined(account, top_up()) == "payments_stopped"
    assert gateway.calls == ["open", "pay"]


@pytest.mark.parametrize("change", [{"amount": 5001}, {"card": card(MASTERCARD)}])
def test_other_content_under_the_same_operation_is_a_conflict(
    world: World, account: Session, gateway: Gateway, change: dict[str, Any]
) -> None:
    request = top_up(5000)
    charged(account, request)
    fields = {name: getattr(request, name) for name in request.__struct_fields__}
    assert account.refused(TopUp(**(fields | change))) == "idempotency_conflict"
    check_books(world, 5000)


def test_an_operation_of_another_account_is_another_one(
    world: World, account: Session, gateway: Gateway
) -> None:
    request, bob = top_up(5000), open_account(world, "bob")
    charged(account, request)
    assert bob.refused(AskTopUp(operation=request.operation)) == "not_charged"
    charged(bob, top_up(700))
    assert (balance(account), balance(bob)) == (5000, 700)
    check_books(world, 5700)


# --- not charged ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), sandbox.DECLINED.items())
def test_a_declined_card_is_told_why(
    world: World, account: Session, gateway: Gateway, number: str, code: str
) -> None:
    request = top_up(5000, number)
    assert declined(account, request) == code
    assert account.refused(request) == account.refused(AskTopUp(operation=request.operation)) == code
    assert gateway.calls == ["open", "pay"]
    check_books(world, 0)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"amount": 99}, "wrong_amount"),
        ({"amount": 100_001}, "wrong_amount"),
        ({"currency": "USD"}, "wrong_currency"),
        ({"card": card("4242424242424243")}, "card_invalid"),
        ({"card": card(year=2020)}, "card_invalid"),
        ({"card": card(security_code="1234")}, "card_invalid"),
    ],
)
def test_what_the_rules_refuse_never_reaches_the_gateway(
    world: World, account: Session, gateway: Gateway, change: dict[str, Any], code: str
) -> None:
    request = top_up(**change)
    assert account.refused(request) == code
    # Nor does a good one under the same operation: the customer was told that this one is over.
    assert account.refused(top_up(operation=request.operation)) == code
    assert gateway.calls == []
    check_books(world, 0)


def test_no_charge_takes_a_balance_beyond_what_can_be_told(
    world: World, account: Session, gateway: Gateway
) -> None:
    world.fund("alice", MAXIMUM_AMOUNT - 4999)
    assert account.refused(top_up(5000)) == "wrong_amount"
    assert gateway.calls == []
    assert charged(account, top_up(4999)).balance == MAXIMUM_AMOUNT


def test_a_broker_without_a_gateway_says_so(world: World, account: Session) -> None:
    world.broker.broker._top_ups._gateway = None
    assert account.refused(top_up()) == "no_gateway"
    assert rows(world)[0]["last_four"] == ""


def test_a_day_has_so_many_tries_and_no_more(
    world: World, account: Session, gateway: Gateway, time: Time
) -> None:
    for _ in range(world.broker.limits.top_ups_per_day - 1):
        assert account.refused(AskTopUp(operation=fresh())) == "not_charged"
    request = top_up()
    charged(account, request)
    assert account.refused(top_up()) == account.refused(AskTopUp(operation=fresh())) == "too_many_top_ups"
    assert account.ask(request, TopUpAnswer).state == "charged"
    card_before = world.bus.retained[topics.broker_card()]
    time.advance(DAY_MS)
    assert world.pump(lambda: world.bus.retained[topics.broker_card()] != card_before)
    again = Session(world)
    again.greet(log_in("alice", "correct horse"))
    charged(again, top_up())


def test_a_full_queue_is_busy(world: World, account: Session, gateway: Gateway) -> None:
    gateway.go.clear()
    limits = world.broker.broker._top_ups._limits
    requests = [top_up() for _ in range(3)]
    world.broker.broker._top_ups._limits = type(limits)(top_up_queue=2)
    for request in requests[:2]:
        assert account.ask(request, TopUpAnswer).state == "pending"
    assert world.pump(lambda: gateway.calls.count("pay") == 2)
    assert account.refused(requests[2]) == "busy"
    gateway.go.set()
    for _ in range(2):
        assert account.hear(TopUpAnswer).state == "charged"
    charged(account, requests[2])
    check_books(world, 15_000)


# --- asked about ---------------------------------------------------------------------------------------


def test_an_operation_that_is_asked_about_first_is_never_charged(
    world: World, account: Session, gateway: Gateway
) -> None:
    request = top_up()
    assert account.refused(AskTopUp(operation=request.operation)) == "not_charged"
    assert account.refused(request) == "not_charged"
    assert gateway.calls == []


def test_questions_and_top_ups_need_an_account_session(world: World, customer: Customer) -> None:
    session = customer.shop()
    before = dump(world)
    session.put(session.seal(top_up()))
    session.put(session.seal(AskTopUp(operation=fresh())))
    assert session.collect() == []
    assert dump(world) == before
    assert world.running["broker"].loop.refused == {"malformed": 2}


# --- a gateway that does not answer --------------------------------------------------------------------


def test_a_gateway_that_opens_nothing_charges_nothing(
    world: World, account: Session, gateway: Gateway
) -> None:
    for line in (gateway.lost_there, gateway.lost_back):
        line.add("open")
        assert declined(account, top_up()) == "gateway_unavailable"
        line.clear()
    assert gateway.calls == ["open", "open"]
    check_books(world, 0)


@pytest.mark.parametrize("lost", ["lost_there", "lost_back", "fails"])
def test_a_time_out_is_reconciled(
    world: World, account: Session, gateway: Gateway, time: Time, lost: str
) -> None:
    getattr(gateway, lost).add("pay")
    request = top_up(5000)
    assert account.ask(request, TopUpAnswer).state == "pending"
    wait_for(world, "unknown")
    assert account.ask(request, TopUpAnswer).state == "pending"
    assert balance(account) == 0
    time.advance(world.broker.limits.top_up_ask_first_ms)
    wait_for(world, "charged" if lost == "lost_back" else "declined")
    if lost == "lost_back":
        assert account.ask(AskTopUp(operation=request.operation), TopUpAnswer).balance == 5000
    else:
        assert account.refused(AskTopUp(operation=request.operation)) == "not_charged"
    assert gateway.calls == ["open", "pay", "settle"]
    check_books(world, 5000 if lost == "lost_back" else 0)


def test_a_test_card_times_out_and_is_charged_later(
    world: World, account: Session, gateway: Gateway, time: Time
) -> None:
    assert account.ask(top_up(5000, sandbox.CHARGED_LATE), TopUpAnswer).state == "pending"
    wait_for(world, "unknown")
    time.advance(10 * SECOND_MS)
    wait_for(world, "charged")
    check_books(world, 5000)


def test_the_gateway_is_asked_at_growing_intervals_until_it_knows(
    world: World, account: Session, gateway: Gateway, time: Time
) -> None:
    gateway.lost_back |= {"pay", "settle"}
    account.ask(top_up(5000), TopUpAnswer)
    wait_for(world, "unknown")
    limits, pauses = world.broker.limits, []
    for attempt in range(1, 12):
        (row,) = rows(world)
        assert row["attempts"] == attempt
        pauses.append(row["due"] - clock.now_ms())
        time.advance(row["due"] - clock.now_ms() + SECOND_MS)
        assert world.pump(lambda n=attempt: rows(world)[0]["attempts"] > n)  # type: ignore[misc]
    assert limits.top_up_ask_first_ms - SECOND_MS < pauses[0] <= limits.top_up_ask_first_ms
    assert all(
        1.8 * one < other or other > 0.9 * limits.top_up_ask_longest_ms for one, other in pairwise(pauses)
    )
    assert max(pauses) <= limits.top_up_ask_longest_ms
    gateway.lost_back.clear()
    time.advance(limits.top_up_ask_longest_ms)
    wait_for(world, "charged")
    check_books(world, 5000)


def test_an_account_that_was_disabled_meanwhile_is_credited(
    world: World, account: Session, gateway: Gateway
) -> None:
    gateway.go.clear()
    account.ask(top_up(5000), TopUpAnswer)
    with world.broker.store.immediate() as tx:
        assert accounts.charges_under_way(tx, 1)
        tx.execute(sa.update(schema.accounts).values(state="disabled", generation=9))
    gateway.go.set()
    wait_for(world, "charged")
    with world.broker.store.immediate() as tx:
        assert not accounts.charges_under_way(tx, 1)
        assert ledger.balance(tx, 1) == 5000
    check_books(world, 5000)


# --- a broker that dies --------------------------------------------------------------------------------


@pytest.mark.parametrize("left", ["requested", "opened", "unknown"])
@pytest.mark.parametrize("paid", [False, True])
def test_what_a_former_process_left_is_settled_at_the_start(world: World, left: str, *, paid: bool) -> None:
    account, gateway, request = open_account(world, "alice"), install(world), top_up(5000)
    charged(account, top_up(300))
    identifier = charges.top_up_id(1, request.operation)
    charge = gateway.open(identifier.hex(), 5000, "EUR")
    if paid and left != "requested":
        gateway.pay(charge, request.card)
    with world.broker.store.immediate() as tx:
        row = charges.new_row(identifier, 1, clock.now_ms())
        kept = {"amount": 5000, "brand": "visa", "last_four": "4242", "due": clock.now_ms() + MINUTE_MS}
        tx.insert(
            sa.insert(schema.top_ups),
            {**row, **kept, "state": left, "charge": "" if left == "requested" else charge},
        )
    world.stop("broker")
    world.start_broker()
    end = paid and left != "requested"
    wait_for(world, "charged" if end else "declined")
    check_books(world, 5300 if end else 300)
    again = Session(world)
    again.greet(log_in("alice", "correct horse"))
    assert balance(again) == (5300 if end else 300)


def test_a_charge_that_was_voided_is_not_sent_a_card(
    world: World, account: Session, gateway: Gateway
) -> None:
    """Another process on the same store took it for abandoned while this one was still opening it."""
    core = world.broker.broker._top_ups
    done = core.opened

    def late(tx: Any, session: Any, result: Any, now: int, random: Any) -> Any:
        charges.step(tx, result.id, "declined", code="not_charged", due=None)
        return done(tx, session, result, now, random)

    world.broker.broker._handlers = {**world.broker.broker._handlers, topups.Opened: late}
    assert declined(account, top_up()) == "not_charged"
    assert gateway.calls == ["open"]


@pytest.mark.parametrize("paid", [False, True])
def test_a_second_broker_on_the_store_settles_what_the_first_is_paying(
    world: World, account: Session, gateway: Gateway, *, paid: bool
) -> None:
    """It starts, takes the charge for one that a crash left, and is faster or slower than the payment."""
    (gateway.back if paid else gateway.go).clear()
    account.ask(top_up(5000), TopUpAnswer)
    received = 5000 if paid else 0
    assert world.pump(lambda: "pay" in gateway.calls and gateway.received() == received)
    other = BrokerNode.open(world.broker_home)
    try:
        act(other, [])
    finally:
        other.close()
    (row,) = rows(world)
    assert row["state"] == ("charged" if paid else "declined")
    gateway.go.set()
    gateway.back.set()
    if paid:
        assert account.hear(TopUpAnswer).balance == 5000
    else:
        assert account.hear(messages.Refused).code == "not_charged"
    assert balance(account) == received
    check_books(world, received)


def act(node: BrokerNode, arrivals: list[Any]) -> None:
    """What the loop does, with jobs done at once."""
    core, now = node.broker, clock.now_ms()
    core.begin()
    with node.store.immediate() as tx:
        sends = core.receive_all(tx, arrivals, now, clock.random_bytes)
        sends += core.tick(tx, now, clock.random_bytes)
    core.seen(arrivals, now)
    for job in sends:
        if isinstance(job, Job):
            act(node, list(job.done(job.work())))


def test_the_books_notice_a_charge_that_is_not_credited(
    world: World, account: Session, gateway: Gateway
) -> None:
    charged(account, top_up(5000))
    with world.broker.store.immediate() as tx:
        tx.execute(sa.update(schema.top_ups).values(amount=5001))
        assert "cards were charged 5001" in " ".join(ledger.check(tx).faults)


def test_counts_for_the_operator(world: World, account: Session, gateway: Gateway) -> None:
    charged(account, top_up(5000))
    charged(account, top_up(300))
    declined(account, top_up(5000, "4000000000000002"))
    with world.broker.store.immediate() as tx:
        counted = [(each.state, each.count, each.amount) for each in charges.counted(tx)]
    assert counted == [("charged", 2, 5300), ("declined", 1, 5000)]
