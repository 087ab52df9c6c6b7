"""The documents' commands and programs, taken from their text: what a reader copies is what the tests run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
_FENCED = re.compile(r"(?:<!-- test: ([\w ]+) -->\n)?^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block, and the name that `<!-- test: name -->` in front of it gives it."""

    document: str
    name: str
    language: str
    text: str


def documents() -> list[Path]:
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks() -> list[Block]:
    """Give every fenced block of every document."""
    return [
        Block(str(path.relative_to(ROOT)), *(part or "" for part in found))
        for path in documents()
        for found in _FENCED.findall(path.read_text())
    ]


def text_of(name: str) -> str:
    """Give the text of a named block."""
    found = [block.text for block in blocks() if block.name == name]
    assert len(found) == 1, f"the documents have {len(found)} blocks {name!r}"
    return found[0]


def block(name: str) -> list[str]:
    """Give the lines of a named block."""
    return [line for section in sections(name) for line in section]


def sections(name: str) -> list[list[str]]:
    """Give the lines of a named block, parted where a comment stands."""
    parts = re.split(r"^#.*$", text_of(name), flags=re.MULTILINE)
    return [part.strip().splitlines() for part in parts if part.strip()]
