"""Who learns what: everything that each party held in whole visits is searched for what it must not know.

`visits.py` lets two customers shop, `recorder.py` records all of it and opens every frame with every key.
Each search is also shown to see: what the party does know is found by it, and so is each kind of leak,
planted into the same record.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import sqlite3
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
from record import Opened, Record, is_public
from recorder import recording
from visits import ALICE, FUNDS, GOODS, PAID_IN, PEOPLE, Values, Visits, rows_of, small_visit, visit
from world import Publish

from broker_node import schema
from broker_node.audit import Audit
from common import clock, codec, config, frames, grouping, messages, topics
from common.config import Limits
from common.store import Store
from veilmart.evidence import Evidence, Finding, leaves, shared

MERCHANTS = ("sports", "maps")

WHOLE_VISIT = """
    Hello Welcome HelloRefused GetBalance Balance TopUp TopUpAnswer Withdraw Withdrawn LogOut LoggedOut
    AskMerchant Forward AnswerForward MerchantAnswer
    PlaceOrder ForwardOrder AnswerOrder OrderAnswer OrderOutcome OutcomeKept AskOrder AnswerKept
    ConfirmDelivery ClaimRefund RefundIssued Swap Swapped FetchCells ForwardFetch Cells MerchantCells
"""

TOLD_TO_MERCHANTS = {
    "Forward": ("reference", "token", "sealed"),
    "ForwardOrder": ("order_id", "amount", "currency", "deadline", "claim_lock", "status_lock", "sealed"),
    "OrderOutcome": ("order_id", "outcome"),
    # What its customer says arrived of its own sale, where the customer shows it.
    "DisputeOpened": ("order_id", "kind", "decide_by", "arrived"),
    "DisputeAnswered": ("order_id",),
    "RefundTaken": ("refund", "amount", "left"),
    "Refused": ("reference", "code"),
    "ForwardFetch": ("reference", "token", "cells", "sealed"),
    # Its own sums, and references of its own orders and payouts, with the minute of each.
    "Statement": ("request", "after", "lines", "last", "commission_basis_points"),
    "SessionEnded": ("code",),
    "Welcome": ("session", "scope", "clock", "expires", "idle_ms", "byte_budget"),
}
"""Every field of every message that reaches a merchant. Whoever adds one has to say here why it may."""

EVENT_DATA = {
    "veilmart.order.held": {"order", "merchant", "commitment"},
    "veilmart.order.captured": {"order", "merchant"},
    "veilmart.order.settled": {"order", "merchant"},
    "veilmart.order.refundable": {"order", "merchant"},
    "veilmart.order.refunded": {"order", "merchant"},
    "veilmart.coins.totals": {"coins"},
    "veilmart.merchant.admitted": {"merchant"},
    "veilmart.operator.acted": {"action", "commitment"},
    "veilmart.key.announced": {"kind", "key", "commitment", "owner", "slot"},
}


@pytest.fixture(scope="module")
def visits(tmp_path_factory: pytest.TempPathFactory) -> Visits:
    return visit(tmp_path_factory.mktemp("privacy"))


def places(findings: Sequence[Finding]) -> set[str]:
    return {finding.place for finding in findings}


# --- what each must not know ---------------------------------------------------------------------------


def forbidden_to_merchant(visits: Visits, merchant: str) -> Values:
    (other,) = set(MERCHANTS) - {merchant}
    return (
        visits.people()
        | visits.cards()
        | visits.session_ids()
        | visits.session_keys(merchants=False)
        | visits.hello_secrets()
        | visits.money()
        | visits.seeds()
        | visits.secrets_for_the_broker()
        | visits.orders(other)
        | visits.products(other)
        | (visits.discount() if merchant == "maps" else {})
    )


def forbidden_to_broker(visits: Visits) -> Values:
    return (
        visits.products()
        | visits.searches()
        | visits.discount()
        | visits.order_secrets()
        | visits.receipts()
        | visits.seeds()
    )


def forbidden_to_bus(visits: Visits) -> Values:
    return (
        forbidden_to_broker(visits)
        | visits.people()
        | visits.cards()
        | visits.session_keys()
        | visits.hello_secrets()
        | visits.money()
        | visits.secrets_for_the_broker()
        | visits.orders()
        | visits.salts()
        | visits.node_keys()
    )


def forbidden_to_all(visits: Visits) -> Values:
    """To logs and to the public, which know no session either."""
    return forbidden_to_bus(visits) | visits.session_ids()


# --- the visits were whole, and all of them was opened --------------------------------------------------


def test_the_visits_were_whole_and_every_frame_was_opened(visits: Visits):
    record = visits.record
    kinds = {type(body).__name__ for body in record.bodies(messages.Message)}
    assert set(WHOLE_VISIT.split()) <= kinds
    credentials = {type(hello.credential) for hello in record.bodies(messages.Hello)}
    assert credentials == set(messages.Credential.__args__)
    assert {type(asked.body) for asked in record.asked} == set(messages.SealedBody.__args__)
    assert len(record.unopened) == visits.garbage
    # Each sealed request reached a merchant that opened it; some were sent twice.
    opened = {
        body
        for merchant in MERCHANTS
        for item in record.opened
        if item.merchant == merchant
        for body in record.sealed_in(merchant, item.content)
    }
    assert opened == {codec.pack(asked.body) for asked in record.asked}


@pytest.mark.parametrize(
    ("node", "store"), [("broker", "broker.db"), *((m, "merchant.db") for m in MERCHANTS)]
)
def test_every_table_that_has_rows_was_seen_being_written(visits: Visits, node: str, store: str):
    home = visits.record.broker_home if node == "broker" else visits.record.merchant_home(node)
    with contextlib.closing(sqlite3.connect(f"file:{home / store}?mode=ro", uri=True)) as opened:
        named = opened.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        filled = {name for (name,) in named if opened.execute(f"SELECT 1 FROM {name} LIMIT 1").fetchone()}  # noqa: S608 - names of our own
    recorded = {each.table for each in visits.record.statements if each.home == home}
    assert len(filled) > 5
    assert filled - recorded <= {"alembic_version", "sqlite_sequence"}


# --- merchant ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("merchant", MERCHANTS)
def test_a_merchant_knows_what_it_sells_and_never_to_whom(visits: Visits, merchant: str):
    evidence = visits.record.merchant(merchant)
    assert evidence.search(forbidden_to_merchant(visits, merchant)) == []

    sold = {finding.value for finding in evidence.search(visits.orders(merchant) | visits.products(merchant))}
    assert set(visits.orders(merchant)) <= sold
    assert {f"title of {product.sku}" for product in GOODS if product.merchant == merchant} <= sold
    assert "sealed request" in places(evidence.search(visits.order_secrets()))


@pytest.mark.parametrize("merchant", MERCHANTS)
def test_a_merchant_is_told_no_number_of_an_account(visits: Visits, merchant: str):
    own = {order.amount for order in visits.record.bodies(messages.PlaceOrder) if order.merchant == merchant}
    told: set[str] = set()
    for item in visits.record.opened:
        if item.merchant != merchant or not item.seen.topic.endswith("/in"):
            continue
        for body in bodies_of(item):
            told.add(type(body).__name__)
            assert body.__struct_fields__ == TOLD_TO_MERCHANTS[type(body).__name__]
            if isinstance(body, messages.ForwardOrder):
                assert body.amount in own
    assert {"Forward", "ForwardOrder", "OrderOutcome", "ForwardFetch", "Welcome"} <= told
    assert not numbers(visits.record, merchant) & visits.balances()
    assert numbers(visits.record, "broker") >= visits.balances()


def test_reply_tokens_have_nothing_in_common_but_the_days_key(visits: Visits):
    tokens = [body.token for body in visits.record.bodies(messages.Forward, messages.ForwardFetch)]
    assert len(tokens) > 10
    assert {token[:8] for token in tokens} <= set(visits.record.relay_keys)
    # Eight bytes, as everywhere here: of four, two are the same by chance in one run of a few hundred.
    windows = Counter(token[n : n + 8] for token in tokens for n in range(8, len(token) - 7))
    assert max(windows.values()) == 1


def bodies_of(item: Opened) -> list[Any]:
    if frames.frame_type(item.seen.payload) == frames.DATA_TYPE:
        return [envelope.body for envelope in codec.TO_MERCHANT.unpack(item.content)]
    return [codec.HELLO_ANSWER.unpack(item.content)]


def numbers(record: Record, party: str) -> set[int]:
    """Every number in a party's rows and in what it was sent."""
    home = record.broker_home if party == "broker" else record.merchant_home(party)
    found = {value for each in record.statements if each.home == home for value in each.row}
    waiting: list[Any] = [
        msgspec.msgpack.decode(item.content) for item in record.opened if party in ("broker", item.merchant)
    ]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting += item
        else:
            found.add(item)
    return {value for value in found if isinstance(value, int)}


# --- broker --------------------------------------------------------------------------------------------


def test_the_broker_knows_who_pays_and_how_much_and_never_for_what(visits: Visits):
    evidence = visits.record.broker()
    assert evidence.search(forbidden_to_broker(visits)) == []

    names = {f"name {n}" for n in range(len(PEOPLE))}
    assert names == {finding.value for finding in evidence.search(visits.people()) if "name" in finding.value}
    assert set(visits.session_ids()) == found(evidence, visits.session_ids())
    assert set(visits.orders()) == found(evidence, visits.orders())
    assert set(visits.money()) == found(evidence, visits.money())
    with closing(sqlite3.connect(visits.record.broker_home / "broker.db")) as store:
        rows = set(store.execute("SELECT merchant, amount FROM orders"))
    assert rows == {(order.merchant, order.amount) for order in visits.record.bodies(messages.PlaceOrder)}


def found(evidence: Evidence, values: Values) -> set[str]:
    return {finding.value for finding in evidence.search(values)}


def test_a_password_stays_nowhere_at_the_broker(visits: Visits):
    findings = visits.record.broker().search({n: v for n, v in visits.people().items() if "password" in n})
    assert places(findings) == {"frame", "value"}


def test_a_card_stays_nowhere_at_the_broker_nor_at_its_holder(visits: Visits):
    evidence = visits.record.broker()
    assert places(evidence.search(visits.cards())) == {"frame", "value"}
    kept = Evidence("kept")
    for folder in (visits.record.broker_home, *(visits.profile(name) for name in PEOPLE)):
        kept.add_home(folder)
    assert kept.search(visits.cards()) == []
    rows = rows_of(
        visits.record.broker_home / "broker.db", "SELECT brand, last_four, amount, state FROM top_ups"
    )
    assert rows == [("mastercard", "4444", PAID_IN, "charged")]


@pytest.fixture(scope="module")
def shop(visits: Visits) -> Evidence:
    return visits.record.side_of_broker("shop")


def test_nothing_ties_an_account_to_what_happens_in_shop_sessions(visits: Visits, shop: Evidence):
    account = visits.record.side_of_broker("account")
    assert shared(account, shop, visits.record.public()) == []

    # Both sides are there: what belongs to one is seen in it, and in it alone.
    for mine, other, values in (
        (account, shop, visits.people()),
        (account, shop, {n: v for n, v in visits.money().items() if "withdrawal" in n}),
        (shop, account, {n: v for n, v in visits.money().items() if "withdrawal" not in n}),
        (shop, account, visits.orders()),
    ):
        assert set(values) == found(mine, values)
        assert found(other, values) == set()


def test_visits_have_nothing_in_common_but_orders_that_were_taken_up_again(visits: Visits):
    record = visits.record
    again = {order.order_id for order in record.bodies(messages.AskOrder)}
    seen_in: defaultdict[bytes, set[bytes]] = defaultdict(set)
    for item in record.opened:
        place = topics.parse(item.seen.topic)
        if item.side == "shop" and isinstance(place, topics.SessionUp | topics.SessionDown):
            for leaf in leaves(msgspec.msgpack.decode(item.content)):
                if len(leaf) >= 8:
                    seen_in[leaf].add(place.session_id)
    public = {piece for pieces in record.public().pieces.values() for piece in pieces}
    common = {leaf for leaf, sessions in seen_in.items() if len(sessions) > 1} - public
    # A customer's clock is the broker's, a little late: two visits may name the same millisecond.
    first, last = (n.to_bytes(8, "big") for n in (min(record.times), max(record.times)))
    common = {leaf for leaf in common if len(leaf) != 8 or not first <= leaf <= last}
    of_orders = {
        leaf
        for body in record.bodies(messages.PlaceOrder, messages.OrderAnswer, messages.AskOrder)
        if body.order_id in again
        for leaf in leaves(body)
    }
    assert common <= of_orders
    assert common & again


# --- bus, logs, public ----------------------------------------------------------------------------------


def test_the_bus_sees_addresses_topics_and_sizes(visits: Visits):
    evidence = visits.record.bus()
    assert evidence.search(forbidden_to_bus(visits)) == []
    assert set(visits.session_ids()) == found(evidence, visits.session_ids())
    for publish in visits.record.publishes:
        if publish.sender != "stranger" and not is_public(publish.topic):
            assert len(publish.payload) in (*config.FRAME_SIZES, frames.HELLO_SIZE)


def test_logs_hold_nothing_of_anybody(visits: Visits):
    lines = [json.loads(line) for line in visits.record.log.splitlines()]
    # Things went wrong too: with refusals, and with an error of our own on an order's rows.
    assert {"session open", "refused", "batch failed", "quarantined"} <= {line["event"] for line in lines}
    assert any("IntegrityError" in line.get("exception", "") for line in lines)
    assert visits.record.logs().search(forbidden_to_all(visits)) == []


def test_the_error_that_ends_a_node_is_logged_without_its_text():
    secret = clock.random_bytes(16)
    with recording() as recorder:
        try:
            try:
                {}[secret]
            except KeyError as cause:
                raise RuntimeError(secret.hex()) from cause
        except RuntimeError as error:
            sys.excepthook(type(error), error, error.__traceback__)
    (line,) = [json.loads(line) for line in recorder.log.getvalue().splitlines()]
    assert line["event"] == "ended by an error"
    assert {"builtins.RuntimeError", "builtins.KeyError"} <= set(line["exception"].splitlines())
    assert "test_privacy.py" in line["exception"]
    log = Evidence("log")
    log.add("log", recorder.log.getvalue())
    assert log.search({"secret": secret}) == []


def test_the_public_learns_that_orders_happen_at_a_merchant(visits: Visits):
    evidence = visits.record.auditor()
    assert evidence.search(forbidden_to_all(visits)) == []
    steps: Counter[str] = Counter()
    for event in events_of(visits.record.publishes):
        # A coin's value is part of its key's slot.
        more = {"value"} if event["data"].get("kind") == "coin" else set()
        assert set(event["data"]) == EVENT_DATA[event["type"]] | more
        assert event["time"].endswith(":00Z")
        steps[event["type"]] += 1
        if "order" in event["type"]:
            assert not visits.amounts & {v for v in event["data"].values() if isinstance(v, int)}
            assert event["data"]["merchant"] in MERCHANTS
    placed = len({order.order_id for order in visits.record.bodies(messages.PlaceOrder)})
    assert steps["veilmart.order.held"] == placed
    assert steps["veilmart.coins.totals"] >= 1
    # The spent set is public with the totals: it says of a coin that it is spent, once one has seen it.
    spent = [
        p.payload for p in visits.record.publishes if isinstance(topics.parse(p.topic), topics.SpentChunk)
    ]
    assert spent
    assert steps["veilmart.order.refunded"] == 1
    assert steps["veilmart.order.captured"] == placed - 1


def events_of(publishes: Sequence[Publish]) -> list[dict[str, Any]]:
    decoded = [json.loads(p.payload) for p in publishes if "/audit/event/" in p.topic]
    return [event for item in decoded for event in (item if isinstance(item, list) else [item])]


# --- no amount follows from what is public ---------------------------------------------------------------


def public_view(publishes: Sequence[Publish]) -> list[Any]:
    """All that is public of a world, in an order of its own; what is random or a time by its length only."""
    random_or_time = {"id", "source", "time", "order", "commitment", "key", "slot"}

    def plain(value: dict[str, Any]) -> dict[str, Any]:
        return {
            name: plain(each)
            if isinstance(each, dict)
            else len(each or "")
            if name in random_or_time
            else each
            for name, each in value.items()
        }

    return sorted(json.dumps(plain(event), sort_keys=True) for event in events_of(publishes))


@pytest.fixture(scope="module")
def two_prices(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[Publish]]:
    """The same visit in two worlds. 1 takes one coin, 1999 is all but one of a withdrawal."""
    folder = tmp_path_factory.mktemp("prices")
    return {price: small_visit(folder / str(price), price) for price in (1, 1999)}


def test_worlds_that_differ_in_a_price_look_the_same_to_the_public(two_prices: dict[int, list[Publish]]):
    cheap, dear = (public_view(publishes) for publishes in two_prices.values())
    assert any("veilmart.order.captured" in event for event in cheap)
    assert cheap == dear
    # The last of each topic: how often a card is made again while a node starts is a matter of timing.
    sizes = [
        {p.topic: len(p.payload) for p in publishes if p.topic.endswith(("/card", "/status"))}
        for publishes in two_prices.values()
    ]
    assert sizes[0] == sizes[1]


def test_an_amount_in_an_event_would_be_seen(two_prices: dict[int, list[Publish]]):
    views = [
        public_view([*publishes, event_publish({"order": "ab" * 16, "merchant": "sports", "total": price})])
        for price, publishes in two_prices.items()
    ]
    assert views[0] != views[1]


def test_totals_are_published_at_the_hour_and_over_twenty_orders_at_least(tmp_path: Path):
    store = Store.in_home(tmp_path, "broker.db", "broker_node.migrations")
    audit = Audit(bytes(16), Limits())
    hour = 500_000 * config.HOUR_MS

    def orders(count: int) -> None:
        with store.immediate() as tx:
            for _ in range(count):
                tx.insert(schema.orders.insert(), order_row())

    def published_until(now: int) -> int:
        audit.begin()
        with store.immediate() as tx:
            audit.totals(tx, now, clock.random_bytes)
            published = len(tx.all(schema.totals.select()))
        audit.committed()
        return published

    try:
        assert published_until(hour) == 0
        orders(19)
        assert published_until(hour + config.HOUR_MS) == 0
        orders(1)
        # The twentieth alone is no reason: only the hour is.
        assert published_until(hour + config.HOUR_MS + 1) == 0
        assert published_until(hour + 2 * config.HOUR_MS) == 1
        orders(19)
        assert published_until(hour + 3 * config.HOUR_MS) == 1
        orders(1)
        assert published_until(hour + 4 * config.HOUR_MS) == 2
    finally:
        store.close()


def order_row() -> dict[str, Any]:
    random = {name: clock.random_bytes(16) for name in ("order_id", "pseudonym", "salt")}
    locks = {name: clock.random_bytes(32) for name in ("content_hash", "claim_lock", "status_lock")}
    rest = {"merchant": "sports", "amount": 5, "deadline": 1, "state": "captured", "due": None, "attempts": 0}
    return {**random, **locks, **rest}


# --- each kind of leak is found --------------------------------------------------------------------------

Planted = tuple[Evidence, Values]
Plant = Callable[[Visits, Path], Planted]


def logged(visits: Visits, logger: str, event: str, **values: Any) -> Evidence:
    with recording() as recorder:
        structlog.get_logger(logger).warning(event, **values)
    return dataclasses.replace(visits.record, log=visits.record.log + recorder.log.getvalue()).logs()


def published(visits: Visits, *publishes: Publish) -> Record:
    return dataclasses.replace(visits.record, publishes=(*visits.record.publishes, *publishes))


def event_publish(data: dict[str, Any]) -> Publish:
    event = {"id": "0", "source": "", "type": "veilmart.order.captured", "time": "", "data": data}
    return Publish("broker", topics.audit_event("order.captured"), json.dumps(event).encode(), retain=False)


def frame_on(keys: frames.DirectionKeys, topic: str, body: messages.Message) -> Publish:
    (content,) = grouping.pack_frames([body], clock.now_ms(), clock.random_bytes)
    frame = frames.seal_frame(keys, topic, content, clock.random_bytes(frames.NONCE))
    return Publish("somebody", topic, frame, retain=False)


def to_broker(visits: Visits, side: str, body: messages.Message) -> Record:
    """A frame of the last session of a side, as its customer would send it."""
    sid = [sid for sid, of in visits.record.sides.items() if of == side][-1]
    return published(visits, frame_on(visits.record.sessions[sid].up, topics.session_up(sid), body))


def in_broker_store(visits: Visits, folder: Path, value: bytes) -> Evidence:
    store = folder / "broker.db"
    with closing(sqlite3.connect(visits.record.broker_home / "broker.db")) as original:
        original.execute("VACUUM INTO ?", (str(store),))
    with closing(sqlite3.connect(store)) as copy, copy:
        copy.execute("INSERT INTO operations VALUES (?, ?, ?)", (b"i" * 16, b"h" * 32, value))
    evidence = Evidence("broker")
    evidence.add_store(store)
    return evidence


def a_name_in_a_merchants_log(visits: Visits, _: Path) -> Planted:
    return logged(visits, "veilmart.merchant", "sold", to=ALICE), forbidden_to_all(visits)


def a_password_in_a_log(visits: Visits, _: Path) -> Planted:
    hello = messages.LogIn(name="x", password=PEOPLE[ALICE], device=bytes(32), code="")
    return logged(visits, "veilmart.broker", "hello", packed=codec.pack(hello)), forbidden_to_all(visits)


def an_order_id_in_an_errors_text(visits: Visits, _: Path) -> Planted:
    order_id = next(visits.record.bodies(messages.PlaceOrder)).order_id
    try:
        {}[order_id]
    except KeyError as error:
        text = f"KeyError: {error}"
    return logged(visits, "veilmart.node", "failed", exception=text), forbidden_to_all(visits)


def a_title_in_an_event(visits: Visits, _: Path) -> Planted:
    event = event_publish({"order": "ab" * 16, "merchant": "sports", "what": GOODS[0].description})
    return published(visits, event).auditor(), forbidden_to_all(visits)


def a_session_id_in_a_reply_token(visits: Visits, _: Path) -> Planted:
    record = visits.record
    forward = next(record.bodies(messages.Forward))
    sid = next(iter(record.sessions))
    token = forward.token[:20] + sid + forward.token[36:]
    keys, topic = record.merchant_keys["sports"][-1].down, topics.merchant_in("sports")
    leak = frame_on(keys, topic, messages.Forward(reference=b"r" * 16, token=token, sealed=forward.sealed))
    return published(visits, leak).merchant("sports"), forbidden_to_merchant(visits, "sports")


def a_sku_in_the_brokers_store_in_hex(visits: Visits, folder: Path) -> Planted:
    value = b"x" + GOODS[0].sku.encode().hex().encode()
    return in_broker_store(visits, folder, value), forbidden_to_broker(visits)


def a_sku_in_the_brokers_store_in_base64(visits: Visits, folder: Path) -> Planted:
    value = base64.b64encode(b"bought: " + GOODS[0].sku.encode() + b"!")
    return in_broker_store(visits, folder, value), forbidden_to_broker(visits)


def contents_in_a_frame_to_the_broker(visits: Visits, _: Path) -> Planted:
    body = messages.AskMerchant(request=b"r" * 16, merchant="maps", sealed=GOODS[3].content[20_000:60_000])
    return to_broker(visits, "shop", body).broker(), forbidden_to_broker(visits)


def a_title_in_the_brokers_memory(visits: Visits, _: Path) -> Planted:
    memory = {**visits.record.memory, "broker": frozenset({b"last sold: " + GOODS[0].title.encode()})}
    return dataclasses.replace(visits.record, memory=memory).broker(), forbidden_to_broker(visits)


def a_coin_on_the_bus(visits: Visits, _: Path) -> Planted:
    coin = codec.pack(visits.tokens()[0])
    leak = Publish("somebody", topics.broker_status(), coin, retain=True)
    return published(visits, leak).bus(), forbidden_to_bus(visits)


def a_serial_in_the_public_spent_set(visits: Visits, _: Path) -> Planted:
    token = visits.tokens()[0]
    leak = Publish("somebody", topics.spent_chunk(token.key_id, 0), token.serial, retain=True)
    return published(visits, leak).auditor(), forbidden_to_all(visits)


@pytest.mark.parametrize(
    "plant",
    [
        a_name_in_a_merchants_log,
        a_password_in_a_log,
        an_order_id_in_an_errors_text,
        a_title_in_an_event,
        a_session_id_in_a_reply_token,
        a_sku_in_the_brokers_store_in_hex,
        a_sku_in_the_brokers_store_in_base64,
        contents_in_a_frame_to_the_broker,
        a_title_in_the_brokers_memory,
        a_coin_on_the_bus,
        a_serial_in_the_public_spent_set,
    ],
    ids=lambda plant: plant.__name__,
)
def test_a_planted_leak_is_found(visits: Visits, tmp_path: Path, plant: Plant):
    # Without it nothing is found: that is what the tests above say.
    evidence, forbidden = plant(visits, tmp_path)
    assert evidence.search(forbidden) != []


def a_serial_that_was_withdrawn_in_the_open(visits: Visits) -> messages.Message:
    coin = visits.tokens()[0]
    blinded = messages.BlindedToken(key_id=coin.key_id, blinded=coin.serial + bytes(224))
    return messages.Withdraw(operation=clock.random_bytes(16), coins=[blinded], tickets=[])


def an_order_id_used_for_a_withdrawal(visits: Visits) -> messages.Message:
    order = next(visits.record.bodies(messages.PlaceOrder))
    return messages.Withdraw(operation=order.order_id, coins=[], tickets=[])


def a_shop_session_id_in_a_request_for_the_balance(visits: Visits) -> messages.Message:
    sid = next(sid for sid, side in visits.record.sides.items() if side == "shop")
    return messages.GetBalance(request=sid[:8] + clock.random_bytes(8))


@pytest.mark.parametrize(
    "leak",
    [
        a_serial_that_was_withdrawn_in_the_open,
        an_order_id_used_for_a_withdrawal,
        a_shop_session_id_in_a_request_for_the_balance,
    ],
    ids=lambda leak: leak.__name__,
)
def test_a_planted_link_is_found(visits: Visits, shop: Evidence, leak: Callable[[Visits], messages.Message]):
    record = to_broker(visits, "account", leak(visits))
    assert shared(record.side_of_broker("account"), shop, record.public())


def test_funds_are_numbers_that_nothing_else_is():
    assert all(amount > 2**29 for amount in FUNDS.values())
