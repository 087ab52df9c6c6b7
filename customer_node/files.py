"""Where a delivery lands: plain names in one folder, written as `.part`, named only when they are right.

Rule 1. A merchant's file name is a wish: of it a plain name remains, with no path, nothing hidden,
nothing that a terminal or a file manager would read as something else.

Rule 2. No file that is there already is ever overwritten.

Rule 3. Memory does not depend on a file's size.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from common import config, messages
from common.errors import UsageError

LONGEST_NAME: Final = 200
KEYS_FILE: Final = ".keys.txt"
READ_AT_ONCE: Final = 1024 * config.KIB


def plain_name(wished: str) -> str:
    """Make a plain file name of at most 200 bytes out of what a merchant wrote."""
    last = wished.replace("\\", "/").rsplit("/", 1)[-1]
    visible = "".join(letter for letter in last if unicodedata.category(letter)[0] != "C")
    name = visible.strip().lstrip(".").strip() or "download"
    short = Path(name).suffix.encode()[: LONGEST_NAME // 4].decode(errors="ignore")
    return Path(name).stem.encode()[: LONGEST_NAME - len(short.encode())].decode(errors="ignore") + short


def free_names(folder: Path, wished: Sequence[str]) -> list[str]:
    """Choose a name for each file, none of them taken in `folder` or twice."""
    chosen: list[str] = []
    for wish in wished:
        plain = Path(plain_name(wish))
        name, number = plain.name, 1
        while name in chosen or (folder / name).exists() or part_path(folder, name).exists():
            number += 1
            name = f"{plain.stem} ({number}){plain.suffix}"
        chosen.append(name)
    return chosen


def part_path(folder: Path, name: str) -> Path:
    """Give the path under which a file grows."""
    return folder / f"{name}.part"


@dataclass(frozen=True)
class Span:
    """A file's place in an order's stream. `digest` is SHA-256 of `salt` and its content.

    `keys` is how many licence keys it holds, 0 for any other file.
    """

    sku: str
    name: str
    first_cell: int
    cells: int
    size: int
    digest: bytes
    salt: bytes = field(default=b"", repr=False)
    keys: int = 0


def spans(line: messages.ReceiptLine, salt: bytes) -> list[Span]:
    """Give the files that a line delivers: its content, its licence keys, or both."""
    if not line.keys_size:
        return [Span(line.sku, line.file_name, line.first_cell, line.cells, line.size, line.digest)]
    last = line.first_cell + line.cells - 1
    keys = Span(
        line.sku, line.sku + KEYS_FILE, last, 1, line.keys_size, line.keys_digest, salt, line.quantity
    )
    if not line.size:
        return [keys]
    content = Span(line.sku, line.file_name, line.first_cell, line.cells - 1, line.size, line.digest)
    return [content, keys]


@dataclass(frozen=True)
class Target:
    """One file, and where it goes."""

    span: Span
    path: Path

    @property
    def part(self) -> Path:
        """Where it grows."""
        return part_path(self.path.parent, self.path.name)

    @property
    def named(self) -> bool:
        """Whether it was complete already when its download was interrupted."""
        return self.path.exists() and not self.part.exists()

    @property
    def right(self) -> bool:
        """Whether the file is there and has the content that was signed."""
        return self.path.exists() and digest_of(self.path, self.span.salt) == self.span.digest


@dataclass(frozen=True)
class Wrong:
    """A file whose content is not what was signed: its place among the order's, and the digest that it has.

    What came lies in `target.part` still. Where the file had its name already there is no part, and `digest`
    is None: whoever changed it may have been its owner.
    """

    number: int
    target: Target
    digest: bytes | None


class Writer:
    """Writes cells of an order's stream into the files that they belong to.

    Disk and digests are the work of one thread of its own: more cells arrive meanwhile.
    """

    def __init__(self, targets: Sequence[Target]) -> None:
        numbered = list(enumerate(targets))
        self._named = [(number, target) for number, target in numbered if target.named]
        self._growing: list[_Growing] = []
        self._thread = ThreadPoolExecutor(1, "veilmart-disk")
        try:
            unnamed = (each for each in numbered if each not in self._named)
            self._growing.extend(_Growing(number, target) for number, target in unnamed)
        except BaseException:
            self.close()
            raise

    def write(self, index: int, content: bytes) -> None:
        """Write cell `index` of the stream; what lies beyond a file's size is padding and is dropped."""
        for file in self._growing:
            span = file.target.span
            if span.first_cell <= index < span.first_cell + span.cells:
                offset = (index - span.first_cell) * config.CELL_CONTENT
                _write_all(file.descriptor, memoryview(content)[: max(0, span.size - offset)], offset)
                return

    def settle(self, done: int) -> Future[int]:
        """Bring every cell before `done` to the disk and into its file's digest; gives `done` then."""
        return self._thread.submit(self._settle, done)

    def _settle(self, done: int) -> int:
        for file in self._growing:
            file.settle(done)
        return done

    def finish(self) -> list[Wrong]:
        """Give each complete file its name if its content has the signed digest; lists the wrong ones.

        A file that has its name already (a crash came in between) is looked at instead. Raises `UsageError`
        where another file has taken the name meanwhile.
        """
        changed = [Wrong(number, target, None) for number, target in self._named if not target.right]
        return changed + [
            Wrong(file.number, file.target, file.digest) for file in self._growing if not file.finish()
        ]

    def close(self) -> None:
        """Close every file."""
        self._thread.shutdown()
        for file in self._growing:
            os.close(file.descriptor)
        self._growing.clear()


class _Growing:
    """A file that is not complete yet."""

    def __init__(self, number: int, target: Target) -> None:
        self.number = number
        self.target = target
        self.descriptor = os.open(target.part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        self._digest = hashlib.sha256(target.span.salt)
        self._digested = 0

    def settle(self, done: int) -> None:
        """Bring what belongs to cells before `done` to the disk, and digest it."""
        end = min(self.target.span.size, max(0, done - self.target.span.first_cell) * config.CELL_CONTENT)
        if end <= self._digested:
            return
        os.fdatasync(self.descriptor)
        # Read back: after a resumption the beginning was written by another process.
        while self._digested < end:
            piece = os.pread(self.descriptor, min(READ_AT_ONCE, end - self._digested), self._digested)
            if not piece:
                return
            self._digest.update(piece)
            self._digested += len(piece)

    @property
    def digest(self) -> bytes:
        """SHA-256 of the salt and what is settled."""
        return self._digest.digest()

    def finish(self) -> bool:
        """Name the file if it is what was signed; tell whether it is."""
        target = self.target
        self.settle(target.span.first_cell + target.span.cells)
        os.fsync(self.descriptor)
        whole = os.fstat(self.descriptor).st_size == target.span.size
        if not whole or self.digest != target.span.digest:
            return False
        _name(target)
        target.part.unlink()
        sync_folder(target.path.parent)
        return True


def _write_all(descriptor: int, content: memoryview, offset: int) -> None:
    while content:
        written = os.pwrite(descriptor, content, offset)
        content, offset = content[written:], offset + written


def _name(target: Target) -> None:
    # `link` and not `rename`: whatever appeared under that name meanwhile is not overwritten.
    try:
        os.link(target.part, target.path)
    except FileExistsError:
        # After a crash between `link` and `unlink` it is the very same file, under both names.
        if not target.path.samefile(target.part):
            raise UsageError(
                f"{target.path} appeared while it was being downloaded", "Move it away, then download again."
            ) from None


def digest_of(path: Path, salt: bytes = b"") -> bytes:
    """Give SHA-256 of a salt and a file's content."""
    digest = hashlib.sha256(salt)
    with path.open("rb") as file:
        while piece := file.read(READ_AT_ONCE):
            digest.update(piece)
    return digest.digest()


def make_folder(folder: Path) -> Path:
    """Make a folder and give its absolute path. Raises `UsageError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder {folder}: {error.strerror}") from error
    return folder.resolve()


def sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
