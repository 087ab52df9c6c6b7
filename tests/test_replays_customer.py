"""What the broker sends to a customer, played again or changed: refused, counted, and nothing changes.

The kinds of messages that have to occur are read off the types that the customer decodes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, get_args

import pytest
from client import altered
from conftest import Time
from customer_shop import Bazaar, build, content, home
from samples import EXAMPLES
from world import Publish

from common import codec, config, frames, grouping, messages, topics
from common.config import SECOND_MS
from common.errors import PriceChangedError
from customer_node import Market
from customer_node.checkout import Checkout
from customer_node.connection import Link
from customer_node.kept import KeptSession
from customer_node.sessions import Session

LATE_MS = config.Limits().freshness_ms + SECOND_MS

SID = bytes(range(16))
DOWN = topics.session_down(SID)
KEYS = frames.SessionKeys.from_bytes(bytes(range(136)))
SCOPES: dict[str, Any] = {"account": codec.TO_ACCOUNT, "shop": codec.TO_SHOP}
RECEIVED = [("account", kind) for kind in get_args(messages.ToAccount)] + [
    ("shop", kind) for kind in get_args(messages.ToShop)
]


class Silence:
    """A connection on which nothing is sent."""

    ready = True

    def take(self, _limit: int) -> list[Any]:
        return []

    def acknowledge(self, deliveries: Any) -> None:
        pass

    def wait(self, timeout_s: float) -> None:
        pass


@dataclass
class Receiver:
    """A customer's session, fed by hand."""

    scope: str
    now: int = 1_800_014_400_000

    def __post_init__(self) -> None:
        self.link = Link(SID, Silence())  # type: ignore[arg-type] # it is only read from

    def session(self) -> Session[Any]:
        """Open the session that lies in the profile, as each action does."""
        kept = KeptSession(SID, KEYS.to_bytes(), 0, 2**50, 2**40, self.now)
        return Session(self.link, kept, SCOPES[self.scope], lambda: self.now, bytes)

    def received(self, payload: bytes) -> list[Any]:
        self.link.inbox.append(payload)
        session = self.session()
        # Past `receive`, which raises for the end of a session.
        return session._open(self.link.inbox.popleft())

    def seal(self, body: Any, keys: frames.DirectionKeys = KEYS.down, topic: str = DOWN) -> bytes:
        (content,) = grouping.pack_frames([body], self.now, lambda n: bytes(range(100, 100 + n)))
        return frames.seal_frame(keys, topic, content, bytes(12))


@pytest.mark.parametrize(("scope", "kind"), RECEIVED)
def test_a_customer_refuses_every_kind_of_message_again(scope: str, kind: type) -> None:
    receiver = Receiver(scope)
    body = EXAMPLES[kind.__name__]
    frame = receiver.seal(body)
    assert receiver.received(frame) == [body]
    assert receiver.received(frame) == []
    assert receiver.link.dropped == {"replayed": 1}
    receiver.now += LATE_MS
    assert receiver.received(frame) == []
    assert receiver.link.dropped == {"replayed": 1, "stale": 1}
    for elsewhere in (
        receiver.seal(body, topic=topics.session_up(SID)),
        receiver.seal(body, topic=topics.session_down(bytes(16))),
        receiver.seal(body, keys=KEYS.up),
    ):
        assert receiver.received(elsewhere) == []
    assert receiver.link.dropped == {"replayed": 1, "stale": 1, "forged": 3}


def test_every_bit_and_every_truncation_at_a_customer() -> None:
    receiver = Receiver("shop")
    frame = receiver.seal(EXAMPLES["RefundIssued"])
    for payload in altered(frame):
        assert receiver.received(payload) == []
    assert sum(receiver.link.dropped.values()) == 9 * len(frame)
    assert receiver.received(frame) == [EXAMPLES["RefundIssued"]]


# --- a whole profile -----------------------------------------------------------------------------------

AT = "sports"


@pytest.fixture(scope="module")
def bazaar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bazaar]:
    built = build(tmp_path_factory.mktemp("bazaar"))
    # 447 and 1231 end in the same binary digits: the second payment needs another coin's change.
    for sku, price in (("FIRST", 447), ("SECOND", 1231), ("DEARER", 98)):
        built.add(AT, sku, price, content(sku, 1000))
    yield built
    built.world.close()


def test_every_bit_and_every_truncation_of_a_welcome_at_a_customer(bazaar: Bazaar) -> None:
    sizes: list[int] = []

    def tamper(publish: Publish) -> list[Publish]:
        if not publish.topic.endswith("/down") or sizes:
            return [publish]
        sizes.append(len(publish.payload))
        changed = [Publish("the bus", publish.topic, p, retain=False) for p in altered(publish.payload)]
        return [*changed, publish]

    with bazaar.tampering(tamper), bazaar.customer(bundles=0) as market:
        link = market._context.uplink.current("account")
        assert link is not None
        assert sum(link.dropped.values()) == 9 * sizes[0]
        assert market.balance().amount == 0
    bazaar.world.bus.passed.clear()


def rows(market: Market) -> dict[str, list[tuple[Any, ...]]]:
    """Give every row of a profile, but for when a session was last used."""
    found = {}
    with closing(sqlite3.connect(f"file:{home(market) / 'profile.db'}?mode=ro", uri=True)) as store:
        tables = store.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            cursor = store.execute(f"SELECT * FROM {table}")  # noqa: S608 - a name out of the schema
            kept = [n for n, column in enumerate(cursor.description) if column[0] != "last_used"]
            found[table] = sorted((tuple(row[n] for n in kept) for row in cursor), key=repr)
    return found


def visit(bazaar: Bazaar, market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    """Buy, with change and a download; then order something whose price changes under way."""
    for sku in ("FIRST", "SECOND"):
        order = market.buy_now(AT, sku)
    market.download(order.order_id, home(market) / "out")
    settle = Checkout.settle

    def change_the_price(checkout: Checkout, session: Any, order_id: bytes) -> None:
        bazaar.world.merchants[AT].inventory.edit("DEARER", price=99)
        settle(checkout, session, order_id)

    with monkeypatch.context() as patched:
        patched.setattr(Checkout, "settle", change_the_price)
        with pytest.raises(PriceChangedError):
            market.buy_now(AT, "DEARER")
    assert market.last_order().state == "refunded"


@dataclass
class Recorded:
    """All that came down in one session, and what is done in it to have it read again."""

    bazaar: Bazaar
    scope: Any
    down: list[Publish]
    bodies: list[Any]

    @classmethod
    def of(cls, bazaar: Bazaar, market: Market, scope: Any) -> Recorded:
        link = market._context.uplink.current(scope)
        assert link is not None
        kept = market._account._session().kept if scope == "account" else market._shop.visiting(AT)
        assert kept is not None
        assert kept.session == link.session
        topic = topics.session_down(link.session)
        down = [publish for publish in bazaar.world.bus.passed if publish.topic == topic]
        keys, bodies = frames.SessionKeys.from_bytes(kept.keys).down, []
        for publish in down:
            if frames.frame_type(publish.payload) == frames.DATA_TYPE:
                content = frames.open_frame(keys, topic, publish.payload)
                bodies += [envelope.body for envelope in SCOPES[scope].unpack(content)]
        return cls(bazaar, scope, down, bodies)

    def ask(self, market: Market) -> None:
        """Ask something that changes nothing."""
        if self.scope == "account":
            market.balance()
        else:
            market.show(AT, "FIRST")

    def play(self, market: Market, **reasons: int) -> None:
        """Play all of it while something is asked: no row changes, and so many are refused."""
        link = market._context.uplink.current(self.scope)
        assert link is not None
        before, counted = rows(market), link.dropped.copy()
        for publish in self.down:
            self.bazaar.world.bus.deliver(publish)
        self.ask(market)
        assert market._context.uplink.current(self.scope) is link
        assert dict(link.dropped - counted) == reasons
        assert rows(market) == before


def test_nothing_changes_in_a_profile_to_which_everything_is_played_again(
    bazaar: Bazaar, monkeypatch: pytest.MonkeyPatch, time: Time
) -> None:
    recorded: list[Recorded] = []
    with bazaar.customer(bundles=1, clock=time.now) as market:
        for scope in ("account", "shop"):
            if scope == "shop":
                visit(bazaar, market, monkeypatch)
            recorded.append(Recorded.of(bazaar, market, scope))
            # The Welcome, played again, is no data frame.
            recorded[-1].play(market, replayed=len(recorded[-1].bodies), malformed=1)
    with bazaar.again(market, clock=time.now) as market:
        for each in recorded:
            # Another process has seen nothing yet; but nothing of this answers a question of its own.
            each.ask(market)
            each.play(market, malformed=1)
            each.play(market, replayed=len(each.bodies), malformed=1)
        time.advance(LATE_MS)
        for each in recorded:
            each.ask(market)
            each.play(market, stale=len(each.bodies), malformed=1)
    assert {type(body) for each in recorded for body in each.bodies} >= {
        messages.Balance,
        messages.Withdrawn,
        messages.MerchantAnswer,
        messages.OrderAnswer,
        messages.RefundIssued,
        messages.Swapped,
        messages.MerchantCells,
    }
