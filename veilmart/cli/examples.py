"""The examples that end each command's help: complete lines that can be typed.

Rule. Every command has one at least, and each is parsed by the command's own parser in the tests, so that
none outlives an option that it shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

EXAMPLES: Final[dict[str, tuple[str, ...]]] = {
    "": ("veilmart demo", "veilmart doctor", "veilmart customer buy --help"),
    "init": ("veilmart init --minimum-age 0 --gateway sandbox", "veilmart init --bus-host shop.example"),
    "status": ("veilmart status", "veilmart status --expect broker --expect sports --json"),
    "doctor": (
        "veilmart doctor",
        "veilmart doctor --home /srv/sports --json",
        "veilmart doctor --timeout 60",
    ),
    "completion": (
        'eval "$(veilmart completion bash)"',
        "veilmart completion zsh > ~/.zfunc/_veilmart",
        "veilmart completion fish > ~/.config/fish/completions/veilmart.fish",
    ),
    "demo": ("veilmart demo", "veilmart demo --once --json"),
    "bus run": ("veilmart bus run", "veilmart bus run --home /srv/bus"),
    "bus install-crl": ("veilmart bus install-crl crl.pem",),
    "broker run": ("veilmart broker run", "veilmart broker run --home /srv/broker"),
    "broker install-crl": ("veilmart broker install-crl crl.pem",),
    "broker actions": ("veilmart broker actions", "veilmart broker actions --about alice --json"),
    "broker account add": (
        'veilmart broker account add alice --reason "asked by letter" --password-file password',
    ),
    "broker account list": ("veilmart broker account list",),
    "broker account credit": (
        'veilmart broker account credit alice 50.00 --reason "paid in cash"',
        'veilmart broker account credit alice 50.00 --reason "paid in cash" --dry-run',
    ),
    "broker account disable": ('veilmart broker account disable alice --reason "her password is known"',),
    "broker account enable": ('veilmart broker account enable alice --reason "has a new password"',),
    "broker account close": ('veilmart broker account close alice --reason "paid out by bank" --settle',),
    "broker account reset-totp": ('veilmart broker account reset-totp alice --reason "showed her passport"',),
    "broker invite create": ('veilmart broker invite create --note "for Alice" --days 7',),
    "broker invite list": ("veilmart broker invite list",),
    "broker invite revoke": ("veilmart broker invite revoke 3f9a",),
    "broker gateway show": ("veilmart broker gateway show",),
    "broker gateway use": (
        "veilmart broker gateway use sandbox",
        "veilmart broker gateway use stripe --key-file stripe.key",
    ),
    "broker ledger check": ("veilmart broker ledger check", "veilmart broker ledger check --json"),
    "broker payout list": ("veilmart broker payout list", "veilmart broker payout list --all --csv"),
    "broker payout confirm": ('veilmart broker payout confirm 0badc0de --reason "bank reference 17"',),
    "broker payout reject": ('veilmart broker payout reject 0badc0de --reason "the account is closed"',),
    "broker dispute list": ("veilmart broker dispute list",),
    "broker dispute show": ("veilmart broker dispute show b62cf47d",),
    "broker dispute refund": ('veilmart broker dispute refund b62cf47d --reason "it never came"',),
    "broker dispute settle": ('veilmart broker dispute settle b62cf47d --reason "it was delivered"',),
    "ca sign": ("veilmart ca sign identity.csr --out sports.crt",),
    "ca renew": (
        "veilmart ca renew broker",
        "veilmart ca renew bus --host shop.example",
        "veilmart ca renew sports --out sports.crt",
    ),
    "ca revoke": ("veilmart ca revoke sports",),
    "ca list": ("veilmart ca list",),
    "merchant init": ('veilmart merchant init sports --name "Sports shop" --tax 19',),
    "merchant install-cert": ("veilmart merchant install-cert sports.crt",),
    "merchant run": ("veilmart merchant run", "veilmart merchant run --home /srv/sports"),
    "merchant orders": ("veilmart merchant orders", "veilmart merchant orders --follow --json"),
    "merchant sales": ("veilmart merchant sales --days 7",),
    "merchant refund": (
        'veilmart merchant refund b62cf47d --reason "sold twice"',
        'veilmart merchant refund b62cf47d --amount 2.00 --reason "a page is missing" --dry-run',
    ),
    "merchant refunds": ("veilmart merchant refunds",),
    "merchant web": ("veilmart merchant web --open",),
    "merchant privacy": ("veilmart merchant privacy",),
    "merchant product add": (
        'veilmart merchant product add plan.md --sku PLAN --title "Ten kilometres" --price 9.90',
        'veilmart merchant product add --sku PRO --title "Pro licence" --price 4.00 --keys keys.txt',
    ),
    "merchant product edit": ("veilmart merchant product edit PLAN --price 8.90 --stock 100",),
    "merchant product remove": ("veilmart merchant product remove PLAN",),
    "merchant product list": ("veilmart merchant product list", "veilmart merchant product list --json"),
    "merchant product keys add": ("veilmart merchant product keys add PRO more.txt",),
    "merchant product keys count": ("veilmart merchant product keys count PRO",),
    "merchant discount add": (
        "veilmart merchant discount add SUMMER --percent 10 --until 2099-08-31 --limit 100",
    ),
    "merchant discount list": ("veilmart merchant discount list",),
    "merchant discount remove": ("veilmart merchant discount remove SUMMER",),
    "merchant balance": ("veilmart merchant balance",),
    "merchant statement": ("veilmart merchant statement --from 2026-01-01 --csv",),
    "merchant payout": (
        'veilmart merchant payout --all --to "DE02 1203 0000 0000 2020 51"',
        "veilmart merchant payout 50.00 --dry-run",
    ),
    "merchant payouts": ("veilmart merchant payouts",),
    "merchant dispute list": ("veilmart merchant dispute list",),
    "merchant dispute answer": ('veilmart merchant dispute answer b62cf47d --statement "it was fetched"',),
    "customer join": ("veilmart join market.json", "veilmart join market.json --key-file wallet.key"),
    "customer signup": (
        "veilmart signup alice",
        "veilmart signup alice --invite CODE --password-file password",
    ),
    "customer login": ("veilmart login alice",),
    "customer logout": ("veilmart logout",),
    "customer balance": ("veilmart balance", "veilmart balance --proxy socks5://127.0.0.1:9050"),
    "customer withdraw": ("veilmart withdraw", "veilmart withdraw --bundles 2 --yes"),
    "customer topup": (
        "veilmart topup 50.00",
        "veilmart topup 50.00 --card-file card.json --idempotency-key may --yes",
    ),
    "customer topups": ("veilmart topups",),
    "customer passwd": ("veilmart passwd",),
    "customer totp secret": ("veilmart totp secret",),
    "customer totp enable": (
        "veilmart totp enable",
        "veilmart totp enable --secret-file secret --code 123456",
    ),
    "customer totp disable": ("veilmart totp disable --code 123456",),
    "customer account close": ("veilmart account close", "veilmart account close --dry-run"),
    "customer merchants": ("veilmart merchants",),
    "customer search": (
        "veilmart search ridge",
        "veilmart search --merchant sports --sort price --limit 10 --json",
    ),
    "customer show": ("veilmart show sports GPX-RIDGE",),
    "customer image": ("veilmart image sports GPX-RIDGE --out ridge.png",),
    "customer buy": (
        "veilmart buy",
        "veilmart buy sports GPX-RIDGE --quantity 2 --dry-run",
        "veilmart buy sports GPX-RIDGE --yes --idempotency-key tuesday --json",
    ),
    "customer cart add": ("veilmart cart add sports GPX-RIDGE --quantity 2",),
    "customer cart set": ("veilmart cart set sports GPX-RIDGE 3",),
    "customer cart remove": ("veilmart cart remove sports GPX-RIDGE",),
    "customer cart show": ("veilmart cart show --refresh", "veilmart cart show --code SUMMER"),
    "customer cart clear": ("veilmart cart clear",),
    "customer orders": ("veilmart orders", "veilmart orders --json"),
    "customer download": ("veilmart download --last --to bought",),
    "customer resume": ("veilmart resume", "veilmart resume --to bought"),
    "customer order show": ("veilmart order show --last", "veilmart order show b62cf47d --ask"),
    "customer order cancel": ("veilmart order cancel b62cf47d",),
    "customer order dispute": (
        'veilmart order dispute b62cf47d --because not-delivered --statement "nothing came"',
    ),
    "customer receipt get": ("veilmart receipt --last --out receipt.json",),
    "customer receipt verify": ("veilmart receipt verify receipt.json --market market.json",),
    "customer invoice": ('veilmart invoice --last --pdf invoice.pdf --name Alice --address "1 Main Street"',),
    "customer wallet": ("veilmart wallet",),
    "customer wallet show": ("veilmart wallet show --json",),
    "customer wallet passphrase": (
        "veilmart wallet passphrase",
        "veilmart wallet passphrase --new-key-file wallet.key",
    ),
    "customer wallet backup": ("veilmart wallet backup",),
    "customer wallet restore": ("veilmart wallet restore market.json alice",),
    "customer wallet tend": (
        "veilmart wallet tend",
        "veilmart wallet tend --watch --account alice --password-file password",
    ),
    "customer web": ("veilmart customer web --open",),
    "audit watch": ("veilmart audit watch --count 2", "veilmart audit watch --type order.captured --json"),
}


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Give every command below (and with) this one that does something when it is called."""
    below = getattr(command, "commands", {})
    if not below or command.invoke_without_command:
        yield path, command
    for name, each in below.items():
        yield from leaves(each, (*path, name))


def show_examples(command: Any, *path: str) -> Any:
    """Give the command, whose help now ends with examples, and that of every command below it too."""
    for found, leaf in leaves(command, path):
        lines = EXAMPLES.get(" ".join(found))
        if lines:
            leaf.epilog = epilog(lines)
    return command


def epilog(lines: tuple[str, ...]) -> str:
    """Write examples as the end of a help text, whose lines are not to be joined."""
    return "\b\n" + "\n".join(["Examples:", *(f"  {line}" for line in lines)])
