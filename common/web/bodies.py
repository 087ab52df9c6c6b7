"""What programs send: typed parameters, JSON, files as streams, and forms of both.

Rule 1. What is sent has the shape and bounds of its type, or is refused with the field's name. A field that
is not known is refused too: a misspelt one would otherwise be ignored.

Rule 2. JSON is read up to `JSON_BYTES` and no further; files go to the disk as they come.

Rule 3. A file's name is a text of its sender and never a path.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import msgspec
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from common.config import KIB
from common.errors import UsageError
from common.web import forms
from common.web.endpoints import OCTETS, Body, Named, Parts, Raw, Takes
from common.web.forms import FieldErrors
from common.web.statuses import JSON, MediaTypeError, TooLargeError, UnreadableError

JSON_BYTES: Final = 64 * KIB
PIECE: Final = 1024 * KIB
LONGEST_NAME: Final = 100
MULTIPART: Final = "multipart/form-data"

_PLACE: Final = re.compile(r" - at (?:`?key`? in )?`\$\.?([^`]*)`")
_NAMED: Final = re.compile(r"field `([^`]*)`")


def convert(text: str | Mapping[str, str], kind: Any) -> Any:
    """Read a text, or texts by name, as a type. Raises `FieldErrors`."""
    with refusing():
        return msgspec.convert(text, kind, strict=False)


@contextmanager
def refusing() -> Iterator[None]:
    """Say which field is wrong, and how. Raises `FieldErrors`."""
    try:
        yield
    except msgspec.ValidationError as error:
        raise FieldErrors(_faults(str(error))) from None


def _faults(text: str) -> dict[str, str]:
    place, named = _PLACE.search(text), _NAMED.search(text)
    parts = [place[1] if place else "", named[1][:LONGEST_NAME] if named else ""]
    said = text[: place.start()] if place else text
    return {".".join(filter(None, parts)) or "body": f"{said}."}


def query(request: Request, kind: Any) -> Any:
    """Read the parameters of an address. Raises `FieldErrors`, for one that comes twice too."""
    pairs = request.query_params.multi_items()
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise FieldErrors({twice[:LONGEST_NAME]: "It is given twice."})
    return convert(values, kind)


def media_type(request: Request) -> str:
    """Give the type of a body, without its parameters. Raises `MediaTypeError` for a compressed one."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise MediaTypeError("Compressed bodies are not taken.", "Send it as it is.")
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def demand(given: str, taken: Sequence[str]) -> None:
    """Demand a type that is taken. Raises `MediaTypeError`."""
    if given not in taken:
        raise MediaTypeError(
            f"The body is of the type {given[:LONGEST_NAME]!r}." if given else "The body has no type.",
            f"Send it with `Content-Type: {taken[0]}`." if len(taken) == 1 else f"Send {', '.join(taken)}.",
        )


async def read(request: Request, body: Body) -> Any:
    """Read a body as its handler wants it."""
    if body.raw is not None:
        return await raw(request, body.raw)
    if body.form is not None:
        return await parts(request, body.fields, body.form)
    return await json(request, body.fields)


async def json(request: Request, kind: Any) -> Any:
    """Read a body in JSON. Raises `MediaTypeError`, `TooLargeError`, `UnreadableError`, `FieldErrors`."""
    demand(media_type(request), (JSON,))
    return decoded(await whole(request, JSON_BYTES), kind)


def decoded(data: bytes, kind: Any) -> Any:
    """Read JSON. Raises `UnreadableError`, `FieldErrors`."""
    with refusing():
        try:
            return msgspec.json.decode(data, type=kind)
        except msgspec.ValidationError:
            raise
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UnreadableError("The body is not JSON.", str(error)[:LONGEST_NAME]) from None


async def whole(request: Request, most: int) -> bytes:
    """Read a body of at most so many bytes. Raises `TooLargeError`."""
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > most:
            raise TooLargeError(f"The body has more than {most} bytes.", "Nothing of it was kept.")
    return bytes(data)


async def raw(request: Request, takes: Takes) -> Raw:
    """Read a body that is a file. Raises `MediaTypeError`, `TooLargeError`."""
    given = media_type(request) or OCTETS
    demand(given, takes.media_types)
    file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the request
    request.state.raw = file
    size, held = 0, bytearray()
    async for piece in request.stream():
        held += piece
        size += len(piece)
        if size > takes.most:
            raise TooLargeError(f"The body has more than {takes.most} bytes.", "Nothing of it was kept.")
        if len(held) >= PIECE:
            await asyncio.to_thread(file.write, bytes(held))
            held.clear()
    await asyncio.to_thread(file.write, bytes(held))
    file.seek(0)
    return Raw(given, file)


async def parts(request: Request, kind: Any, named: Named) -> Parts[Any]:
    """Read a form with a part in JSON, or that part alone as the body. Raises as `json` does."""
    given = media_type(request)
    if given == JSON:
        return Parts(await json(request, kind), {})
    demand(given, (JSON, MULTIPART))
    data = await request.form(max_files=len(named.files), max_fields=1, max_part_size=JSON_BYTES)
    request.state.form = data
    return _sorted_out(data, kind, named)


def _sorted_out(data: FormData, kind: Any, named: Named) -> Parts[Any]:
    files: dict[str, UploadFile] = {}
    text = ""
    for name, value in data.multi_items():
        if name == named.fields:
            if not isinstance(value, str):
                raise FieldErrors({name: "It is JSON, and no file: leave its file name out."})
            text = value
        elif name in named.files and isinstance(value, UploadFile):
            if name in files:
                raise FieldErrors({name: "It is given twice."})
            files[name] = value
        else:
            raise FieldErrors({name[:LONGEST_NAME]: f"Send {named.fields}, {', '.join(named.files)}."})
    if not text:
        raise FieldErrors({named.fields: "It is missing: what is sent, in JSON."})
    return Parts(decoded(text.encode(), kind), files)


async def close(request: Request) -> None:
    """Close the files that came with a request."""
    file = getattr(request.state, "raw", None)
    if file is not None:
        file.close()
    await forms.close(request.scope)


async def nothing(request: Request) -> None:
    """Demand that no body came, or an empty object in JSON. Raises `UsageError`."""
    data = await whole(request, JSON_BYTES)
    if data.strip() not in (b"", b"{}"):
        raise UsageError("This address takes no body.", "Leave it out.")
