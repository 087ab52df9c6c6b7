"""What a run left behind: everything that each party held, opened with every key, as evidence.

`recorder.py` makes it. It is data alone: a test plants a leak in a copy of it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec
from world import Publish

from broker_node.keys import SymmetricKey
from broker_node.signed_once import marks_of
from common import codec, config, frames, messages, topics
from common.config import Limits
from common.errors import WireError
from common.frames import SessionKeys
from common.keys import IdentityKey, identity_fingerprint
from common.market_file import MarketFile
from common.sealing import XWingPrivateKey
from veilmart.evidence import Evidence, Seen, open_merchant_frame, open_sealed, open_session_frame

Side = Literal["account", "shop", "public"]

ENTRY_COLUMNS = 3
"""Of a row of `ledger` that is written, with its book; what is only read with has fewer values."""
LARGEST_BESIDE_CELLS = 16 * config.KIB
"""Of larger frames the cell is looked at, and not what it is wrapped in."""
ACCOUNT_TABLES = {"accounts", "login_delays", "ticket_days", "balances", "operator_actions"}
SHOP_TABLES = {"spent", "orders", "order_bodies", "order_answers", "disputes", "unpublished"}
PUBLIC_TABLES = {
    "announced_keys",
    "issuer_keys",
    "merchants",
    "merchant_lines",
    "payments",
    "checkpoints",
    "checked_books",
    "totals",
    "spent_chunks",
    "alembic_version",
    "sqlite_master",
}
TABLES: dict[str, Side] = {
    **dict.fromkeys(ACCOUNT_TABLES, "account"),
    **dict.fromkeys(SHOP_TABLES, "shop"),
    **dict.fromkeys(PUBLIC_TABLES, "public"),
}
PUBLIC_FOLDERS = tuple(f"{topics.PREFIX}/{name}/" for name in ("audit", "spent"))
ACCOUNT_CREDENTIALS = (messages.SignUp, messages.LogIn)


AnyBody: TypeAlias = (
    messages.FromAccount
    | messages.ToAccount
    | messages.FromShop
    | messages.ToShop
    | messages.FromMerchant
    | messages.ToMerchant
)


@functools.cache
def codec_of(expected: Any) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(expected)


@dataclass(frozen=True)
class Asked:
    """A question that a customer sealed."""

    body: messages.SealedBody
    answer_secret: bytes


@dataclass(frozen=True)
class Statement:
    """One row of a statement's parameters."""

    home: Path
    table: str
    row: tuple[Any, ...]


@dataclass(frozen=True)
class Opened:
    """What the keys of its ends open of one publish. Merchants' frames are of the shop's side."""

    side: Side
    merchant: str | None
    seen: Seen
    content: bytes


def _envelopes(item: Opened) -> list[Any]:
    return codec_of(list[messages.Envelope[AnyBody]]).decode(item.content)


@dataclass(frozen=True)
class Record:
    """What a run left behind."""

    root: Path
    market: MarketFile
    publishes: tuple[Publish, ...]
    sessions: Mapping[bytes, SessionKeys]
    sides: Mapping[bytes, Side]
    merchant_keys: Mapping[str, list[SessionKeys]]
    welcomes: Mapping[bytes, bytes]
    hello_keys: Mapping[bytes, XWingPrivateKey]
    relay_keys: Mapping[bytes, SymmetricKey]
    wrap_keys: Mapping[bytes, SymmetricKey]
    prekeys: Mapping[str, Mapping[bytes, XWingPrivateKey]]
    statements: tuple[Statement, ...]
    memory: Mapping[str, frozenset[bytes]]
    asked: tuple[Asked, ...]
    answered: tuple[tuple[bytes, bytes], ...]
    """The answer secret under which a merchant sealed an answer, and the answer."""
    times: frozenset[int]
    """Every time that a node read off its clock: one round of its loop has one time for all that it does."""
    log: str

    @property
    def broker_home(self) -> Path:
        return self.root / "market" / "broker"

    def merchant_home(self, merchant: str) -> Path:
        return self.root / "merchants" / merchant

    # --- opening ---------------------------------------------------------------------------------------

    @cached_property
    def opened(self) -> list[Opened]:
        """Every frame of a session, opened."""
        return [opened for publish in self.publishes if (opened := self._open(publish)) is not None]

    @cached_property
    def unopened(self) -> list[Publish]:
        """Frames on a session's or merchant's hop that no key opens."""
        opened = {(item.seen.topic, item.seen.payload) for item in self.opened}
        hops = (topics.SessionUp, topics.SessionDown, topics.MerchantIn, topics.MerchantOut)
        return [
            publish
            for publish in self.publishes
            if isinstance(topics.parse(publish.topic), (*hops, topics.MerchantCells))
            and (publish.topic, publish.payload) not in opened
        ]

    def _open(self, publish: Publish) -> Opened | None:
        seen = Seen(publish.topic, publish.payload)
        place = topics.parse(seen.topic)
        match place:
            case topics.SessionUp(session_id=sid) | topics.SessionDown(session_id=sid):
                side, merchant = self.sides.get(sid, "shop"), None
            case topics.MerchantIn(merchant_id=name) | topics.MerchantOut(merchant_id=name):
                side, merchant = "shop", name
            case topics.MerchantCells(merchant_id=name):
                side, merchant = "shop", name
            case _:
                return None
        if merchant is None:
            content = open_session_frame(seen, self.sessions)
        else:
            content = open_merchant_frame(seen, merchant, self.merchant_keys[merchant])
        content = content or self.welcomes.get(seen.payload) or self._hello(seen)
        return Opened(side, merchant, seen, content) if content is not None else None

    def _hello(self, seen: Seen) -> bytes | None:
        for key in self.hello_keys.values():
            with contextlib.suppress(WireError):
                return codec.pack(frames.open_hello(key, self.market.market_id, seen.topic, seen.payload))
        return None

    def bodies(self, *kinds: type[messages.Message]) -> Iterator[Any]:
        """Give every message of these kinds that travelled in a frame, or was a `Hello` or its answer."""
        for item in self.opened:
            yield from (body for body in self.bodies_of(item) if isinstance(body, kinds))

    def bodies_of(self, item: Opened) -> list[Any]:
        """Give the messages of one frame."""
        if self._is_greeting(item):
            return [codec_of(messages.Hello | messages.HelloAnswer).decode(item.content)]
        return [envelope.body for envelope in _envelopes(item)]

    def _is_greeting(self, item: Opened) -> bool:
        return len(item.seen.payload) == frames.HELLO_SIZE or item.seen.payload in self.welcomes

    # --- what each party held --------------------------------------------------------------------------

    def broker(self) -> Evidence:
        evidence = self._node("broker", self.broker_home, [])
        for publish in self.publishes:
            evidence.add("payload", publish.payload)
            evidence.add("topic", publish.topic)
        for opened in self.opened:
            evidence.add("frame", opened.content)
            evidence.add_values("value", msgspec.msgpack.decode(opened.content))
        for token in self._reply_tokens():
            evidence.add("reply token", token)
        return evidence

    def merchant(self, merchant: str) -> Evidence:
        """Its home, its own topics, and what is public."""
        evidence = self._node(merchant, self.merchant_home(merchant), ["content", "images"])
        own = f"{topics.PREFIX}/merchant/{merchant}/"
        for publish in self.publishes:
            if publish.topic.startswith(own) or is_public(publish.topic):
                evidence.add("payload", publish.payload)
                evidence.add("topic", publish.topic)
        for opened in self.opened:
            if opened.merchant == merchant:
                evidence.add("frame", opened.content)
                evidence.add_values("value", msgspec.msgpack.decode(opened.content))
                for body in self.sealed_in(merchant, opened.content):
                    evidence.add("sealed request", body)
                    evidence.add_values("value", msgspec.msgpack.decode(body))
        return evidence

    def sealed_in(self, merchant: str, content: bytes) -> list[bytes]:
        """Open the sealed requests in a frame, as their merchant would."""
        identity = identity_fingerprint(
            IdentityKey.load(self.merchant_home(merchant) / "identity.key").public
        )
        return open_sealed(content, self.market.market_id, identity, self.prekeys[merchant])

    def bus(self) -> Evidence:
        """Mosquitto's operator: client ids, topics and payloads, as they passed."""
        evidence = Evidence("bus")
        for publish in self.publishes:
            evidence.add("client id", publish.sender)
            evidence.add("topic", publish.topic)
            evidence.add("payload", publish.payload)
        return evidence

    def auditor(self) -> Evidence:
        """Whatever everybody may read."""
        evidence = Evidence("auditor")
        for publish in self.publishes:
            if is_public(publish.topic):
                evidence.add("topic", publish.topic)
                evidence.add("payload", publish.payload)
                evidence.add_values("value", publish.payload)
        return evidence

    def logs(self) -> Evidence:
        evidence = Evidence("logs")
        evidence.add("log", self.log)
        return evidence

    def _node(self, party: str, home: Path, without: list[str]) -> Evidence:
        evidence = Evidence(party)
        evidence.add_home(home, without=without)
        for statement in self.statements:
            if statement.home == home:
                evidence.add_values(f"row of {statement.table}", statement.row)
        for value in self.memory[party]:
            evidence.add("memory", value)
        return evidence

    def _reply_tokens(self) -> Iterator[bytes]:
        for forward in self.bodies(messages.Forward, messages.ForwardFetch):
            for merchant in self.merchant_keys:
                key = self.relay_keys[forward.token[:8]]
                with contextlib.suppress(Exception):
                    bound = merchant.encode() + forward.reference
                    yield key.gcm.decrypt(forward.token[8:20], forward.token[20:], bound)

    # --- the broker's two sides ------------------------------------------------------------------------

    def side_of_broker(self, side: Side) -> Evidence:
        """Every value that the broker held of account sessions, or of shop sessions and orders."""
        evidence = Evidence(f"broker, {side}")
        for opened in self.opened:
            if opened.side == side:
                self._add_frame(evidence, opened)
        for statement in self.statements:
            if statement.home == self.broker_home and self._side_of(statement) == side:
                evidence.add_values(f"row of {statement.table}", statement.row)
        if side == "shop":
            for token in self._reply_tokens():
                evidence.add_values("reply token", _token_fields(token))
            for publish in self.publishes:
                if "/audit/event/order" in publish.topic:
                    evidence.add_values("event", publish.payload)
        return evidence

    @staticmethod
    def _add_frame(evidence: Evidence, opened: Opened) -> None:
        name = "frame " + opened.seen.topic.rsplit("/", 1)[1]
        evidence.add_values(name, msgspec.msgpack.decode(opened.content))
        place = topics.parse(opened.seen.topic)
        if isinstance(place, topics.SessionUp | topics.SessionDown):
            evidence.add(name, place.session_id)
        if len(opened.seen.payload) <= LARGEST_BESIDE_CELLS:
            evidence.add(name, _unframed(opened.seen.payload))

    @cached_property
    def _issuers(self) -> dict[bytes, messages.IssuerKey]:
        """The keys that coins and tickets were asked for under."""
        cards = [p.payload for p in self.publishes if p.topic == topics.broker_card()]
        return {issuer.key_id: issuer for card in cards for issuer in _broker_card(card).issuer_keys}

    @cached_property
    def _references(self) -> dict[bytes, Side]:
        """Sides of what rows name: sessions, `Hello`s, operations, postings, and what was signed."""
        sides: dict[bytes, Side] = dict(self.sides)
        sides.update(
            (welcome.session, "shop")
            for welcome in self.bodies(messages.Welcome)
            if welcome.scope == "merchant"
        )
        for opened in self.opened:
            if len(opened.seen.payload) == frames.HELLO_SIZE:
                sides[hashlib.sha256(opened.seen.payload).digest()] = opened.side
        for body in self.bodies(messages.Withdraw, messages.Swap, messages.ClaimRefund):
            side: Side = "account" if isinstance(body, messages.Withdraw) else "shop"
            asked = [*body.coins, *body.tickets] if isinstance(body, messages.Withdraw) else body.blinded
            sides.update(dict.fromkeys(marks_of(self._issuers, asked), side))
        for statement in self.statements:
            if statement.table == "operations":
                sides.update(_sides_of_operation(statement.row))
            elif statement.table == "postings":
                of_account = statement.row[0] in self._account_postings
                for value in statement.row:
                    if isinstance(value, bytes) and (of_account or value not in sides):
                        sides[value] = "account" if of_account else "shop"
        return sides

    @cached_property
    def _account_postings(self) -> set[int]:
        """Numbers of the postings with an account's money."""
        rows = [each.row for each in self.statements if each.table == "ledger"]
        entries = [row for row in rows if len(row) == ENTRY_COLUMNS]
        return {row[0] for row in entries if str(row[1]).startswith(("account:", "operator"))}

    def _side_of(self, statement: Statement) -> Side:
        side = TABLES.get(statement.table)
        if side is not None:
            return side
        if statement.table == "events":
            return "shop" if any(str(value).startswith("order.") for value in statement.row) else "public"
        if statement.table == "ledger" and len(statement.row) == ENTRY_COLUMNS:
            return "account" if statement.row[0] in self._account_postings else "shop"
        values = [value for value in statement.row if isinstance(value, bytes)]
        sides = {self._references[value] for value in values if value in self._references}
        if len(sides) == 1:
            return sides.pop()
        if not any(value not in self.hello_keys for value in values):
            return "public"
        raise AssertionError(f"a row of {statement.table} that belongs to no side: {sides}")

    def _sent_at(self) -> set[int]:
        """Give the times of all sends: two sessions may send in one millisecond, and the bus sees when."""
        sent = [item for item in self.opened if not self._is_greeting(item)]
        return {envelope.at for item in sent for envelope in _envelopes(item)}

    def public(self) -> Evidence:
        """What everybody has: cards, certificates, public keys, and the protocol's own words."""
        evidence = Evidence("public")
        for publish in self.publishes:
            if publish.topic.endswith(("/card", "/status")):
                evidence.add("card", publish.payload)
        for issuer in self._issuers.values():
            evidence.add("issuer key", issuer.key_id)
            evidence.add("issuer key", issuer.public)
            evidence.add("name of a book", f"coins:{issuer.value}")
        for key_id in (*self.hello_keys, *self.wrap_keys):
            # One of each per day, the same for every session.
            evidence.add("key id of the day", key_id)
        for now in self.times | self._sent_at():
            evidence.add("time of a round or of a send", now.to_bytes(8, "big"))
        for name in vars(messages):
            evidence.add("word", name)
        evidence.add("word", self.market.market_id)
        for code in messages.RefusalCode.__args__:
            evidence.add("word", code)
        # The only number beside times that takes eight bytes: what `Welcome` says of every session.
        evidence.add("word", Limits().session_byte_budget.to_bytes(8, "big"))
        return evidence


def is_public(topic: str) -> bool:
    """Whether both ACL files let everybody read a topic."""
    return topic.endswith(("/card", "/status")) or topic.startswith(PUBLIC_FOLDERS)


def _broker_card(payload: bytes) -> messages.BrokerCard:
    for _ in range(2):
        payload = payload[2 + int.from_bytes(payload[:2], "big") :]
    return codec.BROKER_CARD.unpack(payload)


def _unframed(payload: bytes) -> bytes:
    """A frame without type and key id, which stand at the same place in all."""
    if len(payload) == frames.HELLO_SIZE:
        return payload[1 + frames.KEY_ID :]
    return payload[: frames.MAC] + payload[frames.MAC + 1 + frames.KEY_ID :]


def _sides_of_operation(row: tuple[Any, ...]) -> dict[bytes, Side]:
    """A stored operation says by its answer what it was; each is asked for by its id as well."""
    for value in row:
        if isinstance(value, bytes):
            with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
                answer = msgspec.msgpack.decode(value)
                if isinstance(answer, list):  # an id, which is random, may happen to be msgpack as well
                    side: Side = "account" if answer[0] == "Withdrawn" else "shop"
                    return {each: side for each in row if isinstance(each, bytes)}
    return {}


def _token_fields(token: bytes) -> list[Any]:
    return [token[:16], token[16:32], int.from_bytes(token[32:], "big")]
