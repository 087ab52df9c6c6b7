"""Invoices: a PDF or an HTML file of a verified receipt, with the buyer's own name and address.

Rule. Name and address come in a form and go out in the file that answers it: they stand in no address, and
stay on this machine. They are kept for the next invoice only as long as the box for that is ticked.
"""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from common.errors import NotFoundError, UsageError
from common.web import forms
from common.web.forms import FieldErrors, Form
from customer_node.invoices.model import LONGEST_ADDRESS, LONGEST_NAME, Buyer, Invoice
from customer_node.market import Market
from customer_node.views import OrderView
from customer_node.web.desk import Desk

MEDIA_TYPES: Final = {"pdf": "application/pdf", "html": "text/html; charset=utf-8"}


class InvoicePages:
    """`/orders/ID/invoice`, in either mode: it asks nobody."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def routes(self) -> list[Route]:
        """Give the routes."""
        return [
            Route("/orders/{order_id}/invoice", self.form, methods=["GET"]),
            Route("/orders/{order_id}/invoice", self.issue, methods=["POST"]),
        ]

    async def form(self, request: Request) -> Response:
        """Ask for what shall stand on the invoice."""
        kept = self._desk.reading.buyer()
        entered = {"name": kept.name, "address": kept.address, "keep": "yes" if kept != Buyer() else ""}
        return self._asked(request, self._order(request), entered, {})

    def _order(self, request: Request) -> OrderView:
        order = self._desk.reading.order(request.path_params["order_id"])
        if order.cells is None:
            raise NotFoundError(
                "This order has no invoice.", "There is one as soon as its merchant has signed the receipt."
            )
        return order

    def _asked(
        self, request: Request, order: OrderView, entered: dict[str, str], faults: dict[str, str]
    ) -> Response:
        return self._desk.page(
            request,
            "invoice_form.html",
            status=422 if faults else 200,
            order=order,
            entered=entered,
            faults=faults,
            longest_name=LONGEST_NAME,
            longest_address=LONGEST_ADDRESS,
        )

    async def issue(self, request: Request) -> Response:
        """Send the invoice, and keep or forget what stands on it."""
        order, form = self._order(request), await forms.read(request)
        try:
            buyer = _buyer(form)
        except FieldErrors as wrong:
            return self._asked(request, order, form.entered, wrong.faults)
        kind = "html" if form.text("as", longest=10) == "html" else "pdf"
        kept = buyer if form.ticked("keep") else Buyer()
        made = await self._desk.ask(lambda market: _issued(market, order.order_id, buyer, kept))
        name = f"invoice-{order.order_id[:12]}.{kind}"
        return Response(
            await asyncio.to_thread(_drawn, made, kind),
            media_type=MEDIA_TYPES[kind],
            headers={"content-disposition": f'attachment; filename="{name}"'},
        )


def _buyer(form: Form) -> Buyer:
    """Read name and address. Raises `FieldErrors`."""
    faults: dict[str, str] = {}
    # A browser ends the lines of a text area as the network does (HTML, 4.10.5.4).
    name, address = form.text("name"), form.text("address").replace("\r\n", "\n")
    for field, of_it in (("name", {"name": name}), ("address", {"address": address})):
        try:
            Buyer(**of_it)
        except UsageError as wrong:
            faults[field] = wrong.message
    if faults:
        raise FieldErrors(faults)
    return Buyer(name, address)


def _issued(market: Market, order_id: str, buyer: Buyer, kept: Buyer) -> Invoice:
    made = market.invoice(order_id, buyer)
    market.keep_buyer(kept)
    return made


def _drawn(invoice: Invoice, kind: str) -> bytes:
    # Imported here: only who wants a file waits for what draws it.
    if kind == "html":
        from customer_node.invoices import page  # noqa: PLC0415

        return page.render(invoice)
    from customer_node.invoices import pdf  # noqa: PLC0415

    return pdf.render(invoice)
