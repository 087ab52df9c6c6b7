"""Endpoints of the interface for programs: a method, a path, and a handler whose types say everything.

    Endpoint("PUT", "/cart/{merchant}/{sku}", self.put)

    async def put(self, merchant: MerchantId, sku: Sku, body: Quantity) -> CartView:
        '''Put a product into the cart, or change its quantity.'''

Rule. A handler's signature is the contract: what the path names, `query`, `body`, `key` (the header
`Idempotency-Key`), and what is answered. What is read, refused and documented follows from it alone.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import (
    Annotated,
    Any,
    BinaryIO,
    Final,
    Generic,
    Literal,
    TypeAlias,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

from msgspec import Meta
from starlette.datastructures import UploadFile

from common.errors import VeilmartError

PREFIX: Final = "/api/v1"
KEY_HEADER: Final = "Idempotency-Key"
OCTETS: Final = "application/octet-stream"

IdempotencyKey: TypeAlias = Annotated[str, Meta(pattern=r"\A[!-~]{1,64}\Z")]
Limit: TypeAlias = Annotated[int, Meta(ge=1, le=200)]
Offset: TypeAlias = Annotated[int, Meta(ge=0, le=2**31)]
OrderId: TypeAlias = Annotated[str, Meta(pattern=r"\A[0-9a-f]{32}\Z")]

Method: TypeAlias = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
Handler: TypeAlias = Callable[..., Awaitable[Any]]
Read = TypeVar("Read")

_NAMES: Final = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Raw:
    """A body that is a file, in a temporary file that ends with the request."""

    media_type: str
    file: BinaryIO = field(repr=False)


@dataclass(frozen=True)
class Takes:
    """Stands in the annotation of a `Raw`: the types that are taken, and how many bytes."""

    media_types: tuple[str, ...]
    most: int


@dataclass(frozen=True)
class Parts(Generic[Read]):
    """A form of one part in JSON, `fields`, and files by their names; or that part alone."""

    fields: Read
    files: Mapping[str, UploadFile]


@dataclass(frozen=True)
class Named:
    """Stands in the annotation of `Parts`: what the part in JSON is called, and the files."""

    fields: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class File:
    """An answer that is a file: a path on this machine, or bytes; `name` is what it is saved as."""

    content: Path | bytes
    media_type: str
    name: str


class PartlyError(Exception):
    """Something was done, something else failed: both are answered."""

    def __init__(self, error: VeilmartError, data: object) -> None:
        super().__init__(error.message)
        self.error = error
        self.data = data


@dataclass(frozen=True)
class Body:
    """How a body is read: as `fields` in JSON, as a file (`raw`), or as a form of both (`form`)."""

    fields: Any = None
    raw: Takes | None = None
    form: Named | None = None


@dataclass(frozen=True)
class Shape:
    """The types of an endpoint; None where it takes nothing."""

    path: Mapping[str, Any]
    query: Any
    body: Body | None
    key: Any
    answer: Any


@dataclass(frozen=True)
class Endpoint:
    """One method of one path below `/api/v1`; `status` is that of success."""

    method: Method
    path: str
    handler: Handler
    status: int = 200

    @property
    def shape(self) -> Shape:
        """What the handler's signature says. Raises `TypeError` for an argument that nothing gives."""
        hints = get_type_hints(self.handler, include_extras=True)
        answer = hints.pop("return")
        path = {name: hints.pop(name) for name in _NAMES.findall(self.path)}
        query, body, key = (hints.pop(name, None) for name in ("query", "body", "key"))
        if hints:
            raise TypeError(f"nothing gives {self.method} {self.path} its {', '.join(hints)}")
        return Shape(path, query, _body_of(body), key, answer)

    @property
    def described(self) -> tuple[str, str]:
        """The first line of the handler's docstring, and what follows it."""
        first, _, rest = inspect.cleandoc(self.handler.__doc__ or "").partition("\n")
        return first, rest.strip()


def _body_of(kind: Any) -> Body | None:
    if kind is None:
        return None
    if get_origin(kind) is not Annotated:
        return Body(fields=kind)
    inner, extra = get_args(kind)
    return Body(raw=extra) if isinstance(extra, Takes) else Body(fields=get_args(inner)[0], form=extra)
