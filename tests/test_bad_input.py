"""Bad input and bad luck, on the command line with --json: each ends in one clear error, and nothing is lost.

One test per cause. Where money was on its way the wallet's sum is compared, and where an order stays open
it is taken to its end by `resume`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import pytest
from cli import WHY, Ran, veilmart
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from customer_shop import PASSWORD, PRICES, Bazaar, build, content, home, lose
from real_market import PRICE, SKU, RealMarket
from world import World

from common import bus, cards, clock, codec, config, messages, sealing, topics
from common.keys import IdentityKey
from common.market_file import MarketFile
from customer_node import Market
from customer_node.checkout import Checkout
from veilmart import ca
from veilmart.cli import profiles

BUNDLE = 2000
SOON = {"reforward_first_ms": 200, "reforward_longest_ms": 1000}
PLAN = ("sports", "PLAN")
BUY = ("buy", *PLAN, "--yes", "--idempotency-key", "monday")


@dataclass
class Person:
    """Somebody at a command line, whose nodes are in memory."""

    bazaar: Bazaar
    profile: Path
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.profile.name

    @property
    def password_file(self) -> Path:
        path = self.profile.parent / "password"
        path.write_text(PASSWORD)
        return path

    def ran(self, *words: str | Path) -> Ran:
        # The command line names no bus: it gets the one in memory.
        opened = partial(Market, connect=self.bazaar.world.connect, **self.options)
        with mock.patch.object(profiles, "Market", opened):
            return veilmart(*words, "--json", VEILMART_PROFILE=str(self.profile))

    def worth(self) -> int:
        """What the wallet holds, with what is in open orders."""
        held = self.ran("wallet").data
        return int(held["usable"] + held["young"] + held["reserved"])

    def orders(self) -> list[str]:
        return [each["state"] for each in self.ran("orders").data]

    def refused(
        self, words: tuple[str | Path, ...], exit_code: int, code: str, *, retryable: bool = False
    ) -> dict[str, Any]:
        """Check that a command ends so, in one clear message, and that no money is gone."""
        before = self.worth()
        ran = self.ran(*words)
        assert (ran.code, ran.error["code"], ran.error["retryable"]) == (exit_code, code, retryable), ran
        assert len(ran.error["message"].splitlines()) == 1
        assert self.worth() == before
        return ran.error


@pytest.fixture(scope="module")
def bazaar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bazaar]:
    root = tmp_path_factory.mktemp("bazaar")
    built = Bazaar(World(root, limits=SOON))
    built.stock("sports")
    built.stock("maps")
    yield built
    built.world.close()


def enter(bazaar: Bazaar, bundles: int = 1) -> Person:
    """Let somebody new come, with an account and with bundles in the wallet."""
    with bazaar.customer(bundles) as market:
        return Person(bazaar, home(market))


@pytest.fixture
def alice(bazaar: Bazaar) -> Person:
    return enter(bazaar)


@pytest.fixture(scope="module")
def looker(bazaar: Bazaar) -> Person:
    """Somebody for all the tests in which nothing is bought."""
    return enter(bazaar)


@contextmanager
def meanwhile(action: Callable[[], object]) -> Iterator[None]:
    """Let something happen between the last look at a product and the order that is sent."""
    settle = Checkout.settle
    left = [action]

    def act_then_settle(checkout: Checkout, session: Any, order_id: bytes) -> None:
        if left:
            left.pop()()
        settle(checkout, session, order_id)

    with mock.patch.object(Checkout, "settle", act_then_settle):
        yield


# --- authentication ------------------------------------------------------------------------------------


def test_wrong_name_or_password(alice: Person) -> None:
    wrong = alice.profile.parent / "wrong"
    wrong.write_text("not the password")
    one = alice.refused(("login", alice.name, "--password-file", wrong), 5, "authentication")
    other = alice.refused(("login", "nobody", "--password-file", wrong), 5, "authentication")
    assert one["message"] == other["message"], "nobody learns which names there are"
    assert "not the password" not in str(one)


def test_an_account_session_that_has_expired(alice: Person) -> None:
    alice.options["clock"] = lambda: clock.now_ms() + config.DAY_MS
    for words in (("balance",), ("withdraw", "--yes")):
        assert "login" in alice.refused(words, 5, "authentication")["hint"]


def test_an_account_that_was_revoked(alice: Person) -> None:
    broker = ("--home", alice.bazaar.world.broker_home)
    assert alice.ran("balance").code == 0
    assert alice.ran("broker", "account", "disable", alice.name, *WHY, *broker).code == 0
    alice.refused(("balance",), 5, "authentication")
    log_in = ("login", alice.name, "--password-file", alice.password_file)
    alice.refused(log_in, 5, "authentication")
    # Coins are bearer money: what is in the wallet is not the account's.
    assert alice.ran(*BUY).code == 0
    assert alice.ran("broker", "account", "enable", alice.name, *WHY, *broker).code == 0
    assert alice.ran(*log_in).code == 0


# --- not found -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ("show", "nobody", "PLAN"),
        ("search", "--merchant", "nobody"),
        ("buy", "nobody", "PLAN", "--yes"),
        ("cart", "add", "nobody", "PLAN"),
        ("show", "sports", "NOTHING"),
        ("image", "sports", "PLAN", "--out", "image"),
        ("buy", "sports", "NOTHING", "--yes"),
        ("cart", "add", "sports", "NOTHING"),
        ("cart", "remove", "sports", "NOTHING"),
        ("order", "show", "ffff"),
        ("download", "ffff"),
        ("download", "--last"),
        ("receipt", "ffff"),
    ],
    ids=" ".join,
)
def test_what_does_not_exist(words: tuple[str, ...], looker: Person) -> None:
    looker.refused(words, 3, "not_found")
    assert looker.orders() == []


def test_a_product_that_is_gone_when_the_order_comes(alice: Person) -> None:
    alice.bazaar.add("sports", "BRIEF", 100, b"brief")
    inventory = alice.bazaar.world.merchants["sports"].inventory
    with meanwhile(lambda: inventory.remove("BRIEF")):
        alice.refused(("buy", "sports", "BRIEF", "--yes"), 3, "not_found")
    assert alice.orders() == ["refunded"]


# --- rejected ------------------------------------------------------------------------------------------


def test_a_price_that_changed_in_the_cart(alice: Person) -> None:
    alice.bazaar.add("sports", "MOVES", 100, b"moves")
    inventory = alice.bazaar.world.merchants["sports"].inventory
    assert alice.ran("cart", "add", "sports", "MOVES").code == 0
    inventory.edit("MOVES", price=150)
    alice.refused(("buy", "--yes"), 4, "price_changed")
    assert alice.orders() == []
    assert alice.ran("buy", "--yes").data["orders"][0]["total"] == 150


def test_a_price_that_changed_while_the_order_was_under_way(alice: Person) -> None:
    alice.bazaar.add("sports", "JUMPS", 100, b"jumps")
    inventory = alice.bazaar.world.merchants["sports"].inventory
    with meanwhile(lambda: inventory.edit("JUMPS", price=150)):
        error = alice.refused(("buy", "sports", "JUMPS", "--yes"), 4, "price_changed")
    assert "1.50 EUR" in error["message"]
    assert alice.orders() == ["refunded"]


def test_stock_that_is_not_there(alice: Person) -> None:
    alice.bazaar.add("sports", "RARE", 100, b"rare", stock=2)
    error = alice.refused(("buy", "sports", "RARE", "--yes", "--quantity", "3"), 4, "out_of_stock")
    assert error["available"] == 2
    assert alice.orders() == ["refunded"]
    assert alice.ran("buy", "sports", "RARE", "--yes", "--quantity", "2").code == 0
    assert alice.refused(("buy", "sports", "RARE", "--yes"), 4, "out_of_stock")["available"] == 0


def test_too_little_money(alice: Person) -> None:
    alice.refused(("withdraw", "--yes"), 4, "insufficient_funds")
    alice.refused(("buy", "sports", "PLAN", "--yes", "--quantity", "2"), 4, "insufficient_funds")
    assert alice.orders() == []
    assert alice.ran(*BUY).code == 0


def test_no_tickets(bazaar: Bazaar) -> None:
    alice = enter(bazaar, bundles=0)
    for words in (("show", *PLAN), BUY, ("search",)):
        assert "withdraw" in alice.refused(words, 4, "out_of_tickets")["hint"]


def test_a_key_that_stands_for_something_else(alice: Person) -> None:
    first = alice.ran(*BUY).data["orders"]
    conflict = ("buy", "sports", "ROUTE", "--yes", "--idempotency-key", "monday")
    alice.refused(conflict, 4, "idempotency_conflict")
    assert alice.ran(*BUY).data["orders"] == first
    assert len(alice.orders()) == 1


def test_a_merchant_that_refuses(alice: Person) -> None:
    keys = alice.bazaar.world.merchants["sports"].merchant._prekeys.order.by_id
    # It has erased its key of that day: it cannot read the order.
    with mock.patch.dict(keys, clear=True):
        error = alice.refused(BUY, 4, "rejected")
    assert "The money is back" in error["message"]
    assert alice.orders() == ["refunded"]


# --- untrusted -----------------------------------------------------------------------------------------


@pytest.fixture
def retained(bazaar: Bazaar) -> Iterator[dict[str, bytes]]:
    """The bus's retained messages, put back afterwards."""
    with mock.patch.dict(bazaar.world.bus.retained):
        yield bazaar.world.bus.retained


def parts(card: bytes) -> tuple[bytes, bytes]:
    """The certificate and the body of a card."""
    certificate = card[2 : 2 + int.from_bytes(card[:2], "big")]
    rest = card[2 + len(certificate) :]
    return certificate, rest[2 + int.from_bytes(rest[:2], "big") :]


def broker_card(bazaar: Bazaar, card: bytes, **changes: Any) -> bytes:
    """The broker's card with other content, signed by the broker."""
    certificate, packed = parts(card)
    body = msgspec.structs.replace(codec.BROKER_CARD.unpack(packed), **changes)
    return cards.make_card(bazaar.world.broker.keys.identity, certificate, "broker", body)


BROKER_CARD, SPORTS_CARD = topics.broker_card(), topics.merchant_card("sports")


@pytest.mark.parametrize("topic", [BROKER_CARD, SPORTS_CARD])
def test_a_forged_card(alice: Person, retained: dict[str, bytes], topic: str) -> None:
    changed = bytearray(retained[topic])
    changed[-1] ^= 1
    retained[topic] = bytes(changed)
    alice.refused(BUY, 1, "untrusted")
    assert alice.orders() == []


def test_an_expired_card(alice: Person, retained: dict[str, bytes]) -> None:
    over = clock.now_ms() - 1
    retained[BROKER_CARD] = broker_card(alice.bazaar, retained[BROKER_CARD], not_after=over)
    alice.refused(BUY, 1, "untrusted")
    log_in = ("login", alice.name, "--password-file", alice.password_file)
    alice.refused(log_in, 1, "untrusted")


def test_an_inconsistent_card(alice: Person, retained: dict[str, bytes]) -> None:
    body = codec.BROKER_CARD.unpack(parts(retained[BROKER_CARD])[1])
    mine = sealing.XWingPrivateKey.generate().public.raw
    keys = [messages.SlotKey(slot=key.slot, public=mine) for key in body.hello_keys]
    retained[BROKER_CARD] = broker_card(alice.bazaar, retained[BROKER_CARD], hello_keys=keys)
    assert "second hello key" in alice.refused(BUY, 1, "untrusted")["message"]


def test_a_market_file_of_another_market(alice: Person, tmp_path: Path) -> None:
    other = World(tmp_path / "other", minimum_age_seconds=60)
    other.close()
    alice.refused(("join", other.market_path, "--no-passphrase"), 1, "untrusted")
    assert alice.ran("join", alice.bazaar.world.market_path, "--no-passphrase").code == 0
    assert alice.ran(*BUY).code == 0


def with_another_identity(ca_home: Path, folder: Path, card: bytes) -> bytes:
    """The card of the sports merchant under a key that its CA has certified for somebody else."""
    # A CA that has not certified a merchant called sports: what a malicious CA could do.
    other_ca = shutil.copytree(ca_home, folder / "other-ca")
    for issued in (other_ca / ca.ISSUED_FOLDER).glob("sports.*"):
        issued.unlink()
    request = ca.make_request(folder / "impostor", "sports")
    pem = ca.sign_csr(other_ca, request, "sports", now_ms=clock.now_ms())
    der = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    (key_file,) = (folder / "impostor").glob("*.key")
    body = codec.MERCHANT_CARD.unpack(parts(card)[1])
    return cards.make_card(IdentityKey.load(key_file), der, "merchant", body)


def test_a_merchant_with_another_identity(alice: Person, retained: dict[str, bytes], tmp_path: Path) -> None:
    assert alice.ran("cart", "add", *PLAN).code == 0
    genuine = retained[SPORTS_CARD]
    retained[SPORTS_CARD] = with_another_identity(alice.bazaar.world.ca_home, tmp_path, genuine)
    assert "identity" in alice.refused(("buy", "--yes"), 1, "untrusted")["message"]
    assert alice.orders() == []
    retained[SPORTS_CARD] = genuine
    assert alice.ran("buy", "--yes").code == 0


def test_a_receipt_that_was_changed(alice: Person, tmp_path: Path) -> None:
    assert alice.ran(*BUY).code == 0
    receipt = tmp_path / "receipt.json"
    assert alice.ran("receipt", "--last", "--out", receipt).code == 0
    price = PRICES["PLAN"]
    assert f'"total": {price}' in receipt.read_text()
    receipt.write_text(receipt.read_text().replace(f'"total": {price}', f'"total": {price - 1}'))
    alice.refused(("receipt", "verify", receipt), 1, "untrusted")


# --- a hop that is away, or says nothing ---------------------------------------------------------------


def open_order(alice: Person, ran: Ran) -> dict[str, Any]:
    """Check that an order stays open and says until when; gives it."""
    (order,) = ran.envelope["data"]["orders"]
    assert order["state"] in ("draft", "placed")
    assert order["deadline"] > clock.now_ms()
    assert order["order_id"] in ran.error["hint"]
    assert "veilmart resume" in ran.error["hint"]
    assert "min" in ran.error["hint"]
    return dict(order)


def resumed(alice: Person, order: dict[str, Any], tmp_path: Path) -> None:
    """Take an open order to its end."""
    done = alice.ran("resume", "--to", tmp_path / "bought").data
    assert {each["id"] for each in done} == {order["order_id"]}
    assert alice.orders() == ["complete"]
    assert (tmp_path / "bought" / "plan.bin").read_bytes() == content("sports PLAN", 150_000)
    assert alice.worth() == BUNDLE - PRICES["PLAN"]
    assert alice.ran(*BUY).data["orders"][0]["order_id"] == order["order_id"]


QUICK = ("--timeout", "1")
HOPELESS = ("--timeout", "0.3")


def test_a_merchant_off_line(tmp_path: Path) -> None:
    bazaar = build(tmp_path)
    world = bazaar.world
    try:
        alice = enter(bazaar)
        with meanwhile(lambda: world.stop("sports")):
            ran = alice.ran(*BUY, *QUICK)
        assert (ran.code, ran.error["code"], ran.error["retryable"]) == (6, "merchant_offline", True)
        order = open_order(alice, ran)
        assert alice.worth() == BUNDLE - PRICES["PLAN"], "the broker holds the rest"
        alice.refused(("show", *PLAN, *QUICK), 6, "merchant_offline", retryable=True)
        again = alice.ran("resume", *QUICK)
        assert (again.code, again.error["code"]) == (6, "merchant_offline")
        assert alice.orders() == ["placed"]
        world.start_merchant("sports")
        resumed(alice, order, tmp_path)
    finally:
        world.close()


def test_a_broker_that_is_away_and_a_bus_that_is(tmp_path: Path) -> None:
    bazaar = build(tmp_path)
    world = bazaar.world
    try:
        alice = enter(bazaar)
        with meanwhile(lambda: world.stop("broker")):
            ran = alice.ran(*BUY, *QUICK)
        assert (ran.code, ran.error["code"], ran.error["retryable"]) == (6, "broker_unreachable", True)
        order = open_order(alice, ran)
        for words in (("balance",), ("withdraw", "--yes"), ("resume",)):
            alice.refused((*words, *HOPELESS), 6, "broker_unreachable", retryable=True)
        world.bus.up = False
        for words in (("balance",), ("search",), ("merchants",), ("resume",)):
            alice.refused((*words, *HOPELESS), 6, "bus_unreachable", retryable=True)
        assert alice.orders() == ["draft"]
        assert alice.worth() == BUNDLE
        world.bus.up = True
        world.start_broker()
        world.pump(lambda: world.merchants["sports"].merchant.session.usable)
        resumed(alice, order, tmp_path)
    finally:
        world.close()


def test_a_broker_that_says_nothing(alice: Person) -> None:
    log_in = ("login", alice.name, "--password-file", alice.password_file, *HOPELESS)
    with alice.bazaar.tampering(lose("/up")):
        alice.refused(log_in, 6, "broker_unreachable", retryable=True)
        alice.refused(("show", *PLAN, *HOPELESS), 6, "broker_unreachable", retryable=True)
    assert alice.ran(*BUY).code == 0


@pytest.mark.parametrize(("leg", "hop"), [("/down", "broker"), ("sports/in", "merchant")])
def test_no_answer_in_time(alice: Person, leg: str, hop: str, tmp_path: Path) -> None:
    assert alice.ran("show", *PLAN).code == 0
    bus = alice.bazaar.world.bus
    with (
        mock.patch.object(bus, "tamper", bus.tamper),
        meanwhile(lambda: setattr(bus, "tamper", lose(leg))),
    ):
        ran = alice.ran(*BUY, *QUICK)
        assert (ran.code, ran.error["code"], ran.error["retryable"]) == (27, "timeout", True)
        assert ran.error["hop"] == hop
        order = open_order(alice, ran)
        asked = alice.refused(("show", *PLAN, *QUICK), 27, "timeout", retryable=True)
        assert asked["hop"] == hop
    resumed(alice, order, tmp_path)


# --- two processes -------------------------------------------------------------------------------------


def test_two_processes_on_one_profile(alice: Person) -> None:
    held = "from customer_node import Market; market = Market(Path(sys.argv[1])); print(); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", f"import sys; from pathlib import Path; {held}", alice.profile],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"\n"
        for words in (("wallet",), BUY, ("join", alice.bazaar.world.market_path, "--no-passphrase")):
            ran = alice.ran(*words)
            assert (ran.code, ran.error["code"], ran.error["retryable"]) == (1, "busy", True)
        other.communicate()
    assert alice.orders() == []
    assert alice.ran(*BUY).code == 0


# --- with real processes -------------------------------------------------------------------------------


def test_a_real_merchant_that_comes_back(real_market: RealMarket, tmp_path: Path) -> None:
    profile = real_market.customer(tmp_path / "erin")
    words = ("buy", "sports", SKU, "--yes", "--idempotency-key", "monday")
    with real_market.without("merchant"):
        away = real_market.ran(*words, profile=profile)
        assert (away.code, away.error["code"], away.error["retryable"]) == (6, "merchant_offline", True)
        assert real_market.ran("wallet", profile=profile).data["usable"] == BUNDLE
    (order,) = real_market.ran(*words, profile=profile).data["orders"]
    assert (order["state"], order["total"]) == ("accepted", PRICE)
    assert real_market.ran("wallet", profile=profile).data["usable"] == BUNDLE - PRICE


@contextmanager
def card_holder(real_market: RealMarket) -> Iterator[bus.Connection]:
    """Somebody with the broker's certificate, who may read and write merchants' cards at the real bus."""
    home, nodes = real_market.home / "broker", MarketFile.load(real_market.market_file).nodes
    files = bus.TlsFiles(home / "ca.crt", home / ca.IDENTITY_CERTIFICATE_FILE, home / ca.IDENTITY_KEY_FILE)
    address = bus.Address(nodes.host, nodes.port, files.context())
    connection = bus.Connection(bus.Settings(address, clock.random_bytes(16).hex(), (SPORTS_CARD,)))
    connection.open()
    try:
        yield connection
    finally:
        connection.close()


def show_card(connection: bus.Connection, card: bytes) -> None:
    """Leave a card at the bus, and return once it has come back from there."""
    assert connection.put(SPORTS_CARD, card, retain=True)
    assert next_card(connection) == card
    assert not connection.rejected


def next_card(connection: bus.Connection) -> bytes:
    countdown = time.monotonic() + 10
    while not (taken := connection.take(1)):
        assert time.monotonic() < countdown
        connection.wait(1.0)
    connection.acknowledge(taken)
    return taken[0].payload


def test_false_cards_at_a_real_bus(real_market: RealMarket, tmp_path: Path) -> None:
    profile = real_market.customer(tmp_path / "frances")
    assert real_market.ran("cart", "add", "sports", SKU, profile=profile).code == 0
    with card_holder(real_market) as connection:
        genuine = next_card(connection)
        other = with_another_identity(real_market.home / "ca", tmp_path, genuine)
        forged = genuine[:-1] + bytes([genuine[-1] ^ 1])
        try:
            for card, reason in ((forged, "signature"), (other, "identity key of sports")):
                show_card(connection, card)
                ran = real_market.ran("buy", "--yes", profile=profile)
                assert (ran.code, ran.error["code"], ran.error["retryable"]) == (1, "untrusted", False)
                assert reason in ran.error["message"]
        finally:
            show_card(connection, genuine)
    assert real_market.ran("orders", profile=profile).data == []
    assert real_market.ran("wallet", profile=profile).data["usable"] == BUNDLE
    (order,) = real_market.ran("buy", "--yes", profile=profile).data["orders"]
    assert (order["state"], order["total"]) == ("accepted", PRICE)
