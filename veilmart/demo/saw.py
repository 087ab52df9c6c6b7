"""What each party saw, taken from the records of a run and from nothing else.

For every party all that it held is collected: its home with store and log, what passed on its topics, and
what all of its keys open of that. What it learned is read out of that; what it must not know is searched
for in it, in every spelling that `veilmart.evidence` knows. The values searched for are taken from the
other parties' homes, so the search knows what the party would have to have seen.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from broker_node.keys import BrokerKeys
from common import clock, codec, frames, messages, topics
from common.config import Limits
from common.errors import WireError
from common.frames import SessionKeys
from common.keys import IdentityKey, identity_fingerprint
from common.money import format_amount
from customer_node.profile import SEED_FILE, open_store
from customer_node.schema import order_secrets
from merchant_node.prekeys import Prekeys
from veilmart.demo.market import SHOPS, DemoMarket
from veilmart.demo.recorder import EVERY
from veilmart.demo.shopping import CARD, Bought, Customer
from veilmart.evidence import Evidence, Seen, open_merchant_frame, open_sealed, open_session_frame

PIECE = 24
"""How many bytes of a sold file are searched for, at each of three places."""


@dataclass(frozen=True)
class Saw:
    """What a party learned, and what was searched for in all that it held."""

    learned: list[str]
    searched_for: int
    found: list[str]


@dataclass(frozen=True)
class Records:
    """One run: who bought what, what passed on the bus, and the keys that the broker held at its end."""

    market: DemoMarket
    customers: Sequence[Customer]
    bought: Sequence[Bought]
    seen: Sequence[Seen]
    sessions: Mapping[bytes, SessionKeys]
    scopes: Mapping[bytes, str]
    broker_keys: BrokerKeys

    @classmethod
    def collect(cls, market: DemoMarket, customers: Sequence[Customer], bought: Sequence[Bought]) -> Records:
        """Unwrap the session keys as the broker would, while they still exist."""
        keys = BrokerKeys.load(market.report.broker_home, Limits())
        sessions, scopes = {}, {}
        for sid, scope, wrap_id, wrapped in _rows(
            market.report.broker_home / "broker.db", "SELECT sid, scope, wrap_id, wrapped FROM sessions"
        ):
            raw = keys.wrap.by_id[wrap_id].gcm.decrypt(wrapped[:12], wrapped[12:], sid)
            sessions[sid], scopes[sid] = SessionKeys.from_bytes(raw), scope
        return cls(market, customers, bought, list(market.recorder.seen), sessions, scopes, keys)

    # --- what each party must not know -----------------------------------------------------------------

    def people(self) -> dict[str, bytes | str]:
        """Give names, passwords, and the card."""
        return {
            f"{kind} of {person.name}": value
            for person in self.customers
            for kind, value in (("name", person.name), ("password", person.password))
        } | self.card()

    def card(self) -> dict[str, bytes | str]:
        """Give the card that was paid in with."""
        return {"card number": CARD.number, "card holder": CARD.name}

    def session_ids(self) -> dict[str, bytes | str]:
        """Give customers' session ids."""
        shoppers = [sid for sid, scope in self.scopes.items() if scope != "merchant"]
        return {f"session id {n}": sid for n, sid in enumerate(shoppers)}

    def goods(self, merchants: Sequence[str]) -> dict[str, bytes | str]:
        """Give SKUs, titles, digests and pieces of the files of what these merchants sell."""
        values: dict[str, bytes | str] = {}
        for merchant in merchants:
            for item in SHOPS[merchant][2]:
                content = self.market.files[item.sku]
                values[f"SKU {item.sku}"] = item.sku
                values[f"title of {item.sku}"] = item.title
                for n, piece in enumerate(_pieces(content)):
                    values[f"content of {item.sku}, piece {n}"] = piece
            store = self.market.merchant_home(merchant) / "merchant.db"
            for n, (digest,) in enumerate(_rows(store, "SELECT digest FROM order_lines")):
                values[f"digest {merchant} {n}"] = digest
        return values

    def order_secrets(self) -> dict[str, bytes | str]:
        """Give the secrets of orders, which open answers and fetch files."""
        secrets = order_secrets.c
        return self._of_profiles(secrets.secret, "order secret") | self._of_profiles(
            secrets.answer_secret, "answer secret"
        )

    def order_ids(self) -> dict[str, bytes | str]:
        """Give the ids of orders."""
        return {f"order id {n}": bytes.fromhex(item.order_id) for n, item in enumerate(self.bought)}

    def coins(self) -> dict[str, bytes | str]:
        """Give serials and signatures of the coins that were spent."""
        values: dict[str, bytes | str] = {}
        for opened in self.opened_by_broker():
            for body in _bodies(opened, codec.FROM_SHOP):
                if isinstance(body, messages.PlaceOrder):
                    for coin in body.coins:
                        values[f"serial of coin {len(values)}"] = coin.serial
                        values[f"signature of coin {len(values)}"] = coin.signature
        return values

    def _of_profiles(self, column: sa.Column[bytes], name: str) -> dict[str, bytes | str]:
        values: dict[str, bytes | str] = {}
        for person in self.customers:
            profile = self.market.profile(person.name)
            # The demo's wallets have no passphrase: their seeds lie in the open.
            store = open_store(profile, (profile / SEED_FILE).read_bytes(), clock.random_bytes)
            with closing(store), store.immediate() as tx:
                for row in tx.all(sa.select(column)):
                    values[f"{name} {len(values)}"] = row[column.name]
        return values

    # --- what each party held --------------------------------------------------------------------------

    def opened_by_broker(self) -> list[bytes]:
        """Give what the broker's keys open of what passed: every session's frames, every `Hello`."""
        opened = []
        for seen in self.seen:
            content = open_session_frame(seen, self.sessions) or self._hello(seen)
            for merchant in SHOPS:
                content = content or open_merchant_frame(seen, merchant, self._of_merchants())
            if content is not None:
                opened.append(content)
        return opened

    def _of_merchants(self) -> list[SessionKeys]:
        return [keys for sid, keys in self.sessions.items() if self.scopes[sid] == "merchant"]

    def _hello(self, seen: Seen) -> bytes | None:
        key = self.broker_keys.hello.by_id.get(frames.hello_key_id(seen.payload))
        if key is None:
            return None
        try:
            return codec.pack(frames.open_hello(key, self.broker_keys.market, seen.topic, seen.payload))
        except WireError:
            return None

    def merchant(self, merchant: str) -> Saw:
        """Say what one merchant saw."""
        home, market = self.market.merchant_home(merchant), self.market.report.market
        evidence = Evidence(merchant)
        # Its own goods it has itself put there.
        evidence.add_home(home, without=["content", "images"])
        evidence.add("log", (self.market.state / "logs" / f"{merchant}.log").read_bytes())
        prekeys = Prekeys.in_folder(home / "prekeys")
        keys = dict(prekeys.browse.by_id) | dict(prekeys.order.by_id)
        identity = identity_fingerprint(IdentityKey.load(home / "identity.key").public)
        kinds: dict[str, int] = {}
        for seen in self.seen:
            content = open_merchant_frame(seen, merchant, self._of_merchants())
            if content is None:
                continue
            evidence.add("frame", content)
            for body in open_sealed(content, market.market_id, identity, keys):
                evidence.add("sealed request", body)
                kind = str(msgspec.msgpack.decode(body)[0])
                kinds[kind] = kinds.get(kind, 0) + 1
        others = [other for other in SHOPS if other != merchant]
        values = self.people() | self.session_ids() | self.coins() | self.goods(others)
        return _report(evidence, values, [*self._sales(merchant), _count("sealed requests", kinds)])

    def _sales(self, merchant: str) -> list[str]:
        """Give its sales as its own store has them: every column of an order that says something."""
        store = self.market.merchant_home(merchant) / "merchant.db"
        currency = self.market.report.market.currency
        lines: dict[int, list[str]] = {}
        for number, sku, quantity in _rows(
            store, "SELECT order_number, sku, quantity FROM order_lines ORDER BY order_number, position"
        ):
            lines.setdefault(number, []).append(f"{quantity} x {sku}")
        orders = _rows(store, "SELECT number, amount, state FROM orders ORDER BY number")
        return [
            f"{format_amount(amount, currency)} for {', '.join(lines[number])}, {state}"
            for number, amount, state in orders
        ]

    def broker(self) -> Saw:
        """Say what the broker saw."""
        home = self.market.report.broker_home
        evidence = Evidence("broker")
        evidence.add_home(home)
        evidence.add("log", (self.market.state / "logs" / "broker.log").read_bytes())
        for content in self.opened_by_broker():
            evidence.add("frame", content)
        currency = self.market.report.market.currency
        store = home / "broker.db"
        accounts = _rows(
            store, "SELECT name, amount FROM accounts JOIN balances ON account = accounts.id ORDER BY name"
        )
        orders = _rows(store, "SELECT merchant, amount, state FROM orders ORDER BY amount")
        shop_sessions = sum(1 for scope in self.scopes.values() if scope == "shop")
        learned = [f"account {name}, {format_amount(amount, currency)} left" for name, amount in accounts]
        learned += [
            f"an order of {format_amount(amount, currency)} at {merchant}, {state}, from some session"
            for merchant, amount, state in orders
        ]
        learned.append(f"{shop_sessions} shop sessions, opened with tickets that it cannot recognise")
        kept = Evidence("broker, what it keeps")
        kept.add_home(home)
        kept.add("log", (self.market.state / "logs" / "broker.log").read_bytes())
        learned += [
            f"a {brand} card ending in {last_four} was charged {format_amount(amount, currency)}"
            for brand, last_four, amount in _rows(
                store, "SELECT brand, last_four, amount FROM top_ups ORDER BY amount"
            )
        ]
        card = _report(kept, self.card(), [])
        saw = _report(evidence, self.goods(list(SHOPS)) | self.order_secrets(), learned)
        return Saw(saw.learned, saw.searched_for + card.searched_for, saw.found + card.found)

    def bus(self) -> Saw:
        """Say what Mosquitto's operator saw."""
        evidence = Evidence("bus")
        evidence.add_home(self.market.report.bus_home)
        evidence.add("log", (self.market.state / "logs" / "bus.log").read_bytes())
        for seen in self.seen:
            evidence.add("topic", seen.topic)
            evidence.add("payload", seen.payload)
        recorder = self.market.recorder
        values = (
            self.people() | self.goods(list(SHOPS)) | self.order_ids() | self.coins() | self.order_secrets()
        )
        topics_seen = {seen.topic for seen in self.seen if "/session/" in seen.topic}
        learned = [
            _count("messages", dict(recorder.counts)),
            f"{recorder.bytes / 1e6:.0f} MB, their sizes and times, and the addresses that they came from",
            f"{len(topics_seen)} topics of sessions, whose ids are random",
            f"(of the frames of encrypted cells one in {EVERY} was kept for the search below)",
        ]
        return _report(evidence, values, learned)

    def auditor(self) -> Saw:
        """Say what everybody can see: events, cards and presence."""
        evidence = Evidence("auditor")
        events: dict[str, int] = {}
        amounts = {item.total for item in self.bought}
        found = []
        for seen in self.seen:
            if "/audit/" not in seen.topic and not seen.topic.endswith(("/card", "/status")):
                continue
            evidence.add("payload", seen.payload)
            for event in _events(seen):
                kind = str(event["type"])
                events[kind] = events.get(kind, 0) + 1
                if "order" in kind and amounts & set(event["data"].values()):
                    found.append(f"an amount in an event of {kind}")
        everything = self.people() | self.session_ids() | self.goods(list(SHOPS)) | self.order_ids()
        saw = _report(evidence, everything | self.coins(), [_count("public events", events)])
        return Saw(saw.learned, saw.searched_for + len(amounts), saw.found + found)

    def all(self) -> dict[str, Saw]:
        """Say it for every party."""
        return {
            **{merchant: self.merchant(merchant) for merchant in SHOPS},
            "broker": self.broker(),
            "bus": self.bus(),
            "auditor": self.auditor(),
        }


def _report(evidence: Evidence, values: Mapping[str, bytes | str], learned: list[str]) -> Saw:
    findings = evidence.search(values)
    return Saw(learned, len(values), [f"{f.value} in {f.place} ({f.spelling})" for f in findings])


def _pieces(path: Path) -> list[bytes]:
    size = path.stat().st_size
    with path.open("rb") as file:
        pieces = []
        for place in (size // 4, size // 2, size - PIECE):
            file.seek(place)
            pieces.append(file.read(PIECE))
    return pieces


def _bodies(opened: bytes, decoder: codec.Codec[list[messages.Envelope[messages.FromShop]]]) -> list[object]:
    try:
        return [envelope.body for envelope in decoder.unpack(opened)]
    except WireError:
        return []


def _events(seen: Seen) -> list[dict[str, Any]]:
    if not seen.topic.startswith(topics.audit_event("x")[:-1]):
        return []
    decoded = json.loads(seen.payload)
    return decoded if isinstance(decoded, list) else [decoded]


def _rows(store: Path, query: str) -> list[tuple]:  # type: ignore[type-arg] # whatever the query names
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as connection:
        return connection.execute(query).fetchall()


def _count(what: str, counts: Mapping[str, int]) -> str:
    parts = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    return f"{sum(counts.values())} {what}: {parts}"
