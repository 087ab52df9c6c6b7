"""A merchant's home: every file that it keeps, opened in one place.

identity.key  identity.crt  market.json     who it is, in which market (`merchant init`, `ca sign`)
merchant.toml                               its name and description, as customers read them
merchant.db   content/      images/         what it sells and what it sold
prekeys/browse/             prekeys/order/  what opens requests, until it is erased
client-ids.json                             secret: whoever connects under one evicts us
ca.crt                                      out of market.json, for TLS
limits.toml                                 if the operator wants other limits
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from filelock import FileLock, Timeout

from common import config, keys, messages
from common.bus import TlsFiles
from common.errors import BusyError, UntrustedError, UsageError, WireError
from common.market_file import MarketFile
from common.settings import read_settings
from common.store import Store
from merchant_node.content import ContentFolder
from merchant_node.inventory import Inventory
from merchant_node.prekeys import Prekeys
from merchant_node.promotions import Promotions
from merchant_node.reports import Reports
from merchant_node.shop import Shop
from merchant_node.treasury import Treasury

IDENTITY_KEY: Final = "identity.key"
CERTIFICATE: Final = "identity.crt"
MARKET: Final = "market.json"
PROFILE: Final = "merchant.toml"
DATABASE: Final = "merchant.db"
CA_CERTIFICATE: Final = "ca.crt"


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a merchant presents itself on its card."""

    name: messages.Title
    description: messages.LongText = ""
    tax_rate: messages.TaxRate = 0
    """The tax in its prices, in basis points, for products that say nothing else."""

    @classmethod
    def load(cls, path: Path) -> Profile:
        """Read `merchant.toml`. Raises `UsageError`."""
        try:
            return read_settings(path, cls, "`veilmart merchant init` writes this file.")
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}", "`merchant init` writes it.") from error

    def save(self, path: Path) -> None:
        """Write `merchant.toml`. Raises `UsageError` for a value out of bounds."""
        # A JSON string is a TOML basic string as long as nothing but control characters is escaped.
        lines = (f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in self._fields())
        text = "".join(lines).replace("\x7f", "\\u007f").encode()
        try:
            msgspec.toml.decode(text, type=Profile)
        except msgspec.MsgspecError as error:
            raise UsageError(f"a merchant cannot present itself so: {error}") from error
        keys.replace_file(path, text)

    def _fields(self) -> Iterator[tuple[str, str | int]]:
        yield "name", self.name
        yield "description", self.description
        yield "tax_rate", self.tax_rate


@dataclass(frozen=True)
class MerchantHome:
    """The folder of one merchant."""

    path: Path

    def join(self, market: MarketFile, profile: Profile) -> None:
        """Write which market it is in and how it presents itself. Raises `UsageError`."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        profile.save(self.path / PROFILE)
        market.save(self.path / MARKET)

    def market(self) -> MarketFile:
        """Read the market file. Raises `UsageError` or `UntrustedError`."""
        return MarketFile.load(self.path / MARKET)

    def shop(self, now: int) -> Shop:
        """Load who we are, and check that the market's CA says so too.

        Raises `UsageError` where a file is missing, `UntrustedError` where they do not fit together.
        """
        market, profile = self.market(), Profile.load(self.path / PROFILE)
        identity = keys.IdentityKey.load(self.path / IDENTITY_KEY)
        der = self._certificate()
        try:
            info = keys.verify_certificate(der, market.ca_der, now, "merchant")
        except WireError as error:
            raise UntrustedError(
                f"the certificate {self.path / CERTIFICATE} does not hold: {error}",
                "Let the market's CA sign or renew it, then install it with `merchant install-cert`.",
            ) from error
        if info.fingerprint != keys.identity_fingerprint(identity.public):
            raise UntrustedError("the certificate belongs to another key than the one in this home")
        return Shop.in_market(
            market,
            info.subject_id,
            identity,
            der,
            name=profile.name,
            description=profile.description,
            tax_rate=profile.tax_rate,
        )

    def _certificate(self) -> bytes:
        path = self.path / CERTIFICATE
        try:
            return x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER)
        except OSError as error:
            raise UsageError(
                f"cannot read the certificate {path}: {error.strerror}",
                "Let the market's CA sign the request, then install it with `merchant install-cert`.",
            ) from error
        except ValueError as error:
            raise UntrustedError(
                f"{path} is not a certificate", "Install the CA's answer again: `merchant install-cert`."
            ) from error

    def limits(self) -> config.Limits:
        """Read the limits. Raises `UsageError`."""
        return config.load_limits(self.path)

    def store(self) -> Store:
        """Open the store, migrated."""
        return Store.in_home(self.path, DATABASE, "merchant_node.migrations")

    def content(self) -> ContentFolder:
        """Open the files that are sold."""
        return ContentFolder(self.path)

    def prekeys(self) -> Prekeys:
        """Open the prekeys."""
        return Prekeys.in_folder(self.path / "prekeys")

    @contextmanager
    def inventory(self, now: int) -> Iterator[Inventory]:
        """Open the inventory, also beside a running node."""
        shop, store = self.shop(now), self.store()
        try:
            inventory = Inventory(shop, store, self.content(), self.limits())
            inventory.renew()
            yield inventory
        finally:
            store.close()

    @contextmanager
    def reports(self) -> Iterator[Reports]:
        """Open the books, also beside a running node."""
        store = self.store()
        try:
            yield Reports(store)
        finally:
            store.close()

    @contextmanager
    def promotions(self) -> Iterator[Promotions]:
        """Open the discount codes, also beside a running node."""
        store = self.store()
        try:
            yield Promotions(store)
        finally:
            store.close()

    @contextmanager
    def treasury(self) -> Iterator[Treasury]:
        """Open what the merchant earns, also beside a running node."""
        store = self.store()
        try:
            yield Treasury(store)
        finally:
            store.close()

    def tls(self) -> TlsFiles:
        """Give the files for TLS; the CA's certificate is the market file's."""
        ca = self.path / CA_CERTIFICATE
        pem = self.market().ca_certificate.encode()
        if not ca.exists() or ca.read_bytes() != pem:
            keys.replace_file(ca, pem)
        return TlsFiles(ca, self.path / CERTIFICATE, self.path / IDENTITY_KEY)

    def is_running(self) -> bool:
        """Whether a node runs in this home."""
        try:
            with self.running():
                return False
        except BusyError:
            return True

    @contextmanager
    def running(self) -> Iterator[None]:
        """Hold the home for one running node. Raises `BusyError` where another has it."""
        lock = FileLock(self.path / ".merchant.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise BusyError(f"another process runs the merchant in {self.path}", "End it first.") from error
        try:
            yield
        finally:
            lock.release()
