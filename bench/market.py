"""A market's homes for one measurement, and money that nobody had to withdraw."""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from broker_node import accounts, ledger, mint, schema
from broker_node.run import BrokerNode, open_store
from common import blind, clock, codec, coins
from common.messages import BlindedToken, IssuerKey, ProductRecord, Token
from merchant_node import schema as merchant_schema
from merchant_node.home import MerchantHome, Profile
from veilmart import ca
from veilmart.init import init_market

MERCHANT = "bench"
SKU = "item"
SIGNERS = 2
_PSS = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=blind.SALT_BYTES)
TOKENS: codec.Codec[list[Token]] = codec.Codec(list[Token])


@dataclass(frozen=True)
class Homes:
    """Where everything of one market lies."""

    market: Path
    broker: Path
    merchant: Path


def make(root: Path, ports: tuple[int, int]) -> Homes:
    """Make a market with a broker and one merchant; nothing runs yet."""
    now = clock.now_ms()
    report = init_market(
        root / "market",
        bus_hosts=["127.0.0.1"],
        public_port=ports[0],
        node_port=ports[1],
        minimum_age_seconds=0,
        now_ms=now,
    )
    home = root / "merchant"
    request = ca.make_request(home, MERCHANT)
    pem = ca.sign_csr(report.ca_home, request, MERCHANT, now_ms=now)
    ca.install_certificate(home, pem, report.market.ca(), now_ms=now)
    report.market.save(home / "market.json")
    Profile(name="The bench").save(home / "merchant.toml")
    BrokerNode.open(report.broker_home).close()
    return Homes(report.market_path, report.broker_home, home)


def put_on_sale(homes: Homes, file: Path, price: int, sku: str = SKU) -> ProductRecord:
    """Give the merchant a product, of which there is no end."""
    with MerchantHome(homes.merchant).inventory(clock.now_ms()) as inventory:
        return inventory.add(file, sku, title="An item", price=price)


def open_account(homes: Homes, name: str, password: str, amount: int) -> None:
    """Give a customer an account with something on it."""
    store = open_store(homes.broker)
    with store.immediate() as tx:
        accounts.add(tx, name, password, clock.now_ms())
        accounts.credit(tx, name, amount, clock.now_ms(), clock.random_bytes)
    store.close()


def record_digest(record: ProductRecord) -> bytes:
    """Give what an order line names a product's record by."""
    return hashlib.sha256(codec.pack(record)).digest()


class Treasury:
    """Makes coins and tickets with the mint's private keys, and enters them in the books."""

    def __init__(self, homes: Homes) -> None:
        self._home = homes.broker
        store = open_store(self._home)
        with store.immediate() as tx:
            issuers = mint.load_issuers(tx)
        store.close()
        self._by_value = {(issuer.purpose, issuer.value): issuer for issuer in issuers}
        self._keys: dict[bytes, rsa.RSAPrivateKey] = {}

    @property
    def issuers(self) -> list[IssuerKey]:
        """The public keys of this month."""
        return list(self._by_value.values())

    def ticket(self) -> Token:
        """Make a ticket."""
        return self._make(self._by_value["ticket", 0])

    def coins(self, values: Sequence[int]) -> list[Token]:
        """Make coins of these values, paid for by the operator."""
        with ThreadPoolExecutor(SIGNERS) as pool:
            made = list(pool.map(lambda value: self._make(self._by_value["coin", value]), values))
        self._enter(values, made)
        return made

    def _make(self, issuer: IssuerKey) -> Token:
        prefix, serial = secrets.token_bytes(blind.PREFIX_BYTES), secrets.token_bytes(coins.SERIAL_BYTES)
        message = coins.prepared(issuer.purpose, issuer.key_id, prefix, serial)
        signature = self._key(issuer.key_id).sign(message, _PSS, hashes.SHA384())
        return Token(key_id=issuer.key_id, prefix=prefix, serial=serial, signature=signature)

    def _key(self, key_id: bytes) -> rsa.RSAPrivateKey:
        if key_id not in self._keys:
            pem = (self._home / "mint" / f"{key_id.hex()}.pem").read_bytes()
            key = load_pem_private_key(pem, password=None)
            assert isinstance(key, rsa.RSAPrivateKey)
            self._keys[key_id] = key
        return self._keys[key_id]

    def _enter(self, values: Sequence[int], made: Sequence[Token]) -> None:
        books = {ledger.coins_book(value): value * count for value, count in Counter(values).items()}
        store = open_store(self._home)
        with store.immediate() as tx:
            mint.Mint.count_issued(tx, [BlindedToken(key_id=token.key_id, blinded=b"") for token in made])
            ledger.post(tx, clock.random_bytes(16), {ledger.OPERATOR: -sum(values), **books}, clock.now_ms())
        store.close()


@dataclass(frozen=True)
class Books:
    """What both stores say when everything is over."""

    captured: int
    sales: int
    coins_spent: int
    outcomes_open: int
    faults: tuple[str, ...]


def audit(homes: Homes) -> Books:
    """Read both stores and recompute the broker's books."""
    store = open_store(homes.broker)
    with store.immediate() as tx:
        orders, spent = schema.orders, schema.spent
        counted = sa.select(sa.func.count())
        captured = int(tx.scalar(counted.select_from(orders).where(orders.c.state == "captured")))
        waiting = int(tx.scalar(counted.select_from(orders).where(orders.c.due.is_not(None))))
        coins_spent = int(tx.scalar(counted.select_from(spent)))
        report = ledger.check(tx)
    store.close()
    books = MerchantHome(homes.merchant).store()
    with books.immediate() as tx:
        sales = int(tx.scalar(counted.select_from(merchant_schema.sales)))
    books.close()
    return Books(captured, sales, coins_spent, waiting, report.faults)
