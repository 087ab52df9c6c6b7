"""Orders, deliveries, receipts, and taking up again what was left open."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

import typer
from typer.core import TyperGroup

from common.clock import now_ms
from common.errors import UsageError
from common.money import format_amount, format_rate
from customer_node import Market
from customer_node.disputes import Kind
from customer_node.proofs import is_proof
from customer_node.views import OrderView, Progress, ReceiptView, WrongFileView
from veilmart.cli.consent import DryRun, agreed
from veilmart.cli.homes import Yes, output
from veilmart.cli.profiles import ProfileHome, on_profile, opened
from veilmart.cli.times import minute_of
from veilmart.cli.unlocking import KeyFilePath, PassphraseFile
from veilmart.output import IncompleteError, Output, Table, View

RECEIPT_DEFAULT = "get"


class ReceiptGroup(TyperGroup):
    """`receipt ORDER` is `receipt get ORDER`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `get` in front of what is no command of the group."""
        known = args and (args[0] in self.commands or args[0] == "--help")
        # A shell that completes wants to see the commands.
        if not known and not ctx.resilient_parsing:
            args = [RECEIPT_DEFAULT, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(add_completion=False, rich_markup_mode=None)
order_app = typer.Typer(add_completion=False, rich_markup_mode=None)
receipt_app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    cls=ReceiptGroup,
    help="Receipts: [ORDER|--last] --out FILE, or verify FILE-OR-QR-TEXT.",
)
app.add_typer(order_app, name="order", help="One order.")
app.add_typer(receipt_app, name="receipt")

OrderId = Annotated[str, typer.Argument(help="The order's id, or the beginning of it.")]
OptionalOrder = Annotated[
    str | None, typer.Argument(help="The order's id, or the beginning of it.", show_default=False)
]
DisputeChoice: TypeAlias = Literal["not-delivered", "wrong-content"]
_KINDS: Final[dict[DisputeChoice, Kind]] = {
    "not-delivered": "not_delivered",
    "wrong-content": "wrong_content",
}
Last = Annotated[bool, typer.Option("--last", help="The newest order.")]


@on_profile(app)
def orders(shown: Output, market: Market) -> None:
    """List the orders of this profile, oldest first."""
    found = market.orders()
    rows = [
        (
            each.order_id,
            each.merchant,
            each.state,
            format_amount(each.total, each.currency),
            minute_of(each.created),
            ", ".join(f"{line.quantity} x {line.sku}" for line in each.lines),
        )
        for each in found
    ]
    shown.show(found, Table(("order", "merchant", "state", "total", "at", "products"), rows))


@on_profile(order_app, "show")
def show_order(
    shown: Output,
    market: Market,
    order: OptionalOrder = None,
    *,
    last: Last = False,
    ask: Annotated[bool, typer.Option("--ask", help="Ask the broker first; this may take a ticket.")] = False,
) -> None:
    """Show an order, for whom it waits and until when."""
    found = chosen_order(market, order, last=last)
    if ask:
        found = market.ask(found.order_id)
    _show(shown, found, market.wrong_files(found.order_id))


@on_profile(order_app, "cancel")
def cancel_order(
    shown: Output, market: Market, order: OrderId, *, yes: Yes = False, dry_run: DryRun = False
) -> None:
    """Call off an order that its merchant has not answered; the coins come back. Asks first."""
    found = market.order(order)
    market.check_cancel(found.order_id)
    total = format_amount(found.total, found.currency)
    deed = f"call off order {found.order_id} at {found.merchant} if it is not answered, for {total} back"
    data = {
        "order_id": found.order_id,
        "state": found.state,
        "amount": found.total,
        "currency": found.currency,
    }
    if agreed(shown, deed, data, yes=yes, dry_run=dry_run):
        _show(shown, market.cancel(found.order_id))


@on_profile(order_app, "dispute")
def dispute_order(
    shown: Output,
    market: Market,
    order: OrderId,
    *,
    kind: Annotated[
        DisputeChoice, typer.Option("--because", help="not-delivered, or wrong-content: not what was signed.")
    ],
    statement: Annotated[str, typer.Option(help="What the market's operator shall read.")] = "",
    withhold: Annotated[
        bool, typer.Option("--withhold", help="Show the operator no receipt: what was bought stays unknown.")
    ] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Dispute a paid order before it settles: its money is frozen until the operator decides."""
    found = market.order(order)
    market.check_dispute(found.order_id, statement)
    if dry_run:
        told = "with nothing of what was bought" if withhold else "with titles, files and prices"
        total = format_amount(found.total, found.currency)
        deed = f"freeze {total} of order {found.order_id} and tell the market's operator, {told}"
        data = {"order_id": found.order_id, "state": found.state, "withhold": withhold}
        agreed(shown, deed, data, yes=yes, dry_run=dry_run)
        return
    if not withhold:
        shown.confirm(
            f"The market's operator will see what you bought from {found.merchant}: titles, files, prices, "
            "and what of it has come. Go on? (--withhold shows nothing of it.)",
            yes=yes,
        )
    _show(shown, market.dispute(found.order_id, _KINDS[kind], statement, reveal=not withhold))


def _show(shown: Output, found: OrderView, wrong: Sequence[WrongFileView] = ()) -> None:
    facts: list[tuple[str, object]] = [
        ("order", found.order_id),
        ("merchant", found.merchant),
        ("state", found.state),
        *_sums(found),
        ("placed", minute_of(found.created)),
        ("deadline", minute_of(found.deadline)),
        ("idempotency key", found.idempotency_key),
        ("public pseudonym", found.audit or ""),
        ("refunded because", found.failure or ""),
        ("given back", _given_back(found)),
        ("the evidence says", found.finding),
        ("decided because", found.decision),
        ("waits for", _waits(found)),
        ("cells", f"{found.cells_done} of {found.cells}" if found.cells is not None else ""),
        *(("file", path) for path in found.files),
        *((f"key of {each.sku}", key) for each in found.keys for key in each.keys),
    ]
    lines = [
        (
            line.sku,
            line.title,
            line.quantity,
            format_amount(line.unit_price, found.currency),
            format_amount(-line.discount, found.currency) if line.discount else "",
            format_amount(line.amount, found.currency),
        )
        for line in found.lines
    ]
    views: list[View] = [
        Table(("field", "value"), [fact for fact in facts if fact[1] != ""]),
        Table(("sku", "title", "quantity", "price", "discount", "amount"), lines),
    ]
    if wrong:
        rows = [
            (each.sku, "licence keys" if each.keys else "content", each.sha256, each.path or "no room for it")
            for each in wrong
        ]
        views.append(Table(("not what was signed", "what", "SHA-256", "kept in"), rows))
    shown.show(found, *views)


def _given_back(order: OrderView) -> str:
    if not order.refunded:
        return ""
    claimed = format_amount(order.claimed, order.currency)
    return f"{format_amount(order.refunded, order.currency)}, {claimed} of it in the wallet"


def _waits(order: OrderView) -> str:
    if order.waits_for is None:
        return ""
    if order.refunded > order.claimed:
        return f"the {order.waits_for}, which keeps the money without a limit: `veilmart resume` brings it"
    until = f", until {minute_of(order.waits_until)}" if order.waits_until else ""
    late = " (overdue: the money stays frozen until it is decided)" if order.overdue(now_ms()) else ""
    return f"the {order.waits_for}{until}{late}"


@order_app.callback()
def order_group() -> None:
    """Show one order, call it off, or dispute it."""


@on_profile(app)
def download(
    shown: Output,
    market: Market,
    order: OptionalOrder = None,
    to: Annotated[
        Path | None, typer.Option(help="The folder; without it, the one where the download began.")
    ] = None,
    *,
    last: Last = False,
) -> None:
    """Download an order's files, going on where an earlier call ended."""
    chosen = chosen_order(market, order, last=last).order_id
    with _progress() as progress:
        files = market.download(chosen, to, progress)
    rows = [(each.path, each.size, each.sha256) for each in files]
    shown.show({"order_id": chosen, "files": files}, Table(("file", "size", "SHA-256"), rows))


@contextmanager
def _progress() -> Iterator[Callable[[Progress], None] | None]:
    """Draw a bar where a person is looking."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console  # noqa: PLC0415 - only on a terminal
    from rich.progress import Progress as Bar  # noqa: PLC0415

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("downloading", total=None)
        yield lambda step: bar.update(task, total=step.cells, completed=step.cells_done)


@on_profile(receipt_app, RECEIPT_DEFAULT)
def receipt(
    shown: Output,
    market: Market,
    order: OptionalOrder = None,
    out: Annotated[Path | None, typer.Option(help="Write it here, to be verified by anyone.")] = None,
    *,
    last: Last = False,
) -> None:
    """Verify an order's receipt, show it, and write it to a file."""
    chosen = chosen_order(market, order, last=last).order_id
    found = market.receipt(chosen) if out is None else market.export_receipt(chosen, out)
    views = receipt_views(found)
    shown.show({"receipt": found, "path": out}, *views, *([f"written to {out}"] if out is not None else []))


@receipt_app.command("verify")
def verify_receipt(
    context: typer.Context,
    source: Annotated[
        list[str],
        typer.Argument(help="An exported receipt, or the texts of an invoice's QR codes.", metavar="FILE"),
    ],
    market: Annotated[
        Path | None, typer.Option(help="The market file; without it, the profile's market counts.")
    ] = None,
    profile: ProfileHome = None,
    passphrase_file: PassphraseFile = None,
    key_file: KeyFilePath = None,
) -> None:
    """Verify an exported receipt, or the QR codes of an invoice. Asks nobody."""
    proof = " ".join(source)
    if not is_proof(proof) and len(source) > 1:
        raise UsageError("One receipt at a time.", "Only the QR codes of one invoice may be several.")
    given = proof if is_proof(proof) else Path(proof)
    if market is None:
        with opened(
            profile, 30.0, None, now=False, passphrase_file=passphrase_file, key_file=key_file
        ) as own:
            found = own.verify_receipt(given)
    else:
        with tempfile.TemporaryDirectory() as folder:
            Market.join(Path(folder), market)
            with Market(Path(folder)) as other:
                found = other.verify_receipt(given)
    output(context).show(found, *receipt_views(found), "the receipt holds")


@on_profile(app)
def resume(
    shown: Output,
    market: Market,
    to: Annotated[Path | None, typer.Option(help="Where deliveries go that have not begun.")] = None,
) -> None:
    """Take everything that is open to its end: withdrawals, swaps, orders, downloads.

    Next to the account nothing is done in a shop, nor in the account next to a visit: that waits for the
    market's minimum age.
    """
    done = market.resume(to)
    rows = [(each.kind, each.id, each.outcome, each.error.message if each.error else "") for each in done]
    views: list[View] = [Table(("what", "id", "now", "why"), rows)] if done else ["nothing is open"]
    # An order that came to its end by a refund is at its end; what is still open is not.
    stuck = [each.error for each in done if each.error is not None and each.outcome != "refunded"]
    if stuck:
        raise IncompleteError(stuck[0], done, *views)
    shown.show(done, *views)


def chosen_order(market: Market, order: str | None, *, last: bool) -> OrderView:
    """Give the order that a command line names. Raises `UsageError`, `NotFoundError`."""
    if (order is None) != last:
        raise UsageError("Which order?", "Give its id, or --last for the newest.")
    return market.last_order() if order is None else market.order(order)


def receipt_views(receipt: ReceiptView) -> list[View]:
    """Show a receipt to a person."""
    facts = [
        ("order", receipt.order_id),
        ("merchant", receipt.merchant),
        *_sums(receipt),
        ("at", minute_of(receipt.at)),
        ("signed with", receipt.fingerprint),
    ]
    rows = [
        (
            line.sku,
            line.title,
            line.quantity,
            format_amount(line.unit_price, receipt.currency),
            format_amount(-line.discount, receipt.currency) if line.discount else "",
            format_amount(line.amount, receipt.currency),
            f"{format_rate(line.tax.rate)}: {format_amount(line.tax.amount, receipt.currency)}",
            line.file_name,
            line.sha256,
        )
        for line in receipt.lines
    ]
    names = ("sku", "title", "quantity", "price", "discount", "amount", "tax in it", "file", "SHA-256")
    return [Table(("field", "value"), facts), Table(names, rows)]


def _sums(found: OrderView | ReceiptView) -> list[tuple[str, object]]:
    """Show what an order comes to: subtotal and discount where there is one, total, the taxes in it."""
    currency = found.currency
    before = [
        ("subtotal", format_amount(found.subtotal, currency)),
        ("discount", format_amount(-found.discount, currency)),
    ]
    taxes = [
        (
            f"tax in it, {format_rate(tax.rate)}",
            f"{format_amount(tax.amount, currency)} on {format_amount(tax.base, currency)}",
        )
        for tax in found.taxes
        if tax.rate
    ]
    return [*(before if found.discount else []), ("total", format_amount(found.total, currency)), *taxes]
