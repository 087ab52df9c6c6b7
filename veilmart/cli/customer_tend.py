"""`wallet tend`: the wallet looks after itself, once or for as long as it is let."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Final

import typer

from common.clock import now_ms
from common.config import MINUTE_MS, SECOND_MS
from common.errors import BusyError, UsageError
from customer_node import Market
from customer_node.views import DueView, TendView
from veilmart.cli.consent import DryRun
from veilmart.cli.homes import PasswordFile, Proxy, Timeout, output
from veilmart.cli.passwords import read_password
from veilmart.cli.profiles import Now, ProfileHome, profile_home
from veilmart.cli.times import minute_of
from veilmart.cli.unlocking import KeyFilePath, PassphraseFile, present_unlock
from veilmart.output import Output, View

WORKS: Final = {
    "exchange": "ask whether coins that ended are still swapped",
    "renew": "renew coins that end soon",
    "spread": "swap a coin, so that small amounts can be paid exactly",
    "draw": "draw from the account",
}

app = typer.Typer(add_completion=False, rich_markup_mode=None)

LONGEST_PAUSE_MS: Final = 15 * MINUTE_MS
SHORTEST_PAUSE_MS: Final = 5 * SECOND_MS
BUSY_PAUSE_MS: Final = MINUTE_MS
_NOT_NOW: Final = {"open": "goes no further now", "lost": "they are lost"}


@app.command()
def tend(
    context: typer.Context,
    profile: ProfileHome = None,
    bundles: Annotated[int, typer.Option(min=1, max=50, help="Bundles' worth that stays in hand.")] = 1,
    account: Annotated[
        str | None, typer.Option(help="Log in to this account where a draw is due, and out again.")
    ] = None,
    password_file: PasswordFile = None,
    timeout: Timeout = 30.0,
    proxy: Proxy = None,
    passphrase_file: PassphraseFile = None,
    key_file: KeyFilePath = None,
    *,
    dry_run: DryRun = False,
    watch: Annotated[bool, typer.Option("--watch", help="Stay, and wake when something is due.")] = False,
    now: Now = False,
) -> None:
    """Let the wallet look after itself: swap ahead, renew, draw, each at a time of its own.

    It moves nothing but your own money, and does not ask.
    """
    shown, home = output(context), profile_home(profile)
    if watch and dry_run:
        raise UsageError("A dry run shows what is due now, and stays for nothing.", "Leave out --watch.")
    if watch and now:
        raise UsageError("--watch waits for times of its own, --now does not wait.", "Leave one of them out.")
    if now:
        shown.note("warning: young coins and tickets make it easier to tie what follows to you")
    unlock = present_unlock(home, passphrase_file, key_file)
    if dry_run:
        with Market(home, proxy=proxy, timeout_s=timeout, unlock=unlock) as market:
            _plan(shown, market.wallet().due)
        return
    password = "" if account is None else read_password(password_file, new=False)

    def once() -> TendView:
        with Market(home, proxy=proxy, timeout_s=timeout, allow_young=now, unlock=unlock) as market:
            return _tend(market, bundles, account, password)

    if watch:
        _watch(shown, once)
    else:
        _show(shown, once())


def _tend(market: Market, bundles: int, account: str | None, password: str) -> TendView:
    opened: list[str] = []

    def log_in() -> None:
        if account is not None:
            market.log_in(account, password)
            opened.append(account)

    tended = market.tend(bundles, log_in if account is not None else None)
    if opened:
        market.log_out()
    return tended


def _plan(shown: Output, due: Sequence[DueView]) -> None:
    now = now_ms()
    views = [
        f"would {WORKS[each.work]} now"
        if 0 < each.at <= now
        else f"would draw a time to {WORKS[each.work]}"
        if not each.at
        else f"would {WORKS[each.work]} from {minute_of(each.at)}"
        for each in due
    ]
    shown.show({"dry_run": True, "due": due}, *(views or ["the wallet needs nothing"]))


def _watch(shown: Output, once: Callable[[], TendView]) -> None:
    """Tend until a signal comes. In between the profile is closed: other commands may use it."""
    from veilmart.cli.running import stopped_by_signal  # noqa: PLC0415 - no other command waits for a loop

    first = True
    with stopped_by_signal() as (stop, _):
        while not stop.is_set():
            try:
                tended = once()
            except BusyError:
                shown.note("the profile is in use: trying again in a minute")
                stop.wait(BUSY_PAUSE_MS / 1000)
                continue
            if first or tended.done:
                _show(shown, tended)
            first = False
            stop.wait(_pause_ms(tended, now_ms()) / 1000)


def _pause_ms(tended: TendView, now: int) -> int:
    """Give the time to sleep: until the next time that was drawn, but in short steps."""
    later = [due.at - now for due in tended.due if due.at > now]
    return min(LONGEST_PAUSE_MS, max(SHORTEST_PAUSE_MS, min(later, default=LONGEST_PAUSE_MS)))


def _show(shown: Output, tended: TendView) -> None:
    views: list[View] = []
    for each in tended.done:
        views.append(f"{WORKS[each.work]}: {'done' if each.error is None else _NOT_NOW[each.outcome]}")
        if each.error is not None:
            shown.note(f"{each.error.message} {each.error.hint}".rstrip())
    for due in tended.due:
        waits = due.work == "draw" and due.at <= now_ms() and not tended.logged_in
        when = "after `veilmart login`, or with --account" if waits else f"from {minute_of(due.at)}"
        views.append(f"next: {WORKS[due.work]}, {when}")
    shown.show(tended, *(views or ["the wallet needs nothing"]))
