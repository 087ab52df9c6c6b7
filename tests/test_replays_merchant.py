"""What the broker sends to a merchant, played again or changed: refused, counted, and nothing changes.

The kinds of messages that have to occur are read off the types that the merchant decodes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import merchant_world
import pytest
import sqlalchemy as sa
from client import altered
from merchant_world import MERCHANT, Identities, make_identities

from common import codec, config, frames, messages, sealing, topics
from common.config import SECOND_MS
from common.core import Incoming
from common.errors import WireError
from merchant_node import schema
from merchant_node.disputes import Disputes
from merchant_node.refunds import Refunds
from merchant_node.treasury import Treasury

IN = topics.merchant_in(MERCHANT)
SECRET = bytes(range(32))
LATE_MS = config.Limits().freshness_ms + SECOND_MS


@dataclass
class Shop(merchant_world.World):
    """A merchant's world that keeps what arrived, and counts what was refused as the loop does."""

    arrived: list[Incoming] = field(default_factory=list)
    opened: dict[bytes, frames.SessionKeys] = field(default_factory=dict)
    """Every session's keys, by key id."""

    def receive(self, *incoming: Incoming) -> None:
        self.arrived += incoming
        super().receive(*incoming)
        if self.keys is not None:
            self.opened[self.keys.key_id] = self.keys

    def refusal(self, incoming: Incoming) -> str:
        """Give the reason for which something is refused, or nothing where it is taken."""
        try:
            super().receive(incoming)
        except WireError as error:
            return error.reason
        return ""

    def dump(self) -> dict[str, list[tuple[Any, ...]]]:
        """Give every row of the merchant's store, but for the number of its next Hello."""
        tables = set(schema.metadata.sorted_tables) - {schema.counters}
        with self.store.immediate() as tx:
            return {t.name: sorted(tuple(row.values()) for row in tx.all(sa.select(t))) for t in tables}

    def frames_arrived(self) -> list[Incoming]:
        return [incoming for incoming in self.arrived if incoming.topic == IN]

    def bodies(self, incoming: Incoming) -> list[Any]:
        keys = self.opened[frames.frame_key_id(incoming.payload)]
        content = frames.open_frame(keys.down, IN, incoming.payload)
        return [envelope.body for envelope in codec.TO_MERCHANT.unpack(content)]


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Identities:
    return make_identities(tmp_path_factory.mktemp("market"))


@pytest.fixture
def shop(identities: Identities, tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path, identities)
    (tmp_path / "plan.pdf").write_bytes(b"ten kilometres")
    (tmp_path / "plan.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    shop.inventory.add(
        tmp_path / "plan.pdf", "plan", title="Plan", price=999, stock=5, image=tmp_path / "plan.png"
    )
    yield shop
    shop.close()


def is_data(incoming: Incoming) -> bool:
    return frames.frame_type(incoming.payload) == frames.DATA_TYPE


def visit(shop: Shop) -> None:
    """Let everything happen once: a session that ends, and another one with a sale in it."""
    shop.open_session()
    shop.receive(*shop.frames_of(messages.SessionEnded(code="session_over")))
    shop.tick()
    (hello,) = shop.hellos()
    shop.receive(Incoming(IN, shop.answer_hello(hello, shop.welcome())[0]))
    shop.tick()
    shop.browse(messages.ListProducts(search="", category="", sort="title", offset=0))
    shop.browse(messages.GetImage(sku="plan"))
    shop.quote(("plan", 1))
    outcomes: tuple[Any, ...] = ("captured", "void")
    for outcome in outcomes:
        order, _ = shop.order(("plan", 1), fetch_secret=SECRET)
        shop.ask(order)
        assert shop.ask(messages.OrderOutcome(order_id=order.order_id, outcome=outcome))
        if outcome == "captured":
            shop.ask(shop.fetch(order.order_id, 0, 1, secret=SECRET)[0])
            assert len(shop.cells()) == 1
            assert shop.state(order.order_id) == "delivered"
            dispute(shop, order.order_id)
            give_back(shop, order.order_id)
    earn(shop)
    shop.outbox.clear()


def earn(shop: Shop) -> None:
    """Let it read a statement, and ask for two payouts of which one is refused."""
    line = {"at": 0, "reference": bytes(16), "reserved": 0}
    lines = [
        messages.StatementLine(line=1, kind="captured", pending=999, available=0, **line),
        messages.StatementLine(line=2, kind="settled", pending=0, available=999, **line),
    ]
    shop.ask(messages.Statement(request=bytes(16), after=0, lines=lines, last=2, commission_basis_points=0))
    one, two = (Treasury(shop.store).ask(10, "an account", shop.now, shop.random).payout_id for _ in range(2))
    shop.ask(
        messages.PayoutAnswer(payout_id=one, state="requested", reason=""),
        messages.PayoutRefused(payout_id=two, code="insufficient_funds"),
    )


def dispute(shop: Shop, order_id: bytes) -> None:
    notice = messages.DisputeOpened(order_id=order_id, kind="not_delivered", decide_by=shop.now, arrived=[])
    kept = messages.OutcomeKept(order_id=order_id, outcome="disputed")
    assert kept in shop.ask(notice)
    Disputes(shop.store).answer(order_id, "It was fetched")
    shop.receive(*shop.frames_of(messages.DisputeAnswered(order_id=order_id)))


def give_back(shop: Shop, order_id: bytes) -> None:
    refunds = Refunds(shop.store)
    for amount in (9, 10):
        refunds.ask(order_id, amount, "a good reason", 0, os.urandom)
        shop.outbox.clear()
        shop.tick()
        (asked,) = [each for each in shop.answers() if isinstance(each, messages.RefundOrder)]
        assert (asked.order_id, asked.amount) == (order_id, amount)
        answer: messages.Message = messages.RefundTaken(refund=asked.refund, amount=9, left=990)
        if amount > 9:
            answer = messages.Refused(reference=asked.refund, code="insufficient_funds")
        shop.receive(*shop.frames_of(answer))
    assert {refund.state for refund in refunds.listing()} == {"done", "refused"}


def test_the_visit_has_every_kind_of_message_that_a_merchant_receives(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: set[type] = set()
    seal = sealing.seal_request

    def note(*arguments: Any) -> Any:
        asked.add(type(arguments[2]))
        return seal(*arguments)

    monkeypatch.setattr(sealing, "seal_request", note)
    visit(shop)
    bodies = [body for incoming in filter(is_data, shop.frames_arrived()) for body in shop.bodies(incoming)]
    assert {type(body) for body in bodies} == set(get_args(messages.ToMerchant))
    assert asked == set(get_args(messages.SealedBody))


@pytest.mark.parametrize(("later", "reason"), [(0, "replayed"), (LATE_MS, "stale")])
def test_a_merchant_refuses_a_replay_in_time_and_late(shop: Shop, later: int, reason: str) -> None:
    visit(shop)
    shop.tick(later)
    shop.outbox.clear()
    before = shop.dump()
    ended = frames.frame_key_id(next(filter(is_data, shop.frames_arrived())).payload)
    for incoming in shop.frames_arrived():
        # A Welcome is the answer to a Hello that is under way; an ended session's keys are gone.
        over = frames.frame_key_id(incoming.payload) == ended
        expected = "stale" if not is_data(incoming) else "forged" if over else reason
        assert shop.refusal(incoming) == expected
    assert shop.dump() == before
    assert shop.merchant.session.state == "open"
    assert (shop.outbox, shop.sources) == ([], [])


def test_a_merchant_refuses_a_replay_on_another_topic(shop: Shop) -> None:
    visit(shop)
    before = shop.dump()
    elsewhere = [topics.merchant_in("other"), topics.merchant_out(MERCHANT), topics.broker_card()]
    for incoming in shop.frames_arrived():
        for topic in elsewhere:
            assert shop.refusal(Incoming(topic, incoming.payload)) in {"malformed", "forged"}
    assert shop.dump() == before


def test_a_merchant_refuses_replays_after_a_restart(shop: Shop) -> None:
    visit(shop)
    before = shop.dump()
    frames_arrived = shop.frames_arrived()
    shop.start()
    for greeted in (False, True):
        if greeted:
            shop.open_session()
            shop.outbox.clear()
        for incoming in frames_arrived:
            assert shop.refusal(incoming) in {"stale", "forged"}
        assert shop.dump() == before
        assert (shop.outbox, shop.sources) == ([], [])


@pytest.mark.parametrize("restart", [False, True])
def test_the_broker_sends_everything_once_more_and_nothing_changes(shop: Shop, *, restart: bool) -> None:
    visit(shop)
    before = shop.dump()
    again = [body for incoming in filter(is_data, shop.frames_arrived()) for body in shop.bodies(incoming)]
    if restart:
        shop.start()
        shop.open_session()
    for body in again:
        if not isinstance(body, messages.SessionEnded):
            shop.receive(*shop.frames_of(body))
            assert shop.dump() == before, body
    # It was asked, and answered: every question, both orders and their outcomes, and the cell. The ends of
    # a session, the statement and what became of payouts, refunds and a dispute's answer are no questions.
    assert len(shop.answers()) == len(again) - 8
    assert len(shop.cells()) == 1


@pytest.mark.parametrize("name", ["Welcome", "data"])
def test_every_bit_and_every_truncation_at_a_merchant(shop: Shop, name: str) -> None:
    if name == "data":
        shop.open_session()
        (incoming,) = shop.frames_of(shop.order(("plan", 1))[0])
    else:
        shop.show_card()
        shop.tick()
        incoming = Incoming(IN, shop.answer_hello(shop.hellos()[0], shop.welcome())[0])
    before, state = shop.dump(), shop.merchant.session.state
    shop.outbox.clear()
    refused = sum(bool(shop.refusal(Incoming(IN, payload))) for payload in altered(incoming.payload))
    assert refused == 9 * len(incoming.payload)
    assert (shop.dump(), shop.merchant.session.state, shop.outbox) == (before, state, [])
    assert shop.refusal(incoming) == ""
    assert (shop.dump(), shop.merchant.session.state) != (before, state)
