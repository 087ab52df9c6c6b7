"""What every command on a customer's profile shares: the options, and opening and closing the profile.

    @on_profile(app)
    def balance(shown: Output, market: Market) -> None:
        "Show the account's balance."

becomes the command `balance` with `--profile`, `--timeout`, `--proxy`, `--now`, and what opens the wallet.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias, get_type_hints

import typer

from common.errors import UsageError
from customer_node import Market
from veilmart.cli.homes import Proxy, Timeout, home_of, output
from veilmart.cli.times import minute_of
from veilmart.cli.unlocking import KeyFilePath, PassphraseFile, present_unlock
from veilmart.cli.variables import PROFILE_VARIABLE, folder_in
from veilmart.output import Output

ProfileHome: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--profile",
        "--home",
        envvar=PROFILE_VARIABLE,
        help="The customer's home.",
        show_default=False,
    ),
]
ProfilePath: TypeAlias = Annotated[
    Path | None,
    typer.Option("--profile", envvar=PROFILE_VARIABLE, help="The customer's home.", show_default=False),
]
"""The same where `--home` is the market's folder."""
Now: TypeAlias = Annotated[
    bool,
    typer.Option("--now", help="Use coins and tickets before their minimum age; easier to tie to you."),
]
Command: TypeAlias = Callable[..., None]

_KINDS: Final = inspect.Parameter.KEYWORD_ONLY
_GIVEN: Final = ("shown", "market")
_SHARED: Final = (
    inspect.Parameter("profile", _KINDS, default=None, annotation=ProfileHome),
    inspect.Parameter("timeout", _KINDS, default=30.0, annotation=Timeout),
    inspect.Parameter("proxy", _KINDS, default=None, annotation=Proxy),
    inspect.Parameter("now", _KINDS, default=False, annotation=Now),
    inspect.Parameter("passphrase_file", _KINDS, default=None, annotation=PassphraseFile),
    inspect.Parameter("key_file", _KINDS, default=None, annotation=KeyFilePath),
)


def profile_home(given: Path | None) -> Path:
    """Give the customer's home. Raises `UsageError` where the variable names a file."""
    folder_in(PROFILE_VARIABLE)
    return home_of(given, "customer")


def opened(
    profile: Path | None,
    timeout: float,
    proxy: str | None,
    *,
    now: bool,
    passphrase_file: Path | None = None,
    key_file: Path | None = None,
) -> AbstractContextManager[Market]:
    """Open the profile. Raises `UsageError`, `BusyError`, `AuthenticationError`."""
    home = profile_home(profile)
    unlock = present_unlock(home, passphrase_file, key_file)
    return Market(home, proxy=proxy, timeout_s=timeout, allow_young=now, unlock=unlock)


def on_profile(app: typer.Typer, name: str | None = None) -> Callable[[Command], Command]:
    """Make a command of a function that takes the output, an open profile, and options of its own."""

    def register(function: Command) -> Command:
        app.command(name)(_command(function))
        return function

    return register


def on_group(app: typer.Typer) -> Callable[[Command], Command]:
    """Make such a function what a group does that is called without any of its commands."""

    def register(function: Command) -> Command:
        app.callback(invoke_without_command=True)(_command(function))
        return function

    return register


def _command(function: Command) -> Command:
    def run(
        context: typer.Context,
        *,
        profile: Path | None,
        timeout: float,
        proxy: str | None,
        now: bool,
        passphrase_file: Path | None,
        key_file: Path | None,
        **options: Any,
    ) -> None:
        if context.invoked_subcommand is not None:
            _demand_no_options(context)
            return
        shown = output(context)
        if now:
            shown.note("warning: young coins and tickets make it easier to tie what follows to you")
        with opened(
            profile, timeout, proxy, now=now, passphrase_file=passphrase_file, key_file=key_file
        ) as market:
            function(shown, market, **options)

    hints = get_type_hints(function, include_extras=True)
    own = [
        parameter.replace(kind=_KINDS, annotation=hints[parameter.name])
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name not in _GIVEN
    ]
    first = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    parameters = [first, *own, *_SHARED]
    # Typer reads a command's options off its signature, and type hints in its own way.
    vars(run)["__signature__"] = inspect.Signature(parameters)
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    run.__name__, run.__doc__ = function.__name__, function.__doc__
    return run


def warn_of_a_visit(shown: Output, market: Market) -> None:
    """Say so where the account is about to be used next to a visit: it is not kept from that."""
    until = market.reading.next_to_a_visit_until()
    if until:
        shown.note(
            "warning: a shop was visited a moment ago, and what is done in the account next to that makes it "
            f"easier to tie it to you; apart from it from {minute_of(until)} on"
        )


def _demand_no_options(context: typer.Context) -> None:
    """Refuse options between a group and its command: the command would not see them."""
    for parameter in context.params:
        source = context.get_parameter_source(parameter)
        if source is not None and source.name == "COMMANDLINE":
            raise UsageError(
                "Options come after the command.", f"`{context.info_name} show --help` lists them."
            )
