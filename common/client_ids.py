"""Client ids of nodes: random, secret and kept.

A stranger who connects with a node's client id would evict it and destroy its queue, so the id is as
secret as a key and lives like one: a file of the home with mode 0600.
"""

from __future__ import annotations

import re
import secrets
from pathlib import Path

from common.errors import UntrustedError
from common.keys import PRIVATE_FILE_MODE, create_file


def client_id(home: Path, connection: str) -> str:
    """Give the id of one of a node's connections, made at its first use. Raises `UntrustedError`."""
    path = home / f"client-id-{connection}"
    if not path.exists():
        create_file(path, secrets.token_hex(16).encode(), mode=PRIVATE_FILE_MODE)
    found = path.read_text()
    if not re.fullmatch(r"[0-9a-f]{32}", found):
        raise UntrustedError(
            f"{path} is damaged: it holds no client id",
            "Remove it: the node makes a new one, and loses what was queued for the old one.",
        )
    return found
