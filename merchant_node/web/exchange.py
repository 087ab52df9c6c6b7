"""Import of products, tried first where that is wished, and export of products and orders."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from common.errors import NotFoundError, UsageError
from common.web import explained, forms
from merchant_node import stock
from merchant_node.bulk import Bulk, Outcome
from merchant_node.catalog import read_on_sale
from merchant_node.content import COPY_PIECE
from merchant_node.figures import Wanted
from merchant_node.inventory import by_sku
from merchant_node.reports import OrderReport
from merchant_node.web import product_form, tables
from merchant_node.web.desk import EPOCH, Books, Desk
from merchant_node.web.orders import filters_of
from merchant_node.web.product_form import plain_amount
from merchant_node.web.tables import Content, Context

LARGEST_TABLE: Final = 64 * 1024 * 1024
MOST_FILES: Final = 1_000
MOST_KEPT: Final = 4
FAULTS_SHOWN: Final = 200
ORDER_COLUMNS: Final = (
    *("order", "at", "state", "amount", "currency", "sku", "quantity", "unit_price", "discount"),
    *("line_amount", "tax_rate", "tax"),
)


@dataclass(frozen=True)
class Report:
    """What became of a table; `again` is the table, where the trial may be followed by the import."""

    name: str
    trial: bool
    outcome: Outcome
    again: bytes = b""


class ExchangePages:
    """`/import` and `/export/...`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._reports: OrderedDict[str, Report] = OrderedDict()

    def routes(self) -> list[Route]:
        """Give the routes."""
        return [
            Route("/import", self.page, methods=["GET"]),
            Route("/import", self.take, methods=["POST"]),
            Route("/export/products.{kind}", self.products, methods=["GET"]),
            Route("/export/orders.{kind}", self.orders, methods=["GET"]),
        ]

    # --- import ----------------------------------------------------------------------------------------

    async def page(self, request: Request) -> Response:
        """Offer both ways, and show what became of the last table."""
        key = forms.asked(request, "report", longest=32)
        return self._shown(request, key, {})

    def _shown(self, request: Request, key: str, faults: dict[str, str]) -> Response:
        report = self._reports.get(key)
        return self._desk.page(
            request,
            "import.html",
            status=422 if faults else 200,
            report=report,
            shown=report.outcome.faults[:FAULTS_SHOWN] if report else (),
            key=key,
            faults=faults,
            columns=tables.COLUMNS,
        )

    async def take(self, request: Request) -> Response:
        """Try or import a table."""
        form = await forms.read(request, most_files=MOST_FILES)
        trial = form.text("mode") != "import"
        kept = self._reports.get(form.text("again", longest=32))
        sent = form.files("table")
        if kept is None and not sent:
            return self._shown(request, "", {"table": "Choose a table: CSV or JSON."})
        if kept is not None:
            name, data, files = kept.name, kept.again, []
        else:
            name, data = product_form.plain_name(sent[0].filename or ""), await _read(sent[0])
            files = form.files("files")
        try:
            outcome = await self._desk.ask(lambda books: _import(books, data, files, trial=trial))
        except UsageError as wrong:
            return self._shown(request, "", {"table": explained.said(wrong)})
        again = data if trial and not outcome.faults and not files else b""
        key = secrets.token_hex(8)
        self._reports[key] = Report(name, trial, outcome, again)
        while len(self._reports) > MOST_KEPT:
            self._reports.popitem(last=False)
        return self._desk.site.redirect(f"/import?report={key}")

    # --- export ----------------------------------------------------------------------------------------

    async def products(self, request: Request) -> Response:
        """Send everything that is on sale, as a table that can be imported."""
        cells = _product_cells(self._desk.books)
        return _sent(request, "products", tables.COLUMNS, cells, cells)

    async def orders(self, request: Request) -> Response:
        """Send the orders that the filters leave: a row of CSV for each line, or an object for each order."""
        _, faults, wanted = filters_of(request)
        if faults:
            raise UsageError(" ".join(faults.values()))
        books = self._desk.books
        return _sent(
            request, "orders", ORDER_COLUMNS, _order_cells(books, wanted), _order_objects(books, wanted)
        )


async def _read(sent: UploadFile) -> bytes:
    data = await sent.read(LARGEST_TABLE + 1)
    if len(data) > LARGEST_TABLE:
        raise UsageError(f"The table is larger than {LARGEST_TABLE >> 20} MiB.", "Import it in parts.")
    return data


def _import(books: Books, data: bytes, files: Sequence[UploadFile], *, trial: bool) -> Outcome:
    table = tables.rows(data)
    sent: dict[str, Content] = {}
    for file in files:
        upload = product_form.upload(file)
        if upload.name in sent:
            raise UsageError(f"Two files are called {upload.name}.", "Give each one a name of its own.")
        sent[upload.name] = Content(file.size or 0, bytes(32))

    def held(digest: bytes) -> Content | None:
        return Content(books.content.size(digest), digest) if books.content.holds(digest) else None

    context = Context(books.shop.currency, sent, held)
    with books.store.snapshot() as tx:
        present = by_sku(tx)
    bulk = Bulk(books.shop, books.store, books.limits, books.now)
    entries, faults = tables.entries(table, context, present)
    checked = bulk.check(entries)
    faults = sorted([*faults, *checked.faults], key=lambda each: (each.row, each.column))
    if trial or faults:
        return replace(checked, faults=tuple(faults))
    # Files are stored for what is written alone: a trial and a table with a fault leave nothing behind.
    stored = {file: books.content.add(product_form.upload(file)) for file in files}
    for file, kept in stored.items():
        sent[product_form.upload(file).name] = Content(kept.size, kept.digest)
    entries, _ = tables.entries(table, context, present)
    return bulk.write(entries)


def _product_cells(books: Books) -> Iterator[dict[str, str]]:
    with books.store.snapshot() as tx:
        products = read_on_sale(tx)
        left = stock.available(tx, (product.record.sku for product in products))
    for product in products:
        yield tables.product_cells(product, left.get(product.record.sku), books.shop.currency)


def _order_cells(books: Books, wanted: Wanted) -> Iterator[dict[str, object]]:
    currency = books.shop.currency
    for part in books.figures.all_orders(wanted):
        for order in part:
            begin = _order_object(order, currency)
            del begin["lines"]
            for line in order.lines:
                yield begin | {
                    "sku": line.sku,
                    "quantity": line.quantity,
                    "unit_price": plain_amount(line.unit_price, currency),
                    "discount": plain_amount(line.discount, currency),
                    "line_amount": plain_amount(line.amount, currency),
                    "tax_rate": line.tax_rate / 100,
                    "tax": plain_amount(line.tax, currency),
                }
            if not order.lines:
                yield begin


def _order_objects(books: Books, wanted: Wanted) -> Iterator[dict[str, Any]]:
    for part in books.figures.all_orders(wanted):
        yield from (_order_object(order, books.shop.currency) for order in part)


def _order_object(order: OrderReport, currency: str) -> dict[str, Any]:
    return {
        "order": order.order_id.hex(),
        "at": (EPOCH + timedelta(milliseconds=order.at)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "state": order.state,
        "amount": plain_amount(order.amount, currency),
        "currency": currency,
        "lines": [
            {
                "sku": line.sku,
                "quantity": line.quantity,
                "unit_price": plain_amount(line.unit_price, currency),
                "discount": plain_amount(line.discount, currency),
                "amount": plain_amount(line.amount, currency),
                "tax_rate": line.tax_rate / 100,
                "tax": plain_amount(line.tax, currency),
            }
            for line in order.lines
        ],
    }


def _sent(
    request: Request,
    name: str,
    columns: Sequence[str],
    cells: Iterator[Any],
    objects: Iterator[Any],
) -> Response:
    kind = request.path_params["kind"]
    if kind not in ("csv", "json"):
        raise NotFoundError("Tables are sent as CSV and as JSON.")
    is_csv = kind == "csv"
    pieces = tables.csv_lines(columns, cells) if is_csv else tables.json_pieces(objects)
    return StreamingResponse(
        _together(pieces),
        media_type="text/csv; charset=utf-8" if is_csv else "application/json",
        headers={"content-disposition": f'attachment; filename="{name}.{kind}"'},
    )


def _together(pieces: Iterator[str]) -> Iterator[str]:
    """Send many rows at a time: each piece costs a change of threads."""
    held: list[str] = []
    length = 0
    for piece in pieces:
        held.append(piece)
        length += len(piece)
        if length >= COPY_PIECE // 16:
            yield "".join(held)
            held, length = [], 0
    yield "".join(held)
