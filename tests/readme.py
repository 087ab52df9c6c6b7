"""The README's commands, taken from its text: what a reader copies is what the tests run."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def block(name: str) -> list[str]:
    """Give the lines of the block that `<!-- test: name -->` stands in front of."""
    text = (ROOT / "README.md").read_text()
    found = re.search(rf"<!-- test: {re.escape(name)} -->\n```sh\n(.*?)```", text, re.DOTALL)
    assert found is not None, f"the README has no block {name!r}"
    return [line for line in found[1].splitlines() if line and not line.startswith("#")]
