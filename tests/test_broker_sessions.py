"""The broker's sessions: who gets one, who does not, and how each ends."""

from __future__ import annotations

import threading

import pytest
import spared
import sqlalchemy as sa
from client import Customer, Peer, Session, Shopkeeper, broker_card, dump, fresh, settle, sign_up
from client import log_in as login
from conftest import Time
from world import World

from broker_node import accounts, delays, schema
from common import clock, frames, keys, messages, sealing, topics
from common.config import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS
from common.validity import install_crl
from veilmart import ca

SIGN_UP = sign_up("bob", "long enough")
FIELD = 2**255 - 19
SMALL_ORDER = (
    0,
    1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
    FIELD - 1,
    FIELD,
    FIELD + 1,
)


def log_in(world: World, name: str, password: str) -> messages.HelloAnswer:
    return Session(world).greet(login(name, password))


def refusal(answer: messages.HelloAnswer) -> tuple[str, int]:
    assert isinstance(answer, messages.HelloRefused), answer
    return answer.code, answer.retry_after_ms


def silent(world: World, peer: Peer) -> bool:
    """Whether nothing is said to a peer once everything has settled."""
    settle(world)
    return not peer.connection.inbox


# --- accounts ------------------------------------------------------------------------------------------


def test_sign_up_opens_an_account_session(world: World, time: Time) -> None:
    session = Session(world)
    answer = session.greet(SIGN_UP)
    assert isinstance(answer, messages.Welcome)
    assert (answer.scope, answer.session) == ("account", session.sid)
    assert answer.expires - answer.clock == HOUR_MS
    balance = session.ask(messages.GetBalance(request=fresh()), messages.Balance)
    assert (balance.amount, balance.currency, balance.tickets_left) == (0, "EUR", 100)
    assert isinstance(log_in(world, "bob", "long enough"), messages.Welcome)


@pytest.mark.parametrize(
    ("name", "password", "code"),
    [
        ("bob", "long enough", "name_taken"),
        ("carol", "2 short", "policy"),
        (" carol", "long enough", "policy"),
        ("car\nol", "long enough", "policy"),
    ],
)
def test_sign_up_is_refused(world: World, name: str, password: str, code: str) -> None:
    world.account("bob", "long enough", 0)
    assert refusal(Session(world).greet(sign_up(name, password))) == (code, 0)


def test_two_at_once_for_one_name(world: World) -> None:
    first, second = Session(world), Session(world)
    for session in (first, second):
        session.put_hello(SIGN_UP)
    answers = [first.answer(), second.answer()]
    assert isinstance(answers[0], messages.Welcome)
    assert refusal(answers[1])[0] == "busy"
    assert refusal(Session(world).greet(SIGN_UP)) == ("name_taken", 0)


def test_one_error_for_every_failed_login(world: World) -> None:
    world.account("alice", "correct horse", 0)
    world.account("eve", "correct horse", 0)
    with world.broker.store.immediate() as tx:
        accounts.set_state(tx, "eve", "disabled")
    failed = [
        log_in(world, "alice", "wrong horse"),
        log_in(world, "nobody", "correct horse"),
        log_in(world, "eve", "correct horse"),
    ]
    assert {refusal(answer) for answer in failed} == {("authentication", 0)}


def test_an_unknown_name_costs_a_hash_like_a_known_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = []

    class Hasher:
        def hash(self, password: str) -> str:
            return spared.HASHER.hash(password)

        def verify(self, stored: str, _password: str) -> bool:
            checked.append(stored.split("$")[1:4])
            raise accounts.argon2.exceptions.VerifyMismatchError

    monkeypatch.setattr(accounts, "HASHER", Hasher())
    monkeypatch.setattr(accounts, "_DECOY", spared.DECOY)
    world.account("alice", "correct horse", 0)
    log_in(world, "alice", "wrong horse")
    log_in(world, "nobody", "wrong horse")
    assert len(checked) == 2
    assert checked[0] == checked[1] == ["argon2id", "v=19", "m=19456,t=2,p=1"]


def test_failures_delay_by_name_ever_longer_and_a_success_forgets_them(world: World) -> None:
    limits, now = world.broker.limits, 1_800_000_000_000
    with world.broker.store.immediate() as tx:
        waits = []
        for _ in range(20):
            delays.count_stranger(tx, "alice", now, limits)
            waits.append(delays.of_name(tx, "alice", now))
        assert waits[: limits.login_free_tries - 1] == [0] * (limits.login_free_tries - 1)
        growing = waits[limits.login_free_tries - 1 :]
        assert growing[:4] == [SECOND_MS, 2 * SECOND_MS, 4 * SECOND_MS, 8 * SECOND_MS]
        assert growing[-1] == HOUR_MS
        assert delays.of_name(tx, "alice", now + HOUR_MS) == 0
        assert delays.of_name(tx, "bob", now) == 0
        delays.forget(tx, "alice")
        assert delays.of_name(tx, "alice", now) == 0


def test_failures_over_all_names_delay_everybody_and_decay(world: World) -> None:
    limits, now = world.broker.limits, 1_800_000_000_000
    with world.broker.store.immediate() as tx:
        for n in range(limits.login_free_tries_in_total):
            assert delays.of_name(tx, "alice", now) == 0
            delays.count_stranger(tx, f"name {n}", now, limits)
        assert delays.of_name(tx, "alice", now) == SECOND_MS
        # An odd count is halved to a whole one: a fraction would fail at the next delay.
        delays.count_stranger(tx, "one more", now, limits)
        delays.decay(tx, now)
        total = sa.select(schema.login_delays.c.failures).where(schema.login_delays.c.name == "")
        assert tx.scalar(total) == (limits.login_free_tries_in_total + 1) // 2
        assert type(tx.scalar(total)) is int


def test_a_delayed_login_is_refused_without_a_look_at_the_password(world: World, time: Time) -> None:
    world.account("alice", "correct horse", 0)
    for _ in range(world.broker.limits.login_free_tries):
        last = log_in(world, "alice", "wrong horse")
    assert refusal(last)[0] == "authentication"
    assert 0 < refusal(last)[1] <= SECOND_MS
    code, wait = refusal(log_in(world, "alice", "correct horse"))
    assert code == "authentication"
    assert 0 < wait <= SECOND_MS
    time.advance(wait)
    assert isinstance(log_in(world, "alice", "correct horse"), messages.Welcome)


def test_the_password_queue_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.account("alice", "correct horse", 0)
    free = threading.Event()
    check = accounts.check_password
    monkeypatch.setattr(accounts, "check_password", lambda *a: (free.wait(10), check(*a))[1])
    try:
        bound = world.broker.limits.password_queue
        sessions = [Session(world) for _ in range(bound + 1)]
        for session in sessions:
            session.put_hello(login("alice", "correct horse"))
        assert refusal(sessions[-1].answer()) == ("busy", 1000)
        assert silent(world, sessions[0])
    finally:
        free.set()


def test_a_disabled_account_loses_its_open_session_and_its_running_withdrawal(world: World) -> None:
    customer = Customer(world, extra=100)
    session = customer.account()
    with world.broker.store.immediate() as tx:
        accounts.set_state(tx, "alice", "disabled")
    assert session.refused(messages.GetBalance(request=fresh())) == "session_over"
    assert session.refused(messages.Withdraw(operation=fresh(), coins=[], tickets=[])) == "session_over"
    with world.broker.store.immediate() as tx:
        accounts.set_state(tx, "alice", "enabled")
    assert session.refused(messages.GetBalance(request=fresh())) == "session_over"


def test_a_session_ends_by_time_and_by_idleness(world: World, time: Time) -> None:
    world.account("alice", "correct horse", 0)
    busy, idle = Session(world), Session(world)
    for session in (busy, idle):
        session.greet(login("alice", "correct horse"))
    question = messages.GetBalance(request=fresh())
    for _ in range(5):
        time.advance(11 * MINUTE_MS)
        assert busy.ask(question, messages.Balance)
    before = world.running["broker"].loop.refused["stale"]
    idle.say(question)
    assert idle.collect() == []
    time.advance(6 * MINUTE_MS)
    busy.say(question)
    assert busy.collect() == []
    assert world.running["broker"].loop.refused["stale"] == before + 2


# --- scopes --------------------------------------------------------------------------------------------


def test_a_session_cannot_say_what_its_scope_does_not_know(world: World, customer: Customer) -> None:
    account, shop = customer.account(), customer.shop()
    order = customer.order()
    account.say(order.place)
    account.say(order.asked)
    shop.say(messages.GetBalance(request=fresh()))
    shop.say(messages.Withdraw(operation=fresh(), coins=[], tickets=[]))
    assert account.collect() == shop.collect() == []
    assert world.running["broker"].loop.refused["malformed"] == 4
    assert dump(world)["orders"] == []


def test_no_row_ties_a_shop_session_to_an_account(world: World, customer: Customer) -> None:
    customer.shop()
    rows = [row for row in dump(world)["sessions"] if "shop" in row]
    assert len(rows) == 1
    with world.broker.store.immediate() as tx:
        shop = tx.one(sa.select(schema.sessions).where(schema.sessions.c.scope == "shop"))
    assert shop is not None
    assert (shop["account"], shop["generation"], shop["merchant"]) == (None, None, None)


# --- Hello ---------------------------------------------------------------------------------------------


def test_the_same_hello_gets_the_same_welcome_and_another_one_nothing(
    world: World, customer: Customer
) -> None:
    session = Session(world)
    session.put_hello(messages.TicketCredential(ticket=customer.tickets[0]))
    (first,) = session.payloads(1)
    before = dump(world)
    session.put(session.hello_frame)
    assert session.payloads(1) == [first]
    other = Session(world, session.sid)
    other.put_hello(messages.TicketCredential(ticket=customer.tickets[1]))
    assert silent(world, other)
    assert world.broker.broker.refused["session_over"] == 1
    assert dump(world) == before


def test_hellos_that_meet_in_the_password_pool_open_one_session(world: World) -> None:
    world.account("alice", "correct horse", 0)
    session = Session(world)
    hello = login("alice", "correct horse")
    session.put_hello(hello)
    session.put(session.hello_frame)
    (first,) = session.payloads(1)
    session.put(session.hello_frame)
    assert session.payloads(1) == [first]
    session = Session(world)
    session.put_hello(hello)
    frame, secret = session.hello_frame, session.hello_secret
    session.put_hello(hello)
    # The other Hello is told to come again, and the first one opens the session.
    _busy, welcome = session.payloads(2)
    answer, session.keys = frames.open_welcome(frame, secret, session.ephemeral, session.down, welcome)
    assert isinstance(answer, messages.Welcome)
    session.welcome = answer
    assert session.ask(messages.GetBalance(request=fresh()), messages.Balance)
    assert world.running["broker"].loop.quarantined == 0


def test_two_names_that_meet_in_the_pool_under_one_session_id_open_one_session(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("alice", "bob"):
        world.account(name, "correct horse", 0)
    first = Session(world)
    second = Session(world, first.sid)
    free, check = threading.Event(), accounts.check_password
    monkeypatch.setattr(accounts, "check_password", lambda *a: (free.wait(10), check(*a))[1])
    try:
        first.put_hello(login("alice", "correct horse"))
        second.put_hello(login("bob", "correct horse"))
        settle(world)
    finally:
        free.set()
    assert isinstance(first.answer(), messages.Welcome)
    assert world.pump(lambda: world.broker.broker.refused["session_over"] == 1)
    assert world.running["broker"].loop.quarantined == 0
    assert first.ask(messages.GetBalance(request=fresh()), messages.Balance)


def test_a_refused_hello_that_is_played_again_counts_no_second_failure(world: World) -> None:
    world.account("alice", "correct horse", 0)
    session = Session(world)
    assert refusal(session.greet(login("alice", "wrong horse")))[0] == "authentication"
    before = dump(world)
    refused = [p.payload for p in world.bus.passed if p.topic == session.down][-1]
    for _ in range(9):
        session.put(session.hello_frame)
        assert session.payloads(1) == [refused]
    assert dump(world) == before
    # Its session id is free for the right password.
    assert isinstance(session.greet(login("alice", "correct horse")), messages.Welcome)


def test_a_session_that_was_logged_out_is_not_opened_again(world: World, customer: Customer) -> None:
    session = customer.shop()
    session.ask(messages.LogOut(request=fresh()), messages.LoggedOut)
    assert [row for row in dump(world)["sessions"] if row[0] == session.sid] == []
    session.put(session.hello_frame)
    assert silent(world, session)
    session.say(messages.LogOut(request=fresh()))
    assert session.collect() == []
    world.stop("broker")
    world.start_broker()
    session.put(session.hello_frame)
    assert silent(world, session)


def test_a_hello_to_a_key_that_is_gone_is_stale(world: World, time: Time) -> None:
    session = Session(world)
    session.put_hello(SIGN_UP)
    session.answer()
    old = session.hello_frame
    time.advance(2 * DAY_MS + HOUR_MS)
    settle(world)
    assert dump(world)["welcomes"] == []
    session.put(old)
    assert silent(world, session)
    assert world.running["broker"].loop.refused["stale"] == 1


def test_a_hello_of_another_session_or_market_is_forged(world: World) -> None:
    key = sealing.load_public(broker_card(world).hello_keys[0].public)
    session = Session(world)
    session.put_hello(SIGN_UP)
    session.payloads(1)
    before = dump(world)
    thief = Session(world)
    thief.put(session.hello_frame)
    hello = session.hello(SIGN_UP)
    session.put(frames.seal_hello(key, fresh(), session.up, hello))
    assert silent(world, thief)
    assert silent(world, session)
    assert world.running["broker"].loop.refused["forged"] == 2
    assert dump(world) == before


@pytest.mark.parametrize("masked", [0, 1 << 255])
def test_an_ephemeral_key_of_small_order_is_refused_before_a_ticket_is_spent(
    world: World, customer: Customer, masked: int
) -> None:
    before = dump(world)
    good = sealing.XWingPrivateKey.generate().public.raw[: sealing.ML_KEM_PUBLIC]
    keys_refused = [good + (point | masked).to_bytes(32, "little") for point in SMALL_ORDER]
    keys_refused += [bytes(1216), b"\xff" * 1216]
    for ephemeral in keys_refused:
        session = Session(world)
        ticket = messages.TicketCredential(ticket=customer.tickets[0])
        session.put_hello(ticket, ephemeral=ephemeral)
        assert silent(world, session)
    assert world.running["broker"].loop.quarantined == 0
    assert world.running["broker"].loop.refused["malformed"] == len(keys_refused)
    assert dump(world) == before
    assert customer.shop()


# --- tickets -------------------------------------------------------------------------------------------


def test_a_ticket_opens_one_session(world: World, customer: Customer) -> None:
    ticket = messages.TicketCredential(ticket=customer.tickets[0])
    assert isinstance(Session(world).greet(ticket), messages.Welcome)
    assert refusal(Session(world).greet(ticket)) == ("double_spend", 0)


def test_a_coin_or_a_forged_ticket_opens_none(world: World, customer: Customer) -> None:
    coin, ticket = customer.coins[0], customer.tickets[0]
    wrong = messages.Token(
        key_id=ticket.key_id, prefix=ticket.prefix, serial=bytes(32), signature=ticket.signature
    )
    unknown = messages.Token(
        key_id=bytes(8), prefix=ticket.prefix, serial=ticket.serial, signature=ticket.signature
    )
    for token, code in ((coin, "unknown_key"), (wrong, "bad_token"), (unknown, "unknown_key")):
        assert refusal(Session(world).greet(messages.TicketCredential(ticket=token))) == (code, 0)


def test_a_ticket_counts_until_the_end_of_the_next_month(world: World, time: Time) -> None:
    customer = Customer(world)
    month = world.broker.issuing.issuers[customer.tickets[0].key_id].month
    year, number = int(month[:4]), int(month[5:])
    ends = clock_of(year + (number + 1) // 12, (number + 1) % 12 + 1)
    time.advance(ends - clock.now_ms() - HOUR_MS)
    settle(world)
    assert customer.shop()
    time.advance(2 * HOUR_MS)
    settle(world)
    ticket = messages.TicketCredential(ticket=customer.tickets[0])
    assert refusal(Session(world).greet(ticket)) == ("unknown_key", 0)


def clock_of(year: int, month: int) -> int:
    from datetime import UTC, datetime  # noqa: PLC0415 - beside its only use

    return round(datetime(year, month, 1, tzinfo=UTC).timestamp() * 1000)


# --- merchants -----------------------------------------------------------------------------------------


def test_a_merchant_is_admitted_and_told_its_session(world: World, keeper: Shopkeeper) -> None:
    assert keeper.welcome is not None
    assert (keeper.welcome.scope, keeper.welcome.idle_ms) == ("merchant", 0)
    assert keeper.welcome.expires - keeper.welcome.clock == DAY_MS
    assert world.broker.broker.merchant_online("sports", clock.now_ms())


def test_impostors_of_a_merchant_are_refused(
    world: World, keeper: Shopkeeper, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = Shopkeeper(world, "films")
    strange = World(tmp_path_factory.mktemp("strange"))
    strange.close()
    ca.create_ca(strange.root / "ca2", now_ms=clock.now_ms())
    secret = bytes(32)
    genuine = keeper.credential(secret, 50)
    pem = ca.sign_csr(
        strange.root / "ca2",
        ca.make_request(strange.root / "m", "sports"),
        "sports",
        now_ms=clock.now_ms(),
    )
    foreign = keys.IdentityKey.load(strange.root / "m" / ca.IDENTITY_KEY_FILE)
    changed = {
        "an old counter": keeper.credential(secret, keeper.counter),
        "a counter that was not signed": messages.MerchantCredential(
            certificate=genuine.certificate, counter=51, signature=genuine.signature
        ),
        "another merchant": other.credential(secret, 50),
        "another's key": keeper.credential(secret, 50, signature=other.credential(secret, 50).signature),
        "another CA": foreign_credential(keeper, foreign, pem, secret),
        "the broker's certificate": keeper.credential(
            secret, 50, certificate=world.broker.keys.certificate_der
        ),
        "no certificate": keeper.credential(secret, 50, certificate=bytes(64)),
    }
    for why, credential in changed.items():
        assert refusal(keeper.greet(credential, secret=secret)) == ("authentication", 0), why
    assert refusal(keeper.greet(genuine, secret=bytes([1]) * 32)) == ("authentication", 0)
    assert isinstance(keeper.greet(genuine, secret=secret), messages.Welcome)


def foreign_credential(
    keeper: Shopkeeper, identity: keys.IdentityKey, pem: bytes, secret: bytes
) -> messages.MerchantCredential:
    own = keeper.identity, keeper.certificate
    keeper.identity = identity
    keeper.certificate = ca.x509.load_pem_x509_certificate(pem).public_bytes(ca.serialization.Encoding.DER)
    credential = keeper.credential(secret, 50)
    keeper.identity, keeper.certificate = own
    return credential


def test_a_customer_shows_no_certificate_and_a_merchant_no_password(
    world: World, keeper: Shopkeeper, customer: Customer
) -> None:
    secret = bytes(32)
    assert refusal(Session(world).greet(keeper.credential(secret, 9), secret=secret))[0] == "authentication"
    assert refusal(keeper.greet(SIGN_UP))[0] == "authentication"
    assert refusal(keeper.greet(messages.TicketCredential(ticket=customer.tickets[0])))[0] == "authentication"


def test_a_newer_session_takes_over_and_the_old_keys_open_for_a_while(
    world: World, keeper: Shopkeeper, customer: Customer, time: Time
) -> None:
    old = keeper.keys
    assert isinstance(keeper.log_in(), messages.Welcome)
    new, keeper.keys = keeper.keys, old
    shop = customer.shop()
    ask = messages.AskMerchant(request=fresh(), merchant="sports", sealed=bytes(64))
    shop.say(ask)
    keeper.keys = new
    forward = keeper.hear(messages.Forward)
    keeper.keys = old
    answer = messages.AnswerForward(reference=forward.reference, token=forward.token, answer=bytes(64))
    keeper.say(answer)
    assert shop.hear(messages.MerchantAnswer).request == ask.request
    time.advance(world.broker.limits.freshness_ms)
    before = world.running["broker"].loop.refused["stale"]
    keeper.say(answer)
    assert shop.collect() == []
    assert world.running["broker"].loop.refused["stale"] == before + 1


def revoke(world: World, merchant: str = "sports") -> None:
    path = ca.revoke(world.ca_home, merchant, now_ms=clock.now_ms())
    install_crl(world.broker_home / "crl.pem", path.read_bytes(), world.market.ca())


def test_a_revoked_merchant_loses_session_and_card(
    world: World, keeper: Shopkeeper, customer: Customer, time: Time
) -> None:
    card = topics.merchant_card("sports")
    keeper.connection.put(card, b"a card", retain=True)
    session = customer.shop()
    revoke(world)
    time.advance(2 * SECOND_MS)
    assert world.pump(lambda: card not in world.bus.retained)
    keeper.say(messages.OutcomeKept(order_id=fresh(), outcome="captured"))
    assert session.refused(customer.order().place) == "not_found"
    ask = messages.AskMerchant(request=fresh(), merchant="sports", sealed=bytes(64))
    assert session.refused(ask) == "merchant_offline"
    assert [type(body) for body in keeper.collect()] == [messages.SessionEnded]
    assert refusal(keeper.log_in()) == ("revoked", 0)
    # What it clears itself, status and card, comes back to it, and is not refused; "a card" was.
    assert [p.payload for p in world.bus.passed if p.topic == topics.merchant_status("sports")][-1] == b""
    assert world.running["broker"].loop.refused == {"stale": 1, "malformed": 1}
    assert [p.topic for p in world.bus.passed].count(topics.audit_event("merchant.revoked")) == 1


def test_a_revocation_that_came_while_the_bus_was_away_clears_the_card_too(
    world: World, keeper: Shopkeeper
) -> None:
    card = topics.merchant_card("sports")
    keeper.connection.put(card, b"a card", retain=True)
    world.stop("broker")
    revoke(world)
    world.bus.up = False
    world.start_broker()
    settle(world)
    assert world.bus.retained[card] == b"a card"
    world.bus.up = True
    for lane in world.running["broker"].lanes.values():
        lane.connect()
    assert world.pump(lambda: card not in world.bus.retained, 5)


# --- keys at rest --------------------------------------------------------------------------------------


def test_session_keys_rest_wrapped_and_survive_a_restart(world: World, customer: Customer) -> None:
    session = customer.shop()
    assert session.keys is not None
    secrets = [session.keys.up.encryption, session.keys.up.mac, session.keys.down.mac]
    world.stop("broker")
    for path in world.broker_home.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(secret in content for secret in secrets), path
    world.start_broker()
    assert session.ask(messages.LogOut(request=fresh()), messages.LoggedOut)


def test_keys_of_the_day_are_there_before_the_day(world: World) -> None:
    now = clock.now_ms()
    midnight = now - now % DAY_MS + DAY_MS
    for ring in (world.broker.keys.wrap, world.broker.keys.relay, world.broker.keys.hello):
        assert ring.current(midnight) is not ring.current(now)
