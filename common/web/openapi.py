"""The document that describes an interface (OpenAPI 3.1), made of its endpoints and their types.

Rule. Nothing is described by hand but the interface as a whole: what the document says of a request is
what is demanded, and what it says of an answer is the type that is answered.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, Final, get_args, get_origin

import msgspec

from common.errors import VeilmartError
from common.web.endpoints import KEY_HEADER, OCTETS, PREFIX, Body, Endpoint, File, Shape
from common.web.statuses import JSON, STATUSES, Failure

PATH: Final = "/openapi.json"
TEMPLATE: Final = "#/components/schemas/{name}"
MULTIPART: Final = "multipart/form-data"
NO_CONTENT_KNOWN: Final[dict[str, Any]] = {"schema": {}}

_WORDS: Final = re.compile(r"\w+")

Json = dict[str, Any]


def document(title: str, endpoints: Sequence[Endpoint]) -> Json:
    """Describe an interface."""
    shapes = [(each, each.shape) for each in endpoints]
    kinds: list[Any] = [Failure]
    for _, shape in shapes:
        kinds += [kind for kind in (shape.body and shape.body.fields, _data_of(shape.answer)) if kind]
    schemas, components = msgspec.json.schema_components(kinds, schema_hook=_hook, ref_template=TEMPLATE)
    known = dict(zip(map(repr, kinds), schemas, strict=True))
    paths: dict[str, Json] = {PATH: {"get": _of_document()}}
    for endpoint, shape in shapes:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, shape, known)
    written: Json = _portable(
        {
            "openapi": "3.1.0",
            "info": {"title": title, "version": "1", "description": _ABOUT},
            "servers": [{"url": PREFIX}],
            "security": [{"token": []}],
            "paths": paths,
            "components": {
                "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
                "responses": {"failed": _failed(known[repr(Failure)])},
                "schemas": components,
            },
        }
    )
    return written


_ABOUT: Final = (
    "Answers are `{ok: true, data}` or `{ok: false, error}`. Amounts are minor units of `currency`, times "
    "milliseconds since 1970. docs/rest.md says more."
)


def _operation(endpoint: Endpoint, shape: Shape, known: Mapping[str, Json]) -> Json:
    summary, description = endpoint.described
    words = _WORDS.findall(endpoint.path)
    operation: Json = {
        "operationId": "_".join([endpoint.method.lower(), *words]),
        "tags": [words[0]],
        "summary": summary,
        "parameters": _parameters(shape),
        "responses": {
            str(endpoint.status): _answer(endpoint.status, shape.answer, known),
            "default": {"$ref": "#/components/responses/failed"},
        },
    }
    if description:
        operation["description"] = description
    if shape.body is not None:
        operation["requestBody"] = {"required": True, "content": _content(shape.body, known)}
    return operation


def _parameters(shape: Shape) -> list[Json]:
    found = [
        {"name": name, "in": "path", "required": True, "schema": _inline(kind)}
        for name, kind in shape.path.items()
    ]
    if shape.key is not None:
        found.append({"name": KEY_HEADER, "in": "header", "required": True, "schema": _inline(shape.key)})
    if shape.query is not None:
        found += [
            {
                "name": field.encode_name,
                "in": "query",
                "required": field.required,
                "schema": _inline(field.type),
            }
            for field in msgspec.structs.fields(shape.query)
        ]
    return found


def _content(body: Body, known: Mapping[str, Json]) -> Json:
    if body.raw is not None:
        return dict.fromkeys(body.raw.media_types, NO_CONTENT_KNOWN)
    fields = known[repr(body.fields)]
    content: Json = {JSON: {"schema": fields}}
    if body.form is not None:
        files = {name: {"type": "string", "contentMediaType": OCTETS} for name in body.form.files}
        content[MULTIPART] = {
            "schema": {
                "type": "object",
                "properties": {body.form.fields: fields, **files},
                "required": [body.form.fields],
            },
            "encoding": {body.form.fields: {"contentType": JSON}},
        }
    return content


def _answer(status: int, kind: Any, known: Mapping[str, Json]) -> Json:
    said = HTTPStatus(status).phrase
    data = _data_of(kind)
    if data is None:
        return {"description": said, "content": {_media_type_of(kind): NO_CONTENT_KNOWN}}
    return {"description": said, "content": {JSON: {"schema": _envelope(ok=True, data=known[repr(data)])}}}


def _failed(failure: Json) -> Json:
    codes = ", ".join(f"{code} ({status})" for code, status in STATUSES.items())
    return {
        "description": f"What went wrong, with the status of its code: {codes}.",
        "content": {JSON: {"schema": _envelope(ok=False, error=failure, data={})}},
    }


def _envelope(*, ok: bool, **parts: Json) -> Json:
    return {
        "type": "object",
        "properties": {"ok": {"const": ok}, **parts},
        "required": ["ok", "data" if ok else "error"],
        "additionalProperties": False,
    }


def _of_document() -> Json:
    return {
        "operationId": "get_openapi",
        "tags": ["openapi"],
        "summary": "Give this document.",
        "responses": {"200": {"description": "OK", "content": {JSON: NO_CONTENT_KNOWN}}},
    }


def _data_of(answer: Any) -> Any:
    """Give the type of an answer's data; None where it is a file."""
    inner = get_args(answer)[0] if get_origin(answer) is Annotated else answer
    return None if inner is File else answer


def _media_type_of(answer: Any) -> str:
    return str(get_args(answer)[1]) if get_origin(answer) is Annotated else OCTETS


def _inline(kind: Any) -> Json:
    return msgspec.json.schema(kind, schema_hook=_hook)


def _hook(kind: type) -> Json:
    if issubclass(kind, Path):
        return {"type": "string"}
    if issubclass(kind, VeilmartError):
        return {"$ref": TEMPLATE.format(name=Failure.__name__)}
    # What msgspec asks of a hook that does not know a type: it then says which.
    raise NotImplementedError


def _portable(value: Any) -> Any:
    r"""Write patterns as other languages read them (ECMA-262): they know no `\A` and `\Z`."""
    if isinstance(value, dict):
        return {
            name: re.sub(r"\\A(.*)\\Z", r"^(?:\1)$", each)
            if name == "pattern" and isinstance(each, str)
            else _portable(each)
            for name, each in value.items()
        }
    return [_portable(each) for each in value] if isinstance(value, list) else value
