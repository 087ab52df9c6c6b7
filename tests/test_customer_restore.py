"""A wallet restored from its words: every unspent coin, and nothing that ties them together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from cli import veilmart
from crashing import Crash, crash, last, stepping
from customer_shop import PASSWORD, Bazaar, build, home
from profile_rows import profile_rows
from test_customer_refunds import asked
from test_payments import break_the_books, examine, mend

from broker_node import schema as broker_schema
from broker_node.mint import owner_of
from common import codec, coins, config, messages
from common.clock import now_ms
from common.errors import (
    OutOfTicketsError,
    PaymentsStoppedError,
    RejectedError,
    UsageError,
    VeilmartError,
)
from customer_node import Market, matching, numbers, schema, spent
from customer_node.checkout import Checkout
from customer_node.finding import Finding
from customer_node.issuers import issuer_of
from customer_node.matching import Matcher
from customer_node.refunds import Refunds
from customer_node.restored import Restored
from customer_node.sessions import Session
from customer_node.views import RestoreView

LIMITS = {"totals_minimum_orders": 1, "totals_period_ms": 100}


@pytest.fixture
def bazaar(tmp_path: Path) -> Iterator[Bazaar]:
    built = build(tmp_path, limits=LIMITS)
    yield built
    built.world.close()


def by_value(market: Market) -> Counter[int]:
    return Counter({coin.value: coin.usable + coin.young for coin in market.wallet().coins})


def change_price(bazaar: Bazaar, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the merchant reject whatever is ordered: its price has changed."""
    settle = Checkout.settle

    def changed(checkout_: Checkout, session: Any, order_id: bytes) -> None:
        bazaar.world.merchants["maps"].inventory.edit("ROUTE", price=78)
        settle(checkout_, session, order_id)

    monkeypatch.setattr(Checkout, "settle", changed)


def published(bazaar: Bazaar) -> None:
    """Wait until the public set has all that is spent."""
    world = bazaar.world

    def whole() -> bool:
        with world.broker.store.immediate() as tx:
            new = sa.select(sa.func.count()).select_from(broker_schema.spent)
            due = sa.select(sa.func.count()).select_from(broker_schema.spent_chunks)
            waiting = tx.scalar(new.where(broker_schema.spent.c.published.is_(None)))
            return not waiting and not tx.scalar(due.where(broker_schema.spent_chunks.c.due.is_not(None)))

    assert world.pump(whole, 10)


def live(bazaar: Bazaar, market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    """Buy with change, and have an order refunded."""
    for sku in ("PLAN", "ROUTE", "EMPTY", "ROUTE"):
        market.buy_now("sports", sku)
    with monkeypatch.context() as patched:
        change_price(bazaar, patched)
        with pytest.raises(RejectedError):
            market.buy_now("maps", "ROUTE")
    bazaar.world.merchants["maps"].inventory.edit("ROUTE", price=77)
    assert market.last_order().state == "refunded"
    market.log_out()
    # Totals come with orders: one more, so that all of the others are in them.
    with bazaar.customer(bundles=1) as other:
        other.buy_now("sports", "EMPTY")
    published(bazaar)


def restored(bazaar: Bazaar, name: str, spelled: list[str], **options: Any) -> Market:
    profile = bazaar.profile(name)
    Market.restore(profile, bazaar.world.market_path, " ".join(spelled))
    return Market(profile, connect=bazaar.world.connect, **options)


def recover(market: Market, name: str, **options: Any) -> RestoreView:
    market.log_in(name, PASSWORD)
    return market.recover(name, **options)


# --- all of it -----------------------------------------------------------------------------------------


def test_words_on_an_empty_disk_bring_the_same_balance(
    bazaar: Bazaar, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bazaar.customer() as market:
        name, spelled = home(market).name, market.words()
        live(bazaar, market, monkeypatch)
        before = by_value(market)
    bazaar.world.forget_customer(name)

    with restored(bazaar, "new disk", spelled) as market:
        shown = recover(market, name)
        assert shown.error is None
        assert shown.complete
        assert (shown.unmatched, shown.missing_marks) == (0, 0)
        assert by_value(market) == before
        by_source = {source.source: source for source in shown.sources}
        assert by_source["account"].spent > 0
        assert by_source["swaps"].coins > 0
        assert by_source["refunds"].amount == 77
        assert Counter(order.state for order in shown.orders) == {"captured": 4, "refunded": 1}
        # They are coins: all of them can be spent, to the last one.
        while market.wallet().usable >= 77:
            market.buy_now("sports", "ROUTE")
        assert market.wallet().usable == sum(value * n for value, n in before.items()) % 77
        # What is drawn now is nothing that was drawn before.
        bazaar.world.fund(name, 2000)
        market.log_in(name, PASSWORD)
        market.withdraw()
        assert market.wallet().usable == sum(value * n for value, n in before.items()) % 77 + 2000
        market.buy_now("sports", "PLAN")


@pytest.mark.exhaustive
def test_a_wallet_is_restored_twice(bazaar: Bazaar, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time finds what the first one drew, swapped and was refunded, in an era of its own."""
    with bazaar.customer() as market:
        name, spelled = home(market).name, market.words()
        live(bazaar, market, monkeypatch)
    bazaar.world.fund(name, 4000)
    with restored(bazaar, "first", spelled) as market:
        assert recover(market, name).complete
        market.withdraw()
        live(bazaar, market, monkeypatch)
        before = by_value(market)
    bazaar.world.forget_customer("first")
    with restored(bazaar, "second", spelled) as market:
        shown = recover(market, name)
        assert shown.complete, shown
        assert by_value(market) == before
        # And once more on the same disk: nothing comes twice.
        again = recover(market, name, refunds=True)
        assert again.complete, again
        assert by_value(market) == before


def test_a_refund_that_nobody_claimed_is_claimed(bazaar: Bazaar, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise RejectedError("The machine is gone.")

    with bazaar.customer() as market:
        name, spelled = home(market).name, market.words()
        with monkeypatch.context() as patched:
            change_price(bazaar, patched)
            patched.setattr(Refunds, "collect", never)
            with pytest.raises(RejectedError, match="gone"):
                market.buy_now("maps", "ROUTE")
        bazaar.world.merchants["maps"].inventory.edit("ROUTE", price=77)
        published(bazaar)
    with restored(bazaar, "new disk", spelled) as market:
        shown = recover(market, name)
        assert shown.complete, shown
        (order,) = shown.orders
        assert (order.state, order.claimed) == ("refunded", 77)
        assert market.wallet().usable == 4000


def test_a_page_of_claims_that_comes_twice_hides_none_of_the_next(
    bazaar: Bazaar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "CLAIMS_PER_PAGE", 1)
    taken: list[bytes] = []
    with bazaar.customer(bundles=1) as market:
        order_id = market.buy_now("sports", "ROUTE").order_id
        for _ in range(3):
            assert asked(bazaar, order_id, 4).state == "done"
            market.ask(order_id)
        order = market._load(bytes.fromhex(order_id))
        assert order.claimed == 12
        finding = Finding(market._context, market._shop, Restored(market._context))
        monkeypatch.setattr(Restored, "take", lambda *given: taken.extend(given[4]))
        first = messages.FindOrder(order_id=order.id, claim_secret=order.secrets.claim, after=0)

        def find(session: Any) -> None:
            ask = session.ask

            def slowly(question: messages.Message, *wanted: Any, **more: Any) -> Any:
                """Before each further page the first one comes once more."""
                if question != first:
                    session.post(first)
                return ask(question, *wanted, **more)

            session.ask = slowly
            finding._find_order(session, order.id)

        market._shop.within("restore/order", find)
        with market._context.profile.store.immediate() as tx:
            claimed = sa.select(schema.tokens.c.blind_signature).join(
                schema.claims, schema.claims.c.operation == schema.tokens.c.operation
            )
            assert Counter(taken) == Counter(row["blind_signature"] for row in tx.all(claimed))


def order_that_waits(bazaar: Bazaar, monkeypatch: pytest.MonkeyPatch) -> tuple[str, list[str]]:
    """Leave an order of 77 unanswered; gives the customer's name and words."""
    with bazaar.customer(timeout_s=1.0) as market:
        name, spelled = home(market).name, market.words()
        settle = Checkout.settle

        def leave(checkout_: Checkout, session: Any, order_id: bytes) -> None:
            bazaar.world.stop("maps")
            bazaar.world.pump(lambda: False, 0.05)
            settle(checkout_, session, order_id)

        with monkeypatch.context() as patched:
            patched.setattr(Checkout, "settle", leave)
            with pytest.raises(VeilmartError):
                market.buy_now("maps", "ROUTE")
        published(bazaar)
    return name, spelled


def let_the_deadline_pass(bazaar: Bazaar) -> None:
    with bazaar.world.broker.store.immediate() as tx:
        tx.execute(sa.update(broker_schema.orders).values(deadline=now_ms() - 1, due=0))
    assert bazaar.world.pump(lambda: _states(bazaar) == {"refundable"}, 10)


def test_an_order_that_waits_is_looked_at_again(bazaar: Bazaar, monkeypatch: pytest.MonkeyPatch) -> None:
    name, spelled = order_that_waits(bazaar, monkeypatch)
    with restored(bazaar, "new disk", spelled) as market:
        shown = recover(market, name)
        assert shown.complete, shown
        assert [order.state for order in shown.orders] == ["held"]
        assert market.wallet().usable == 4000 - 77
        let_the_deadline_pass(bazaar)
        again = market.recover()
        assert again.error is None
        assert [(order.state, order.claimed) for order in again.orders] == [("refunded", 77)]
        assert market.wallet().usable == 4000


def _states(bazaar: Bazaar) -> set[str]:
    with bazaar.world.broker.store.immediate() as tx:
        return {row["state"] for row in tx.all(sa.select(broker_schema.orders.c.state))}


# --- crashes and refusals ------------------------------------------------------------------------------


@pytest.mark.exhaustive
def test_a_restoring_that_dies_at_every_step(bazaar: Bazaar, monkeypatch: pytest.MonkeyPatch) -> None:
    with bazaar.customer() as market:
        name, spelled = home(market).name, market.words()
        market.buy_now("sports", "ROUTE")
        market.log_out()
        with bazaar.customer(bundles=1) as other:
            other.buy_now("sports", "EMPTY")
        published(bazaar)
        before = by_value(market)
    monkeypatch.setattr(numbers, "GAP", 3)
    died = 0
    profile = bazaar.profile("new disk")
    Market.restore(profile, bazaar.world.market_path, " ".join(spelled))
    for number in range(1, 1000):
        try:
            with (
                Market(profile, connect=bazaar.world.connect) as market,
                stepping(market, last(number, crash)) as steps,
            ):
                shown = recover(market, name)
        except Crash:
            died += 1
            continue
        assert shown.complete, shown
        assert steps.taken < number
        break
    assert died > 20
    with Market(profile, connect=bazaar.world.connect) as market:
        assert by_value(market) == before
        market.buy_now("sports", "PLAN")
    # Dying again and again it began once.
    with bazaar.world.broker.store.immediate() as tx:
        assert len(tx.all(sa.select(broker_schema.restores))) == 1


def claims(market: Market) -> dict[bytes, str]:
    """Every refund claim that was begun, and how it stands."""
    begun = sa.select(schema.operations).where(schema.operations.c.kind == "refund")
    with market._context.profile.store.immediate() as tx:
        return {row["operation"]: row["state"] for row in tx.all(begun)}


def test_a_claim_that_stopped_payments_refuse_is_made_later_as_it_was(
    bazaar: Bazaar, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, spelled = order_that_waits(bazaar, monkeypatch)
    with restored(bazaar, "new disk", spelled) as market:
        assert recover(market, name).complete
        let_the_deadline_pass(bazaar)
        break_the_books(bazaar.world)
        for _ in range(2):
            shown = market.recover()
            assert isinstance(shown.error, PaymentsStoppedError)
            assert [(order.state, order.claimed) for order in shown.orders] == [("refundable", 0)]
            assert market.wallet().usable == 4000 - 77
        before = claims(market)
        assert list(before.values()) == ["open"]
        mend(bazaar.world)
        assert examine(bazaar.world) == "running"
        again = market.recover()
        assert again.error is None
        assert [(order.state, order.claimed) for order in again.orders] == [("refunded", 77)]
        assert market.wallet().usable == 4000
        # It was the one that was begun, no other one: the broker may have taken a copy of it meanwhile.
        assert claims(market) == dict.fromkeys(before, "done")


def test_nothing_is_drawn_before_the_account_was_asked(bazaar: Bazaar) -> None:
    with bazaar.customer() as market:
        name, spelled = home(market).name, market.words()
    bazaar.world.fund(name, 2000)
    with restored(bazaar, "new disk", spelled) as market:
        market.log_in(name, PASSWORD)
        with pytest.raises(RejectedError, match="not restored yet"):
            market.withdraw()
        with pytest.raises(UsageError, match="Which account"):
            market.recover()
        assert market.recover(name).complete
        market.withdraw()
    with pytest.raises(UsageError, match="already"):
        Market.restore(bazaar.profile("new disk"), bazaar.world.market_path, " ".join(spelled))


def test_without_tickets_the_search_goes_on_later(bazaar: Bazaar, monkeypatch: pytest.MonkeyPatch) -> None:
    with bazaar.customer() as market:
        name, spelled = home(market).name, market.words()
        live(bazaar, market, monkeypatch)
        before = by_value(market)
    monkeypatch.setattr("customer_node.restore.TICKETS", 2)
    with restored(bazaar, "new disk", spelled) as market:
        shown = recover(market, name)
        assert isinstance(shown.error, OutOfTicketsError)
        assert market.wallet().restoring
        assert not shown.complete
        rounds = 0
        while not shown.complete:
            rounds += 1
            shown = recover(market, name)
        assert rounds >= 1
        assert not market.wallet().restoring
        assert by_value(market) == before


def test_a_coin_spent_after_the_last_boundary_is_found_out_when_it_is_shown(bazaar: Bazaar) -> None:
    with bazaar.customer() as market:
        name, spelled = home(market).name, market.words()
        spent_now = market.wallet().usable
        with bazaar.tampering(lambda publish: [] if "/spent/" in publish.topic else [publish]):
            market.buy_now("sports", "PLAN")
            bazaar.world.pump(lambda: False, 0.4)
            market.log_out()
            with restored(bazaar, "new disk", spelled) as other:
                shown = recover(other, name)
                assert shown.complete, shown
                assert shown.missing_marks > 0
                assert other.wallet().usable > spent_now - 1234
                with pytest.raises(VeilmartError, match="spent before"):
                    other.buy_now("maps", "PLAN")
                other.buy_now("maps", "PLAN")
                assert other.wallet().usable == spent_now - 2 * 1234


def test_what_the_broker_does_not_sign_marks_nothing(bazaar: Bazaar) -> None:
    """Somebody on the bus says that this customer's coins are spent."""
    with bazaar.customer() as market:
        name, spelled = home(market).name, market.words()
        market.buy_now("sports", "ROUTE")
        published(bazaar)
        before = by_value(market)
        seed = market._context.profile.seed
        with market._context.profile.store.immediate() as tx:
            rows = tx.all(sa.select(schema.tokens, schema.issuer_keys).join(schema.issuer_keys))
            marks = [coins.mark_of(issuer_of(row), seed, row["counter"])[:16] for row in rows]
    retained = bazaar.world.bus.retained
    content = b"".join(marks)
    for topic in [topic for topic in retained if "/spent/" in topic]:
        genuine = retained[topic]
        at = len(genuine) - config.SPENT_PER_CHUNK * config.SPENT_MARK
        retained[topic] = genuine[:at] + content + genuine[at + len(content) :]
    with restored(bazaar, "new disk", spelled) as market:
        shown = recover(market, name)
        assert shown.missing_marks > 0
        # Nothing is known to be spent now, and no coin is said to be.
        assert all(n >= before[value] for value, n in by_value(market).items())


def test_another_wallets_signatures_are_left_alone(bazaar: Bazaar, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two wallets drew from one account: each gets its own back."""
    monkeypatch.setattr(matching, "WIDEST", 4 * matching.WINDOW)
    with bazaar.customer() as market:
        name, spelled = home(market).name, market.words()
        before = by_value(market)
    bazaar.world.fund(name, 2000)
    with bazaar.world.customer("second wallet") as other:
        other.log_in(name, PASSWORD)
        other.withdraw()
    with restored(bazaar, "new disk", spelled) as market:
        shown = recover(market, name)
        assert shown.unmatched == len(coins.BUNDLE) + coins.BUNDLE_TICKETS
        assert by_value(market) == before


# --- what it shows -------------------------------------------------------------------------------------


@pytest.mark.exhaustive
def test_no_session_names_what_another_should_not(bazaar: Bazaar, monkeypatch: pytest.MonkeyPatch) -> None:
    with bazaar.customer() as market:
        name, spelled = home(market).name, market.words()
        live(bazaar, market, monkeypatch)
        ids = {row[0] for row in profile_rows(home(market), schema.operations.c.operation)}
        orders = {row[0] for row in profile_rows(home(market), schema.orders.c.order_id)}
        seed = market._context.profile.seed
    asked: list[tuple[bytes, str, Any]] = []
    with restored(bazaar, "new disk", spelled) as market:
        _listen(monkeypatch, asked)
        shown = recover(market, name)
        assert shown.complete, shown
        with market._context.profile.store.immediate() as tx:
            rows = tx.all(sa.select(schema.tokens, schema.issuer_keys).join(schema.issuer_keys))
        serials = [coins.mark_of(issuer_of(row), seed, row["counter"]) for row in rows]
    account = [body for _, audience, body in asked if audience == "account"]
    assert {type(body) for body in account} >= {
        messages.BeginRestore,
        messages.FetchIssued,
        messages.Withdraw,
    }
    text = b"".join(codec.pack(body) for body in account)
    for value in [*ids, *orders, *serials]:
        assert value not in text
        assert value[:12] not in text
    for body in account:
        if isinstance(body, messages.Withdraw):
            assert body.coins == []
    found: dict[bytes, list[Any]] = {}
    for sid, audience, body in asked:
        if audience == "shop" and isinstance(body, messages.RepeatSwap | messages.FindOrder):
            known = body.operation if isinstance(body, messages.RepeatSwap) else body.order_id
            if known in ids | orders and known not in found.setdefault(sid, []):
                found[sid].append(known)
    assert sum(len(each) for each in found.values()) == len(orders) + sum(
        _is_swap(bazaar, operation) for operation in ids
    )
    assert {len(each) for each in found.values()} <= {0, 1}, "two in one session would be tied together"


def _is_swap(bazaar: Bazaar, operation: bytes) -> bool:
    key = owner_of("swap", operation)
    with bazaar.world.broker.store.immediate() as tx:
        where = broker_schema.operations.c.id == key
        return tx.one(sa.select(broker_schema.operations.c.id).where(where)) is not None


def _listen(monkeypatch: pytest.MonkeyPatch, asked: list[tuple[bytes, str, Any]]) -> None:
    post = Session.post

    def listening(session: Any, *bodies: Any) -> None:
        audience = "account" if session._decoder is codec.TO_ACCOUNT else "shop"
        asked.extend((session.link.session, audience, body) for body in bodies)
        post(session, *bodies)

    monkeypatch.setattr(Session, "post", listening)


# --- the public set ------------------------------------------------------------------------------------


def test_marks_are_published_at_boundaries_alone_and_in_one_size(tmp_path: Path) -> None:
    bazaar = build(tmp_path, limits={"totals_minimum_orders": 3, "totals_period_ms": 100})
    try:
        with bazaar.customer() as market:
            for count in range(3):
                market.buy_now("sports", "EMPTY")
                bazaar.world.pump(lambda: False, 0.3)
                chunks = [p for p in bazaar.world.bus.passed if "/spent/" in p.topic]
                assert bool(chunks) == (count == 2)
        assert {len(p.payload) for p in chunks} == {len(chunks[0].payload)}
        with bazaar.world.broker.store.immediate() as tx:
            marks = {row["mark"][:16] for row in tx.all(sa.select(broker_schema.spent))}
        with Market(home(market), connect=bazaar.world.connect) as reader:
            read = spent.read(reader._context)
        assert marks < read.marks
        assert read.missing == 0
        assert len(read.marks) == config.SPENT_PER_CHUNK * len({p.topic for p in chunks})
    finally:
        bazaar.world.close()


def test_a_full_chunk_is_followed_by_another(bazaar: Bazaar) -> None:
    broker = bazaar.world.broker
    with broker.store.immediate() as tx:
        key_id = tx.scalar(sa.select(broker_schema.issuer_keys.c.key_id).limit(1))
    wanted: set[bytes] = set()
    for count in (700, 100, 300):
        rows = [bytes([count % 251]) * 8 + n.to_bytes(24) for n in range(count)]
        rows = [coins.spent_mark(row) for row in rows]
        wanted |= {row[:16] for row in rows}
        with broker.store.immediate() as tx:
            for row in rows:
                tx.insert(sa.insert(broker_schema.spent), {"mark": row, "key_id": key_id, "owner": bytes(16)})
            tx.flush()
            broker.broker._spent.extend(tx, bytes)
    with broker.store.immediate() as tx:
        chunks = tx.all(sa.select(broker_schema.spent_chunks).order_by(broker_schema.spent_chunks.c.number))
    assert [row["used"] for row in chunks] == [512, 512, 76]
    content = b"".join(row["content"] for row in chunks)
    assert wanted == {content[n : n + 16] for n in range(0, len(content), 16)} - {bytes(16)}


def test_the_set_is_published_again_on_a_new_connection_and_ends_with_its_months(bazaar: Bazaar) -> None:
    world = bazaar.world
    with bazaar.customer() as market:
        market.buy_now("sports", "ROUTE")
        published(bazaar)
    before = {topic for topic in world.bus.retained if "/spent/" in topic}
    assert before
    for topic in before:
        del world.bus.retained[topic]
    world.stop("broker")
    world.start_broker()
    assert world.pump(lambda: before <= world.bus.retained.keys(), 10)
    with world.broker.store.immediate() as tx:
        later = now_ms() + 100 * config.DAY_MS
        world.broker.broker._spent.sweep(tx, later)
        cleared = world.broker.broker._spent.outbox(tx, later)
    assert {each.topic for each in cleared} == before
    assert {each.payload for each in cleared} == {b""}


# --- matching ------------------------------------------------------------------------------------------


def test_a_signature_far_away_is_found_when_looked_for_wider(bazaar: Bazaar) -> None:
    mint = bazaar.world.broker.broker._exchange._mint
    key = next(issuer for issuer in mint.issuers.values() if issuer.purpose == "coin")
    seed, era = bytes(range(32)), numbers.era_of(bytes(32), "alice", 3)
    far = numbers.first_counter(era) + matching.WINDOW + 40
    signature = mint.sign([coins.blind_token(key, seed, far)])[0]
    matcher = Matcher(seed, [key], [0, era])
    assert matcher.find("coin", signature) is None
    assert matcher.widen()
    assert matcher.find("coin", signature) == (key, far)
    assert matcher.find("ticket", signature) is None


def test_what_is_there_already_is_left_as_it_is(bazaar: Bazaar) -> None:
    """A coin that was spent since it came back is not free again because it is shown once more."""
    with bazaar.customer(bundles=1) as market:
        context = market._context
        brought = Restored(context)
        with context.profile.store.immediate() as tx:
            rows = tx.all(sa.select(schema.tokens).where(schema.tokens.c.state == "free"))
            tx.execute(sa.update(schema.tokens).values(state="spent"))
            tx.execute(sa.insert(schema.eras), {"era": 0})
            for purpose in ("coin", "ticket"):
                brought.take(tx, "account", purpose, [row["blind_signature"] for row in rows], 0)
            assert len(tx.all(sa.select(schema.unmatched))) == len(rows), "each is of one purpose"
            assert {row["state"] for row in tx.all(sa.select(schema.tokens))} == {"spent"}


# --- the command ---------------------------------------------------------------------------------------


def test_the_command_restores(bazaar: Bazaar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with bazaar.customer() as market:
        name, spelled = home(market).name, market.words()
        live(bazaar, market, monkeypatch)
        before = market.wallet().usable
    monkeypatch.setattr("veilmart.cli.profiles.Market", partial(Market, connect=bazaar.world.connect))
    (tmp_path / "words").write_text(" ".join(spelled[:6]) + "\n" + "  ".join(spelled[6:]) + "\n")
    (tmp_path / "password").write_text(PASSWORD)
    (tmp_path / "wrong").write_text("another password")
    given = ("wallet", "restore", bazaar.world.market_path, name, "--words-file", tmp_path / "words")
    where = {"VEILMART_PROFILE": str(tmp_path / "me"), "VEILMART_KEY_FILE": str(tmp_path / "key")}
    refused = veilmart(*given, "--password-file", tmp_path / "wrong", "--json", **where)
    assert (refused.code, refused.error["code"]) == (5, "authentication")
    ran = veilmart(*given[:2], given[2], name, "--password-file", tmp_path / "password", "--json", **where)
    assert ran.data["complete"] is True
    assert veilmart("wallet", "--json", **where).data["usable"] == before
    shown = veilmart("wallet", "restore", **where)
    assert shown.code == 0
    assert "complete" in shown.out
    nothing = veilmart("wallet", "restore", "--json", VEILMART_PROFILE=str(tmp_path / "nowhere"))
    assert (nothing.code, nothing.error["code"]) == (2, "usage")
