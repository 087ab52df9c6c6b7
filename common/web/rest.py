"""The interface for programs: `/api/v1`, made of endpoints, with a document that describes them.

    site.app([..., rest.mounted("Veilmart customer", endpoints)])      GET /api/v1/openapi.json

Rule. Every answer is in the envelope (`common.envelope`), with the status of its code
(`common.web.statuses`), also where no handler was reached; files alone are sent as they are.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route

from common.errors import NotFoundError, VeilmartError
from common.web import bodies, openapi, statuses
from common.web.endpoints import KEY_HEADER, PREFIX, Endpoint, File, PartlyError, Shape
from common.web.forms import FieldErrors
from common.web.guard import BodyTooLargeError
from common.web.statuses import NoSuchMethodError, UnreadableError

VERSION: Final = "/v1"


def mounted(title: str, endpoints: Sequence[Endpoint]) -> Mount:
    """Give the route for everything below `/api`, with the document of the endpoints among them."""
    by_path: dict[str, dict[str, Endpoint]] = {}
    for each in endpoints:
        if by_path.setdefault(each.path, {}).setdefault(each.method, each) is not each:
            raise TypeError(f"two handlers of {each.method} {each.path}")
    document = msgspec.json.encode(openapi.document(title, endpoints))

    async def describe(_: Request) -> Response:
        return Response(document, media_type=statuses.JSON)

    routes = [
        Route(VERSION + path, _handler(methods), methods=list(methods)) for path, methods in by_path.items()
    ]
    app = Starlette(
        routes=[Route(VERSION + openapi.PATH, describe, methods=["GET"]), *routes],
        exception_handlers={
            VeilmartError: _on_error,
            PartlyError: _on_partly,
            HTTPException: _on_http_error,
            BodyTooLargeError: _on_too_large,
            ClientDisconnect: _on_gone,
            Exception: _on_mistake,
        },
    )
    # What is misspelt is told so, and not sent elsewhere with its body.
    app.router.redirect_slashes = False
    return Mount("/api", app=app)


def _handler(methods: Mapping[str, Endpoint]) -> Callable[[Request], Awaitable[Response]]:
    shapes = {method: (each, each.shape) for method, each in methods.items()}

    async def answer(request: Request) -> Response:
        endpoint, shape = shapes["GET" if request.method == "HEAD" else request.method]
        try:
            given = await _given(request, shape)
            data = await endpoint.handler(**given)
        finally:
            await bodies.close(request)
        return _file(data) if isinstance(data, File) else statuses.done(data, endpoint.status)

    return answer


async def _given(request: Request, shape: Shape) -> dict[str, Any]:
    """Read what the handler takes, the cheapest first."""
    given: dict[str, Any] = {}
    for name, kind in shape.path.items():
        try:
            given[name] = bodies.convert(request.path_params[name], kind)
        except FieldErrors:
            raise NotFoundError(f"There is no such {name}.", "Nothing can be called so.") from None
    if shape.key is not None:
        given["key"] = _key(request, shape.key)
    if shape.query is not None:
        given["query"] = bodies.query(request, shape.query)
    elif request.query_params:
        raise FieldErrors({next(iter(request.query_params))[: bodies.LONGEST_NAME]: "It is not known here."})
    if shape.body is not None:
        given["body"] = await bodies.read(request, shape.body)
    elif request.method not in ("GET", "HEAD"):
        await bodies.nothing(request)
    return given


def _key(request: Request, kind: Any) -> Any:
    text = request.headers.get(KEY_HEADER)
    if text is None:
        raise FieldErrors({KEY_HEADER: "Send this header, with a new value for each new purchase or refund."})
    try:
        return bodies.convert(text, kind)
    except FieldErrors:
        raise FieldErrors({KEY_HEADER: "It has 1 to 64 visible ASCII characters."}) from None


def _file(file: File) -> Response:
    if isinstance(file.content, Path):
        return FileResponse(file.content, filename=file.name, media_type=file.media_type)
    headers = {"content-disposition": f'attachment; filename="{file.name}"'}
    return Response(file.content, media_type=file.media_type, headers=headers)


async def _on_error(_: Request, error: Exception) -> Response:
    if not isinstance(error, VeilmartError):
        raise error
    return statuses.failed(error)


async def _on_partly(_: Request, error: Exception) -> Response:
    if not isinstance(error, PartlyError):
        raise error
    return statuses.failed_partly(error.error, error.data)


async def _on_http_error(request: Request, error: Exception) -> Response:
    if isinstance(error.__context__, BodyTooLargeError):
        return statuses.too_large()
    match error:
        case HTTPException(status_code=404):
            said = NotFoundError("This address leads nowhere.", f"GET {PREFIX}{openapi.PATH} lists them all.")
            return statuses.failed(said)
        case HTTPException(status_code=405, headers=headers):
            refused = NoSuchMethodError(f"{request.method} is not for this address.", "See the header Allow.")
            return statuses.failed(refused, headers)
        case _:
            return statuses.failed(UnreadableError("The body cannot be read.", "Nothing was changed."))


async def _on_too_large(_request: Request, _error: Exception) -> Response:
    return statuses.too_large()


async def _on_gone(_request: Request, _error: Exception) -> Response:
    return statuses.failed(UnreadableError("The body ended too early.", "Nothing was changed."))


async def _on_mistake(_request: Request, _error: Exception) -> Response:
    return statuses.mistake()
