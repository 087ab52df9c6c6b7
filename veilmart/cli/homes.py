"""Where each group's home is (see `veilmart.cli`), and the options that many commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, TypeAlias

import typer

from common.errors import UsageError
from veilmart.cli.variables import HOME_VARIABLE, MERCHANT_VARIABLE, check_merchant, folder_in
from veilmart.output import Output

MARKET_FILE: Final = "market.json"

Home: TypeAlias = Annotated[
    Path | None, typer.Option("--home", help="This node's own home.", show_default=False)
]
MarketHome: TypeAlias = Annotated[
    Path | None,
    typer.Option("--home", envvar=HOME_VARIABLE, help="The market's folder.", show_default=False),
]
MerchantId: TypeAlias = Annotated[
    str | None,
    typer.Option("--merchant", envvar=MERCHANT_VARIABLE, help="Which merchant.", show_default=False),
]
PasswordFile: TypeAlias = Annotated[
    Path | None,
    typer.Option(help="Read the password from this file ('-' for stdin) instead of asking for it."),
]
Reason: TypeAlias = Annotated[
    str, typer.Option("--reason", help="Why; kept with the action, and committed to in its public event.")
]
Code: TypeAlias = Annotated[
    str, typer.Option(help="The code that your app shows now, where the account has a second factor.")
]
Timeout: TypeAlias = Annotated[float, typer.Option(min=0.1, help="Seconds to wait for one answer.")]
Proxy: TypeAlias = Annotated[
    str | None, typer.Option(help="socks5://HOST:PORT; each session uses credentials of its own.")
]
Csv: TypeAlias = Annotated[bool, typer.Option("--csv", help="Print CSV.")]
Yes: TypeAlias = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def output(context: typer.Context) -> Output:
    """Give the output that `veilmart.cli.app` has put into the context."""
    found = context.obj
    if not isinstance(found, Output):
        raise TypeError("a command was called without its output")
    return found


def market_home() -> Path:
    """Give the folder below which homes lie by default. Raises `UsageError` where a file is named."""
    return folder_in(HOME_VARIABLE) or Path.home() / ".local" / "share" / "veilmart"


def home_of(given: Path | None, *below: str) -> Path:
    """Give the home that `--home` names, or the default one."""
    return given if given is not None else market_home().joinpath(*below)


def merchant_home(given: Path | None, merchant: str | None) -> Path:
    """Give a merchant's home: the one named, or the only one there is. Raises `UsageError`."""
    if given is not None:
        return given
    folder = market_home() / "merchants"
    if merchant is not None:
        return folder / check_merchant(merchant)
    present = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if len(present) == 1:
        return present[0]
    if not present:
        raise UsageError(
            f"There is no merchant in {folder}.",
            "Make one with `veilmart merchant init`, or name its --home.",
        )
    names = ", ".join(path.name for path in present)
    raise UsageError(f"There are several merchants: {names}.", "Name one with --merchant or --home.")


def find_market_file(given: Path | None) -> Path:
    """Give the market file that was named, or the market's, or the customer's. Raises `UsageError`."""
    if given is not None:
        return given
    for path in (market_home() / MARKET_FILE, market_home() / "customer" / MARKET_FILE):
        if path.is_file():
            return path
    raise UsageError(
        "There is no market file here.",
        f"Name it with --market FILE, or the market's folder with {HOME_VARIABLE}.",
    )


def read_small_file(path: Path, largest: int) -> bytes:
    """Give a file's content. Raises `UsageError` where it cannot be read or is longer than `largest`."""
    try:
        with path.open("rb") as file:
            content = file.read(largest + 1)
    except OSError as error:
        raise UsageError(
            f"cannot read {path}: {error.strerror}", "Name a file that is there and that you may read."
        ) from error
    if len(content) > largest:
        raise UsageError(f"{path} is longer than {largest} bytes.")
    return content
