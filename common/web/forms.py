"""Forms as they come: fields of bounded length, files as streams, and faults by field.

form = await forms.read(request)
name = form.text("name", longest=64)
if faults: return site.render(request, "page.html", status=422, faults=faults, entered=form.entered)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.types import Scope

from common.config import KIB
from common.errors import UsageError

MOST_FIELDS: Final = 500
MOST_FILES: Final = 4
LONGEST_FIELD: Final = 64 * KIB
LONGEST_TEXT: Final = 4 * KIB


class FieldErrors(UsageError):  # noqa: N818 - the plural says that it holds several
    """What is wrong with the fields of a form; `faults` says for each what to do."""

    fact_names = ("faults",)

    def __init__(self, faults: Mapping[str, str]) -> None:
        super().__init__(" ".join(faults.values()), "Nothing was sent. Correct it and try again.")
        self.faults = dict(faults)


class Form:
    """A form that was sent. Its files are closed with the request."""

    def __init__(self, data: FormData) -> None:
        self._data = data

    def text(self, name: str, *, longest: int = LONGEST_TEXT) -> str:
        """Give a field's text without blanks around it, empty where there is none. Raises `FieldErrors`."""
        return self.raw(name, longest=longest).strip()

    def raw(self, name: str, *, longest: int = LONGEST_TEXT) -> str:
        """Give a field's text as it was typed: passwords may begin with a blank. Raises `FieldErrors`."""
        value = self._data.get(name, "")
        if not isinstance(value, str) or len(value) > longest:
            raise FieldErrors({name: f"Write at most {longest} characters."})
        return value

    def number(self, name: str, *, least: int, most: int) -> int:
        """Give a whole number. Raises `FieldErrors`."""
        text = self.text(name, longest=20)
        if not (text.isascii() and text.isdecimal()) or not least <= int(text) <= most:
            raise FieldErrors({name: f"Write a whole number from {least} to {most}."})
        return int(text)

    def ticked(self, name: str) -> bool:
        """Tell whether a box is ticked."""
        return bool(self._data.get(name))

    def files(self, name: str) -> list[UploadFile]:
        """Give the files of a field that has any. Their names are a stranger's: never a path."""
        found = self._data.getlist(name)
        return [each for each in found if isinstance(each, UploadFile) and (each.filename or each.size)]

    @property
    def entered(self) -> dict[str, str]:
        """Every text field, to be shown again."""
        return {name: value for name, value in self._data.items() if isinstance(value, str)}


async def read(request: Request, *, most_files: int = MOST_FILES) -> Form:
    """Read a form; the guard has checked its size and its CSRF token. `Site` closes its files."""
    data = await request.form(max_files=most_files, max_fields=MOST_FIELDS, max_part_size=LONGEST_FIELD)
    request.state.form = data
    return Form(data)


async def close(scope: Scope) -> None:
    """Close the files of the form that was read in a request, if one was."""
    data = scope.get("state", {}).get("form")
    if isinstance(data, FormData):
        await data.close()


def asked(request: Request, name: str, *, longest: int = 200) -> str:
    """Give a parameter of the address, cut to `longest`: addresses are typed and kept by people."""
    return request.query_params.get(name, "").strip()[:longest]


def asked_number(request: Request, name: str, *, default: int, most: int) -> int:
    """Give a number of the address, from 1 to `most`; `default` for whatever is none."""
    text = asked(request, name, longest=10)
    return min(most, max(1, int(text))) if text.isascii() and text.isdecimal() else default
