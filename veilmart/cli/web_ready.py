"""What `customer web` and `merchant web` say when they are ready: to people, and to programs."""

from __future__ import annotations

import webbrowser
from collections.abc import Callable
from pathlib import Path

from common.web.api import FILE
from common.web.endpoints import PREFIX
from veilmart.output import Output


def announcing(shown: Output, home: Path, *, opening: bool) -> Callable[[str], None]:
    """Give what shows each one-time link, the first one with the address for programs."""
    said: list[str] = []

    def announce(link: str) -> None:
        address, token = link.partition("/enter")[0] + PREFIX, home / FILE
        more = () if said else (f"api {address} with the token in {token}",)
        shown.show({"ready": link, "api": address, "token_file": token}, f"ready {link}", *more)
        said.append(link)
        if opening:
            webbrowser.open(link)

    return announce
