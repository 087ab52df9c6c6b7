"""Calls the command in this process, as a shell would call it, and reads what it says."""

from __future__ import annotations

import contextlib
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from veilmart.cli.app import main

WHY = ("--reason", "a test")
"""Why the operator does what a test has him do."""


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def envelope(self) -> dict[str, Any]:
        """The one line of JSON that stdout has to be."""
        (line,) = self.out.splitlines()
        found: dict[str, Any] = json.loads(line)
        return found

    @property
    def data(self) -> Any:
        assert self.code == 0, (self.out, self.err)
        assert self.envelope["ok"] is True
        return self.envelope["data"]

    @property
    def error(self) -> dict[str, Any]:
        assert self.envelope["ok"] is False
        found: dict[str, Any] = self.envelope["error"]
        return found


class Terminal(io.StringIO):
    """A stream that somebody looks at."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def veilmart(*words: str | Path, home: Path | None = None, terminal: bool = False, **environment: str) -> Ran:
    """Run a command line; `home` becomes `VEILMART_HOME`."""
    out, err = (Terminal(), Terminal()) if terminal else (io.StringIO(), io.StringIO())
    if home is not None:
        environment["VEILMART_HOME"] = str(home)
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("VEILMART_") and name not in {"NO_COLOR", "FORCE_COLOR"}
    }
    with (
        mock.patch.dict(os.environ, kept | environment, clear=True),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = main([str(word) for word in words])
    return Ran(code, out.getvalue(), err.getvalue())


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below a folder: mode and content."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mode, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
