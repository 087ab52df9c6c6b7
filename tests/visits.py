"""Two customers, two merchants, whole visits: what `test_privacy.py` looks at afterwards.

Alice signs up, withdraws, logs out; looks around, fills a cart at two merchants, buys, at one of them with a
discount code, downloads; logs in
again with a wrong and a right password; orders something whose price changes under way, so that the order
is rejected and refunded; orders from a merchant that goes away, and takes the order up again
when it is back. Bob tops up with a card, withdraws little and buys until a
coin has to be swapped. Strangers send garbage, and the broker's own code fails twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from profile_rows import profile_rows
from record import Record
from recorder import Recorder, recording
from world import Publish, World

from broker_node import schema
from common import coins, frames, messages, payment_cards
from common.errors import AuthenticationError, DeadlineError, MerchantOfflineError, PriceChangedError
from customer_node.checkout import Checkout
from customer_node.orders import Secrets
from customer_node.schema import order_secrets, receipts
from merchant_node.promotions import Promotions
from veilmart.demo.goods import mountains

Values = dict[str, bytes | str]

LIMITS = {"totals_minimum_orders": 3, "totals_period_ms": 1000}
"""So that totals and spent sets are published while somebody shops."""
PIECE = 20
PLACES = (0.0, 0.31, 0.5, 0.77)


@dataclass(frozen=True)
class Product:
    merchant: str
    sku: str
    title: str
    description: str
    price: int
    content: bytes = field(repr=False)
    image: bytes = field(default=b"", repr=False)
    keys: tuple[str, ...] = ()

    @property
    def file_name(self) -> str:
        return f"file-of-{self.sku.lower()}.bin"


def _content(name: str, size: int) -> bytes:
    return hashlib.shake_256(name.encode()).digest(size)


GOODS = (
    Product(
        "sports",
        "PLAN-MARATHON",
        "Sixteen weeks to a marathon",
        "Für alle, die öfter träumen als laufen",
        1231,
        b"".join(b"week %03d: run %d km, rest, run\n" % (week, week * 7 % 31) for week in range(3000)),
    ),
    Product(
        "sports",
        "GPX-RIDGE-42",
        "Sunrise over the ridge",
        "A morning among chamois",
        447,
        _content("ridge", 70_000),
        mountains(7, 96, 64),
        tuple(f"RIDGE-LICENCE-{number}-W7KQ" for number in range(6)),
    ),
    Product(
        "sports", "PHOTO-SUMMIT", "Clouds below the summit", "Taken at dawn", 98, _content("summit", 900)
    ),
    Product(
        "maps",
        "MAP-GLACIER-7",
        "Crevasses of the glacier",
        "Surveyed last spring",
        773,
        _content("map", 66_000),
    ),
)
PEOPLE = {"rosalind-of-kent": "correct horse battery", "bartholomew.q": "staple tractor violin"}
ALICE, BOB = PEOPLE
FUNDS = {ALICE: 1_234_567_890, BOB: 987_654_321}
WRONG_PASSWORD = "incorrect donkey battery"
SEARCH = "sunrise ridge"
CARD = payment_cards.card("5555 5555 5555 4444", "12/34", "987", "Bartholomew Quince")
PAID_IN = 87_654
DISCOUNT = "ALPENGLOW-7"
"""A code of the sports merchant, which Alice uses."""


@dataclass(frozen=True)
class Visits:
    """The record of the visits, and every secret that was in them."""

    record: Record
    garbage: int

    # --- what is searched for --------------------------------------------------------------------------

    def people(self) -> Values:
        values: Values = {f"name {n}": name for n, name in enumerate(PEOPLE)}
        values |= {f"password {n}": password for n, password in enumerate(PEOPLE.values())}
        return values | {"wrong password": WRONG_PASSWORD}

    def cards(self) -> Values:
        return {"card number": CARD.number, "card holder": CARD.name}

    def session_ids(self) -> Values:
        return {f"session id {n}": sid for n, sid in enumerate(self.record.sessions)}

    def session_keys(self, *, merchants: bool = True) -> Values:
        values: Values = {}
        of_merchants = [keys for held in self.record.merchant_keys.values() for keys in held]
        every = [*self.record.sessions.values(), *(of_merchants if merchants else [])]
        for n, keys in enumerate(every):
            for name, direction in (("up", keys.up), ("down", keys.down)):
                values[f"encryption key {name} {n}"] = direction.encryption
                values[f"MAC key {name} {n}"] = direction.mac
        return values

    def hello_secrets(self) -> Values:
        return {
            f"{name} of hello {n}": value
            for n, hello in enumerate(self.record.bodies(messages.Hello))
            if not isinstance(hello.credential, messages.MerchantCredential)
            for name, value in (("secret", hello.secret), ("ephemeral key", hello.ephemeral))
        }

    def tokens(self) -> list[messages.Token]:
        """Every coin and ticket that was spent."""
        tokens: list[messages.Token] = []
        for body in self.record.bodies(messages.PlaceOrder, messages.Swap):
            tokens += body.coins
        for hello in self.record.bodies(messages.Hello):
            if isinstance(hello.credential, messages.TicketCredential):
                tokens.append(hello.credential.ticket)
        return tokens

    def money(self) -> Values:
        """Coins and tickets, spent and blinded."""
        values: Values = {
            f"{name} of token {n}": getattr(token, name)
            for n, token in enumerate(self.tokens())
            for name in ("prefix", "serial", "signature")
        }
        for n, body in enumerate(self.record.bodies(messages.Withdraw)):
            for item in [*body.coins, *body.tickets]:
                values[f"blinded token of withdrawal {n}"] = item.blinded
        for n, body in enumerate(self.record.bodies(messages.Withdrawn)):
            values[f"signature of withdrawal {n}"] = body.coins[0]
        return values

    def seeds(self) -> Values:
        return {f"seed {name}": (self.profile(name) / "seed").read_bytes() for name in PEOPLE}

    def orders(self, merchant: str | None = None) -> Values:
        """Ids of the orders at one merchant, or at all."""
        return {
            f"order id {order.order_id.hex()[:6]}": order.order_id
            for order in self.record.bodies(messages.PlaceOrder)
            if merchant in (None, order.merchant)
        }

    def secrets_for_the_broker(self) -> Values:
        """What the broker may be shown of an order and no merchant is: status and claim secrets."""
        return self._of_orders("status", "claim")

    def salts(self) -> Values:
        """What would open the public commitments."""
        store = self.record.broker_home / "broker.db"
        return {f"salt {n}": salt for n, (salt,) in enumerate(rows_of(store, "SELECT salt FROM orders"))}

    def order_secrets(self) -> Values:
        """What opens answers and fetches files: nobody but the customer and, in part, the merchant has it."""
        values = self._of_orders("fetch")
        for n, (secret,) in enumerate(self.rows(order_secrets.c.secret)):
            values[f"order secret {n}"] = secret
        return values | {f"answer secret {n}": a.answer_secret for n, a in enumerate(self.record.asked)}

    def _of_orders(self, *names: str) -> Values:
        return {
            f"{name} secret {n}": getattr(Secrets.of(secret), name)
            for n, (secret,) in enumerate(self.rows(order_secrets.c.secret))
            for name in names
        }

    def receipts(self) -> Values:
        values: Values = {}
        for n, (receipt, signature) in enumerate(self.rows(receipts.c.receipt, receipts.c.signature)):
            values[f"receipt {n}"] = receipt
            values[f"signature of receipt {n}"] = signature
        return values

    def products(self, merchant: str | None = None) -> Values:
        """All about what one merchant sells, or both."""
        values: Values = {}
        for product in GOODS:
            if merchant not in (None, product.merchant):
                continue
            values |= {
                f"{name} of {product.sku}": value
                for name, value in (
                    ("SKU", product.sku),
                    ("title", product.title),
                    ("description", product.description),
                    ("file name", product.file_name),
                    ("digest", hashlib.sha256(product.content).digest()),
                )
            }
            values |= {f"licence key {n} of {product.sku}": key for n, key in enumerate(product.keys)}
            for kind, content in (("content", product.content), ("image", product.image)):
                for place in PLACES if content else ():
                    piece = content[int(place * len(content)) :][:PIECE]
                    values[f"{kind} of {product.sku} at {place:.0%}"] = piece
        for n, (digest, record) in enumerate(self.versions(merchant)):
            values |= {f"record {n} of {merchant}": record, f"digest of record {n} of {merchant}": digest}
        return values

    def discount(self) -> Values:
        return {"discount code": DISCOUNT}

    def searches(self) -> Values:
        return {"search text": SEARCH}

    def versions(self, merchant: str | None) -> Iterator[tuple[bytes, bytes]]:
        for name in [merchant] if merchant else ["sports", "maps"]:
            store = self.record.merchant_home(name) / "merchant.db"
            for (record,) in rows_of(store, "SELECT record FROM product_versions"):
                yield hashlib.sha256(record).digest(), record

    def node_keys(self) -> Values:
        """Private keys of broker and merchants."""
        record = self.record
        rings: dict[str, Any] = {"hello": record.hello_keys, "relay": record.relay_keys}
        rings |= {"wrap": record.wrap_keys, **{f"prekeys {m}": keys for m, keys in record.prekeys.items()}}
        values: Values = {
            f"{name} key {n}": key.raw for name, ring in rings.items() for n, key in enumerate(ring.values())
        }
        mint = sorted((record.broker_home / "mint").glob("*.pem"))
        homes = [record.broker_home, *(record.merchant_home(name) for name in record.merchant_keys)]
        for path in [*mint, *(home / "identity.key" for home in homes)]:
            values[f"private key {path.parent.name}/{path.name}"] = path.read_bytes().splitlines()[1]
        return values

    # --- where it is read from -------------------------------------------------------------------------

    def profile(self, name: str) -> Path:
        return self.record.root / "customers" / name

    def rows(self, *columns: Any) -> list[tuple[Any, ...]]:
        return [row for name in PEOPLE for row in profile_rows(self.profile(name), *columns)]

    def balances(self) -> set[int]:
        """What the accounts held at some time: numbers that nothing else is."""
        bundle = sum(coins.BUNDLE)
        return {*FUNDS.values(), *(FUNDS[ALICE] - n * bundle for n in (1, 2, 3)), FUNDS[BOB] - bundle}

    @property
    def amounts(self) -> set[int]:
        return {order.amount for order in self.record.bodies(messages.PlaceOrder)}


def rows_of(store: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as connection:
        return connection.execute(query).fetchall()


# --- the visits ----------------------------------------------------------------------------------------


def stock(world: World, goods: tuple[Product, ...] = GOODS) -> None:
    for merchant in sorted({product.merchant for product in goods}, reverse=True):
        world.add_merchant(merchant)
    for product in goods:
        folder = world.root / "originals" / product.merchant
        folder.mkdir(parents=True, exist_ok=True)
        path, image = folder / product.file_name, folder / f"{product.sku}.png"
        path.write_bytes(product.content)
        image.write_bytes(product.image)
        keys = folder / f"{product.sku}.keys"
        keys.write_text("\n".join(product.keys))
        world.merchants[product.merchant].inventory.add(
            path,
            product.sku,
            title=product.title,
            description=product.description,
            price=product.price,
            category="category of " + product.merchant,
            image=image if product.image else None,
            image_alt=product.title if product.image else "",
            keys=keys if product.keys else None,
        )


def visit(root: Path) -> Visits:
    """Let everything happen, and give its record."""
    with recording() as recorder:
        world = World(root, limits=LIMITS)
        try:
            stock(world)
            alice_comes(world, recorder)
            bob_comes(world, recorder)
            alice_comes_back(world, recorder)
            garbage = things_go_wrong(world, recorder)
            record = recorder.record(world)
        finally:
            world.close()
    return Visits(record, garbage)


def alice_comes(world: World, recorder: Recorder) -> None:
    with world.customer(ALICE) as market:
        market.sign_up(ALICE, PEOPLE[ALICE])
        world.fund(ALICE, FUNDS[ALICE])
        market.withdraw(2)
        assert market.balance().amount == FUNDS[ALICE] - 4000
        recorder.look(world)
        market.log_out()
    with world.customer(ALICE) as market:
        assert len(market.merchants()) == 2
        (found,) = market.search(SEARCH).products
        assert market.show("sports", found.sku).title == "Sunrise over the ridge"
        assert market.image("sports", found.sku).data == GOODS[1].image
        for product in (GOODS[0], GOODS[1], GOODS[3]):
            market.cart.add(product.merchant, product.sku)
        Promotions(world.merchants["sports"].store).add(DISCOUNT, rate=1000)
        quote = market.quote({"sports": DISCOUNT})
        placed = market.buy(codes=quote.codes, totals=quote.totals)
        assert {order.code for order in placed} == {"", DISCOUNT}
        recorder.look(world)
        assert sorted(order.merchant for order in placed) == ["maps", "sports"]
        for order in placed:
            files = market.download(order.order_id, world.root / "bought" / order.merchant)
            sold = {product.sku: product.content for product in GOODS}
            content = [file for file in files if not file.path.name.endswith(".keys.txt")]
            assert all(file.path.read_bytes() == sold[file.sku] for file in content)
            assert [each.keys for each in market.order(order.order_id).keys] == (
                [GOODS[1].keys[:1]] if order.merchant == "sports" else []
            )
            market.export_receipt(order.order_id, world.root / f"{order.order_id}.json")
        recorder.look(world)


def bob_comes(world: World, recorder: Recorder) -> None:
    with world.customer(BOB) as market:
        market.sign_up(BOB, PEOPLE[BOB])
        world.fund(BOB, FUNDS[BOB] - PAID_IN)
        assert market.top_up(PAID_IN, CARD).balance == FUNDS[BOB]
        market.withdraw()
        # 447 and 1231 end in the same binary digits: the second payment needs another coin's change.
        bought = [market.buy_now("sports", sku) for sku in ("GPX-RIDGE-42", "PLAN-MARATHON")]
        market.download(bought[0].order_id, world.root / "bought" / "bob")
        recorder.look(world)


def alice_comes_back(world: World, recorder: Recorder) -> None:
    with world.customer(ALICE) as market:
        with pytest.raises(AuthenticationError):
            market.log_in(ALICE, WRONG_PASSWORD)
        market.log_in(ALICE, PEOPLE[ALICE])
        market.withdraw()
        market.log_out()
    settle = Checkout.settle

    def change_the_price(checkout: Checkout, session: Any, order_id: bytes) -> None:
        world.merchants["sports"].inventory.edit("PHOTO-SUMMIT", price=99)
        settle(checkout, session, order_id)

    def lose_the_merchant(checkout: Checkout, session: Any, order_id: bytes) -> None:
        recorder.look(world)
        world.stop("maps")
        # In one batch with the order the broker would still take it for present, and say nothing.
        world.pump(lambda: False, 0.05)
        settle(checkout, session, order_id)

    with pytest.MonkeyPatch.context() as patch, world.customer(ALICE) as market:
        patch.setattr(Checkout, "settle", change_the_price)
        with pytest.raises(PriceChangedError):
            market.buy_now("sports", "PHOTO-SUMMIT")
        assert market.last_order().state == "refunded"
        recorder.look(world)
    with pytest.MonkeyPatch.context() as patch, world.customer(ALICE, timeout_s=2.0) as market:
        patch.setattr(Checkout, "settle", lose_the_merchant)
        with pytest.raises(MerchantOfflineError):
            market.buy_now("maps", "MAP-GLACIER-7")
        recorder.look(world)
    world.start_merchant("maps")
    # Meanwhile the visit is over, as after an idle quarter of an hour.
    with closing(sqlite3.connect(world.root / "customers" / ALICE / "profile.db")) as store, store:
        store.execute("DELETE FROM visits")
    with world.customer(ALICE) as market:
        (resumed, *_) = market.resume(world.root / "resumed")
        assert resumed.error is None
        assert market.last_order().state == "complete"
        recorder.look(world)


def things_go_wrong(world: World, recorder: Recorder) -> int:
    """Garbage from a stranger; then the broker's own code fails on an order, which is taken up again."""
    frame = next(p for p in world.bus.passed if p.topic.endswith("/up") and len(p.payload) == 1024)
    changed = frame.payload[:-1] + bytes([frame.payload[-1] ^ 1])
    garbage = [
        changed,
        frame.payload[:500],
        b"\0" * frames.HELLO_SIZE,
        b"\x01" + b"\0" * (frames.HELLO_SIZE - 1),
    ]
    for payload in garbage:
        world.bus.publish("stranger", frame.topic, payload, retain=False)
    broker = world.broker.broker
    handlers = broker._batches

    def fail(tx: Any, arrivals: Any, _now: int, _random: Any) -> list[Any]:
        order = arrivals[0].body
        row = {"name": ALICE, "password_hash": "$argon2id$...", "generation": 1, "state": "enabled"}
        try:
            tx.execute(sa.insert(schema.accounts), {**row, "created": 1})
        except sa.exc.IntegrityError:
            {}[order.order_id]
        return []

    broker._batches = {**handlers, messages.PlaceOrder: fail}
    with world.customer(BOB, timeout_s=2.0) as market:
        with pytest.raises(DeadlineError):
            market.buy_now("sports", "PHOTO-SUMMIT")
        broker._batches = handlers
        recorder.look(world)
    with world.customer(BOB) as market:
        assert market.resume(world.root / "bought" / "bob")[0].error is None
        market.log_out()
    recorder.look(world)
    return len(garbage)


def small_visit(root: Path, price: int) -> list[Publish]:
    """One order at one price; gives what passed on the bus."""
    world = World(root)
    try:
        stock(world, (Product("sports", "ONLY-ONE", "The only product", "", price, b"content" * 20),))
        # A card with the catalog's version comes in its own time, and is longer than one without.
        assert world.pump(lambda: bool(world.merchants["sports"].merchant._announced))
        with world.customer(ALICE) as market:
            market.sign_up(ALICE, PEOPLE[ALICE])
            world.fund(ALICE, 2000)
            market.withdraw()
            order = market.buy_now("sports", "ONLY-ONE")
            market.download(order.order_id, root / "bought")
        world.pump(lambda: False, 0.05)
        return list(world.bus.passed)
    finally:
        with contextlib.suppress(Exception):
            world.close()
