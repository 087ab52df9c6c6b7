"""Disputes: what was paid for and did not arrive, or is not what was signed.

    GET /orders/ID/dispute --kind, words, shown or withheld--> POST --> /orders/ID, disputed

Rule. A dispute that shows the receipt tells the market's operator what was bought. Nothing is chosen
beforehand: whoever sends the form has said which.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from common.errors import OutOfTicketsError, RejectedError
from common.web import forms
from common.web.forms import FieldErrors, Form
from customer_node.disputes import DISPUTABLE, LONGEST_STATEMENT, Kind
from customer_node.views import OrderView
from customer_node.web.desk import Desk
from customer_node.web.modes import shopping

KINDS: Final[dict[str, Kind]] = {"not_delivered": "not_delivered", "wrong_content": "wrong_content"}
SHOWN: Final = {"reveal": True, "withhold": False}
OPENED: Final = {
    "refunded": "The merchant's own signatures prove you right: the money is back in your wallet.",
    "disputed": "The money is frozen until the market's operator has decided.",
}
"""What is said of a dispute that was opened, by the order's state after it."""


@dataclass(frozen=True)
class Complaint:
    """What a form says."""

    kind: Kind
    statement: str
    reveal: bool


class DisputePages:
    """`/orders/ID/dispute`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def routes(self) -> list[Route]:
        """Give the routes."""
        desk = self._desk
        return [
            Route("/orders/{order_id}/dispute", shopping(desk, self.form), methods=["GET"]),
            Route("/orders/{order_id}/dispute", shopping(desk, self.open), methods=["POST"]),
        ]

    async def form(self, request: Request) -> Response:
        """Say what a dispute does, and ask for its words."""
        order = self._desk.reading.order(request.path_params["order_id"])
        if order.state not in DISPUTABLE or self._desk.reading.dispute(order.order_id) is not None:
            return self._desk.site.redirect(f"/orders/{order.order_id}")
        return self._asked(request, order, {}, {})

    def _asked(
        self,
        request: Request,
        order: OrderView,
        entered: dict[str, str],
        faults: dict[str, str],
        refused: str = "",
    ) -> Response:
        return self._desk.page(
            request,
            "dispute_form.html",
            status=422 if faults else 409 if refused else 200,
            order=order,
            entered=entered,
            faults=faults,
            refused=refused,
            longest=LONGEST_STATEMENT,
        )

    async def open(self, request: Request) -> Response:
        """Freeze the money, once: what was said first is what counts."""
        form = await forms.read(request)
        order = self._desk.reading.order(request.path_params["order_id"])
        try:
            said = _complaint(form)
        except FieldErrors as wrong:
            return self._asked(request, order, form.entered, wrong.faults)
        await self._desk.pause(order.order_id)
        try:
            after = await self._desk.ask(
                lambda market: market.dispute(order.order_id, said.kind, said.statement, reveal=said.reveal)
            )
        except RejectedError as refused:
            return self._refused(request, form, refused)
        self._desk.site.notice(request, OPENED.get(after.state, "The broker has your dispute."), "good")
        return self._desk.site.redirect(f"/orders/{order.order_id}")

    def _refused(self, request: Request, form: Form, refused: RejectedError) -> Response:
        """Keep what was written where it may be sent in another way."""
        order = self._desk.reading.order(request.path_params["order_id"])
        if isinstance(refused, OutOfTicketsError) or order.state not in DISPUTABLE:
            raise refused
        return self._asked(request, order, form.entered, {}, refused.message)


def _complaint(form: Form) -> Complaint:
    """Read the form. Raises `FieldErrors`, for all faults at once."""
    faults: dict[str, str] = {}
    kind, shown = KINDS.get(form.text("kind")), SHOWN.get(form.text("show"))
    statement = form.text("statement").replace("\r\n", "\n")
    if kind is None:
        faults["kind"] = "Choose what is wrong."
    if shown is None:
        faults["show"] = "Choose what the operator may see."
    if len(statement) > LONGEST_STATEMENT:
        faults["statement"] = f"Write at most {LONGEST_STATEMENT} characters; these are {len(statement)}."
    if kind is None or shown is None or faults:
        raise FieldErrors(faults)
    return Complaint(kind, statement, shown)
