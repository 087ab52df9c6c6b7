"""Which gateway a broker uses: `gateway.toml` in its home, and the key in a file of its own.

    kind = "stripe"          # "none" (also without this file), "sandbox" or "stripe"
    api_base = "https://…"   # for tests; Stripe's own address where it is left out

home/  gateway.toml  stripe.key (mode 0600)  sandbox-gateway.db
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec

from broker_node.gateways import stripe
from broker_node.gateways.sandbox import SandboxGateway
from broker_node.gateways.stripe import StripeGateway
from broker_node.payment_gateway import PaymentGateway
from common.config import Limits
from common.errors import UsageError
from common.keys import PRIVATE_FILE_MODE, replace_file
from common.settings import read_settings

Kind: TypeAlias = Literal["none", "sandbox", "stripe"]

SETTINGS_FILE: Final = "gateway.toml"
KEY_FILE: Final = "stripe.key"
_KEY_PREFIXES: Final = ("sk_", "rk_")
_LOOPBACK: Final = "http://127.0.0.1:"


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `gateway.toml` says."""

    kind: Kind = "none"
    api_base: str = ""


def load(home: Path) -> Settings:
    """Read a home's settings, or give those of a broker without a gateway. Raises `UsageError`."""
    path = home / SETTINGS_FILE
    if not path.exists():
        return Settings()
    settings = read_settings(path, Settings, "`veilmart broker gateway use` writes this file.")
    if settings.api_base and not settings.api_base.startswith(("https://", _LOOPBACK)):
        raise UsageError(
            f"{path}: api_base is not https, which alone cards travel over",
            "Remove the line for Stripe's own.",
        )
    return settings


def check_currency(kind: Kind, currency: str) -> None:
    """Refuse a gateway that cannot charge in the market's currency. Raises `UsageError`."""
    if kind == "stripe":
        stripe.check_currency(currency)


def save(home: Path, kind: Kind, key: str | None = None) -> None:
    """Choose a gateway; a running broker sees it when it starts anew. Raises `UsageError`."""
    if key is not None:
        if (
            kind != "stripe"
            or not key.startswith(_KEY_PREFIXES)
            or not key.isascii()
            or not key.isprintable()
        ):
            raise UsageError("That is no secret key of Stripe's.", "It begins with sk_live_ or sk_test_.")
        replace_file(home / KEY_FILE, key.encode(), mode=PRIVATE_FILE_MODE)
    if kind == "stripe" and not (home / KEY_FILE).exists():
        raise UsageError("Stripe needs a key.", "Give it with --key-file FILE.")
    replace_file(home / SETTINGS_FILE, f'kind = "{kind}"\n'.encode())


def make(home: Path, limits: Limits, clock: Callable[[], int]) -> PaymentGateway | None:
    """Make the gateway that a home names. Raises `UsageError`."""
    settings = load(home)
    match settings.kind:
        case "sandbox":
            return SandboxGateway(home, clock)
        case "stripe":
            return StripeGateway(_key(home), limits.gateway_timeout_ms / 1000, settings.api_base or None)
        case "none":
            return None


def _key(home: Path) -> str:
    path = home / KEY_FILE
    if not path.exists():
        raise UsageError(f"{path} is missing.", "`veilmart broker gateway use stripe --key-file FILE`")
    if path.stat().st_mode & 0o077:
        raise UsageError(f"{path} can be read by others.", f"chmod 600 {path}")
    return path.read_text().strip()
