"""The token that protects /api/: a bearer token (RFC 6750) in a file that is nobody else's to read."""

from __future__ import annotations

import hmac
import secrets
from pathlib import Path
from typing import Final

from common.keys import PRIVATE_FILE_MODE, create_file

FILE: Final = "api-token"
TOKEN_BYTES: Final = 32
LONGEST: Final = 256
_SCHEME: Final = "bearer "


class ApiToken:
    """Made at the first use and kept, so that programs go on after the server was started anew."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            create_file(path, secrets.token_urlsafe(TOKEN_BYTES).encode() + b"\n", mode=PRIVATE_FILE_MODE)
        self._token = path.read_bytes().strip()

    def opens(self, authorization: str) -> bool:
        """Tell whether an `Authorization` header carries the token."""
        if len(authorization) > LONGEST or not authorization.lower().startswith(_SCHEME):
            return False
        given = authorization[len(_SCHEME) :].strip().encode()
        return bool(self._token) and hmac.compare_digest(given, self._token)
