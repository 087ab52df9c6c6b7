"""What every command on a customer's profile shares: the options, and opening and closing the profile.

    @on_profile(app)
    def balance(shown: Output, market: Market) -> None:
        "Show the account's balance."

becomes the command `balance` with `--profile`, `--timeout`, `--proxy` and `--now`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias, get_type_hints

import typer

from customer_node import Market
from veilmart.cli.homes import Proxy, Timeout, home_of, output

ProfileHome: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--profile",
        "--home",
        envvar="VEILMART_PROFILE",
        help="The customer's home.",
        show_default=False,
    ),
]
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
)


def profile_home(given: Path | None) -> Path:
    """Give the customer's home."""
    return home_of(given, "customer")


def opened(
    profile: Path | None, timeout: float, proxy: str | None, *, now: bool
) -> AbstractContextManager[Market]:
    """Open the profile. Raises `UsageError`, `BusyError`."""
    return Market(profile_home(profile), proxy=proxy, timeout_s=timeout, allow_young=now)


def on_profile(app: typer.Typer, name: str | None = None) -> Callable[[Command], Command]:
    """Make a command of a function that takes the output, an open profile, and options of its own."""

    def register(function: Command) -> Command:
        def run(
            context: typer.Context,
            *,
            profile: Path | None,
            timeout: float,
            proxy: str | None,
            now: bool,
            **options: Any,
        ) -> None:
            shown = output(context)
            if now:
                shown.note("warning: young coins and tickets make it easier to tie what follows to you")
            with opened(profile, timeout, proxy, now=now) as market:
                function(shown, market, **options)

        hints = get_type_hints(function, include_extras=True)
        own = [
            parameter.replace(kind=_KINDS, annotation=hints[parameter.name])
            for parameter in inspect.signature(function).parameters.values()
            if parameter.name not in _GIVEN
        ]
        first = inspect.Parameter(
            "context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context
        )
        parameters = [first, *own, *_SHARED]
        # Typer reads a command's options off its signature, and type hints in its own way.
        vars(run)["__signature__"] = inspect.Signature(parameters)
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        run.__name__, run.__doc__ = function.__name__, function.__doc__
        app.command(name)(run)
        return function

    return register
