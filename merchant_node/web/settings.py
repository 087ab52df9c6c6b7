"""Settings: how the shop presents itself, and what it is by its certificate."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from common.errors import UsageError
from common.money import format_rate, parse_rate
from common.web import forms
from common.web.forms import FieldErrors, Form
from merchant_node.home import PROFILE, Profile
from merchant_node.web.desk import Books, Desk

LONGEST_NAME = 200
LONGEST_DESCRIPTION = 4000


class SettingsPages:
    """`/settings`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def routes(self) -> list[Route]:
        """Give the routes."""
        return [
            Route("/settings", self.settings, methods=["GET"]),
            Route("/settings", self.save, methods=["POST"]),
        ]

    async def settings(self, request: Request) -> Response:
        """Show the settings, as a form."""
        shop = self._desk.books.shop
        entered = {
            "name": shop.name,
            "description": shop.description,
            "tax": format_rate(shop.tax_rate).removesuffix(" %"),
        }
        return await self._shown(request, entered, {})

    async def _shown(self, request: Request, entered: dict[str, str], faults: dict[str, str]) -> Response:
        return self._desk.page(
            request,
            "settings.html",
            status=422 if faults else 200,
            entered=entered,
            faults=faults,
            running=await self._desk.read(lambda books: books.home.is_running()),
            limits=self._desk.books.limits,
        )

    async def save(self, request: Request) -> Response:
        """Write what was changed; the node reads it when it is started."""
        form = await forms.read(request)
        try:
            profile = _profile(form)
            await self._desk.ask(lambda books: _save(books, profile, self._desk.now()))
        except FieldErrors as wrong:
            return await self._shown(request, form.entered, wrong.faults)
        except UsageError as wrong:
            return await self._shown(request, form.entered, {"name": wrong.message})
        said = "Saved. Customers read it once the merchant's node was started anew."
        self._desk.site.notice(request, said, "good")
        return self._desk.site.redirect("/settings")


def _profile(form: Form) -> Profile:
    faults: dict[str, str] = {}
    name, description, rate = form.text("name"), form.text("description", longest=16_384), 0
    if not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        faults["name"] = f"Write 1 to {LONGEST_NAME} characters: it is what customers read."
    if len(description) > LONGEST_DESCRIPTION:
        faults["description"] = f"Write at most {LONGEST_DESCRIPTION} characters."
    try:
        rate = parse_rate(form.text("tax", longest=10) or "0")
    except UsageError as wrong:
        faults["tax"] = wrong.hint
    if faults:
        raise FieldErrors(faults)
    return Profile(name=name, description=description, tax_rate=rate)


def _save(books: Books, profile: Profile, now: int) -> None:
    profile.save(books.home.path / PROFILE)
    books.reload(now)
