"""The files that a merchant sells, and its images: `content/` and `images/`, each file named by its digest.

Rule 1. A file is there whole or not at all, and on the disk before any row names it. It is never changed:
what was sold stays as it was sold.

Rule 2. This is edge code. The core is handed a `ContentFolder` and asks it for one piece at a time, so
that a file of any size takes the memory of one cell.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Final, Literal, TypeAlias

from common.config import CELL_CONTENT, IMAGE_ANSWER, KIB
from common.errors import UsageError
from common.keys import PRIVATE_FILE_MODE, replace_file

MediaType: TypeAlias = Literal["image/png", "image/jpeg", "image/webp"]

IMAGE_MAXIMUM: Final = IMAGE_ANSWER - KIB
"""Leaves room for what stands around an image in its answer."""
COPY_PIECE: Final = 1024 * KIB
LARGEST_FILE: Final = 2**40
"""Twenty lines of this size still fit the cell numbers of one order's stream."""


@dataclass(frozen=True)
class Upload:
    """A file that was sent here. `name` is what its sender calls it: a text, and never a path."""

    name: str
    stream: BinaryIO = field(repr=False)


Source: TypeAlias = Path | Upload


@dataclass(frozen=True)
class Stored:
    """A file as it lies in the folder: SHA-256 and length in bytes."""

    digest: bytes
    size: int


def media_type(image: bytes) -> MediaType:
    """Tell an image's type by its first bytes. Raises `UsageError`."""
    if image.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if image.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if image.startswith(b"RIFF") and image[8:12] == b"WEBP":
        return "image/webp"
    raise UsageError("the image is none of PNG, JPEG and WebP", "Convert it to one of them.")


class ContentFolder:
    """Files by digest, below a merchant's home."""

    def __init__(self, home: Path) -> None:
        self._content = home / "content"
        self._images = home / "images"
        for folder in (self._content, self._images):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.image = lru_cache(maxsize=64)(self._read_image)

    def add(self, source: Source) -> Stored:
        """Copy a file in, hashing what is copied. Raises `UsageError` where it cannot be read."""
        partial = self._content / f".{secrets.token_hex(8)}.partial"
        try:
            stored = _copy(source, partial)
            partial.replace(self._content / stored.digest.hex())
            _sync_folder(self._content)
        except OSError as error:
            raise UsageError(f"cannot take {called(source)} in: {error.strerror}") from error
        finally:
            partial.unlink(missing_ok=True)
        return stored

    def add_image(self, source: Source) -> bytes:
        """Copy an image in and give its digest. Raises `UsageError` for a type or size that is not shown."""
        try:
            with opened(source) as file:
                image = file.read(IMAGE_MAXIMUM + 1)
        except OSError as error:
            raise UsageError(f"cannot read the image {called(source)}: {error.strerror}") from error
        if len(image) > IMAGE_MAXIMUM:
            raise UsageError(
                f"the image {called(source)} is larger than {IMAGE_MAXIMUM // KIB} KiB",
                "Scale it down, or save it with a stronger compression.",
            )
        media_type(image)
        digest = hashlib.sha256(image).digest()
        replace_file(self._images / digest.hex(), image, mode=PRIVATE_FILE_MODE)
        return digest

    def holds(self, digest: bytes) -> bool:
        """Tell whether a file of this digest is here."""
        return (self._content / digest.hex()).is_file()

    def size(self, digest: bytes) -> int:
        """Give the length of a file that is here, in bytes."""
        return (self._content / digest.hex()).stat().st_size

    def _read_image(self, digest: bytes) -> bytes:
        return (self._images / digest.hex()).read_bytes()

    def piece(self, digest: bytes, index: int) -> bytes:
        """Give cell `index` of a file: exactly `CELL_CONTENT` bytes, zeros behind the file's end."""
        # Opened for each piece: a download that its customer left keeps nothing open.
        descriptor = os.open(f"{self._content}/{digest.hex()}", os.O_RDONLY)
        try:
            return os.pread(descriptor, CELL_CONTENT, index * CELL_CONTENT).ljust(CELL_CONTENT, b"\0")
        finally:
            os.close(descriptor)


@contextmanager
def opened(source: Source) -> Iterator[BinaryIO]:
    """Open a file, or what was sent, at its beginning. Raises `OSError`."""
    if isinstance(source, Upload):
        source.stream.seek(0)
        yield source.stream
        return
    with source.open("rb") as file:
        yield file


def called(source: Source) -> str:
    """Give what a person knows it by."""
    return source.name if isinstance(source, Upload) else str(source)


def _copy(source: Source, target: Path) -> Stored:
    digest, size = hashlib.sha256(), 0
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE_MODE)
    with os.fdopen(descriptor, "wb") as out, opened(source) as file:
        while piece := file.read(COPY_PIECE):
            digest.update(piece)
            size += len(piece)
            if size > LARGEST_FILE:
                raise UsageError(f"{called(source)} is larger than {LARGEST_FILE >> 30} GiB")
            out.write(piece)
        out.flush()
        os.fsync(out.fileno())
    return Stored(digest.digest(), size)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
