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
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common import config, messages
from common.errors import UsageError

LONGEST_NAME: Final = 200
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
class Target:
    """One line's file."""

    line: messages.ReceiptLine
    path: Path

    @property
    def part(self) -> Path:
        """Where it grows."""
        return part_path(self.path.parent, self.path.name)


class Writer:
    """Writes cells of an order's stream into the files that they belong to."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self._targets = targets
        self._open: dict[int, int] = {}
        """Descriptors, by their target's position."""

    def write(self, index: int, content: bytes) -> None:
        """Write cell `index` of the stream; what lies beyond a file's size is padding and is dropped."""
        for position, target in enumerate(self._targets):
            line = target.line
            if line.first_cell <= index < line.first_cell + line.cells:
                offset = (index - line.first_cell) * config.CELL_CONTENT
                kept = memoryview(content)[: max(0, line.size - offset)]
                if kept:
                    _write_all(self._descriptor(position), kept, offset)
                return

    def sync(self) -> None:
        """Bring what was written to the disk."""
        for descriptor in self._open.values():
            os.fdatasync(descriptor)

    def close(self) -> None:
        """Close every file."""
        while self._open:
            os.close(self._open.popitem()[1])

    def _descriptor(self, position: int) -> int:
        if position not in self._open:
            part = self._targets[position].part
            self._open[position] = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        return self._open[position]


def _write_all(descriptor: int, content: memoryview, offset: int) -> None:
    while content:
        written = os.pwrite(descriptor, content, offset)
        content, offset = content[written:], offset + written


def finish(target: Target) -> bool:
    """Give a complete file its name if its content has the signed digest; tell whether it has it.

    A file that has its name already (a crash came in between) is looked at instead. A wrong one is erased.
    Raises `UsageError` where another file has taken the name meanwhile.
    """
    if not target.part.exists() and target.path.exists():
        return digest_of(target.path) == target.line.digest
    descriptor = os.open(target.part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if digest_of(target.part) != target.line.digest:
        target.part.unlink()
        return False
    _name(target)
    target.part.unlink()
    sync_folder(target.path.parent)
    return True


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


def digest_of(path: Path) -> bytes:
    """Give a file's SHA-256."""
    digest = hashlib.sha256()
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
