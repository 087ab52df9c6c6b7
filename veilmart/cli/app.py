"""The root of the command, and the one place where errors become output.

Rule. A group's file is imported when one of its commands is called: what a customer types does not wait
for the broker's imports.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from common.errors import UsageError, VeilmartError
from veilmart.cli.examples import EXAMPLES, epilog, show_examples
from veilmart.cli.variables import COMPLETION_VARIABLE, DEBUG_VARIABLE
from veilmart.output import CONTRACT, IncompleteError, InternalError, Output, StoppedError

JSON_OPTION: Final = "--json"
CUSTOMER: Final = "customer"


@dataclass(frozen=True)
class Lazy:
    """Where a command is found. `leaf` names it inside its module's app; a group is the app itself."""

    module: str
    summary: str
    leaf: str | None = None


COMMANDS: Final[dict[str, Lazy]] = {
    "init": Lazy("veilmart.cli.market", "Make a market: CA, broker, bus and market file.", "init"),
    "status": Lazy(
        "veilmart.cli.market", "Show who is reachable, and which certificates end soon.", "status"
    ),
    "doctor": Lazy("veilmart.cli.doctor", "Find out what is wrong here, and what to do.", "doctor"),
    "bus": Lazy("veilmart.cli.bus", "Mosquitto: run it."),
    "broker": Lazy("veilmart.cli.broker", "The broker: run it, accounts, ledger."),
    "ca": Lazy("veilmart.cli.ca", "The market's certificate authority: sign, renew, revoke."),
    "merchant": Lazy("veilmart.cli.merchant", "A merchant: join, products, run, orders."),
    "customer": Lazy("veilmart.cli.customer", "A customer: join, browse, buy, download."),
    "audit": Lazy("veilmart.cli.audit", "Public events: watch them."),
    "completion": Lazy(
        "veilmart.cli.completion", "Print what makes a shell complete commands and options.", "completion"
    ),
    "demo": Lazy("veilmart.cli.demo", "A whole market on this machine, and who saw what.", "demo"),
}


CUSTOMERS: Final = (
    *("join", "signup", "login", "logout", "balance", "withdraw", "topup", "topups", "passwd", "totp"),
    *("account", "merchants", "search", "show", "image", "buy", "cart", "orders", "download", "resume"),
    *("order", "receipt", "invoice", "wallet", "web"),
)
"""Customers' commands, for a shell that completes: they need no `customer` in front."""


def load(name: str) -> Any:
    """Import a command of the root, whose help then ends with examples."""
    found = COMMANDS[name]
    command: Any = get_command(import_module(found.module).app)
    return show_examples(command if found.leaf is None else command.commands[found.leaf], name)


class Root(TyperGroup):
    """Knows its commands by name and summary, and imports the one that is called."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, found in COMMANDS.items():
            self.commands[name] = TyperCommand(name, callback=None, help=found.summary, rich_markup_mode=None)

    def list_commands(self, ctx: Any) -> list[str]:
        """Name the commands; to a shell that completes, those too that may leave `customer` out."""
        return [*self.commands, *(CUSTOMERS if ctx.resilient_parsing else ())]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Give a command by its name; of a customer's, where a shell completes, the name alone."""
        if ctx.resilient_parsing and cmd_name in CUSTOMERS:
            return TyperCommand(cmd_name, callback=None, rich_markup_mode=None)
        return super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Give the command that is called; customers' commands need no `customer` in front."""
        if args and args[0] in COMMANDS:
            self.commands[args[0]] = load(args[0])
        elif args and not args[0].startswith("-"):
            customer = load(CUSTOMER)
            if args[0] in customer.commands:
                return args[0], customer.commands[args[0]], args[1:]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=Root,
    add_completion=False,
    rich_markup_mode=None,
    epilog="--json anywhere prints one line of JSON. Customers' commands may leave `customer` out.\n\n"
    + epilog(EXAMPLES[""]),
)


def _version(context: typer.Context, wanted: bool | None) -> None:  # noqa: FBT001 - the shape of Typer's callbacks
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415 - rarely needed, and slow

        found = version("veilmart")
        context.obj.show({"version": found, "contract": CONTRACT}, found)
        raise typer.Exit


@app.callback()
def root(
    _version_wanted: Annotated[
        bool | None, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = None,
) -> None:
    """Buy and sell digital goods over MQTT; no party learns both who bought and what was bought."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and give its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if COMPLETION_VARIABLE in os.environ:
        from veilmart.cli.completion import complete  # noqa: PLC0415 - only for a shell that completes

        return complete(get_command(app))
    words, as_json = _take_json(words)
    output = Output(as_json=as_json)
    try:
        return _guarded(words or ["--help"], output)
    except BrokenPipeError:
        # Whoever read us has gone; the interpreter shall not complain of it while it ends.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _take_json(words: list[str]) -> tuple[list[str], bool]:
    end = words.index("--") if "--" in words else len(words)
    kept = [word for word in words[:end] if word != JSON_OPTION]
    return kept + words[end:], len(kept) != end


def _guarded(words: list[str], output: Output) -> int:
    said = io.StringIO()
    try:
        # Help is text; where JSON was asked for it comes in the envelope like everything else.
        if output.as_json and "--help" in words:
            with contextlib.redirect_stdout(said):
                _invoke(words, output)
        else:
            _invoke(words, output)
    except typer.Exit as ended:
        if said.getvalue():
            output.show({"help": said.getvalue()})
        return ended.exit_code
    except IncompleteError as incomplete:
        return output.fail_incomplete(incomplete)
    except BrokenPipeError:
        raise
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - beyond this is only the interpreter
        return output.fail(_explained(error))
    return 0


def _explained(error: BaseException) -> VeilmartError:
    if isinstance(error, VeilmartError):
        return error
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return StoppedError("Interrupted.", "What was begun is kept; `veilmart resume` takes orders on.")
    if isinstance(error, typer.TyperException):
        return _usage(error)
    if isinstance(error, OSError):
        return VeilmartError(_os_message(error), "Check the path, its owner and the disk.")
    if os.environ.get(DEBUG_VARIABLE) == "1":
        traceback.print_exception(error, file=sys.stderr)
    return InternalError(
        f"Something unexpected happened: {_place(error)}.",
        f"Run it again with {DEBUG_VARIABLE}=1 to see the whole trace, which may hold secrets.",
    )


def _invoke(words: list[str], output: Output) -> None:
    command = get_command(app)
    with command.make_context("veilmart", words, obj=output) as context:
        command.invoke(context)


def _usage(error: typer.TyperException) -> UsageError:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "veilmart"
    return UsageError(error.format_message(), f"`{path} --help` shows how.")


def _os_message(error: OSError) -> str:
    reason = error.strerror or type(error).__name__
    return f"{error.filename}: {reason}" if error.filename else reason


def _place(error: BaseException) -> str:
    """Give type and place: an exception's own text may hold a value that is nobody's business."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return type(error).__name__ + where
