"""The wallet: what it holds, what opens it, and its words."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from common.clock import now_ms
from common.errors import UsageError
from common.money import format_amount
from customer_node import Market
from customer_node.profile import MARKET_FILE
from customer_node.views import CoinStockView, RestoreView, WalletView
from veilmart.cli import customer_tend
from veilmart.cli.customer_tend import WORKS
from veilmart.cli.homes import Code, PasswordFile, Proxy, Timeout, output
from veilmart.cli.passwords import read_password, read_words
from veilmart.cli.profiles import Now, ProfileHome, on_group, on_profile, opened, profile_home
from veilmart.cli.times import day_of, minute_of, wait_of
from veilmart.cli.unlocking import KeyFilePath, NoPassphrase, PassphraseFile, new_unlock
from veilmart.output import IncompleteError, Output, Table, View

app = typer.Typer(add_completion=False, rich_markup_mode=None)
wallet_app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    invoke_without_command=True,
    help="The wallet: what it holds, what opens it, and its words. Alone it shows what it holds.",
)
app.add_typer(wallet_app, name="wallet")
wallet_app.add_typer(customer_tend.app)


@on_group(wallet_app)
@on_profile(wallet_app, "show")
def show(shown: Output, market: Market) -> None:
    """Show what the wallet holds. Asks nobody."""
    held = market.wallet()
    rows = [
        (format_amount(coin.value, held.currency), coin.usable, coin.young, coin.expired, _crowd(coin))
        for coin in held.coins
    ]
    sums = {"usable": held.usable, "young": held.young, "in orders": held.reserved}
    views: list[View] = [
        Table(("coin", "usable", "young", "expired", "among at most"), rows),
        ", ".join(f"{name} {format_amount(amount, held.currency)}" for name, amount in sums.items()),
        f"every amount up to {format_amount(held.exact_up_to, held.currency)} can be paid exactly at once",
        f"tickets {held.tickets}, young {held.young_tickets}",
    ]
    if held.crowd_at:
        views.append(
            "among at most: that many coins of that value and month were out (drawn, not spent) at "
            f"{minute_of(held.crowd_at)}; the people who hold them are fewer"
        )
    elif held.coins:
        views.append(
            "how many coins yours hide among is unknown: the broker has not counted them in public yet, "
            "or was not asked since (it counts at full hours, when enough orders have come)"
        )
    if held.young_until > now_ms():
        views.append(f"all usable from {minute_of(held.young_until)}")
    views += [*_of_months(held), *_next(held)]
    if held.pending:
        waits = [
            (_PENDING[each.kind], minute_of(each.since), wait_of(each.waits_for, each.waits_until))
            for each in held.pending
        ]
        views.append(Table(("open", "since", "waits for"), waits))
        views.append("`veilmart resume` takes what is open to its end")
    if held.restoring:
        views.append("not everything is restored yet: `veilmart wallet restore` goes on")
    shown.show(held, *views)


def _of_months(held: WalletView) -> list[str]:
    """Warn of coins that end soon, and say what became of those that did."""
    lines = []
    if held.ending:
        lines.append(
            f"warning: {format_amount(held.ending, held.currency)} in coins ends on "
            f"{day_of(held.ending_at)}: `veilmart wallet tend` renews them"
        )
    for each in held.ended:
        worth = format_amount(each.worth, held.currency)
        what = "they are lost" if each.lost else "`veilmart wallet tend` asks whether they are still swapped"
        lines.append(f"{worth} in coins of {each.month} ended on {day_of(each.at)}: {what}")
    return lines


def _next(held: WalletView) -> list[str]:
    return [
        f"next: {WORKS[due.work]}, "
        + (f"from {minute_of(due.at)}" if due.at else "at a time that `veilmart wallet tend` draws")
        for due in held.due
    ]


def _crowd(coin: CoinStockView) -> str:
    if not coin.usable + coin.young:
        return ""
    return "unknown" if coin.crowd is None else str(coin.crowd)


@on_profile(wallet_app)
def passphrase(
    shown: Output,
    market: Market,
    new_passphrase_file: Annotated[
        Path | None, typer.Option(help="Read the new passphrase from this file ('-' for stdin).")
    ] = None,
    new_key_file: Annotated[
        Path | None, typer.Option(help="Let this file open the wallet; it is made where it is not there.")
    ] = None,
    *,
    no_passphrase: NoPassphrase = False,
) -> None:
    """Change what opens the wallet. The words, and copies of the old files, still open what they did."""
    unlock = new_unlock(new_passphrase_file, new_key_file, no_passphrase=no_passphrase)
    market.protect(unlock)
    kind = market.protected_by
    shown.show({"protection": kind}, _PROTECTED[kind])


@on_profile(wallet_app)
def backup(shown: Output, market: Market) -> None:
    """Print the 24 words that bring the wallet back. Whoever reads them has the money."""
    if not shown.as_json and not sys.stdout.isatty():
        raise UsageError(
            "The words are shown on a terminal only.", "A script asks for them with --json, and hides them."
        )
    words = market.words()
    shown.note("Write these words down and keep them off line: whoever reads them has the wallet's money.")
    shown.note("To restore it, the account's login and the market file are needed too, and nothing else.")
    rows = [
        tuple(f"{number + 1:2} {words[number]}" for number in range(row, len(words), 6)) for row in range(6)
    ]
    shown.show({"words": words}, *("   ".join(f"{cell:<12}" for cell in row).rstrip() for row in rows))


@wallet_app.command()
def restore(
    context: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(help="The market file; for a profile that is not there yet.")
    ] = None,
    name: Annotated[str | None, typer.Argument(help="The account that the wallet drew from.")] = None,
    words_file: Annotated[
        Path | None, typer.Option(help="Read the 24 words from this file ('-' for stdin).")
    ] = None,
    together: Annotated[
        int, typer.Option(min=1, help="Swaps or orders in one session: fewer tickets, and tied together.")
    ] = 1,
    password_file: PasswordFile = None,
    code: Code = "",
    profile: ProfileHome = None,
    timeout: Timeout = 30.0,
    proxy: Proxy = None,
    passphrase_file: PassphraseFile = None,
    key_file: KeyFilePath = None,
    *,
    refunds: Annotated[
        bool, typer.Option("--refunds", help="Ask again about orders that were paid, a ticket each.")
    ] = False,
    now: Now = False,
    no_passphrase: NoPassphrase = False,
) -> None:
    """Bring a wallet back from its words, on an empty disk; called again it goes on where it ended."""
    home, shown = profile_home(profile), output(context)
    if not (home / MARKET_FILE).exists():
        if file is None or name is None:
            raise UsageError("What shall be restored?", "`veilmart wallet restore MARKET-FILE ACCOUNT`.")
        words = read_words(words_file)
        unlock = new_unlock(passphrase_file, key_file, no_passphrase=no_passphrase)
        Market.restore(home, file, words, unlock)
    with opened(
        profile, timeout, proxy, now=now, passphrase_file=passphrase_file, key_file=key_file
    ) as market:
        if name is not None:
            market.log_in(name, read_password(password_file, new=False), code=code)
        done = market.recover(name, together=together, refunds=refunds)
        held = market.wallet()
    views = _restored(done, held)
    if done.error is not None:
        raise IncompleteError(done.error, done, *views)
    shown.show(done, *views)


def _restored(done: RestoreView, held: WalletView) -> list[View]:
    rows = [
        (each.source, each.coins, format_amount(each.amount, done.currency), each.tickets, each.spent)
        for each in done.sources
    ]
    views: list[View] = [Table(("from", "coins", "amount", "tickets", "spent before"), rows)]
    orders = [
        (order.order_id, order.state, format_amount(order.amount, done.currency), order.claimed)
        for order in done.orders
    ]
    if orders:
        views.append(Table(("order", "state", "amount", "claimed now"), orders))
    if done.missing_marks:
        views.append(
            f"{done.missing_marks} spent coins are not in the public set that the bus shows: some of the "
            "coins above may be spent, which is found out when they are shown"
        )
    elif any(each.coins for each in done.sources):
        views.append(
            "what was spent after the market's last count (at full hours, when enough orders have come) is "
            "still among the coins above, which is found out when they are shown"
        )
    if done.unmatched:
        views.append(f"{done.unmatched} signatures of the account were not for this wallet")
    views.append("complete" if done.complete else "not complete yet: `veilmart wallet restore` goes on")
    sums = {"usable": held.usable, "young": held.young}
    views.append(", ".join(f"{kind} {format_amount(value, held.currency)}" for kind, value in sums.items()))
    return views


_PENDING = {
    "withdraw": "a withdrawal from the account",
    "swap": "a swap of coins",
    "refund": "a refund's coins",
    "top_up": "a top-up by card",
}

_PROTECTED = {
    "none": "the wallet is open to whoever can read its folder",
    "passphrase": "the wallet opens with its passphrase",
    "key_file": "the wallet opens with its key file",
}
