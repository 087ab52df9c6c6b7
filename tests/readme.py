"""The documents' commands, taken from their text: what a reader copies is what the tests run."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def block(name: str, document: str = "README.md") -> list[str]:
    """Give the lines of the block that `<!-- test: name -->` stands in front of."""
    return [line for section in sections(name, document) for line in section]


def sections(name: str, document: str = "README.md") -> list[list[str]]:
    """Give the lines of such a block, parted where a comment stands."""
    text = (ROOT / document).read_text()
    found = re.search(rf"<!-- test: {re.escape(name)} -->\n```sh\n(.*?)```", text, re.DOTALL)
    assert found is not None, f"{document} has no block {name!r}"
    parts = re.split(r"^#.*$", found[1], flags=re.MULTILINE)
    return [part.strip().splitlines() for part in parts if part.strip()]
